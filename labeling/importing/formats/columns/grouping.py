"""Group the rows that belong to one prompt, anywhere in the file, with limited memory."""

import heapq
import pickle
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np

BUCKETS = 64
FIRST_CHECK = 1000

Row = TypeVar("Row")
Key = Callable[[Any], Any]


class ScatteredRows(Exception):  # noqa: N818 - a request to read differently, not an error
    """Raised if the rows of a prompt are not consecutive. Read the file again with `all_groups`."""


def consecutive_groups(rows: Iterable[Row], key: Key) -> Iterator[list[Row]]:
    """Group consecutive rows by key. Each row with the key None is a group of its own.

    Raises ScatteredRows if a key occurs again after other keys. In a long file this may happen before the
    end. The caller must discard the groups read so far. Needs 8 to 9 bytes of memory per key.
    """
    hashes = _Hashes()
    for value, same in groupby(rows, key=key):
        if value is None:
            for row in same:
                yield [row]
            continue
        hashes.add(hash(value))
        yield list(same)
    hashes.check()


class _Hashes:
    """The 64-bit hashes of keys, to detect a key that occurs again.

    A million hashes take 8 MB here, compared with 70 MB in a Python set. They are sorted and compared
    each time their number has grown by half, which is faster than looking up each of them. The
    probability that two of a million keys have the same hash is below 1 in 10**7. Such a file would be
    read with `all_groups`, which gives the same result.
    """

    def __init__(self) -> None:
        self.hashes = array("q")
        self.next_check = FIRST_CHECK

    def add(self, value: int) -> None:
        """Add a hash. Raises ScatteredRows if a check is due and a hash was added twice."""
        self.hashes.append(value)
        if len(self.hashes) >= self.next_check:
            self.check()

    def check(self) -> None:
        """Raise ScatteredRows if a hash was added twice. Sorts the hashes in place."""
        if not self.hashes:
            return
        ordered = np.frombuffer(self.hashes, dtype=np.int64)
        ordered.sort()
        if (ordered[1:] == ordered[:-1]).any():
            raise ScatteredRows
        self.next_check = len(self.hashes) * 3 // 2


def all_groups(rows: Iterable[Row], key: Key) -> Iterator[list[Row]]:
    """Group all rows by key, in the order in which the keys first appear.

    Rows are first sorted into files by key, so that only one of these files is in memory at a time.
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
    """Rewrite a bucket as (number of the first row, key, rows), sorted by that number."""
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
