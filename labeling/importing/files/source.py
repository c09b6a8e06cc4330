"""Read the values in a file one by one, with the number of the line on which each begins.

`rows` reads JSON lines, a JSON array, CSV, Excel and Parquet, recognised by their content; text files may
be compressed with gzip. Except for Excel files, only one value or one Parquet batch is in memory at a
time. labeling.importing.files.limits limits the size of unpacked files.
"""

import codecs
import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import IO, Any, TypeVar

from django.conf import settings

from labeling.importing.files import limits
from labeling.importing.files.limits import Unpacking
from labeling.importing.files.rows import CHUNK, Cells, column_names
from labeling.importing.records import BadInput, Tally

NOT_UTF8 = (
    "this is not UTF-8 text. Programs on Windows often write windows-1252, and Excel saves Unicode text "
    "as utf-16. Pass --encoding, or choose the encoding on the import page."
)
MAX_LINES_PER_ROW = 50_000
LINES_PER_ROW = 10
"""Maximum average number of lines per CSV row. Cells may contain line breaks."""
GZIP, PARQUET, BYTE_ORDER_MARK = b"\x1f\x8b", b"PAR1", b"\xef\xbb\xbf"
EXCEL = b"PK\x03\x04"
DELIMITERS = ",\t;|"
SEPARATOR = re.compile(r'"?sep=(.)"?\s*')
"""Matches a first line such as `sep=;`, which sets the delimiter for Excel."""
HEADER = re.compile(r"[^\W\d][^{}\[\]]{0,99}")
_SPACE = re.compile(r"\s*")


def rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield (line number, value) for each line, array element or row of the file. Raises BadInput."""
    for line, value in rows_and_problems(path):
        if isinstance(value, BadInput):
            raise value
        yield line, value


def kind_of(path: Path) -> str:
    """Detect the kind of a file by its content and return it as a key of READERS. Raises BadInput."""
    head = _head(path)
    if head.startswith(PARQUET):
        return "parquet"
    if head.startswith(EXCEL):
        return "excel"
    text = head.removeprefix(BYTE_ORDER_MARK).lstrip()
    if not text:
        raise BadInput(f"{path.name} is empty.")
    if text.startswith(b"["):
        return "array"
    return "lines" if text.startswith(b"{") or not _has_header(text) else "csv"


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield (line number, value). The value is a BadInput if only this line cannot be read."""
    return READERS[kind_of(path)](path)


Read = TypeVar("Read")


def each_row(
    path: Path, tally: Tally, read: Callable[[int, dict[str, Any]], Iterable[Read]]
) -> Iterator[Read]:
    """Yield the results of `read` for each row. Raises BadInput at the end if there were problems.

    Reading continues after a wrong row, so that up to ten problems are reported together. The caller must
    store nothing from a file with problems.
    """
    for line, row in _until_unreadable(path, tally):
        try:
            if isinstance(row, BadInput):
                raise row
            if not isinstance(row, dict):
                raise BadInput("a row must be a JSON object.", line)
            results = list(read(line, row))
        except BadInput as problem:
            tally.problems.add(problem)
        else:
            yield from results
    tally.problems.raise_any()


def _until_unreadable(path: Path, tally: Tally) -> Iterator[tuple[int, Any]]:
    """Yield rows until the file ends. If it becomes unreadable, record the problem and stop."""
    try:
        yield from rows_and_problems(path)
    except BadInput as problem:
        tally.problems.add(problem)


def rows_and_problems(path: Path) -> Generator[tuple[int, Any], None, None]:
    """Yield (line number, value) like `rows`, but with a BadInput as the value of a wrong line."""
    most = settings.IMPORT_ROWS
    for number, (line, value) in enumerate(_rows(path), start=1):
        if number > most:
            limits.check_count(number)
        yield line, value


def open_file(path: Path) -> IO[bytes]:
    """Open a file for reading, and unpack it while it is read if it is compressed."""
    with path.open("rb") as file:
        compressed = file.read(2) == GZIP
    return io.BufferedReader(Unpacking(path), CHUNK) if compressed else path.open("rb")


