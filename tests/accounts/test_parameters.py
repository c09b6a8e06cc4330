import pytest

from accounts.parameters import number


@pytest.mark.parametrize(
    "text", ["", "²", "٣", "-1", "+1", " 1", "1e3", "1_0", "\0", "9" * 4301, "9" * 19]
)
def test_invalid_row_ids_are_none(text):
    assert number(text) is None


def test_numbers_with_too_many_digits_are_none():
    assert number("17") == 17 and number("9" * 18) == 10**18 - 1
    assert number("999", digits=3) == 999 and number("1000", digits=3) is None
