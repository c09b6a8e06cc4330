"""Parsers for values from forms and URLs."""

from django.utils.http import url_has_allowed_host_and_scheme


def number(text: str, *, digits: int = 18) -> int | None:
    """Return a whole number of up to `digits` digits, such as a row's id, or None for other text.

    Numbers with 18 digits fit into PostgreSQL's bigint. `str.isdigit` alone is not enough, because it
    accepts characters such as ² that int() refuses, and very long numbers.
    """
    return int(text) if text.isascii() and text.isdigit() and len(text) <= digits else None


def local_path(text: str) -> str:
    """Return the text if it is a path on this site, to which a page may redirect, otherwise "".

    It must begin with a slash, because `redirect` takes other text for the name of a view.
    """
    local = text.startswith("/") and url_has_allowed_host_and_scheme(text, allowed_hosts=None)
    return text if local else ""
