"""Writing rows to a JSONL or Parquet file in constant memory, which can be resumed.

Finished parts are written to a folder `.NAME.parts` next to the file, with a cursor that records the
progress. At the end, the parts are joined, the file appears atomically under its name, and the folder
is deleted. If the same export is started again before that, it resumes after the last finished part.
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from reward.preferences.exports.shapes import Row

ROWS_PER_PART = 20_000
ROW_BATCH_SIZE = 1024
COPY = 1 << 20


Batch = tuple[Any, list[Row]]
"""The cursor after a batch, and the rows of the batch."""


class ExportError(Exception):
    """An export that wrote nothing. The text contains the reason and a remedy."""


class Parts:
    """The parts of an export. An export resumes only from parts with the same `plan`."""

    def __init__(self, path: Path, plan: dict[str, Any]):
        self.path = path
        self.plan = plan
        self.folder = path.with_name(f".{path.name}.parts")
        self.cursor: dict[str, Any] = {"plan": plan, "parts": 0, "after": None, "counts": {}}
        self.cursor |= {"cuts": 0}
        self.is_complete = False

    def begin(self, *, restart: bool = False) -> bool:
        """Return whether there are parts to resume. Raises ExportError if they have a different plan."""
        if restart:
            shutil.rmtree(self.folder, ignore_errors=True)
        try:
            cursor = json.loads((self.folder / "cursor.json").read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir()
            return False
        if cursor["plan"] != self.plan:
            raise ExportError(
                f"{self.folder} has the beginning of a different export to {self.path.name}. Add "
                "--restart to start over, or use the options of that export to resume it."
            )
        self.cursor = {**cursor, "cuts": cursor["cuts"] + 1}
        return True

    def add(self, batches: Iterator[Batch], schema: pa.Schema, counts: Counter[str]) -> None:
        """Write one more part, which consists of whole batches with about 20,000 rows."""
        number, after = self.cursor["parts"] + 1, [self.cursor["after"]]
        _write(self._part(number), self._rows(batches, after), schema)
        self.cursor |= {"parts": number, "after": after[-1], "counts": plain(counts)}
        draft = self.folder / "cursor.draft"
        with draft.open("w") as file:
            json.dump(self.cursor, file)
            _to_disk(file)
        draft.replace(self.folder / "cursor.json")

    def _rows(self, batches: Iterator[Batch], after: list[Any]) -> Iterator[Row]:
        count = 0
        for cursor, rows in batches:
            yield from rows
            after[:] = [cursor]
            count += len(rows)
            if count >= ROWS_PER_PART:
                return
        self.is_complete = True

    def finish(self, schema: pa.Schema) -> None:
        """Join the parts to one file, which appears atomically, and delete the folder."""
        whole = self.folder / "whole"
        parts = [self._part(number) for number in range(1, self.cursor["parts"] + 1)]
        if self.path.suffix == ".parquet":
            _join_parquet(whole, parts, schema)
        else:
            _join_lines(whole, parts)
        whole.replace(self.path)
        (
            self.folder / "cursor.json"
        ).unlink()  # first, since the rest of the folder is not resumable
        shutil.rmtree(self.folder)

    def _part(self, number: int) -> Path:
        return self.folder / f"{number:06}{self.path.suffix}"


def _write(path: Path, rows: Iterable[Row], schema: pa.Schema) -> None:
    with path.open("wb") as file:
        for chunk in encoded(rows, schema, path.suffix):
            file.write(chunk)
        _to_disk(file)


def _to_disk(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _join_lines(whole: Path, parts: list[Path]) -> None:
    with whole.open("wb") as file:
        for part in parts:
            with part.open("rb") as source:
                shutil.copyfileobj(source, file, COPY)
        _to_disk(file)


def _join_parquet(whole: Path, parts: list[Path], schema: pa.Schema) -> None:
    with pq.ParquetWriter(whole, schema, compression="zstd") as writer:
        for part in parts:
            with pq.ParquetFile(part) as source:
                for number in range(source.num_row_groups):
                    writer.write_table(source.read_row_group(number))
    with whole.open("rb") as file:
        os.fsync(file.fileno())


# --- encoding ------------------------------------------------------------------------------------


def encoded(rows: Iterable[Row], schema: pa.Schema, suffix: str) -> Iterator[bytes]:
    """Yield the file in pieces. At most 1,024 rows of Parquet, or one line of JSON, are in memory."""
    return _parquet(rows, schema) if suffix == ".parquet" else map(as_line, rows)


def as_line(row: Row) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"


class _Pipe:
    """A file object that keeps the written bytes until `taken` returns them."""

    closed = False

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.written = 0

    def write(self, data: Any) -> int:
        self.pieces.append(bytes(data))
        self.written += len(self.pieces[-1])
        return len(self.pieces[-1])

    def tell(self) -> int:
        return self.written

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def taken(self) -> bytes:
        pieces, self.pieces = self.pieces, []
        return b"".join(pieces)


def _parquet(rows: Iterable[Row], schema: pa.Schema) -> Iterator[bytes]:
    pipe, batch = _Pipe(), []
    with pq.ParquetWriter(pa.PythonFile(pipe, mode="w"), schema, compression="zstd") as writer:
        for row in rows:
            batch.append(row)
            if len(batch) == ROW_BATCH_SIZE:
                writer.write_table(pa.Table.from_pylist(batch, schema=schema))
                batch = []
                yield pipe.taken()
        if batch:
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))
    yield pipe.taken()


def plain(counts: Counter[str]) -> dict[str, int]:
    return {name: counts[name] for name in sorted(counts)}
