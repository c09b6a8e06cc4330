"""Translation of the response letters in a text to the letters of the page that shows the text.

The order of a task's responses, and therefore their letters, differs between reviewers and between pages.
A text that refers to responses by letter is stored as written, with the order that its author saw. A page
replaces the letters in the text with its own letters and marks them. If a letter could mean something
else, the page shows the text as written, with a legend that explains the letters.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from string import ascii_uppercase
from typing import Any

from django.utils.safestring import SafeString

from labeling.core.letter_references import CANDIDATE, own_letters, read
from labeling.core.text import render, render_lettered, shortened, visible
from labeling.models import Task

Letters = Mapping[int, str]
"""A map from response ids to their letters on a page."""


def letters_of(order: Sequence[int]) -> dict[int, str]:
    """Return the letter of each response, keyed by id. `order` is the order shown."""
    return dict(zip(order, ascii_uppercase, strict=False))


@dataclass(frozen=True)
class Part:
    """A piece of plain text, or a translated letter, for which `written` is the author's letter."""

    text: str
    written: str = ""


@dataclass(frozen=True)
class LetteredText:
    """A text for templates/labeling/parts/lettered.html. An empty text has no `parts`."""

    parts: Sequence[Part] = ()
    original: str = ""
    """The text as written if `parts` contain translated letters, otherwise empty."""

    legend: Sequence[tuple[str, str]] = ()
    """Pairs of the author's letter and this page's letter, which is "" if the page lacks the response."""

    unknown: bool = False
    """Whether the text seems to refer to responses although the order that its author saw is unknown."""

    @property
    def translated(self) -> bool:
        return bool(self.original)

    @property
    def in_doubt(self) -> bool:
        return bool(self.legend) and not self.original


@dataclass(frozen=True)
class Lettering:
    """The letters of a task's responses on a page. `own` is from letter_references.own_letters."""

    letters: Letters
    own: frozenset[str] = field(default_factory=frozenset)

    @classmethod
    def of(cls, task: Task, letters: Letters, texts: Iterable[str] = ()) -> "Lettering":
        """Return the lettering for a task. `texts` are its responses, if they are already loaded."""
        prompt = "\n".join(str(message["content"]) for message in task.prompt.messages)
        return cls(letters, own_letters(prompt, texts))

    def show(self, text: str, order: Sequence[int] | None, *, limit: int = 0) -> LetteredText:
        """Return the text with this page's letters. Its author saw the responses in `order`.

        With `limit`, return only one line of about that many characters.
        """
        if not text.strip():
            return LetteredText()
        plain = LetteredText([Part(shortened(text, limit) if limit else visible(text))])
        legend = [
            (letter, self.letters.get(response, ""))
            for response, letter in letters_of(order or ()).items()
        ]
        if all(written == here for written, here in legend) and legend:
            return plain
        reading = read(text, len(legend) or len(self.letters), self.own)
        if not legend:
            refers = bool(reading.spans) or (reading.doubt and bool(CANDIDATE.search(text)))
            return LetteredText(plain.parts, unknown=refers)
        here = dict(legend)
        if reading.doubt or not all(here.get(text[at]) for at in reading.spans):
            return LetteredText(plain.parts, legend=legend)
        if not reading.spans:
            return plain
        parts = _cut(text, reading.spans, here)
        return LetteredText(_one_line(parts, limit) if limit else parts, visible(text), legend)

    def show_markdown(self, text: str, order: Sequence[int]) -> tuple[SafeString, LetteredText]:
        """Return a Markdown text as HTML with this page's letters, and the legend to show with it."""
        note = self.show(text, order)
        if not note.translated:
            return render(text), note
        here = dict(note.legend)
        spans = read(text, len(here), self.own).spans
        return render_lettered(text, {at: (here[text[at]], text[at]) for at in spans}), note

    def with_page_letters(self, text: str, order: Sequence[int]) -> str:
        """Return the text for editing, with this page's letters, or unchanged if it is ambiguous."""
        return "".join(part.text for part in self.show(text, order).parts)


def _cut(text: str, spans: Sequence[int], here: Mapping[str, str]) -> list[Part]:
    parts, start = [], 0
    for at in spans:
        parts += [Part(visible(text[start:at])), Part(here[text[at]], text[at])]
        start = at + 1
    return [part for part in [*parts, Part(visible(text[start:]))] if part.text]


def _one_line(parts: Sequence[Part], limit: int) -> list[Part]:
    """Return the parts up to `limit` characters, with whitespace collapsed to single spaces."""
    line: list[Part] = []
    for part in parts:
        text = " ".join(f"|{part.text}|".split())[1:-1] if not part.written else part.text
        if len(text) > limit:
            return [*line, Part(text[: max(0, limit - 1)] + "…")]
        line.append(Part(text, part.written))
        limit -= len(text)
    return line


def resolved(
    text: str, order: Sequence[int], places: Mapping[int, int], own: frozenset[str]
) -> str:
    """Return the text with the response's index after each letter, as in "C [0] is best", for exports.

    Return an empty string if a letter is ambiguous or no letter refers to a response.
    """
    here = {letter: places.get(response) for response, letter in letters_of(order).items()}
    reading = read(text, len(here), own)
    if not reading.spans or any(here.get(text[at]) is None for at in reading.spans):
        return ""
    cut = [0, *(at + 1 for at in reading.spans), len(text)]
    pieces = [text[start:end] for start, end in pairwise(cut)]
    marks = [f" [{here[text[at]]}]" for at in reading.spans]
    return "".join(piece + mark for piece, mark in zip(pieces, [*marks, ""], strict=True))


def as_order(
    tiers: Sequence[Sequence[Any]], cut: int | None, letters: Mapping[int, str]
) -> list[Any]:
    """Return the tiers with letters instead of ids, and the text "line" at the position of the line."""
    rows: list[Any] = [[letters.get(i, "?") for i in tier] for tier in tiers]
    if cut is not None:
        rows.insert(cut, "line")
    return rows
