"""A reader for Excel files, which it loads into memory as a whole."""

from collections.abc import Iterator
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

from python_calamine import CalamineError, CalamineWorkbook

from labeling.importing.files import limits
from labeling.importing.files.rows import Cells, Row, column_names
from labeling.importing.records import BadInput


def excel_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (row number, {column: cell}) for each row of the only sheet with data. Raises BadInput."""
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
    names_of_columns = column_names([str(name) for name in header])
    for number, cells in rows_:
        values = [_cell(cell) for cell in cells]
        if any(value is not None for value in values):
            yield Row(number), Cells(zip(names_of_columns, values, strict=True))


def _cell(value: Any) -> Any:
    """Return a cell as a JSON value. Whole floats become integers, because Excel stores only floats."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if value in ("", None):
        return None
    return value if isinstance(value, bool | int | float | str) else str(value)
