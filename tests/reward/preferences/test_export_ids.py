"""Tests that exports contain the ids of imported files."""

import json

import pyarrow.parquet as pq
import pytest

from labeling.importing.formats.columns.mapping import Mapping
from labeling.importing.reading import import_file
from labeling.models import Prompt, Response, Task
from reward.preferences.exports import FORMATS, Export
from tests.labeling.importing.import_files import saved, user
from tests.labeling.world import make_project
from tests.reward.test_commands import exported

pytestmark = pytest.mark.django_db

TABLE = [
    {"prompt_id": 0, "task_id": 0, "prompt": "Q?", "response_1": "x", "response_2": "y",
     "response_1_id": 0, "response_2_id": 2**70, "winner": "response_1"},
    {"prompt_id": "p-2", "task_id": "t-2", "prompt": "R?", "response_1": "x", "response_2": "y",
     "response_1_id": "a", "response_2_id": "b", "winner": "response_2"},
]  # fmt: skip
EXPECTED = {
    ("0", ("0",), "0", str(2**70)),
    ("p-2", ("t-2",), "b", "a"),
}
"""Ids of the prompt, the tasks, the better and the worse response."""


def rows_of(path):
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    return [json.loads(line) for line in path.read_text().splitlines()]


def ids_of(form, rows):
    """Return the ids in the rows of an export, in the form of EXPECTED."""
    if form == "full":
        return {_of_record(row) for row in rows}
    if form == "kwise":
        return {_of_group(row) for row in rows}
    if form == "unpaired":
        groups = {}
        for row in rows:
            key = (row["prompt_id"], tuple(row["task_ids"]))
            groups.setdefault(key, {})[row["label"]] = row["completion_id"]
        return {(*key, labels[True], labels[False]) for key, labels in groups.items()}
    return {(r["prompt_id"], tuple(r["task_ids"]), r["chosen_id"], r["rejected_id"]) for r in rows}


def _of_record(row):
    ids = [response["external_id"] for response in row["responses"]]
    [task] = row["tasks"]
    [[best], [worst]] = task["rankings"][0]["tiers"]
    return row["id"], (task["id"],), ids[best], ids[worst]


def _of_group(row):
    meta = json.loads(row["meta"])
    ids = dict(zip(row["response_ids"], meta["response_external_ids"], strict=True))
    [[best], [worst]] = row["rankings"][0]["tiers"]
    return meta["prompt_external_id"], tuple(meta["task_external_ids"]), ids[best], ids[worst]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("form", FORMATS)
def test_every_export_contains_own_ids(tmp_path, form, suffix):
    project = make_project()
    import_file(saved(tmp_path, TABLE), project=project)
    file = tmp_path / f"out{suffix}"
    exported("--project", project.slug, str(file), "--format", form)
    rows = rows_of(file)
    assert ids_of(form, rows) == EXPECTED
    assert set(rows[0]) == set(Export(project=project, form=form).schema.names)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_own_ids_survive_a_full_export_into_another_project(tmp_path, suffix):
    first, second = make_project(), make_project()
    import_file(saved(tmp_path, TABLE), project=first)
    file, again = tmp_path / f"full{suffix}", tmp_path / f"again{suffix}"
    exported("--project", first.slug, str(file), "--format", "full")
    tally = import_file(file, project=second).tally
    assert not +tally.left_out and not +tally.changed
    exported("--project", second.slug, str(again), "--format", "full")
    assert ids_of("full", rows_of(again)) == EXPECTED
    assert not +import_file(file, project=second).tally.left_out


def test_rows_without_own_ids_have_none_in_an_export(tmp_path):
    project = make_project()
    rows = [{"prompt": "Q?", "chosen": "x", "rejected": "y"}]
    import_file(saved(tmp_path, rows), project=project)
    [row] = self_rows(project, tmp_path, "pairs")
    assert (row["prompt_id"], row["chosen_id"], row["rejected_id"], row["task_ids"]) == (
        "",
        "",
        "",
        [],
    )
    [row] = self_rows(project, tmp_path, "kwise")
    assert not [name for name in json.loads(row["meta"]) if "external" in name]


def self_rows(project, folder, form):
    file = folder / f"{form}.jsonl"
    exported("--project", project.slug, str(file), "--format", form)
    return rows_of(file)


