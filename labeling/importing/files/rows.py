"""The types of rows and row numbers that all readers of tables share."""

from typing import Any

from labeling.importing.records import BadInput

CHUNK = 1 << 18
"""Number of bytes of a file that are read at a time."""


class Row(int):
    """A row number in a file that has no lines. Error messages say "Row" instead of "Line"."""

    word = "Row"


class Cells(dict[str, Any]):
    """A row of a CSV or Excel file, in which lists and chats are written as text."""


def column_names(header: list[str]) -> list[str]:
    """Return a unique name for each column. Unnamed columns are named as pandas names them.

    Raises BadInput if two columns have the same name.
    """
    names = [name.strip() or f"Unnamed: {number}" for number, name in enumerate(header)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise BadInput(f"two columns have the same name, {twice[0]!r}. Rename one.", 1)
    return names
