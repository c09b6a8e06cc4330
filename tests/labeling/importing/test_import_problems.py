"""Tests that the first ten problems of a file are listed together, for every format; nothing is written."""

import json

import pytest
from django.core.management import CommandError

from labeling.importing import lifecycle
from labeling.importing.reading import BadInput, import_file
from labeling.models import FileImport, Prompt
from tests.labeling.importing.file_imports import work
from tests.labeling.importing.formats.test_import_formats import EXAMPLES
from tests.labeling.importing.import_files import saved, user
from tests.labeling.importing.test_import import run
from tests.labeling.world import make_project, make_user

pytestmark = pytest.mark.django_db

MORE = {
    "jsonl": [{"messages": [user("Q?")], "responses": ["x", "y"], "rankings": []}],
    "oasst": [
        {"message_tree_id": "1", "prompt": {"role": "prompter", "text": "Q?", "replies": []}}
    ],
    "pandalm": [{"instruction": "Q?", "response1": "x", "response2": "y", "annotator1": 1}],
    **{name: rows[:1] for name, rows in EXAMPLES.items()},
}
BROKEN = {
    "jsonl": {"messages": []},
    "oasst": {"message_tree_id": "1"},
    "pandalm": {"instruction": "Q?"},
    "columns": {"prompt": "", "response_1": "x"},
    "hh": {"chosen": 1},
    "ultrafeedback": {"instruction": ""},
    "helpsteer": {"context": [{"role": "?", "content": "x"}]},
    "labelstudio": {"id": 1},
    "argilla": {"id": 1},
}


@pytest.mark.parametrize("name", BROKEN)
def test_ten_problems_of_a_file_are_listed_together(tmp_path, name):
    rows = [*MORE[name], *[BROKEN[name]] * 3, "text", *[BROKEN[name]] * 20]
    with pytest.raises(BadInput) as problem:
        import_file(saved(tmp_path, rows), project=make_project())
    *lines, last = str(problem.value).split("\n")
    first = len(MORE[name]) + 1
    assert [line.split(":")[0] for line in lines] == [f"Line {first + n}" for n in range(10)]
    assert lines[3].endswith("a row must be a JSON object.") and last == "There may be more."
    assert not Prompt.objects.exists()


def test_lines_that_are_not_json_are_listed_with_the_others(tmp_path):
    good = json.dumps(MORE["helpsteer"][0])
    (path := tmp_path / "a.jsonl").write_text(f'{good}\n{{"context"\n{good}\n{{"context": ""}}\n')
    with pytest.raises(BadInput, match=r"(?s)Line 2: not valid JSON.*\nLine 4: .*is empty"):
        import_file(path, project=make_project())


def test_rows_with_too_few_cells_are_listed_with_the_others(tmp_path):
    text = "prompt,response_1,response_2\nQ?,x,y\nQ?,x\nQ?,x,y,z\n,x,y\n"
    (path := tmp_path / "a.csv").write_text(text)
    with pytest.raises(BadInput) as problem:
        import_file(path, project=make_project())
    assert [line.split(":")[0] for line in str(problem.value).split("\n")] == [
        "Line 3", "Line 4", "Line 5",
    ]  # fmt: skip


def test_problems_of_content_and_structure_are_listed_together(tmp_path):
    name = make_user().username
    ranked = {"messages": [user("Q?")], "responses": ["x", "y"]}
    rows = [
        {**ranked, "rankings": [{"reviewer": name, "tiers": [[0], [1]]}]},
        {**ranked, "rankings": [{"reviewer": "bob", "tiers": [[0]]}]},
        {**ranked, "messages": []},
        {**ranked, "responses": ["x", "x"], "messages": [user("R?")]},
        {**ranked, "messages": [user("S?")],
         "gold": {"constraints": [{"kind": "?"}], "purpose": "check"}},
    ]  # fmt: skip
    with pytest.raises(BadInput) as problem:
        import_file(saved(tmp_path, rows), project=make_project())
    sentences = str(problem.value).split("\n")
    expected = ["has the username of an active user", "at least two", '"messages" must be', "same text",
                "gold is refused"]  # fmt: skip
    assert len(sentences) == 5
    for number, (sentence, words) in enumerate(zip(sentences, expected, strict=True), start=1):
        assert sentence.startswith(f"Line {number}: ") and words in sentence


def test_the_page_and_the_dry_run_list_the_same_problems(tmp_path):
    project = make_project()
    path = saved(tmp_path, [*MORE["argilla"], *[BROKEN["argilla"]] * 3])
    lifecycle.receive([path.read_bytes()], user=make_user(), project=project, name=path.name)
    work()
    row = FileImport.objects.get()
    assert row.state == FileImport.State.FAILED
    with pytest.raises(CommandError) as refused:
        run(path, "--project", project.slug, "--dry-run")
    assert row.problem in str(refused.value) and row.problem.count("\n") == 2
