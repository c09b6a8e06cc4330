"""Small files of every kind, for the tests of imports."""

import csv
import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq

from labeling.importers import detect, import_file

PLAIN = [
    {
        "prompt": "How?",
        "response_1": "So.",
        "response_2": "Thus.",
        "model_1": "m1",
        "model_2": "m2",
    },
    {
        "prompt": "Why?",
        "response_1": "Since.",
        "response_2": "For.",
        "model_1": "m1",
        "model_2": "m2",
    },
]


def saved(folder, values, name="data.jsonl"):
    """A file with these rows: .jsonl, .json (one array), .csv, .parquet, each also with .gz."""
    path = folder / name
    content = encoded(values, name.removesuffix(".gz"))
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


def encoded(values, name) -> bytes:
    if name.endswith(".jsonl"):
        return "".join(json.dumps(value) + "\n" for value in values).encode()
    if name.endswith(".json"):
        return json.dumps(values, indent=2).encode()
    if name.endswith(".parquet"):
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(values), sink)
        return sink.getvalue()
    out = io.StringIO()
    cells = [
        {k: v if isinstance(v, str) else json.dumps(v) for k, v in one.items()} for one in values
    ]
    writer = csv.DictWriter(out, list(cells[0]))
    writer.writeheader()
    writer.writerows(cells)
    return out.getvalue().encode()


def imported(path, project, expected):
    assert detect(path).name == expected
    return import_file(path, project=project)


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}
