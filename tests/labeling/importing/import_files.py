"""Small files of every kind, for the tests of imports."""

import csv
import gzip
import io
import json
import zipfile
from xml.sax.saxutils import escape

import pyarrow as pa
import pyarrow.parquet as pq

from labeling.importing.reading import detect, import_file

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
    """Write a file with these rows: .jsonl, .json, .csv, .parquet (also with .gz) or .xlsx."""
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
    if name.endswith(".xlsx"):
        return workbook(values)
    out = io.StringIO()
    cells = [
        {k: v if isinstance(v, str) else json.dumps(v) for k, v in item.items()} for item in values
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


def workbook(values, sheets=1) -> bytes:
    """Write a minimal Excel file with the same table on each sheet."""
    names = list(dict.fromkeys(name for value in values for name in value))
    rows = [names, *([item.get(name) for name in names] for item in values)]
    sheet = "".join("<row>" + "".join(map(_excel_cell, row)) + "</row>" for row in rows)
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006"
    numbers = range(1, sheets + 1)
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{package}/content-types">'
        '<Default Extension="xml" ContentType="application/xml"/></Types>',
        "_rels/.rels": f'<Relationships xmlns="{package}/relationships"><Relationship Id="r1" '
        f'Type="{office}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook xmlns="{main}" xmlns:r="{office}"><sheets>'
        + "".join(f'<sheet name="S{n}" sheetId="{n}" r:id="r{n}"/>' for n in numbers)
        + "</sheets></workbook>",
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{package}/relationships">'
        + "".join(
            f'<Relationship Id="r{n}" Type="{office}/worksheet" Target="worksheets/s{n}.xml"/>'
            for n in numbers
        )
        + "</Relationships>",
        **{
            f"xl/worksheets/s{n}.xml": f'<worksheet xmlns="{main}"><sheetData>{sheet}</sheetData>'
            "</worksheet>"
            for n in numbers
        },
    }
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in parts.items():
            archive.writestr(path, content)
    return out.getvalue()


def _excel_cell(value) -> str:
    if value is None:
        return "<c/>"
    if isinstance(value, bool):
        return f'<c t="b"><v>{int(value)}</v></c>'
    if isinstance(value, int | float):
        return f"<c><v>{value}</v></c>"
    text = value if isinstance(value, str) else json.dumps(value)
    return f'<c t="inlineStr"><is><t xml:space="preserve">{escape(text)}</t></is></c>'
