"""The erasure of a prompt or a response from frozen files and reports.

The file of a snapshot is rewritten without the content, and gets a new hash. The row of the snapshot
records the time and the earlier hash. Rows are removed from the Parquet files of runs. In reports, logs
and events, the text is replaced. The weights of models that were trained on the content do not change.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from django.db import transaction
from django.utils import timezone

from buckets import files
from labeling.models import Prompt, Response
from labeling.removal.erasing import ERASED
from recipes.preferences.groups import (
    PER_RANKING,
    Group,
    content_hash,
    group_schema,
    keep_responses,
    read_groups,
    write_groups,
)
from recipes.rundir import atomically, write_atomically
from reward.models import Snapshot

SHORTEST = 20
"""The minimum number of characters of an excerpt that counts as a part of the erased text."""
TEXT_SUFFIXES = {".txt", ".md"}
JSON_SUFFIXES = {".json", ".jsonl"}
BASE_FILES = frozenset(
    {
        "adapter_config.json", "added_tokens.json", "config.json", "generation_config.json",
        "merges.txt", "model.safetensors.index.json", "special_tokens_map.json", "tokenizer.json",
        "tokenizer_config.json", "vocab.json", "vocab.txt",
    }
)  # fmt: skip
"""Files of a model that come from its base and contain no text of the project.

