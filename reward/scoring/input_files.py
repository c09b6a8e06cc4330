"""Conversion of files to JSON lines for the scoring recipes.

The recipes do not use Django, and can only read JSON lines and Parquet. The commands can read all files
that can be imported, such as JSON arrays, CSV, Excel and gzip, in several encodings.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from labeling.importing.files.encodings import UTF8, as_utf8
from labeling.importing.files.rows import Cells
from labeling.importing.files.source import GZIP, kind_of, rows_and_problems
from labeling.importing.formats.columns import values
from labeling.importing.records import BadInput
from reward.scoring.rows import RowsError, check, is_parquet, raw_rows

CHATS = ("messages", "conversations", "prompt", "response", "chosen", "rejected")


@contextmanager
def readable(path: Path, encoding: str, read: Callable[[Any], Any]) -> Iterator[Path]:
    """Check every row, and yield the path of a file of JSON lines or Parquet with the same rows.

    `read` must raise ValueError for a wrong row, with the reason as a clause. Raises RowsError with the
    numbers of the first ten wrong rows.
    """
    try:
        with as_utf8(path, encoding) as text:
            if encoding == UTF8 and _is_plain(text):
                check(path, raw_rows(path), read)
                yield path
                return
            with TemporaryDirectory(prefix="tiebreak-score-") as folder:
                copy = Path(folder) / "rows.jsonl"
                with copy.open("w") as file:
                    check(path, _written(text, file), read)
                yield copy
    except (BadInput, OSError) as error:
        raise RowsError(f"{path} cannot be read: {str(error).rstrip('.')}.") from None


def _is_plain(path: Path) -> bool:
    if is_parquet(path):
        return True
    with path.open("rb") as file:
        return file.read(2) != GZIP and kind_of(path) == "lines"


def _written(path: Path, file: Any) -> Iterator[tuple[int, Any]]:
    """Yield each row after writing it as a line of JSON."""
    for number, raw in rows_and_problems(path):
        if isinstance(raw, BadInput):
            yield number, raw
            continue
        row = _from_cells(raw) if isinstance(raw, Cells) else raw
        file.write(json.dumps(row, default=str) + "\n")
        file.flush()
        yield number, row


def _from_cells(row: Cells) -> dict[str, Any]:
    """Return the row of a table. Chats and lists are parsed from the texts of its cells."""
    parsed = {name: values.chat_or_text(row, name) for name in CHATS if name in row}
    lists = {n: values.structure(row, n) for n in ("responses", "chosen", "rejected") if n in row}
    if isinstance(lists.get("responses"), list):
        parsed["responses"] = lists["responses"]
    sides = [lists.get("chosen"), lists.get("rejected")]
    if all(values.texts(side) for side in sides):  # best of n: both are lists, or neither is
        parsed["chosen"], parsed["rejected"] = sides
    return {**row, **parsed}
