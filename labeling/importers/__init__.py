"""Reading other people's files. A format is a module with `recognises(first)` and `read(path, tally)`.

Whether a file is JSON lines, one JSON array, CSV or Parquet, or any of these in gzip, is the concern
of `labeling.importers.source` alone: each format can come in each.

To add one: write the module, list it in FORMATS, and give it a test with a small file of its own.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.db import connection, transaction

from labeling.importers import (
    argilla,
    chats,
    helpsteer,
    hh,
    jsonl,
    labelstudio,
    oasst,
    pandalm,
    plain,
    trl,
    ultrafeedback,
)
from labeling.importers.records import BadInput, PromptRecord, Tally
from labeling.importers.source import rows
from labeling.importers.writer import NEW, Writer, Written
from labeling.models import Project

ANALYZE_FROM = 1000


@dataclass(frozen=True)
class Format:
    name: str
    title: str
    recognises: Callable[[Any], bool]
    read: Callable[[Path, Tally], Iterator[PromptRecord]]


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
        Format("trl", "TRL preferences, paired or not", trl.recognises, trl.read),
        Format("chats", "Whole conversations", chats.recognises, chats.read),
        Format("jsonl", "Tiebreak's own lines", jsonl.recognises, jsonl.read),
        Format("plain", "Prompts, alone or with responses", plain.recognises, plain.read),
    )
}
"""In the order in which they are tried."""


@dataclass(frozen=True)
class Imported:
    format: Format
    tally: Tally
    written: Written


def detect(path: Path) -> Format:
    """The format of the file, from its beginning. Raises BadInput."""
    first = _first_value(path)
    for one in FORMATS.values():
        if one.recognises(first):
            return one
    titles = ", ".join(f"{one.name} ({one.title})" for one in FORMATS.values())
    raise BadInput(f"{path.name} is in none of the formats that are known: {titles}.")


def _first_value(path: Path) -> Any:
    """The first line's value, element or row; reads no more than that."""
    found = rows(path)
    try:
        return next(found, (0, None))[1]
    finally:
        found.close()  # type: ignore[attr-defined]


@transaction.atomic
def import_file(
    path: Path,
    *,
    project: Project,
    format: Format | None = None,
    reviewers: str = NEW,
    any_criteria: bool = False,
    progress: Callable[[int], None] = lambda prompts: None,
) -> Imported:
    """All of the file or nothing of it; again, and nothing is added. Raises BadInput."""
    format = format or detect(path)
    tally = Tally()
    writer = Writer(project, tally, reviewers, any_criteria, progress)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_advisory_xact_lock(hashtextextended('labeling.import', %s))", [project.pk]
        )
        writer.write(format.read(path, tally))
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE; SET CONSTRAINTS ALL DEFERRED")
    return Imported(format, tally, writer.written)


def refresh_statistics(written: Written) -> None:
    """After commit: the planner has not seen a large import yet, and autovacuum comes late."""
    if sum(written.new.values()) < ANALYZE_FROM:
        return
    with connection.cursor() as cursor:
        for name in ("prompt", "response", "task", "taskresponse", "slot", "ranking"):
            cursor.execute(f"ANALYZE labeling_{name}")
