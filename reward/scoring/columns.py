"""The columns of a Parquet file of scored rows. This module needs neither Django nor torch.

The rows of a JSON file may differ from each other. If they do not fit into one table, the row and the
column are reported before a model is loaded.
"""

import io
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from reward.scoring.rows import ROW_BATCH_SIZE, RowsError, is_parquet, raw_rows, text_of

Row = dict[str, Any]
MISFITS = (pa.ArrowException, OverflowError, ValueError, TypeError)


def columns_of(source: Path) -> pa.Schema:
    """Return the columns of a Parquet source, or columns that fit all rows of a JSON source.

    The whole file is read. Raises RowsError with the row and the column that do not fit.
    """
    if is_parquet(source):
        return pq.read_schema(source)
    schema = pa.schema([])
    rows = raw_rows(source)
    while batch := list(islice(rows, ROW_BATCH_SIZE)):
        try:
            schema = _joined(schema, [legible(row) for _, row in batch])
        except MISFITS:
            schema = _row_by_row(source, schema, batch)
    try:
        pq.ParquetWriter(io.BytesIO(), schema).close()
    except MISFITS as error:
        raise RowsError(f"{source} does not fit a Parquet file: {error}. {INSTEAD}") from None
    return schema


INSTEAD = "Write JSON lines instead."


def _row_by_row(source: Path, schema: pa.Schema, batch: list[tuple[int, Any]]) -> pa.Schema:
    """Return the columns together with those of the batch.

    Raises RowsError at the first value that does not fit.
    """
    for number, raw in batch:
        for name, value in legible(raw).items():
            try:
                schema = _joined(schema, [{name: value}])
            except MISFITS:
                raise RowsError(
                    f"{source}, row {number}: {name!r} is {str(value)[:40]!r}, which does not fit in one "
                    f"Parquet column with the rows before it. {INSTEAD}"
                ) from None
    return schema


def _joined(schema: pa.Schema, rows: list[Row]) -> pa.Schema:
    names = dict.fromkeys(name for row in rows for name in row)
    more = pa.schema([(name, pa.array([row.get(name) for row in rows]).type) for name in names])
    return pa.unify_schemas([schema, more], promote_options="permissive")


def legible(value: Any) -> Any:
    """Return the value with U+FFFD in place of lone surrogates, which Parquet cannot store."""
    if isinstance(value, str):
        return text_of(value) if not value.isascii() else value
    if isinstance(value, dict):
        return {legible(str(key)): legible(item) for key, item in value.items()}
    return [legible(item) for item in value] if isinstance(value, list) else value
