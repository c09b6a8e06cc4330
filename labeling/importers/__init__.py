"""Reading other people's files. A format is a module with `recognises(first)` and `read(path, tally)`.

To add one: write the module, list it in FORMATS, and give it a test with a small file of its own.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.db import connection, transaction

from labeling.importers import jsonl, oasst, pandalm
from labeling.importers.records import BadInput, PromptRecord, Tally
from labeling.importers.source import json_array, json_lines
from labeling.importers.writer import NEW, Writer, Written
from labeling.models import Project

HEAD_BYTES = 1 << 20
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
        Format("oasst", "Open Assistant trees, JSONL", oasst.recognises, oasst.read),
        Format("pandalm", "PandaLM test set, JSON", pandalm.recognises, pandalm.read),
        Format("jsonl", "Tiebreak's own JSONL", jsonl.recognises, jsonl.read),
    )
}


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
    """The first line's value or the first element of an array; needs only the head of the file."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES).decode("utf-8-sig", "replace").lstrip()
    if not head:
        raise BadInput(f"{path.name} is empty.")
    if not head.startswith("["):
        return next(json_lines(path))[1]
    if path.stat().st_size <= HEAD_BYTES:
        return next(json_array(path), (0, None))[1]
    try:
        return json.JSONDecoder().raw_decode(head[1:].lstrip())[0]
    except (json.JSONDecodeError, RecursionError):
        return None


@transaction.atomic
def import_file(
    path: Path, *, project: Project, format: Format | None = None, reviewers: str = NEW
) -> Imported:
    """All of the file or nothing of it; again, and nothing is added. Raises BadInput."""
    format = format or detect(path)
    tally = Tally()
    writer = Writer(project, tally, reviewers)
    writer.write(format.read(path, tally))
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE; SET CONSTRAINTS ALL DEFERRED")
    return Imported(format, tally, writer.written)


def refresh_statistics(written: Written) -> None:
    """After commit: the planner has not seen a large import yet, and autovacuum comes late."""
    if sum(written.new.values()) < ANALYZE_FROM:
        return
    with connection.cursor() as cursor:
        for name in ("prompt", "response", "task", "taskresponse", "slot", "ranking"):
            cursor.execute(f"ANALYZE labeling_{name}")
