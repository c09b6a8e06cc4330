"""Add prompts, responses and tasks that arrive as JSON values, for the API.

Each value has the form of a line of Tiebreak JSONL. Adding the same values again adds no duplicates.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from django.db import transaction

from accounts.models import User, audit
from labeling.importing.formats import jsonl
from labeling.importing.reading import refresh_statistics
from labeling.importing.records import BadInput, PromptRecord, Tally
from labeling.importing.writer import NEW, Writer, WrittenRows
from labeling.models import Project

MOST = 1000


class Position(int):
    """The position of a value in the request, counted from 0."""

    word = "Item"


def add(
    *, project: Project, values: Sequence[Any], by: User, reviewers: str = NEW
) -> tuple[WrittenRows, Tally]:
    """Store the values, all or none, and return what was written and what was left out.

    `reviewers` is explained by Writer. Raises BadInput, which names the first wrong values.
    """
    tally = Tally()
    with transaction.atomic():
        writer = Writer(project, tally, reviewers)
        written = writer.write(_records(values, tally))
        if written.new:
            audit(by, "tasks added", project, new=dict(written.new))
    transaction.on_commit(lambda: refresh_statistics(written))
    return written, tally


def _records(values: Sequence[Any], tally: Tally) -> Iterator[PromptRecord]:
    for position, value in enumerate(values):
        try:
            record = jsonl.prompt_of(value, Position(position), tally)
        except BadInput as problem:
            tally.problems.add(problem)
        else:
            yield record