They are left unchanged, because erasing a short response such as "the" would otherwise replace words of
the tokenizer.
"""


@dataclass(frozen=True)
class Erasure:
    """The content that is erased: a prompt with all its responses, or a single response."""

    prompt_id: str
    whole_prompt: bool
    response_ids: frozenset[int]
    texts: tuple[str, ...]

    @classmethod
    def of(cls, content: Prompt | Response) -> "Erasure":
        """Return the erasure of a row. Call it before the row is erased. It takes two queries."""
        if isinstance(content, Response):
            return cls(
                str(content.prompt_id), False, frozenset([content.pk]), _texts([content.text])
            )
        responses = dict(content.responses.values_list("pk", "text"))
        messages = [message["content"] for message in content.messages]
        return cls(
            str(content.pk), True, frozenset(responses), _texts([*messages, *responses.values()])
        )

    def is_in(self, text: str) -> bool:
        """Return whether a string contains an erased text, or is a long excerpt of one."""
        return any(
            erased in text or (len(text) >= SHORTEST and text in erased) for erased in self.texts
        )

    def is_in_file(self, file: pq.ParquetFile) -> bool:
        """Return whether a file of groups contains the content. Two columns are read."""
        return any(
            group == self.prompt_id and not self.response_ids.isdisjoint(ids)
            for batch in file.iter_batches(columns=["group_id", "response_ids"])
            for group, ids in zip(*(column.to_pylist() for column in batch.columns), strict=True)
        )

    def removes_row(self, row: dict[str, Any]) -> bool:
        """Return whether a row of prompts, generated responses, answers or responses to score is
        erased.
        """
        if "response_ids" in row:
            return not self.response_ids.isdisjoint(row["response_ids"] or ())
        if row.get("prompt_id") != self.prompt_id:
            return False
        texts = [value for name, value in row.items() if name not in ("prompt_id", "meta")]
        return self.whole_prompt or any(isinstance(t, str) and self.is_in(t) for t in texts)

    def applied_to(self, group: Group) -> Group | None:
        """Return the row without the content, or None if fewer than two responses remain."""
        if group.group_id != self.prompt_id or self.response_ids.isdisjoint(group.response_ids):
            return group
        remaining = [pk for pk in group.response_ids if pk not in self.response_ids]
        return None if self.whole_prompt or len(remaining) < 2 else keep_responses(group, remaining)


@dataclass(frozen=True)
class ReviewerErasure:
    """All rankings of a reviewer, who has this pseudonym in the files."""

    name: str
    whole_prompt = False
    prompt_id = ""

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.name,)

    def is_in(self, text: str) -> bool:
        return self.name in text

    def is_in_file(self, file: pq.ParquetFile) -> bool:
        """Return whether a file of groups contains a ranking of the reviewer. One column is read."""
        return any(
            ranking["reviewer"] == self.name
            for batch in file.iter_batches(columns=["rankings"])
            for rankings in batch.column(0).to_pylist()
            for ranking in rankings
        )

    def removes_row(self, row: dict[str, Any]) -> bool:
        return False

    def applied_to(self, group: Group) -> Group | None:
        """Return the row without the rankings, or None if no other ranking remains."""
        kept = [n for n, ranking in enumerate(group.rankings) if ranking.reviewer != self.name]
        if len(kept) == len(group.rankings):
            return group
        meta = {
            name: [value[n] for n in kept] if name in PER_RANKING else value
            for name, value in group.meta.items()
        }
        rankings = [group.rankings[n] for n in kept]
        return replace(group, rankings=rankings, meta=meta) if kept else None


AnyErasure = Erasure | ReviewerErasure


def _texts(texts: list[str]) -> tuple[str, ...]:
    return tuple({text for text in texts if text.strip() and text != ERASED})


# --- snapshots -----------------------------------------------------------------------------------


def snapshots_with(erasure: AnyErasure, project_id: int) -> list[Snapshot]:
    """Return the snapshots of the project that contain the content.

    Two columns of each file are read.
    """
    snapshots = Snapshot.objects.filter(project=project_id).order_by("pk")
    return [snapshot for snapshot in snapshots if _holds(snapshot.file, erasure)]


def _holds(path: Path, erasure: "AnyErasure") -> bool:
    if not path.is_file():
        return False
    with pq.ParquetFile(path) as file:
        return erasure.is_in_file(file)


@transaction.atomic
def rewrite_snapshot(snapshot: Snapshot, erasure: AnyErasure) -> None:
    """Write the file of the snapshot again without the content.

    The old file is deleted after the commit.
    """
    old = snapshot.file
    draft = old.with_name(f".erasing-{snapshot.pk}.parquet")
    write_groups(draft, _without(read_groups(old), erasure))
    digest = content_hash(read_groups(draft))
    new = old.with_name(f"{digest}.parquet")
    draft.replace(new)
    files.publish(new)
    history = [*snapshot.counts.get("erased", []), snapshot.content_hash]
    Snapshot.objects.filter(pk=snapshot.pk).update(
        content_hash=digest,
        path=f"{digest}.parquet",
        counts={**snapshot.counts, "erased": history},
        erased_at=timezone.now(),
    )
    transaction.on_commit(lambda: _delete_unused(old))


def _without(groups: Iterator[Group], erasure: AnyErasure) -> Iterator[Group]:
    return (remaining for group in groups if (remaining := erasure.applied_to(group)) is not None)


def _delete_unused(path: Path) -> None:
    """Delete the file, unless a snapshot uses it. Snapshots with the same rows share a file."""
    if not Snapshot.objects.filter(path=path.name).exists():
        files.discard(path)
        path.unlink(missing_ok=True)


# --- folders of runs -----------------------------------------------------------------------------


def clean_folder(folder: Path, erasure: AnyErasure) -> list[Path]:
    """Erase the content from all files under the folder, and return the changed files."""
    changed = []
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_file() or path.name in BASE_FILES:
            continue
        if path.suffix == ".parquet":
            is_changed = _clean_parquet(path, erasure)
        elif path.suffix in JSON_SUFFIXES | TEXT_SUFFIXES:
            is_changed = _clean_text(path, erasure)
        else:
            continue
        if is_changed:
            changed.append(path)
    return changed


def _clean_parquet(path: Path, erasure: AnyErasure) -> bool:
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError):
        return False  # cut off by a crash; nothing reads it
    with file:
        schema = file.schema_arrow
        names = set(schema.names)
        if set(group_schema().names) <= names:
            if not _holds(path, erasure):
                return False
            write_groups(path, _without(read_groups(path), erasure))
            return True
        if not names & {"prompt_id", "response_ids"}:
            return False
        if not any(erasure.removes_row(row) for row in _rows(file)):
            return False
        with atomically(path) as draft, pq.ParquetWriter(draft, schema) as writer:
            for batch in file.iter_batches():
                rows = [row for row in batch.to_pylist() if not erasure.removes_row(row)]
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    return True


def _rows(file: pq.ParquetFile) -> Iterator[dict[str, Any]]:
    for batch in file.iter_batches():
        yield from batch.to_pylist()


def _clean_text(path: Path, erasure: AnyErasure) -> bool:
    try:
        before = path.read_text()
    except (UnicodeDecodeError, OSError):
        return False
    after = _cleaned(path.suffix, before, erasure)
    if after == before:
        return False
    write_atomically(path, after)
    return True


def _cleaned(suffix: str, text: str, erasure: AnyErasure) -> str:
    if suffix == ".json":
        return _cleaned_json(text, erasure, indent=2)
    if suffix == ".jsonl":
        lines = (_cleaned_json(line, erasure) for line in text.splitlines())
        return "".join(f"{line}\n" for line in lines)
    for erased in erasure.texts:
        text = text.replace(erased, ERASED)
    return text


def _cleaned_json(text: str, erasure: AnyErasure, indent: int | None = None) -> str:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    cleaned = scrubbed(value, erasure)
    return text if cleaned == value else json.dumps(cleaned, indent=indent, sort_keys=True)


def scrubbed(value: Any, erasure: AnyErasure) -> Any:
    """Return a JSON value without rows about the erased prompt, and with erased texts replaced.

    The tokens of an erased text are removed too.
    """
    if isinstance(value, str):
        return ERASED if erasure.is_in(value) else value
    if isinstance(value, list):
        return [scrubbed(each, erasure) for each in value if not _is_about(each, erasure)]
    if isinstance(value, dict):
        cleaned = {name: scrubbed(each, erasure) for name, each in value.items()}
        if "token_ids" in value and cleaned != value:
            cleaned["token_ids"] = []
        return cleaned
    return value


def _is_about(value: Any, erasure: AnyErasure) -> bool:
    return (
        erasure.whole_prompt
        and isinstance(value, dict)
        and erasure.prompt_id in (value.get("group_id"), value.get("prompt_id"))
    )
