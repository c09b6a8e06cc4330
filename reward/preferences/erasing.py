"""Erasing a prompt or a response from frozen files and reports.

A snapshot's file is written again without it, under a new hash: its row says when that happened and
what the hash was before. Parquet files of runs lose the rows. In reports, logs and events the text is
replaced. What a model has learned from it stays in the model's weights.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from django.db import transaction
from django.utils import timezone

from labeling.models import Prompt, Response
from labeling.removal.erasing import ERASED
from recipes.preferences.groups import (
    SCHEMA,
    Group,
    content_hash,
    keep_responses,
    read_groups,
    write_groups,
)
from recipes.rundir import atomically, write_atomically
from reward.models import Snapshot

SHORTEST = 20
"""Characters of an excerpt that is taken for part of the erased text."""
TEXT_SUFFIXES = {".txt", ".md"}
JSON_SUFFIXES = {".json", ".jsonl"}


@dataclass(frozen=True)
class Gone:
    """What is erased: a prompt with all its responses, or one response. `texts` are as they were."""

    prompt_id: str
    whole_prompt: bool
    response_ids: frozenset[int]
    texts: tuple[str, ...]

    @classmethod
    def of(cls, content: Prompt | Response) -> "Gone":
        """Two queries. Call it before the rows are erased."""
        if isinstance(content, Response):
            return cls(
                str(content.prompt_id), False, frozenset([content.pk]), _texts([content.text])
            )
        responses = dict(content.responses.values_list("pk", "text"))
        said = [message["content"] for message in content.messages]
        return cls(
            str(content.pk), True, frozenset(responses), _texts([*said, *responses.values()])
        )

    def is_in(self, text: str) -> bool:
        """Whether a string holds an erased text, or is a longer excerpt of one."""
        return any(gone in text or (len(text) >= SHORTEST and text in gone) for gone in self.texts)

    def left_of(self, group: Group) -> Group | None:
        """The row without it; None when nothing is left to compare."""
        if group.group_id != self.prompt_id or self.response_ids.isdisjoint(group.response_ids):
            return group
        kept = [pk for pk in group.response_ids if pk not in self.response_ids]
        return None if self.whole_prompt or len(kept) < 2 else keep_responses(group, kept)


def _texts(texts: list[str]) -> tuple[str, ...]:
    return tuple({text for text in texts if text.strip() and text != ERASED})


# --- snapshots -----------------------------------------------------------------------------------


def snapshots_with(gone: Gone, project_id: int) -> list[Snapshot]:
    """The project's snapshots whose file holds it. Reads two columns of each file."""
    snapshots = Snapshot.objects.filter(project=project_id).order_by("pk")
    return [snapshot for snapshot in snapshots if _holds(snapshot.file, gone)]


def _holds(path: Path, gone: Gone) -> bool:
    if not path.is_file():
        return False
    with pq.ParquetFile(path) as file:
        return any(
            group == gone.prompt_id and not gone.response_ids.isdisjoint(ids)
            for batch in file.iter_batches(columns=["group_id", "response_ids"])
            for group, ids in zip(*(column.to_pylist() for column in batch.columns), strict=True)
        )


@transaction.atomic
def rewrite_snapshot(snapshot: Snapshot, gone: Gone) -> None:
    """Write its file again without it. The old file is deleted when the transaction commits."""
    old = snapshot.file
    draft = old.with_name(f".erasing-{snapshot.pk}.parquet")
    write_groups(draft, _left(read_groups(old), gone))
    digest = content_hash(read_groups(draft))
    draft.replace(old.with_name(f"{digest}.parquet"))
    history = [*snapshot.counts.get("erased", []), snapshot.content_hash]
    Snapshot.objects.filter(pk=snapshot.pk).update(
        content_hash=digest,
        path=f"{digest}.parquet",
        counts={**snapshot.counts, "erased": history},
        erased_at=timezone.now(),
    )
    transaction.on_commit(lambda: _delete_unused(old))


