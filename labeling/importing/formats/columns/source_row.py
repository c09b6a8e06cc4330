"""A row of a file, with the meanings of its columns."""

import json
from dataclasses import dataclass
from typing import Any

from labeling.importing.files.rows import Cells
from labeling.importing.formats.conversations import finite, name_of
from labeling.importing.records import Tally

APART = "pairs that differ in more than the last answer"
NO_RESPONSE = "empty responses"


@dataclass
class SourceRow:
    """A row's values, its columns by meaning, and the columns that are stored as metadata."""

    line: int
    source: dict[str, Any]
    columns: dict[str, list[str]]
    metadata: list[str]
    tally: Tally

    def text(self, meaning: str) -> str:
        """Return the joined texts in all columns of a meaning. Other values are converted to JSON."""
        if not (names := self.columns[meaning]):
            return ""
        parts = (finite(self.source.get(name)) for name in names)
        return "\n\n".join(
            part if isinstance(part, str) else json.dumps(part, ensure_ascii=False)
            for part in parts
            if part not in (None, "", [], {})
        )

    def id(self, meaning: str) -> str:
        """Return the ids in all columns of a meaning, separated by spaces, or "" if there are none."""
        if not (names := self.columns[meaning]):
            return ""
        ids = (name_of(self.source.get(name)) for name in names)
        return " ".join(text for text in ids if text)

    def meta(self) -> dict[str, Any]:
        """Return the values to store with the prompt, without empty ones."""
        if not self.metadata:
            return {}
        empty: tuple[Any, ...] = (
            ("", [], {}, None) if isinstance(self.source, Cells) else ("", [], {})
        )
        return {
            name: finite(self.source[name])
            for name in self.metadata
            if self.source[name] not in empty
        }
