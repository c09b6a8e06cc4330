"""Rows into a JSONL or Parquet file, in memory that does not grow, and so that a cut export goes on.

Beside the file to be, a folder `.NAME.parts` gathers finished parts and a cursor that says how far
they go. When all is there the parts are joined, the file appears under its name in one step, and the
folder goes. Whoever starts the same export again finds the folder and goes on after the last part.
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

ROWS_A_PART = 20_000
ROWS_AT_ONCE = 1024
COPY = 1 << 20


Batch = tuple[Any, list[Row]]
"""(how far the export is with it, its rows)"""


class ExportError(Exception):
    """A sentence that says why nothing was written, and what to do."""


class Parts:
    """`plan` says what is exported; parts of another plan are not gone on with."""

    def __init__(self, path: Path, plan: dict[str, Any]):
        self.path = path
        self.plan = plan
        self.folder = path.with_name(f".{path.name}.parts")
        self.cursor: dict[str, Any] = {"plan": plan, "parts": 0, "after": None, "counts": {}}
        self.cursor |= {"cuts": 0}
        self.is_complete = False

    def begin(self, *, restart: bool = False) -> bool:
        """Whether there is something to go on with. Raises ExportError."""
        if restart:
            shutil.rmtree(self.folder, ignore_errors=True)
        try:
            found = json.loads((self.folder / "cursor.json").read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir()
            return False
        if found["plan"] != self.plan:
            raise ExportError(
                f"{self.folder} holds the beginning of another export to {self.path.name}. Add "
                "--restart to start over, or repeat that one's options to continue it."
            )
        self.cursor = {**found, "cuts": found["cuts"] + 1}
        return True

    def add(self, batches: Iterator[Batch], schema: pa.Schema, counts: Counter[str]) -> None:
        """One more part, of some 20,000 rows and whole batches, written as they come."""
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
            if count >= ROWS_A_PART:
                return
        self.is_complete = True

    def finish(self, schema: pa.Schema) -> None:
        """The parts as one file; atomic. The folder goes."""
        whole = self.folder / "whole"
        parts = [self._part(number) for number in range(1, self.cursor["parts"] + 1)]
        if self.path.suffix == ".parquet":
            _join_parquet(whole, parts, schema)
        else:
            _join_lines(whole, parts)
        whole.replace(self.path)
        (self.folder / "cursor.json").unlink()  # first: without it, what is left is no beginning
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


# --- as bytes ------------------------------------------------------------------------------------


def encoded(rows: Iterable[Row], schema: pa.Schema, suffix: str) -> Iterator[bytes]:
    """The file in pieces; holds 1,024 rows of a Parquet file, one of JSON lines."""
    return _parquet(rows, schema) if suffix == ".parquet" else map(as_line, rows)


def as_line(row: Row) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"


class _Pipe:
    """What a writer wrote since it was last asked."""

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
            if len(batch) == ROWS_AT_ONCE:
                writer.write_table(pa.Table.from_pylist(batch, schema=schema))
                batch = []
                yield pipe.taken()
        if batch:
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))
    yield pipe.taken()


def plain(counts: Counter[str]) -> dict[str, int]:
    return {name: counts[name] for name in sorted(counts)}
