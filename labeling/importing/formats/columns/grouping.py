"""Grouping the rows of one prompt, wherever they are in the file, in bounded memory."""

import heapq
import pickle
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import IO, Any, TypeVar

BUCKETS = 64

Row = TypeVar("Row")
Key = Callable[[Any], Any]


class Scattered(Exception):  # noqa: N818 - a request to read differently, not an error
    """Rows of one prompt do not follow each other; read the file again with `gathered`."""


def following(rows: Iterable[Row], key: Key) -> Iterator[list[Row]]:
    """Group consecutive rows by key. A row with the key None is its own group.

    Raises Scattered when a key returns after other keys. Stores 16 to 32 bytes per key.
    """
    seen = _Hashes()
    for value, same in groupby(rows, key=key):
        if value is None:
            for row in same:
                yield [row]
            continue
        if not seen.add(repr(value)):
            raise Scattered
        yield list(same)


class _Hashes:
    """A set of the 64-bit hashes of texts.

    A million take 17 MB here and 70 MB in a Python set. The chance that two of a million texts have
    the same hash is 1 in 10**7; such a file would be read with `gathered` instead.
    """

    def __init__(self, size: int = 1 << 12) -> None:
        self.table = array("q", [0]) * size
        self.count = 0

    def add(self, text: str) -> bool:
        """Add a text. Return False when it was already in the set."""
        if 2 * self.count >= len(self.table):
            self._grow()
        if not self._put(hash(text) or 1):  # 0 marks an empty entry
            return False
        self.count += 1
        return True

    def _put(self, value: int) -> bool:
        mask = len(self.table) - 1
        index = value & mask
        while (entry := self.table[index]) != value:
            if not entry:
                self.table[index] = value
                return True
            index = (index + 1) & mask
        return False

    def _grow(self) -> None:
        entries, self.table = self.table, array("q", [0]) * (2 * len(self.table))
        for value in entries:
            if value:
                self._put(value)


def gathered(rows: Iterable[Row], key: Key) -> Iterator[list[Row]]:
    """Group all rows by key, in the order in which the keys first appear.

    Rows are sorted into buckets on disk by key, so that memory holds one bucket at a time.
    """
    with tempfile.TemporaryDirectory(prefix="tiebreak-import-") as folder:
        buckets = [Path(folder) / f"{number}" for number in range(BUCKETS)]
        _sort_into(buckets, rows, key)
        for bucket in buckets:
            _group(bucket)
        files = [bucket.open("rb") for bucket in buckets]
        try:
            for _, _, group in heapq.merge(*map(_stored, files), key=lambda entry: entry[0]):
                yield group
        finally:
            for file in files:
                file.close()


def _sort_into(buckets: list[Path], rows: Iterable[Row], key: Key) -> None:
    files = [bucket.open("wb") for bucket in buckets]
    try:
        for number, row in enumerate(rows):
            value = key(row)
            mark = None if value is None else repr(value)
            bucket = number if mark is None else hash(mark)
            pickle.dump((number, mark, row), files[bucket % BUCKETS])
    finally:
        for file in files:
            file.close()


def _group(bucket: Path) -> None:
    """Rewrite a bucket as (first number, key, rows), by first number."""
    groups: dict[Any, tuple[int, list[Any]]] = {}
    with bucket.open("rb") as file:
        for number, mark, row in _stored(file):
            groups.setdefault(mark if mark is not None else number, (number, []))[1].append(row)
    with bucket.open("wb") as file:
        for mark, (number, rows) in groups.items():
            pickle.dump((number, mark, rows), file)


def _stored(file: IO[bytes]) -> Iterator[tuple[int, Any, Any]]:
    while True:
        try:
            yield pickle.load(file)  # noqa: S301 - written a moment ago, by this process
        except EOFError:
            return
