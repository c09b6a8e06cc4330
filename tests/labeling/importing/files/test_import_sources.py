"""Tests of reading every kind of file, in a stream and with the positions of errors."""

import gzip
import json
import tracemalloc
from functools import partial

import pytest

from labeling.importing.files.source import rows
from labeling.importing.reading import FORMATS, BadInput, import_file
from labeling.models import Prompt, Response
from tests.labeling.importing.import_files import PLAIN, imported, saved, user

pytestmark = pytest.mark.django_db


@pytest.fixture
def save(tmp_path):
    return partial(saved, tmp_path)


@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.json", "a.csv", "a.parquet", "a.jsonl.gz", "a.csv.gz"]
)
def test_the_same_rows_are_read_from_every_kind_of_file(project, save, name):
    result = imported(save(PLAIN, name), project, "columns")
    assert result.written.new == {"prompts": 2, "responses": 4, "tasks": 2, "rankings": 0}
    responses = Response.objects.filter(prompt__messages=[user("How?")])
    assert set(responses.values_list("text", "model_name")) == {("So.", "m1"), ("Thus.", "m2")}


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("a.jsonl", "Line 2: "),
        ("a.json", "Line 9: "),
        ("a.csv", "Line 4: "),
        ("a.parquet", "Row 2: "),
    ],
)
def test_the_position_of_an_error_is_named(project, save, name, sentence):
    broken = [PLAIN[0] | {"response_1": "Two\nlines."}, PLAIN[1] | {"prompt": ""}]
    with pytest.raises(BadInput, match=f"{sentence}the row has no prompt"):
        import_file(save(broken, name), project=project)
    assert not Prompt.objects.exists()


def test_a_damaged_archive_and_a_broken_table_are_refused(project, save, tmp_path):
    cut = tmp_path / "cut.jsonl.gz"
    whole = gzip.compress(b"".join(json.dumps(PLAIN[n % 2]).encode() + b"\n" for n in range(2000)))
    cut.write_bytes(whole[:-20])
    with pytest.raises(BadInput, match="compressed file is damaged"):
        import_file(cut, project=project, format=FORMATS["columns"])
    table = tmp_path / "a.csv"
    table.write_text('prompt,response\n"How?",So.\nWhy?,a,b\n')
    with pytest.raises(BadInput, match="Line 3: there are 3 cells for 2 columns"):
        import_file(table, project=project)
    table.write_text("prompt,prompt\na,b\n")
    with pytest.raises(BadInput, match="two columns have the same name"):
        import_file(table, project=project)
    lake = tmp_path / "a.parquet"
    lake.write_bytes(b"PAR1 but not more")
    with pytest.raises(BadInput, match="cannot be read as Parquet"):
        import_file(lake, project=project)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet"])
def test_a_large_file_is_read_in_little_memory(save, name):
    path = save([{"prompt": f"{n}?", "response": "word " * 400} for n in range(4000)], name)
    tracemalloc.start()
    count = sum(1 for _ in rows(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 4000 and peak < 4_000_000
    assert name == "a.parquet" or path.stat().st_size > 2 * peak


def test_an_array_is_read_element_by_element(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('\ufeff [1, 22 ,\n "x", {"a": [2]}\n, 333]')
    assert list(rows(path)) == [(1, 1), (1, 22), (2, "x"), (2, {"a": [2]}), (3, 333)]
    path.write_text('[1, {"a": ')
    with pytest.raises(BadInput, match="not valid JSON"):
        list(rows(path))
