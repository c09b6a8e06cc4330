"""Tests of refusing files that unpack to far more than their size."""

import csv
import gzip
import resource
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from labeling.importing.files.source import rows
from labeling.importing.reading import BadInput, detect
from tests.labeling.importing.import_files import workbook

MB = 1 << 20


def parquet(path, **columns):
    pq.write_table(pa.table(columns), path, compression="zstd")
    return path


def zeros(count):
    return pa.ListArray.from_arrays(
        pa.array([0, count], pa.int32()), pa.array(np.zeros(count, "i1"))
    )


def repeated(text, count):
    return pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), pa.array([text]))


def listed(text, count):
    offsets = pa.array([0, count], pa.int32())
    return pa.ListArray.from_arrays(offsets, repeated(text, count))


def zipped(path, content):
    path.write_bytes(gzip.compress(content))
    return path


def written(path, content):
    path.write_bytes(content)
    return path


BOMBS = {
    "one row with millions of values": (
        lambda folder: parquet(folder / "a.parquet", prompt=["p"], x=zeros(20_000_000)),
        "20,000,000 values",
    ),
    "one enormous text": (
        lambda folder: parquet(folder / "a.parquet", prompt=["a" * (64 * MB)]),
        "100 times its size",
    ),
    "one long text in every row": (
        lambda folder: parquet(folder / "a.parquet", prompt=repeated("a" * 1_000_000, 20_000)),
        "100 times its size",
    ),
    "one long text many times in a row": (
        lambda folder: parquet(folder / "a.parquet", prompt=["p"], responses=listed("a" * MB, 20)),
        "Row 1: this row is longer than 4 MB",
    ),
    "millions of empty rows": (
        lambda folder: parquet(folder / "a.parquet", prompt=pa.nulls(6_000_000, pa.string())),
        "more than 5,000,000 rows",
    ),
    "thousands of columns": (
        lambda folder: parquet(folder / "a.parquet", **{f"c{n}": ["x"] for n in range(2000)}),
        "2,000 columns",
    ),
    "small rows in gzip": (
        lambda folder: zipped(folder / "a.jsonl.gz", b'{"prompt": "a"}\n' * 3_000_000),
        "100 times its size",
    ),
    "blank lines in gzip": (
        lambda folder: zipped(folder / "a.jsonl.gz", b'{"prompt": "a"}\n' + b"\n" * 40 * MB),
        "100 times its size",
    ),
    "spaces in gzip": (
        lambda folder: zipped(folder / "a.json.gz", b"[" + b" " * 40 * MB),
        "100 times its size",
    ),
    "a long line": (
        lambda folder: written(folder / "a.jsonl", b'{"prompt": "' + b"a" * 10 * MB + b'"}'),
        "Line 1: this line is longer than 4 MB",
    ),
    "a long value in an array": (
        lambda folder: written(folder / "a.json", b'[{"prompt": "' + b"a" * 10 * MB + b'"}]'),
        "Line 1: this value is longer than 4 MB",
    ),
    "a quotation mark that is never closed": (
        lambda folder: written(
            folder / "a.csv", b'prompt,response_1\n"' + (b"a" * 99 + b"\n") * 50_000
        ),
        "this row is longer than 4 MB",
    ),
    "a row of millions of cells": (
        lambda folder: written(
            folder / "a.csv", b"prompt,response_1\n" + (b'"' + b"a" * 99 + b'\n",') * 50_000
        ),
        "this row is longer than 4 MB",
    ),
    "a workbook that unpacks to too much": (
        lambda folder: written(folder / "a.xlsx", workbook([{"prompt": "a" * 40 * MB}])),
        "100 times its size",
    ),
    "a number of millions of digits": (
        lambda folder: written(folder / "a.jsonl", b'{"prompt": "p", "n": ' + b"1" * 3 * MB + b"}"),
        "too many digits",
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_file_that_unpacks_to_too_much_is_refused(tmp_path, name):
    make, sentence = BOMBS[name]
    with pytest.raises(BadInput, match=sentence):
        for _ in rows(make(tmp_path)):
            pass


def test_a_refused_file_takes_little_memory(tmp_path):
    path = parquet(tmp_path / "a.parquet", prompt=repeated("a" * 1_000_000, 20_000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BadInput):
        detect(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024


@pytest.mark.parametrize(
    ("setting", "value", "name", "sentence"),
    [
        ("IMPORT_VALUE_MB", 1, "TIEBREAK_IMPORT_VALUE_MB", "longer than 1 MB"),
        ("IMPORT_UNPACKED_MB", 3, "TIEBREAK_IMPORT_UNPACKED_MB", "more than 3 MB"),
        ("IMPORT_ROWS", 100, "TIEBREAK_IMPORT_ROWS", "more than 100 rows"),
    ],
)
def test_each_limit_is_a_setting_and_is_named_when_it_is_reached(
    tmp_path, settings, setting, value, name, sentence
):
    line = b'{"prompt": "' + np.random.default_rng(0).bytes(1_000_000).hex().encode() + b'"}\n'
    path = zipped(tmp_path / "a.jsonl.gz", line * 3 + b'{"prompt": "a"}\n' * 200)
    assert len(list(rows(path))) == 203
    setattr(settings, setting, value)
    with pytest.raises(BadInput, match=f"(?s){sentence}.*{name}"):
        list(rows(path))


def test_a_large_ordinary_file_is_read(tmp_path):
    texts = [f"Question {n}: " + "why? " * 400 for n in range(3000)]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"prompt": texts, "tags": [["a", "b"]] * 3000}), path)
    assert [row["prompt"] for _, row in rows(path)] == texts
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["prompt"], *([text + "\nand\nso on"] for text in texts)])
    assert len(list(rows(tmp_path / "a.csv"))) == 3000
    nested = pa.table(
        {"prompt": ["p"] * 3, "answers": [[{"text": "a", "meta": {"k": "v"}}], [], None]}
    )
    pq.write_table(nested, path)
    first = next(islice(rows(path), 1))[1]
    assert first["answers"] == [{"text": "a", "meta": {"k": "v"}}]
