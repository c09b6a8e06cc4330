"""Reading other people's files.

Whether a file is JSON lines, one JSON array, CSV or Parquet, or any of these in gzip, is the concern
of `labeling.importing.source` alone: each format can come in each.

Files whose rows have columns are read by what the columns mean (`labeling.importing.formats.columns`). A
format with a structure of its own is a module with `recognises(first)` and `read(path, tally)`. To
add one: write the module, list it in FORMATS, and give it a test with a small file of its own.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from django.db import connection, transaction

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
from labeling.importing.formats.columns.grouping import Scattered
from labeling.importing.formats.columns.mapping import Mapping
from labeling.importing.formats.columns.proposals import Proposal, propose
from labeling.importing.records import BadInput, PromptRecord, Tally
from labeling.importing.source import rows_and_problems
from labeling.importing.writer import NEW, Writer, Written
from labeling.models import Project

ANALYZE_FROM = 1000


@dataclass(frozen=True)
class Format:
    name: str
    title: str
    recognises: Callable[[Any], bool]
    read: Callable[[Path, Tally], Iterator[PromptRecord]] | None
    """None: by the meaning of the columns."""


FORMATS = {
    one.name: one
    for one in (
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
"""In the order in which they are tried."""


PREVIEWED = 3
FIRST_ROWS = 50
"""Rows from which the meaning of the columns is proposed."""


@dataclass(frozen=True)
class Imported:
    format: Format
    tally: Tally
    written: Written
    mapping: Mapping | None = None
    """What the columns were taken to mean, in the format "columns"."""
    first: tuple[PromptRecord, ...] = ()
    """The first prompts, to be looked at."""


class Unclear(BadInput):
    """The user has to say what some columns mean. `proposal` holds the questions."""

    def __init__(self, proposal: Proposal):
        super().__init__(" ".join(proposal.questions.values()))
        self.proposal = proposal


def detect(path: Path) -> Format:
    """Return the format of the file, from its first value. Raises BadInput."""
    first = _first_values(path, FIRST_ROWS)[0]
    for one in FORMATS.values():
        if one.recognises(first):
            return one
    raise BadInput(
        f"{path.name} is not a recognised format: its rows are not objects, so they have no columns."
    )


def proposed(path: Path, given: Mapping | None = None) -> Proposal:
    """Return what the columns of a file mean, with what the user says of them. Raises BadInput."""
    proposal = propose(first_rows(path))
    return proposal.answered(given) if given else proposal


def first_rows(path: Path) -> list[dict[str, Any]]:
    return [row for row in _first_values(path, FIRST_ROWS) if isinstance(row, dict)]


def _first_values(path: Path, count: int) -> list[Any]:
    """Return the first values that can be read. Raises BadInput when none of them can be."""
    found = rows_and_problems(path)
    first: list[Any] = []
    try:
        first.extend(value for _, value in islice(found, count))
    except BadInput as problem:
        first.append(problem)
    finally:
        found.close()
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
) -> Imported:
    """Import all of the file or nothing of it; again, and nothing is added.

    `mapping`: what the user says the columns mean. `file_import`: the id of the import's row, by
    which it can be undone. Raises BadInput, and Unclear where the meaning
    of a column is uncertain and the user has not said it.
    """
    if mapping and format is None:
        format = FORMATS["columns"]
    format = format or detect(path)
    proposal = None
    if format.read is None:
        proposal = proposed(path, mapping)
        if proposal.questions:
            raise Unclear(proposal)

    def imported(scattered: bool) -> Imported:
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
        return Imported(format, tally, writer.written, mapping, tuple(first))

    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_advisory_xact_lock(hashtextextended('labeling.import', %s))", [project.pk]
        )
        try:
            with transaction.atomic():
                result = imported(scattered=False)
        except Scattered:
            result = imported(scattered=True)
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE; SET CONSTRAINTS ALL DEFERRED")
    return result


def refresh_statistics(written: Written) -> None:
    """After commit: the planner has not seen a large import yet, and autovacuum comes late."""
    if sum(written.new.values()) < ANALYZE_FROM:
        return
    with connection.cursor() as cursor:
        for name in ("prompt", "response", "task", "taskresponse", "slot", "ranking"):
            cursor.execute(f"ANALYZE labeling_{name}")