IDS = {
    "columns with a number at the end": (
        {"prompt": "Q?", "answer_1": "x", "answer_2": "y", "answer_id_1": 0, "answer_id_2": 5}, ["0", "5"],
    ),
    "columns of ten responses": (
        {"prompt": "Q?", **{f"answer_{n}": f"r{n}" for n in range(1, 11)},
         **{f"answer_{n}_id": n for n in range(1, 11)}}, [str(n) for n in range(1, 11)],
    ),
    "ids of both sides of a pair": (
        {"prompt": "Q?", "chosen": "x", "rejected": "y", "chosen_id": "c", "rejected_id": 0}, ["c", "0"],
    ),
    "ids inside a list of responses": (
        {"prompt": "Q?", "responses": [{"text": "x", "id": 0}, {"text": "y", "id": 3}]}, ["0", "3"],
    ),
    "a list of ids, where a response is null": (
        {"prompt": "Q?", "responses": ["x", None, "y"], "response_ids": [7, 8, 9]}, ["7", "9"],
    ),
    "several answers on one side": (
        {"prompt": "Q?", "chosen": "x", "rejected": ["y", "z"], "rejected_ids": ["b", "c"]}, ["", "b", "c"],
    ),
}  # fmt: skip


LISTS_OF_TEXTS = {"several answers on one side"}
"""A list of texts in a cell of CSV or Excel stays a text."""


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, kind) for name in IDS for kind in ("a.jsonl", "a.json", "a.parquet")),
        *(
            (name, kind)
            for name in sorted(IDS.keys() - LISTS_OF_TEXTS)
            for kind in ("a.csv", "a.xlsx")
        ),
    ],
)
def test_ids_of_responses_are_read_where_files_have_them(tmp_path, name, kind):
    row, expected = IDS[name]
    import_file(saved(tmp_path, [row], kind), project=make_project())
    assert list(Response.objects.order_by("pk").values_list("external_id", flat=True)) == expected


@pytest.mark.parametrize(
    ("row", "prompt", "task", "responses"),
    [
        ({"id": 0}, "0", "", ["", ""]),
        ({"id": 7.0}, "7", "", ["", ""]),
        ({"id": "r", "prompt_id": "p"}, "p", "r", ["", ""]),
        ({"id": "r", "prompt_id": "p", "task_id": "t"}, "p", "t", ["", ""]),
        ({"id": ["a", 1]}, '["a", 1]', "", ["", ""]),
    ],
)
def test_an_id_names_the_prompt_or_the_task(tmp_path, row, prompt, task, responses):
    row = {"prompt": "Q?", "response_1": "x", "response_2": "y", **row}
    import_file(saved(tmp_path, [row]), project=make_project())
    assert Prompt.objects.get().external_id == prompt
    assert Task.objects.get().external_id == task
    result = Response.objects.order_by("pk").values_list("external_id", flat=True)
    assert list(result) == responses


def test_rows_of_one_prompt_give_their_own_ids_to_their_responses(tmp_path):
    rows = [
        {"id": n, "prompt": "Q?", "completion": t, "label": t == "x"} for n, t in enumerate("xy")
    ]
    import_file(saved(tmp_path, rows), project=make_project())
    assert set(Response.objects.values_list("text", "external_id")) == {("x", "0"), ("y", "1")}


def test_an_id_for_an_existing_prompt_goes_to_its_task(tmp_path):
    rows = [
        {"id": n, "prompt": "Q?", "chosen": "x", "rejected": f"y{n}", "seen": n} for n in range(3)
    ]
    tally = import_file(saved(tmp_path, rows), project=make_project()).tally
    assert Prompt.objects.get().external_id == "0" and Prompt.objects.get().meta == {"seen": 0}
    assert list(Task.objects.order_by("pk").values_list("external_id", flat=True)) == ["", "1", "2"]
    assert list((+tally.left_out).values()) == [2], "the metadata of the second and third row"


def test_an_id_that_cannot_be_stored_is_counted(tmp_path):
    project = make_project()
    import_file(saved(tmp_path, [{"prompt": "Q?", "id": 1}]), project=project)
    tally = import_file(saved(tmp_path, [{"prompt": "Q?", "id": 2}]), project=project).tally
    [count] = [n for reason, n in tally.left_out.items() if n and reason.startswith("ids of")]
    assert count == 1
    values = {"prompt": "R?", "response_1": "x", "response_2": "y", "code": 3}
    mapping = Mapping.parse(["response_id=code"])
    tally = import_file(saved(tmp_path, [values]), project=project, mapping=mapping).tally
    assert tally.left_out["ids that match no response of their row"] == 1


def test_a_too_long_id_is_truncated_and_counted(tmp_path):
    rows = [
        {"messages": [user("Q?")], "id": "i" * 300, "responses": [{"text": "x", "id": "r" * 201}]}
    ]
    tally = import_file(saved(tmp_path, rows), project=make_project()).tally
    assert tally.changed["ids, cut to their first 200 characters"] == 2
    assert Prompt.objects.get().external_id == "i" * 200