def _head(path: Path) -> bytes:
    """Return the first CHUNK bytes of the file, after unpacking enough to check its compression ratio."""
    with open_file(path) as file:
        head = b"".join(_chunks(file, most=CHUNK))
        if isinstance(file.raw, Unpacking):  # type: ignore[attr-defined]
            for _ in _chunks(file, most=limits.RATIO_FROM):
                pass
        return head


def _has_header(text: bytes) -> bool:
    """Return whether the first line looks like column names, of which some may be empty."""
    line = text.split(b"\n", 1)[0].decode("utf-8", "replace").strip("\r\n ")
    if SEPARATOR.fullmatch(line):
        return True
    names = [name.strip() for name in next(csv.reader([line], delimiter=_delimiter(line)), [])]
    return any(names) and all(not name or HEADER.fullmatch(name) for name in names)


def _chunks(file: IO[bytes], most: int | None = None) -> Iterator[bytes]:
    """Yield the file in chunks, up to `most` bytes. Raises BadInput for a damaged archive."""
    read = 0
    try:
        while (most is None or read < most) and (chunk := file.read(CHUNK)):
            read += len(chunk)
            yield chunk
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise BadInput(f"the compressed file is damaged: {error}.") from None


# --- JSON ----------------------------------------------------------------------------------------


def json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield (line number, value or BadInput) for each line that is not blank. Raises BadInput."""
    with open_file(path) as file:
        most = settings.IMPORT_ROWS
        for number, line in _text_lines(file):
            if number > most:
                limits.check_count(number)
            if not line.isspace():
                yield number, _value_or_problem(line, number)


def _text_lines(file: IO[bytes]) -> Iterator[tuple[int, str]]:
    """Yield (line number, line) for each line of a UTF-8 file. Raises BadInput."""
    longest = limits.value_bytes()
    for number in count(1):
        try:
            raw = file.readline(longest + 1)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise BadInput(f"the compressed file is damaged: {error}.", number) from None
        if len(raw) > longest:
            raise limits.too_long("line", number)
        if not raw:
            return
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise BadInput(NOT_UTF8, number) from None
        yield number, line


def _no_number(name: str) -> None:
    """Return None for NaN and infinity, which are not JSON and cannot be stored."""


_DECODER = json.JSONDecoder(parse_constant=_no_number)


def _value_or_problem(line: str, number: int) -> Any:
    try:
        if line.startswith("{"):  # the usual case; `decode` would be slower, as it strips spaces
            value, end = _DECODER.raw_decode(line)
            if line[end:] in ("", "\n", "\r\n"):
                return value
        return _DECODER.decode(line)
    except json.JSONDecodeError as error:
        return BadInput(f"not valid JSON: {error.msg}.", number)
    except ValueError:  # Python refuses numbers with more than 4,300 digits
        return BadInput("a number has too many digits.", number)
    except RecursionError:
        return BadInput("the value is nested too deeply.", number)


def json_array(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield (line number, value) for each element of the JSON array in the file. Raises BadInput."""
    with open_file(path) as file:
        yield from _Array(file).elements()


class _Array:
    """A JSON array that is read in chunks. Elements before the current one are not kept in memory."""

    def __init__(self, file: IO[bytes]):
        self.source = _chunks(file)
        self.utf8 = codecs.getincrementaldecoder("utf-8-sig")()
        self.text, self.at, self.line = "", 0, 1
        self.longest = limits.value_bytes()

    def elements(self) -> Iterator[tuple[int, Any]]:
        if self._next() != "[":
            raise BadInput("the file must contain one JSON array, which begins with [.", 1)
        self.at += 1
        while self._next() != "]":
            line = self.line
            yield line, self._value()
            mark = self._next()
            if mark not in (",", "]"):
                raise BadInput("the array is not closed: the file may be cut off.", line)
            self.at += mark == ","

    def _next(self) -> str:
        """Return the next character that is not whitespace, or "" at the end of the file."""
        while True:
            self._pass(_SPACE.match(self.text, self.at).end())  # type: ignore[union-attr]
            if self.at < len(self.text) or not self._more():
                return self.text[self.at : self.at + 1]

    def _pass(self, end: int) -> None:
        self.line += self.text.count("\n", self.at, end)
        self.at = end

    def _more(self) -> bool:
        """Read more text, and drop the part that was already parsed. Return False at the end of the file.

        The unparsed text at least doubles, so that a large element is not parsed again too often.
        """
        rest, missing = self.text[self.at :], max(CHUNK, len(self.text) - self.at)
        if len(self.text) - self.at > self.longest:
            raise limits.too_long("value", self.line)
        parts = [rest]
        while missing > 0 and (chunk := next(self.source, None)) is not None:
            parts.append(self._decoded(chunk, sum(part.count("\n") for part in parts)))
            missing -= len(chunk)
        self.text, self.at = "".join(parts), 0
        return len(parts) > 1

    def _decoded(self, chunk: bytes, lines_before: int) -> str:
        try:
            return self.utf8.decode(chunk)
        except UnicodeDecodeError as error:
            line = self.line + lines_before + chunk[: error.start].count(b"\n")
            raise BadInput(NOT_UTF8, line) from None

    def _value(self) -> Any:
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                if self._more():
                    continue
                line = self.line + self.text.count("\n", self.at, error.pos)
                raise BadInput(f"not valid JSON: {error.msg}.", line) from None
            except ValueError:  # Python refuses numbers with more than 4,300 digits
                raise BadInput("a number has too many digits.", self.line) from None
            except RecursionError:
                raise BadInput("the value is nested too deeply.", self.line) from None
            if end < len(self.text) or not self._more():
                self._pass(end)
                return value


