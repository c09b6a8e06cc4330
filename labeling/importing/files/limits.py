"""Limits on the memory and time that a file may need, so that a small file cannot exhaust memory.

A file can unpack to far more than its own size: gzip can store a thousand equal bytes as one byte, and
Parquet a column of equal values as a few bytes. Most limits are settings; see docs/settings.md.
"""

import gzip
import io
import zipfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from django.conf import settings

from labeling.importing.records import BadInput

if TYPE_CHECKING:
    import pyarrow.parquet as pq

MB = 1 << 20
RATIO = 100
"""Maximum compression ratio. Usual text has 3 to 30; a higher ratio suggests a malicious file."""
RATIO_FROM = 32 * MB
COLUMNS = 1000
MAX_VALUES_PER_ROW = 100_000
FOOTER = 16 * MB
WORKBOOK = 64 * MB


def value_bytes() -> int:
    """Return the maximum size of one line, array element or row, in bytes."""
    return int(settings.IMPORT_VALUE_MB) * MB


def too_long(unit: str, line: int) -> BadInput:
    return BadInput(
        f"this {unit} is longer than {settings.IMPORT_VALUE_MB} MB, the maximum for one value. "
        "Remove or shorten it; TIEBREAK_IMPORT_VALUE_MB sets the limit.",
        line,
    )


def check_count(number: int) -> None:
    """Raise BadInput if a file has more rows than allowed."""
    if number > settings.IMPORT_ROWS:
        raise BadInput(
            f"the file has more than {settings.IMPORT_ROWS:,} rows, the maximum for one import. "
            "Split it; TIEBREAK_IMPORT_ROWS sets the limit."
        )


def check_unpacked(size: int, packed: int) -> None:
    """Raise BadInput if `packed` bytes that have been unpacked to `size` bytes exceed a limit."""
    if size > settings.IMPORT_UNPACKED_MB * MB:
        raise BadInput(
            f"the file unpacks to more than {settings.IMPORT_UNPACKED_MB} MB. Split it; "
            "TIEBREAK_IMPORT_UNPACKED_MB sets the limit."
        )
    if size >= RATIO_FROM and size > RATIO * max(packed, 1):
        raise BadInput(
            f"the file unpacks to more than {RATIO} times its size, which is unusual for text. "
            "Unpack it first if this is intended."
        )


class Unpacking(io.RawIOBase):
    """A gzip file that checks the number of unpacked bytes against the limits while it is read."""

    def __init__(self, path: Path):
        self.packed: IO[bytes] = path.open("rb")
        self.unpacked = gzip.GzipFile(fileobj=self.packed)
        self.size = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        chunk = self.unpacked.read(len(buffer))
        self.size += len(chunk)
        check_unpacked(self.size, self.packed.tell())
        buffer[: len(chunk)] = chunk
        return len(chunk)

    def close(self) -> None:
        self.unpacked.close()
        self.packed.close()
        super().close()


def check_workbook(path: Path) -> None:
    """Raise BadInput for an Excel file (a zip archive) that is damaged or too large when unpacked."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(part.file_size for part in archive.infolist())
    except (zipfile.BadZipFile, OSError) as error:
        raise BadInput(f"{path.name} cannot be read as an Excel file: {error}.") from None
    check_unpacked(size, path.stat().st_size)
    if size > WORKBOOK:
        raise BadInput(
            f"{path.name} unpacks to more than {WORKBOOK // MB} MB, the maximum for an Excel "
            "file. Save the sheet as CSV."
        )


def check_parquet(path: Path, footer: "pq.FileMetaData") -> None:
    """Raise BadInput if a Parquet file exceeds the limits according to its footer.

    The footer may be wrong, so the rows are measured again when they are decoded.
    """
    check_count(footer.num_rows)
    if footer.num_columns > COLUMNS:
        raise BadInput(
            f"{path.name} has {footer.num_columns:,} columns; the maximum is {COLUMNS:,}."
        )
    unpacked = 0
    for group in map(footer.row_group, range(footer.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            unpacked += column.total_uncompressed_size
            if column.num_values > MAX_VALUES_PER_ROW * max(group.num_rows, 1):
                raise BadInput(
                    f"{path.name} has {column.num_values:,} values of {column.path_in_schema!r} in "
                    f"{group.num_rows:,} row(s); the maximum is {MAX_VALUES_PER_ROW:,} per row."
                )
    check_unpacked(unpacked, path.stat().st_size)
