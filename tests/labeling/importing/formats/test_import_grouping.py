"""Tests of grouping the rows of a prompt in bounded memory."""

import pytest

from labeling.importing.formats.columns.grouping import ScatteredRows, _Hashes, consecutive_groups


@pytest.mark.parametrize("count", [1, 2, 999, 1000, 1001, 10_000])
def test_a_key_that_returns_is_detected(count):
    keys = [*range(count), "between", count - 1]
    with pytest.raises(ScatteredRows):
        list(consecutive_groups(keys, lambda key: key))
    assert list(consecutive_groups(keys[:-1], lambda key: key)) == [[key] for key in keys[:-1]]


def test_a_key_that_returns_early_is_detected_before_the_end_of_a_long_file():
    keys = [0, 1, 0, *range(2, 1_000_000)]
    groups = consecutive_groups(keys, lambda key: key)
    with pytest.raises(ScatteredRows):
        for _ in range(1000):
            next(groups)


def test_rows_without_a_key_are_not_grouped_and_may_repeat():
    assert list(consecutive_groups(["a", "a", "b", "a"], lambda row: None)) == [
        ["a"],
        ["a"],
        ["b"],
        ["a"],
    ]


def test_no_rows_are_no_groups():
    assert list(consecutive_groups([], lambda row: row)) == []


def test_each_key_takes_9_bytes_at_most():
    hashes = _Hashes()
    for number in range(20_000):
        hashes.add(hash(str(number)))
    _, size = hashes.hashes.buffer_info()
    assert size == 20_000
    assert hashes.hashes.__sizeof__() <= 20_000 * 9
    hashes.add(hash("17"))
    with pytest.raises(ScatteredRows):
        hashes.check()
