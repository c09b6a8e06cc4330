"""Reading the values in a file one by one, with the line where each begins.

`rows` reads JSON lines, one JSON array, CSV and Parquet, each also compressed with gzip, and Excel
files. It recognises them by their content. All are streamed: memory holds one value, or one batch
of a Parquet file. `labeling.importing.limits` bounds the size of unpacked files.
"""

import codecs
import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from datetime import date, datetime, time
from pathlib import Path
from typing import IO, Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from django.conf import settings
from python_calamine import CalamineError, CalamineWorkbook

from labeling.importing import limits
from labeling.importing.limits import Unpacking
from labeling.importing.records import BadInput, Tally

CHUNK = 1 << 18
ROWS_AT_ONCE = 256
NOT_UTF8 = (
    "this is not UTF-8 text. Programs on Windows often write windows-1252, and Excel's Unicode text "
    "is utf-16: pass --encoding, or choose it on the import page."
)
LINES_IN_A_ROW = 50_000
LINES_PER_ROW = 10
"""The maximum average number of lines per CSV row; cells may hold line breaks."""
GZIP, PARQUET, BYTE_ORDER_MARK = b"\x1f\x8b", b"PAR1", b"\xef\xbb\xbf"
EXCEL = b"PK\x03\x04"
DELIMITERS = ",\t;|"
SEPARATOR = re.compile(r'"?sep=(.)"?\s*')
"""A first line that sets the delimiter for Excel."""
HEADER = re.compile(r"[^\W\d][^{}\[\]]{0,99}")
_SPACE = re.compile(r"\s*")


class Row(int):
    """The number of a value in a file without lines; error messages name it as a row."""

    word = "Row"


class Cells(dict[str, Any]):
    """A row of a table, in which lists and chats are stored as text."""


def rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield (line, value) of each line, element or row of the file. Raises BadInput."""
    for line, value in rows_and_problems(path):
        if isinstance(value, BadInput):
            raise value
        yield line, value


def kind_of(path: Path) -> str:
    """Return the kind of a file by its content, a key of READERS. Raises BadInput."""
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
    """Yield (line, value), where the value is a BadInput if only this line is wrong."""
    return READERS[kind_of(path)](path)


Read = TypeVar("Read")


def each_row(
    path: Path, tally: Tally, read: Callable[[int, dict[str, Any]], Iterable[Read]]
) -> Iterator[Read]:
    """Yield the results of `read` for each row. Raises BadInput at the end.

    The error lists up to ten problems: reading continues after a wrong row, so that all problems of
    a file are reported together. The caller stores nothing from a file with problems.
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
    """Yield rows until the file ends or becomes unreadable, which is recorded as a problem."""
    try:
        yield from rows_and_problems(path)
    except BadInput as problem:
        tally.problems.add(problem)


def rows_and_problems(path: Path) -> Generator[tuple[int, Any], None, None]:
    """Yield (line, value) like `rows`, with a BadInput in place of the value of a wrong line."""
    for number, (line, value) in enumerate(_rows(path), start=1):
        limits.check_count(number)
        yield line, value


def opened(path: Path) -> IO[bytes]:
    """Open a file, and unpack it if it is compressed."""
    with path.open("rb") as file:
        compressed = file.read(2) == GZIP
    return io.BufferedReader(Unpacking(path), CHUNK) if compressed else path.open("rb")


def _head(path: Path) -> bytes:
    """Return the beginning of the file. Unpacks enough of it to check the compression ratio."""
    with opened(path) as file:
        head = b"".join(_chunks(file, most=CHUNK))
        if isinstance(file.raw, Unpacking):  # type: ignore[attr-defined]
            for _ in _chunks(file, most=limits.RATIO_FROM):
                pass
        return head


def _has_header(text: bytes) -> bool:
    """Return whether the first line looks like column names. The first or last name may be empty."""
    line = text.split(b"\n", 1)[0].decode("utf-8", "replace").strip("\r\n ")
    if SEPARATOR.fullmatch(line):
        return True
    names = [name.strip() for name in next(csv.reader([line], delimiter=_delimiter(line)), [])]
    return any(names) and all(not name or HEADER.fullmatch(name) for name in names)


def _chunks(file: IO[bytes], most: int | None = None) -> Iterator[bytes]:
    """Yield the file in chunks. Raises BadInput for a damaged archive."""
    read = 0
    try:
        while (most is None or read < most) and (chunk := file.read(CHUNK)):
            read += len(chunk)
            yield chunk
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise BadInput(f"the compressed file is damaged: {error}.") from None


# --- JSON ----------------------------------------------------------------------------------------