def _left(groups: Iterator[Group], gone: Gone) -> Iterator[Group]:
    return (left for group in groups if (left := gone.left_of(group)) is not None)


def _delete_unused(path: Path) -> None:
    """Two snapshots with the same rows share a file."""
    if not Snapshot.objects.filter(path=path.name).exists():
        path.unlink(missing_ok=True)


# --- folders of runs -----------------------------------------------------------------------------


def clean_folder(folder: Path, gone: Gone) -> list[Path]:
    """Take it out of every Parquet file, report and log under the folder; return what changed."""
    changed = []
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_file():
            continue
        if path.suffix == ".parquet":
            touched = _clean_parquet(path, gone)
        elif path.suffix in JSON_SUFFIXES | TEXT_SUFFIXES:
            touched = _clean_text(path, gone)
        else:
            continue
        if touched:
            changed.append(path)
    return changed


def _clean_parquet(path: Path, gone: Gone) -> bool:
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError):
        return False  # cut off by a crash; nothing reads it
    with file:
        schema = file.schema_arrow
        names = set(schema.names)
        if set(SCHEMA.names) <= names:
            if not _holds(path, gone):
                return False
            write_groups(path, _left(read_groups(path), gone))
            return True
        if not names & {"prompt_id", "response_ids"}:
            return False
        if not any(_is_gone(row, gone) for row in _rows(file)):
            return False
        with atomically(path) as draft, pq.ParquetWriter(draft, schema) as writer:
            for batch in file.iter_batches():
                rows = [row for row in batch.to_pylist() if not _is_gone(row, gone)]
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    return True


def _rows(file: pq.ParquetFile) -> Iterator[dict[str, Any]]:
    for batch in file.iter_batches():
        yield from batch.to_pylist()


def _is_gone(row: dict[str, Any], gone: Gone) -> bool:
    """A row of a file of prompts, generated responses, answers or responses to score."""
    if "response_ids" in row:
        return not gone.response_ids.isdisjoint(row["response_ids"] or ())
    if row.get("prompt_id") != gone.prompt_id:
        return False
    texts = [value for name, value in row.items() if name not in ("prompt_id", "meta")]
    return gone.whole_prompt or any(isinstance(t, str) and gone.is_in(t) for t in texts)


def _clean_text(path: Path, gone: Gone) -> bool:
    try:
        before = path.read_text()
    except (UnicodeDecodeError, OSError):
        return False
    after = _cleaned(path.suffix, before, gone)
    if after == before:
        return False
    write_atomically(path, after)
    return True


def _cleaned(suffix: str, text: str, gone: Gone) -> str:
    if suffix == ".json":
        return _cleaned_json(text, gone, indent=2)
    if suffix == ".jsonl":
        lines = (_cleaned_json(line, gone) for line in text.splitlines())
        return "".join(f"{line}\n" for line in lines)
    for erased in gone.texts:
        text = text.replace(erased, ERASED)
    return text


def _cleaned_json(text: str, gone: Gone, indent: int | None = None) -> str:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    cleaned = scrubbed(value, gone)
    return text if cleaned == value else json.dumps(cleaned, indent=indent, sort_keys=True)


def scrubbed(value: Any, gone: Gone) -> Any:
    """A JSON value with the erased text replaced, and without rows about the erased prompt."""
    if isinstance(value, str):
        return ERASED if gone.is_in(value) else value
    if isinstance(value, list):
        return [scrubbed(each, gone) for each in value if not _is_about(each, gone)]
    if isinstance(value, dict):
        return {name: scrubbed(each, gone) for name, each in value.items()}
    return value


def _is_about(value: Any, gone: Gone) -> bool:
    return (
        gone.whole_prompt
        and isinstance(value, dict)
        and gone.prompt_id in (value.get("group_id"), value.get("prompt_id"))
    )
