"""Reading what a form or an address says, which may be anything."""


def number(text: str, *, digits: int = 18) -> int | None:
    """Return a whole number, such as a row's id; None for anything else.

    `str.isdigit` alone accepts characters that int() refuses (²), and int() refuses long numbers.
    18 digits fit PostgreSQL's bigint.
    """
    return int(text) if text.isascii() and text.isdigit() and len(text) <= digits else None