def json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield (line number, value or BadInput) of each line that is not blank. Raises BadInput."""
    with opened(path) as file:
        most = settings.IMPORT_ROWS
        for number, line in _text_lines(file):
            if number > most:
                limits.check_count(number)
            if line.strip():
                yield number, _value_or_problem(line, number)


def _value_or_problem(line: str, number: int) -> Any:
    try:
        return _loads(line, number)
    except BadInput as problem:
        return problem


def _text_lines(file: IO[bytes]) -> Iterator[tuple[int, str]]:
    number, longest = 1, limits.value_bytes()
    while raw := _line(file, number, longest):
        try:
            yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise BadInput(NOT_UTF8, number) from None
        number += 1


def _line(file: IO[bytes], number: int, longest: int) -> bytes:
    try:
        raw = file.readline(longest + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise BadInput(f"the compressed file is damaged: {error}.", number) from None
    if len(raw) > longest:
        raise limits.too_long("line", number)
    return raw


def _no_number(name: str) -> None:
    """Return None for NaN and infinity, which are not JSON and cannot be stored."""


_DECODER = json.JSONDecoder(parse_constant=_no_number)


def _loads(line: str, number: int) -> Any:
    try:
        return _DECODER.decode(line)
    except json.JSONDecodeError as error:
        raise BadInput(f"not valid JSON: {error.msg}.", number) from None
    except ValueError:  # Python refuses to read a number of so many digits
        raise BadInput("a number has too many digits.", number) from None
    except RecursionError:
        raise BadInput("this is nested too deeply.", number) from None


def json_array(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield (line number, value) of each element of the array in the file. Raises BadInput."""
    with opened(path) as file:
        yield from _Array(file).elements()


class _Array:
    """An array of which only the current element and later ones are in memory."""

    def __init__(self, file: IO[bytes]):
        self.source = _chunks(file)
        self.utf8 = codecs.getincrementaldecoder("utf-8-sig")()
        self.text, self.at, self.line = "", 0, 1
        self.longest = limits.value_bytes()

    def elements(self) -> Iterator[tuple[int, Any]]:
        if self._next() != "[":
            raise BadInput("the file must be one JSON array that begins with [.", 1)
        self.at += 1
        while self._next() != "]":
            line = self.line
            yield line, self._value()
            mark = self._next()
            if mark not in (",", "]"):
                raise BadInput("the array is not closed: the file may be cut off.", line)
            self.at += mark == ","

    def _next(self) -> str:
        """Return the next character that is not a space, or "" at the end."""
        while True:
            self._pass(_SPACE.match(self.text, self.at).end())  # type: ignore[union-attr]
            if self.at < len(self.text) or not self._more():
                return self.text[self.at : self.at + 1]

    def _pass(self, end: int) -> None:
        self.line += self.text.count("\n", self.at, end)
        self.at = end

    def _more(self) -> bool:
        """Read at least as many characters as remain, and drop those already parsed."""
        kept, wanted = self.text[self.at :], max(CHUNK, len(self.text) - self.at)
        if len(self.text) - self.at > self.longest:
            raise limits.too_long("value", self.line)
        parts = [kept]
        while wanted > 0 and (chunk := next(self.source, None)) is not None:
            parts.append(self._decoded(chunk, sum(part.count("\n") for part in parts)))
            wanted -= len(chunk)
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
            except ValueError:  # Python refuses to read a number of so many digits
                raise BadInput("a number has too many digits.", self.line) from None
            except RecursionError:
                raise BadInput("this is nested too deeply.", self.line) from None
            if end < len(self.text) or not self._more():
                self._pass(end)
                return value


# --- tables --------------------------------------------------------------------------------------


def csv_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield (line number, {column: cell} or BadInput) of each row. Empty cells are None."""
    with opened(path) as file:
        first = next(_text_lines(file), (1, ""))[1]
    separator = SEPARATOR.fullmatch(first)
    csv.field_size_limit(limits.value_bytes())
    with opened(path) as file:
        lines = _RowLines(file)
        reader = csv.reader(lines, delimiter=separator[1] if separator else _delimiter(first))
        try:
            if separator:
                next(reader)
            names = _column_names(next(reader, []))
            for line, row in _cells(reader, names):
                lines.begin_row()
                yield line, row
        except csv.Error as error:
            raise BadInput(f"not valid CSV: {error}.", reader.line_num) from None


def _column_names(header: list[str]) -> list[str]:
    """Return a name for each column; an unnamed column gets the name that data frames use."""
    names = [name.strip() or f"Unnamed: {number}" for number, name in enumerate(header)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise BadInput(f"two columns have the same name, {twice[0]!r}. Rename one.", 1)
    return names


class _RowLines:
    """The lines of a CSV file, with a limit on the lines and characters of one row.

    Otherwise an unclosed quotation mark would make the rest of the file one row.
    """

    def __init__(self, file: IO[bytes]):
        self.lines = _text_lines(file)
        self.longest = limits.value_bytes()
        self.most = LINES_PER_ROW * settings.IMPORT_ROWS
        self.begin_row()

    def begin_row(self) -> None:
        self.size = self.count = 0

    def __iter__(self) -> "_RowLines":
        return self

    def __next__(self) -> str:
        number, line = next(self.lines)
        if number > self.most:
            limits.check_count(number // LINES_PER_ROW)
        self.size += len(line)
        self.count += 1
        if self.size > self.longest or self.count > LINES_IN_A_ROW:
            raise limits.too_long("row", number)
        return line


def _cells(reader: Any, names: list[str]) -> Iterator[tuple[int, Any]]:
    """Yield (line, cells), with a BadInput in place of the cells when their number is wrong."""
    before = reader.line_num
    for cells in reader:
        line, before = before + 1, reader.line_num
        if not any(cells):
            continue
        while len(cells) > len(names) and not cells[-1]:  # a comma at the end of each line
            cells.pop()
        if len(cells) != len(names):
            yield line, BadInput(f"there are {len(cells)} cells for {len(names)} columns.", line)
        else:
            yield line, Cells({name: cell or None for name, cell in zip(names, cells, strict=True)})


def _delimiter(line: str) -> str:
    return max(DELIMITERS, key=line.count)


def parquet_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (row, {column: value}) of each row, a batch at a time. Raises BadInput."""
    try:
        with _parquet(path) as file:
            number = size = 0
            for batch in file.iter_batches(batch_size=ROWS_AT_ONCE):
                size += _expanded(batch.to_struct_array())
                limits.check_unpacked(size, path.stat().st_size)
                for value in _values(batch, number):
                    number += 1
                    yield Row(number), value
    except (pa.ArrowException, OSError, MemoryError, UnicodeDecodeError) as error:
        raise BadInput(f"{path.name} cannot be read as Parquet: {error}.") from None