# --- tables --------------------------------------------------------------------------------------


def csv_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield (line number, {column: cell} or BadInput) for each row. Empty cells are None."""
    with open_file(path) as file:
        first = next(_text_lines(file), (1, ""))[1]
    separator = SEPARATOR.fullmatch(first)
    csv.field_size_limit(limits.value_bytes())
    with open_file(path) as file:
        lines = _RowLines(file)
        reader = csv.reader(lines, delimiter=separator[1] if separator else _delimiter(first))
        try:
            if separator:
                next(reader)
            names = column_names(next(reader, []))
            for line, row in _cells(reader, names):
                lines.begin_row()
                yield line, row
        except csv.Error as error:
            raise BadInput(f"not valid CSV: {error}.", reader.line_num) from None


class _RowLines:
    """The lines of a CSV file, with a limit on the lines and characters of one row.

    Without the limit, an unclosed quotation mark would turn the rest of the file into one row.
    """

    def __init__(self, file: IO[bytes]):
        self.lines = _text_lines(file)
        self.longest = limits.value_bytes()
        self.most = LINES_PER_ROW * settings.IMPORT_ROWS
        self.begin_row()

    def begin_row(self) -> None:
        self.size = self.count = 0

    def __iter__(self) -> Iterator[str]:
        for number, line in self.lines:
            if number > self.most:
                limits.check_count(number // LINES_PER_ROW)
            self.size += len(line)
            self.count += 1
            if self.size > self.longest or self.count > MAX_LINES_PER_ROW:
                raise limits.too_long("row", number)
            yield line


def _cells(reader: Any, names: list[str]) -> Iterator[tuple[int, Any]]:
    """Yield (line number, cells), or a BadInput instead of cells if their number is wrong."""
    before = reader.line_num
    for cells in reader:
        line, before = before + 1, reader.line_num
        if not any(cells):
            continue
        while len(cells) > len(names) and not cells[-1]:  # lines may end with a comma
            cells.pop()
        if len(cells) != len(names):
            yield line, BadInput(f"there are {len(cells)} cells for {len(names)} columns.", line)
        else:
            yield line, Cells({name: cell or None for name, cell in zip(names, cells, strict=True)})


def _delimiter(line: str) -> str:
    return max(DELIMITERS, key=line.count)


def _parquet_rows(path: Path) -> Iterator[tuple[int, Any]]:
    from labeling.importing.files.parquet import parquet_rows

    return parquet_rows(path)


def _excel_rows(path: Path) -> Iterator[tuple[int, Any]]:
    from labeling.importing.files.excel import excel_rows

    return excel_rows(path)


# The libraries for these two are imported only when needed: that takes 9 MB of memory and 0.1 seconds.
READERS: dict[str, Callable[[Path], Iterator[tuple[int, Any]]]] = {
    "parquet": _parquet_rows,
    "excel": _excel_rows,
    "array": json_array,
    "lines": json_lines,
    "csv": csv_rows,
}
