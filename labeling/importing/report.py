"""What a file holds and brought, as kept in FileImport.report and shown on its page."""

from typing import TypedDict

from labeling.importers import Imported

TABLES = ("prompts", "responses", "tasks", "rankings")


class Line(TypedDict):
    """Rows of one table: `read` in the file, of which `known` were there before and `new` not."""

    name: str
    read: int
    known: int
    new: int


class Report(TypedDict):
    format: str
    title: str
    lines: list[Line]
    read: dict[str, int]
    left_out: dict[str, int]
    changed: dict[str, int]
    held: int
    reviewers: int


def report(imported: Imported) -> Report:
    """Return the account of an import. `read`, `left_out` and `changed` count in the file's words."""
    written, tally = imported.written, imported.tally
    return {
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
