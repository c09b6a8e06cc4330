"""The meanings of a file's columns.

A mapping lists the columns for each meaning. `*` in a name matches any text, so `response=answer_*`
selects every column that begins with "answer_".
"""

import re
import unicodedata
from collections.abc import Iterable
from collections.abc import Mapping as Dictionary
from dataclasses import dataclass, field
from typing import Any

from labeling.core.text import storable
from labeling.importing.records import BadInput

MEANINGS = {
    "prompt": "the prompt, a text or a chat; several columns are joined",
    "system": "the system message",
    "history": "earlier turns, as pairs of a question and an answer",
    "chat": "a whole chat, whose last answer is a response",
    "response": "a response, or a list of responses",
    "chosen": "the response that was preferred",
    "rejected": "the response that was not preferred, or a list of them",
    "best_first": "a list of responses, best first",
    "label": "whether the response is wanted: true or false",
    "rank": "the rank of each response (1 is best)",
    "score": "the score of each response (the highest is best)",
    "winner": "which response is better, or a tie",
    "preference": "how much better the second response is (negative if the first is better)",
    "rating": "a rating of the response by the criterion of that name",
    "model": "the model that wrote the response",
    "reviewer": "who gave the preference",
    "rationale": "the reason for the preference",
    "id": "the id of the prompt in its source",
    "task_id": "the id of the comparison in its source",
    "response_id": "the id of a response in its source, or a list of them",
    "metadata": "kept with the prompt",
    "unused": "not used",
}
JUDGMENTS = frozenset(
    {"chosen", "rejected", "best_first", "label", "rank", "score", "winner", "preference"}
)
ROLE = {
    **dict.fromkeys(("prompt", "system", "history", "chat"), "prompt"),
    **dict.fromkeys(("response", "model"), "response"),
    **dict.fromkeys((*JUDGMENTS, "reviewer", "rationale"), "ranking"),
    "rating": "rating",
    **dict.fromkeys(("id", "task_id", "response_id"), "metadata"),
    "metadata": "metadata",
    "unused": "not used",
}
"""The name of each meaning in an import's report."""

LOOKS_LIKE_PREFERENCE = re.compile(
    r"(?:^|[_\W])(?:label|rank|ranking|ranks|score|scores|winner|chosen|rejected|preferred|better|safer|"
    r"preference|vote|votes|reward|rating|ratings|kto_tag|judg[e]?ment|verdict|win|elo)(?:$|[_\W\d])",
    re.IGNORECASE,
)


def fits(name: str, pattern: str) -> bool:
    """Return whether a column's name matches a pattern, in which `*` matches any text."""
    regex = ".*".join(map(re.escape, pattern.split("*")))
    return name == pattern or re.fullmatch(regex, name, re.DOTALL) is not None


def normal(name: str) -> str:
    """Return a column's name in Unicode normal form, stripped, and storable in the database."""
    return storable(unicodedata.normalize("NFC", name)).strip()


@dataclass(frozen=True)
class Mapping:
    """The column names or patterns for each meaning."""

    columns: Dictionary[str, tuple[str, ...]]
    resolved: dict[tuple[str, ...], "ColumnMeanings"] = field(
        default_factory=dict, compare=False, repr=False
    )

    @classmethod
    def parse(cls, pairs: Iterable[str]) -> "Mapping":
        """Parse MEANING=COLUMN pairs, the values of `--map`. Raises BadInput."""
        columns: dict[str, tuple[str, ...]] = {}
        for pair in pairs:
            meaning, equals, name = pair.partition("=")
            if not equals or not name.strip():
                raise BadInput(f"{pair!r} must be MEANING=COLUMN, such as prompt=question.")
            if meaning.strip() not in MEANINGS:
                raise BadInput(
                    f"{meaning.strip()!r} is not a meaning; it is one of {', '.join(MEANINGS)}."
                )
            meaning = meaning.strip()
            columns[meaning] = (*columns.get(meaning, ()), normal(name))
        return cls(columns)

    def applied_to(self, proposed: "Mapping") -> "Mapping":
        """Return the proposal with this mapping's choices.

        A column in this mapping loses its proposed meaning. A meaning in this mapping is taken away from
        the columns for which it was proposed.
        """
        named = [name for names in self.columns.values() for name in names]
        remaining = {
            meaning: tuple(
                name for name in names if not any(fits(name, pattern) for pattern in named)
            )
            for meaning, names in proposed.columns.items()
            if meaning not in self.columns or meaning in ("metadata", "unused", "rating")
        }
        merged = {**{m: n for m, n in remaining.items() if n}}
        for meaning, names in self.columns.items():
            merged[meaning] = (*merged.get(meaning, ()), *names)
        return Mapping(merged)

    def of(self, names: Iterable[str]) -> "ColumnMeanings":
        """Return the meaning of each of these columns. Results are cached by the names."""
        key = tuple(names)
        if key not in self.resolved:
            self.resolved[key] = ColumnMeanings.of(self, key)
        return self.resolved[key]

    def to_json(self) -> dict[str, list[str]]:
        return {meaning: list(names) for meaning, names in self.columns.items()}

    @classmethod
    def from_json(cls, value: Dictionary[str, list[str]]) -> "Mapping":
        return cls({meaning: tuple(names) for meaning, names in value.items()})


@dataclass(frozen=True)
class ColumnMeanings:
    """A mapping applied to the columns of a row: columns by meaning, and meaning by column.

    The columns of a meaning are in the order of the numbers in their names. `metadata` are the columns
    that are stored with the prompt.
    """

    by_meaning: dict[str, list[str]]
    meaning: dict[str, str]
    metadata: list[str]

    @classmethod
    def of(cls, mapping: Mapping, names: tuple[str, ...]) -> "ColumnMeanings":
        plain = {normal(name): name for name in names}
        meaning: dict[str, str] = {}
        by_meaning: dict[str, list[str]] = {role: [] for role in MEANINGS}
        for role, pattern in _exact_first(mapping.columns):
            fitting = [n for label, n in plain.items() if fits(label, pattern)]
            for name in sorted(fitting, key=natural):
                # A pattern applies only to columns that have no meaning yet. A column that is named
                # twice has two meanings.
                if "*" in pattern and name in meaning:
                    continue
                meaning.setdefault(name, role)
                by_meaning[role].append(name)
        for name in names:
            meaning.setdefault(name, "metadata")
        metadata = [name for name, role in meaning.items() if role == "metadata"]
        return cls(by_meaning, meaning, metadata)


def _exact_first(columns: Dictionary[str, tuple[str, ...]]) -> list[tuple[str, str]]:
    pairs = [(meaning, name) for meaning, names in columns.items() for name in names]
    return sorted(pairs, key=lambda pair: "*" in pair[1])


def natural(name: str) -> list[Any]:
    """Return a sort key that puts answer_10 after answer_2."""
    return [
        (0, int(part), "") if part.isdecimal() else (1, 0, part)
        for part in re.split(r"(\d+)", name)
    ]
