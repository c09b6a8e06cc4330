"""Rows of one prompt are brought together, in bounded memory."""

import pytest

from labeling.importing.formats.columns.grouping import Scattered, _Hashes, following


def test_a_key_that_comes_back_among_many_is_noticed():
    keys = [*range(10_000), 17]
    groups = following(keys, lambda key: key)
    for number in range(10_000):
        assert next(groups) == [number]
    with pytest.raises(Scattered):
        next(groups)


def test_rows_without_a_key_stand_alone_and_may_come_back():
    assert list(following(["a", "a", "b", "a"], lambda row: None)) == [["a"], ["a"], ["b"], ["a"]]


def test_each_key_takes_32_bytes_at_most():
    hashes = _Hashes()
    for number in range(20_000):
        assert hashes.add(str(number))
    assert hashes.table.itemsize * len(hashes.table) <= 20_000 * 32
    assert not any(hashes.add(str(number)) for number in range(20_000))