def _parquet(path: Path) -> pq.ParquetFile:
    """Open the file after checking its footer against the limits.

    Texts stay dictionary-encoded as in the file: decoded in full, a page of a few bytes can become
    gigabytes. Pages are streamed, not read ahead by column.
    """
    bounds: dict[str, Any] = {
        "thrift_string_size_limit": limits.FOOTER, "thrift_container_size_limit": limits.FOOTER,
    }  # fmt: skip
    with pq.ParquetFile(path, **bounds) as file:
        limits.check_parquet(path, file.metadata)
        columns = [file.schema.column(n) for n in range(len(file.schema))]
    texts = [column.path for column in columns if column.physical_type == "BYTE_ARRAY"]
    return pq.ParquetFile(
        path, **bounds, read_dictionary=texts, buffer_size=CHUNK, pre_buffer=False
    )


def _values(batch: pa.RecordBatch, before: int) -> Iterator[dict[str, Any]]:
    """Yield the rows of a batch, one at a time if the whole batch would be too large."""
    if _expanded(batch.to_struct_array()) <= limits.value_bytes():
        yield from batch.to_pylist()
        return
    for number in range(batch.num_rows):
        row = batch.slice(number, 1)
        if _expanded(row.to_struct_array()) > limits.value_bytes():
            raise limits.too_long("row", Row(before + number + 1))
        yield row.to_pylist()[0]


def _expanded(array: pa.Array) -> int:
    """Return the approximate size of an array's values when decoded, in bytes."""
    if pa.types.is_dictionary(array.type):
        lengths = pc.binary_length(array.dictionary).take(array.indices)
        return int(pc.sum(lengths).as_py() or 0)
    if pa.types.is_struct(array.type):
        return sum(map(_expanded, array.flatten()))
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        return 8 * len(array) + _expanded(array.flatten())
    if pa.types.is_map(array.type):
        return _expanded(array.keys) + _expanded(array.items)
    return int(array.nbytes)


def excel_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (row, {column: cell}) of the only sheet with data. Raises BadInput."""
    limits.check_workbook(path)
    try:
        workbook = CalamineWorkbook.from_path(str(path))
        sheets = [workbook.get_sheet_by_name(name) for name in workbook.sheet_names]
    except (CalamineError, OSError) as error:
        raise BadInput(f"{path.name} cannot be read as an Excel file: {error}.") from None
    sheets = [sheet for sheet in sheets if sheet.height]
    if len(sheets) != 1:
        names = ", ".join(repr(sheet.name) for sheet in sheets) or "none"
        raise BadInput(
            f"{path.name} must have one sheet with data; sheets with data: {names}. Save the sheet to "
            "import as a separate file."
        )
    rows_ = enumerate(sheets[0].iter_rows(), start=sheets[0].start[0] + 1)  # type: ignore[index]
    _, header = next(rows_)
    names_of_columns = _column_names([str(name) for name in header])
    for number, cells in rows_:
        values = [_cell(cell) for cell in cells]
        if any(value is not None for value in values):
            yield Row(number), Cells(zip(names_of_columns, values, strict=True))


def _cell(value: Any) -> Any:
    """Return a cell as a JSON value. Excel stores every number as a float."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if value in ("", None):
        return None
    return value if isinstance(value, bool | int | float | str) else str(value)


READERS: dict[str, Callable[[Path], Iterator[tuple[int, Any]]]] = {
    "parquet": parquet_rows,
    "excel": excel_rows,
    "array": json_array,
    "lines": json_lines,
    "csv": csv_rows,
}
