"""Import a file: detect its format, read its prompts and store them.

Each format can be read from each kind of file in `labeling.importing.files.source`. Files whose rows have
columns are read by the meaning of the columns (`labeling.importing.formats.columns`). Formats with a
structure of their own are modules in `labeling.importing.formats`, which explains how to add one.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from django.db import connection, transaction

from labeling.importing.files.source import rows_and_problems
from labeling.importing.formats import (
    argilla,
    helpsteer,
    hh,
    jsonl,
    labelstudio,
    oasst,
    pandalm,
    ultrafeedback,
)
from labeling.importing.formats.columns import reader
from labeling.importing.formats.columns.grouping import ScatteredRows
from labeling.importing.formats.columns.mapping import Mapping
from labeling.importing.formats.columns.proposals import Proposal, propose
from labeling.importing.records import BadInput, PromptRecord, Tally
from labeling.importing.writer import NEW, Writer, WrittenRows
from labeling.models import Project

ANALYZE_FROM = 1000


@dataclass(frozen=True)
class Format:
    name: str
    title: str
    recognises: Callable[[Any], bool]
    read: Callable[[Path, Tally], Iterator[PromptRecord]] | None
    """The function that reads the format, or None to read rows by the meaning of their columns."""


FORMATS = {
    format.name: format
    for format in (
        Format("oasst", "Open Assistant trees", oasst.recognises, oasst.read),
        Format("pandalm", "PandaLM test set", pandalm.recognises, pandalm.read),
        Format("helpsteer", "HelpSteer3 preferences", helpsteer.recognises, helpsteer.read),
        Format("ultrafeedback", "UltraFeedback", ultrafeedback.recognises, ultrafeedback.read),
        Format("labelstudio", "Label Studio export", labelstudio.recognises, labelstudio.read),
        Format("argilla", "Argilla export", argilla.recognises, argilla.read),
        Format("hh", "HH-RLHF transcripts", hh.recognises, hh.read),
        Format("jsonl", "Tiebreak JSONL", jsonl.recognises, jsonl.read),
        Format("columns", "Rows with columns", lambda first: isinstance(first, dict), None),
    )
}
"""The formats by name, in the order in which they are tried."""


PREVIEWED = 3
FIRST_ROWS = 50
"""Number of rows from which the column meanings are proposed."""


@dataclass(frozen=True)
class ImportResult:
    format: Format
    tally: Tally
    written: WrittenRows
    mapping: Mapping | None = None
    """The column meanings, if the format is "columns"."""
    first: tuple[PromptRecord, ...] = ()
    """The first prompts, for the preview."""


class UnclearColumns(BadInput):
    """Raised if the user must choose the meaning of some columns. `proposal` has the questions."""

    def __init__(self, proposal: Proposal):
        super().__init__(" ".join(proposal.questions.values()))
        self.proposal = proposal


def detect(path: Path) -> Format:
    """Detect a file's format from its first value. Raises BadInput."""
    first = _first_values(path, FIRST_ROWS)[0]
    for format in FORMATS.values():
        if format.recognises(first):
            return format
    raise BadInput(
        f"{path.name} is not a recognised format: its rows are not objects with columns."
    )


def proposal_of(path: Path, mapping: Mapping | None = None) -> Proposal:
    """Return the proposed meanings of a file's columns, changed by the user's mapping. Raises BadInput."""
    proposal = propose(first_rows(path))
    return proposal.with_answers(mapping) if mapping else proposal


def first_rows(path: Path) -> list[dict[str, Any]]:
    return [row for row in _first_values(path, FIRST_ROWS) if isinstance(row, dict)]


def _first_values(path: Path, count: int) -> list[Any]:
    """Return the first readable values. Raises BadInput if none of the first values is readable."""
    values = rows_and_problems(path)
    first: list[Any] = []
    try:
        first.extend(value for _, value in islice(values, count))
    except BadInput as problem:
        first.append(problem)
    finally:
        values.close()
    readable = [value for value in first if not isinstance(value, BadInput)]
    if first and not readable:
        raise first[0]
    return readable or [None]


@transaction.atomic
def import_file(
    path: Path,
    *,
    project: Project,
    format: Format | None = None,
    mapping: Mapping | None = None,
    reviewers: str = NEW,
    any_criteria: bool = False,
    progress: Callable[[int], None] = lambda prompts: None,
    file_import: int | None = None,
) -> ImportResult:
    """Import the whole file or nothing. Importing it again adds no duplicates.

    `mapping` contains the user's column meanings. `file_import` is the id of the import's row, which is
    needed to undo the import. Raises BadInput, and UnclearColumns if the user must choose the meaning
    of a column.
    """
    if mapping and format is None:
        format = FORMATS["columns"]
    format = format or detect(path)
    proposal = None
    if format.read is None:
        proposal = proposal_of(path, mapping)
        if proposal.questions:
            raise UnclearColumns(proposal)

    def imported(scattered: bool) -> ImportResult:
        tally = Tally()
        writer = Writer(project, tally, reviewers, any_criteria, progress, file_import)
        if proposal is None:
            assert format.read is not None
            records = format.read(path, tally)
        else:
            records = reader.read(
                path, tally, proposal.mapping, proposal.reviewer, scattered=scattered
            )
        first = list(islice(records, PREVIEWED))
        writer.write(chain(first, records))
        mapping = proposal.mapping if proposal else None
        return ImportResult(format, tally, writer.written, mapping, tuple(first))

    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_advisory_xact_lock(hashtextextended('labeling.import', %s))", [project.pk]
        )
        # The planner has no statistics about the rows of this transaction. It would scan whole tables,
        # although every statement of an import looks up rows by key.
        cursor.execute("SET LOCAL enable_seqscan = off")
        try:
            with transaction.atomic():
                result = imported(scattered=False)
        except ScatteredRows:
            result = imported(scattered=True)
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE; SET CONSTRAINTS ALL DEFERRED")
        cursor.execute("SET LOCAL enable_seqscan TO DEFAULT")
    return result


def refresh_statistics(written: WrittenRows) -> None:
    """Update the planner's statistics after a large import, without waiting for autovacuum."""
    if sum(written.new.values()) < ANALYZE_FROM:
        return
    with connection.cursor() as cursor:
        for name in ("prompt", "response", "task", "taskresponse", "slot", "ranking"):
            cursor.execute(f"ANALYZE labeling_{name}")
