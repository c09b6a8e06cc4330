"""The report on a file, stored in FileImport.report and shown on its page."""

from typing import Any, TypedDict, cast

from labeling.importing.cleaning import storable_json
from labeling.importing.formats.columns.mapping import normal
from labeling.importing.formats.columns.proposals import Proposal
from labeling.importing.reading import ImportResult
from labeling.importing.records import EXAMPLE, PromptRecord

MAX_SHOWN_LENGTH = 2000
TABLES = ("prompts", "responses", "tasks", "rankings")


class Line(TypedDict):
    """Counts for one table: rows read from the file, known from before the import, and newly added."""

    name: str
    read: int
    known: int
    new: int


class ColumnLine(TypedDict):
    """One column of the file. `filled` and `empty` count values; both are 0 until the file has been read.

    `nested` is whether this is a key of objects in a column.
    """

    name: str
    meaning: str
    filled: int
    empty: int
    example: str
    nested: bool


class Preview(TypedDict):
    """One of the first prompts, with its responses and rankings. Long texts are cut."""

    messages: list[dict[str, str]]
    responses: list[dict[str, str]]
    rankings: list[dict[str, Any]]


class Report(TypedDict, total=False):
    questions: list[str]
    columns: list[ColumnLine]
    first: list[Preview]
    format: str
    title: str
    lines: list[Line]
    read: dict[str, int]
    left_out: dict[str, int]
    changed: dict[str, int]
    held: int
    reviewers: int


def report(imported: ImportResult) -> Report:
    """Return the report on an import. See records.Tally for `read`, `left_out` and `changed`."""
    written, tally = imported.written, imported.tally
    account: Report = {
        "columns": [
            {
                "name": name,
                "meaning": column.meaning,
                "filled": column.filled,
                "empty": column.empty,
                "example": column.example,
                "nested": column.nested,
            }
            for name, column in tally.columns.columns.items()
        ],
        "first": [_preview(record) for record in imported.first],
        "format": imported.format.name,
        "title": imported.format.title,
        "lines": [
            {
                "name": name,
                "read": written.read[name],
                "known": written.known(name),
                "new": written.new[name],
            }
            for name in TABLES
        ],
        "read": dict(+tally.read),
        "left_out": dict(sorted((+tally.left_out).items())),
        "changed": dict(sorted((+tally.changed).items())),
        "held": written.held,
        "reviewers": written.new["reviewers"],
    }
    return _storable(account)


def columns(proposal: Proposal, rows: list[dict[str, Any]]) -> Report:
    """Return the columns with their proposed meanings, and the questions for the lead."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    meaning = proposal.mapping.of(names).meaning
    account: Report = {
        "questions": list(proposal.questions.values()),
        "columns": [
            {
                "name": normal(name),
                "meaning": meaning[name],
                "filled": 0,
                "empty": 0,
                "example": next((str(r[name])[:EXAMPLE] for r in rows if r.get(name)), ""),
                "nested": False,
            }
            for name in names
        ],
    }
    return _storable(account)


def _storable(account: Report) -> Report:
    """Return the report with unstorable characters replaced, which names and examples may contain."""
    return cast(Report, storable_json(account))


def _preview(record: PromptRecord) -> Preview:
    texts = [response.text for response in record.responses]
    return {
        "messages": [{**m, "content": m["content"][:MAX_SHOWN_LENGTH]} for m in record.messages],
        "responses": [{"text": text[:MAX_SHOWN_LENGTH]} for text in texts],
        "rankings": [
            {"reviewer": ranking.reviewer, "tiers": ranking.tiers}
            for task in record.tasks
            for ranking in task.rankings
        ],
    }
