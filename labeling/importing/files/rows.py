"""The rows of tables, for every kind of file."""

from typing import Any

from labeling.importing.records import BadInput

CHUNK = 1 << 18
"""Bytes of a file that are read at a time."""


class Row(int):
    """The number of a value in a file without lines; error messages name it as a row."""

    word = "Row"


class Cells(dict[str, Any]):
    """A row of a table, in which lists and chats are stored as text."""


def column_names(header: list[str]) -> list[str]:
    """Return a name for each column; an unnamed column gets the name that data frames use."""
    names = [name.strip() or f"Unnamed: {number}" for number, name in enumerate(header)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise BadInput(f"two columns have the same name, {twice[0]!r}. Rename one.", 1)
    return names
