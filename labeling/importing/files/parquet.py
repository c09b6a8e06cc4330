"""A reader for Parquet files, which loads one batch of rows at a time."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from labeling.importing.files import limits
from labeling.importing.files.rows import CHUNK, Row
from labeling.importing.records import BadInput

ROW_BATCH_SIZE = 256


def parquet_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (row number, {column: value}) for each row. Raises BadInput."""
    try:
        with _parquet(path) as file:
            number = size = 0
            for batch in file.iter_batches(batch_size=ROW_BATCH_SIZE):
                size += _expanded(batch.to_struct_array())
                limits.check_unpacked(size, path.stat().st_size)
                for value in _values(batch, number):
                    number += 1
                    yield Row(number), value
    except (pa.ArrowException, OSError, MemoryError, UnicodeDecodeError) as error:
        raise BadInput(f"{path.name} cannot be read as Parquet: {error}.") from None


def _parquet(path: Path) -> pq.ParquetFile:
    """Open the file after checking its footer against the limits.

    Texts stay dictionary-encoded as in the file, because a page of a few bytes can become gigabytes when
    it is decoded. Pages are streamed instead of reading whole columns ahead.
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
    """Yield the rows of a batch. They are decoded one by one if the whole batch would be too large."""
    if _expanded(batch.to_struct_array()) <= limits.value_bytes():
        yield from batch.to_pylist()
        return
    for number in range(batch.num_rows):
        row = batch.slice(number, 1)
        if _expanded(row.to_struct_array()) > limits.value_bytes():
            raise limits.too_long("row", Row(before + number + 1))
        yield row.to_pylist()[0]


def _expanded(array: pa.Array) -> int:
    """Return the approximate size of an array's values in bytes after decoding."""
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
