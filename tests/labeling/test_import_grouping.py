"""Tests of grouping the rows of a prompt in bounded memory."""

import pytest

from labeling.importing.formats.columns.grouping import Scattered, _Hashes, following


def test_a_repeated_key_among_many_is_detected():
    keys = [*range(10_000), 17]
    groups = following(keys, lambda key: key)
    for number in range(10_000):
        assert next(groups) == [number]
    with pytest.raises(Scattered):
        next(groups)


def test_rows_without_a_key_are_not_grouped_and_may_repeat():
    assert list(following(["a", "a", "b", "a"], lambda row: None)) == [["a"], ["a"], ["b"], ["a"]]


def test_each_key_takes_32_bytes_at_most():
    hashes = _Hashes()
    for number in range(20_000):
        assert hashes.add(str(number))
    assert hashes.table.itemsize * len(hashes.table) <= 20_000 * 32
    assert not any(hashes.add(str(number)) for number in range(20_000))
