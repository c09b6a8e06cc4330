"""Parsers for values from forms and URLs."""

from django.utils.http import url_has_allowed_host_and_scheme


def number(text: str, *, digits: int = 18) -> int | None:
    """Return a whole number, such as a row's id; None for anything else.

    `str.isdigit` alone accepts characters that int() refuses (²), and int() refuses long numbers.
    18 digits fit PostgreSQL's bigint.
    """
    return int(text) if text.isascii() and text.isdigit() and len(text) <= digits else None


def local_path(text: str) -> str:
    """Return a redirect target if it is a path on this site, and "" otherwise.

    A leading slash is required: `redirect` treats other text as the name of a view.
    """
    local = text.startswith("/") and url_has_allowed_host_and_scheme(text, allowed_hosts=None)
    return text if local else ""
