"""Rows in RewardBench's format, which are read as leniently as imports.

The recipe and the command share this code, so that wrong rows are refused before a model is loaded. It
needs neither Django nor torch.
"""

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reward.scoring.rows import Messages, RowsError, chat_of, check, has_content, raw_rows, text_of


@dataclass(frozen=True)
class Row:
    """A prompt and its responses, the chosen ones first."""

    subset: str
    prompt: list[dict[str, str]]
    responses: list[str]
    chosen: int
    whole: bool = True
    """Whether the row contains only text. The model cannot read images."""

    @property
    def chance(self) -> float:
        """Return the accuracy of random scores."""
        return 1 / float(_choose(len(self.responses), self.chosen))


def _choose(count: int, chosen: int) -> int:
    total = 1
    for k in range(chosen):
        total = total * (count - k) // (k + 1)
    return total


def check_rows(path: Path) -> int:
    """Check every row, and return the number of rows. Raises RowsError with up to ten problems."""
    return check(path, raw_rows(path), read_row)


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows one by one. Raises RowsError with the number of a row in a wrong format."""
    for number, raw in raw_rows(path):
        try:
            if isinstance(raw, ValueError):
                raise raw
            yield read_row(raw)
        except ValueError as error:
            raise RowsError(f"{path}, row {number}: {error}.") from None


def read_row(raw: Any) -> Row:
    """Return the row of an object. Raises ValueError with the problem as a clause."""
    names = ("chosen", "rejected")
    missing = [
        name for name in names if not isinstance(raw, dict) or not has_content(raw.get(name))
    ]
    if missing:
        raise ValueError(f"it has no {' and no '.join(missing)}")
    prompt, chosen, whole = _answers(raw.get("prompt"), raw["chosen"], "chosen")
    prompt_too, rejected, whole_too = _answers(raw.get("prompt"), raw["rejected"], "rejected")
    if prompt != prompt_too:
        raise ValueError("chosen and rejected answer different prompts")
    subset = text_of(raw.get("subset")) or "all"
    return Row(
        unicodedata.normalize("NFC", subset), prompt, [*chosen, *rejected], len(chosen),
        whole and whole_too,
    )  # fmt: skip


def _answers(prompt: Any, value: Any, name: str) -> tuple[Messages, list[str], bool]:
    """Return the prompt, the texts of one side, and whether all of it is text."""
    listed = value if isinstance(value, list) else [value]
    texts = [text_of(item) for item in listed if item is not None]
    if texts and None not in texts:
        before, whole = _prompt(prompt)
        return before, [text for text in texts if text is not None], whole
    try:
        turns, whole = chat_of(value, name)
    except ValueError:
        raise ValueError(f"{name} is neither text nor messages") from None
    if turns[-1]["role"] != "assistant":
        raise ValueError(f"{name} is a conversation that does not end with an answer")
    if len(turns) > 1:
        return turns[:-1], [turns[-1]["content"]], whole
    before, prompt_whole = _prompt(prompt)
    return before, [turns[-1]["content"]], whole and prompt_whole


def _prompt(value: Any) -> tuple[Messages, bool]:
    try:
        if has_content(value):
            return chat_of(value, "prompt")
    except ValueError:
        pass
    raise ValueError("prompt is neither text nor messages")
