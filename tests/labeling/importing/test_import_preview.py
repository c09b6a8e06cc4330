"""Tests that the preview of a file matches its import."""

import pytest

from labeling.importing import lifecycle
from labeling.importing.formats.columns.mapping import Mapping
from labeling.models import FileImport, Prompt, Ranking, Response, Task
from tests.labeling.importing.file_imports import work
from tests.labeling.importing.formats.test_import_odd_values import WHOLE
from tests.labeling.importing.import_files import encoded
from tests.labeling.importing.test_import import run
from tests.labeling.pages.test_pages_project import make_lead
from tests.labeling.world import make_project

pytestmark = pytest.mark.django_db

EMPTY = {"prompt": "Q?", "response_1": "x", "response_2": ""}
FILES = {
    **WHOLE,
    "metadata that differs": [
        {"prompt": "Q?", "response": "x", "seen": 1}, {"prompt": "Q?", "response": "y", "seen": 2},
    ],
    "the same prompt in two tasks": [
        {"prompt": "Q?", "chosen": "x", "rejected": text, "id": text} for text in "yz"
    ],
    "empty responses": [EMPTY, {"prompt": "R?", "responses": ["x", None, "y"]}],
    "a response twice": [{"prompt": "Q?", "response": "x"}] * 2,
    "characters that cannot be stored": [{"prompt": "Q\x00?", "note\ud83d": "\udc00", "response": "x"}],
    "ids that are too long": [{"prompt": "Q?", "id": "i" * 300}],
    "twenty responses": [{"prompt": "Q?", "responses": [f"r{n}" for n in range(20)]}],
    "wrong rows": [{"prompt": "Q?", "response": "x"}, {"prompt": ""}, {"prompt": [{"role": "boss"}]}],
    "no prompt": [{"Frage": "Q?", "Antwort": "x"}],
    "a preference that is not clear": [{"prompt": "Q?", "response_1": "x", "response_2": "y", "elo": 3}],
}  # fmt: skip


@pytest.fixture(autouse=True)
def uploads(settings, tmp_path):
    settings.UPLOADS_DIR = tmp_path / "uploads"


def received(project, rows, name="a.jsonl"):
    return lifecycle.receive(
        [encoded(rows, name)], user=make_lead(project), project=project, name=name
    )


@pytest.mark.parametrize("name", FILES)
def test_the_preview_and_the_import_give_the_same_account(name):
    project = make_project()
    file_import = received(project, FILES[name])
    work()
    file_import.refresh_from_db()
    preview, problem = file_import.report, file_import.problem
    assert not Prompt.objects.exists() and not Ranking.objects.exists()
    if not lifecycle.start_import(file_import):
        assert problem or preview["questions"]
        return
    work()
    file_import.refresh_from_db()
    assert file_import.state == FileImport.State.IMPORTED
    assert (file_import.report, file_import.problem) == (preview, problem)
    stored = {
        "prompts": Prompt, "responses": Response, "tasks": Task, "rankings": Ranking,
    }  # fmt: skip
    for line in preview["lines"]:
        assert line["new"] == stored[line["name"]].objects.count(), line


@pytest.mark.parametrize("name", FILES)
def test_a_dry_run_prints_the_same_report_as_the_import(tmp_path, name):
    project = make_project()
    (path := tmp_path / "a.jsonl").write_bytes(encoded(FILES[name], "a.jsonl"))
    dry, real = (_printed(path, project, *more) for more in (["--dry-run"], []))
    assert dry == real


def _printed(path, project, *more):
    """Return what the command prints, without its last line, or what it refuses the file with."""
    from django.core.management import CommandError

    try:
        return run(path, "--project", project.slug, *more).splitlines()[:-1]
    except CommandError as error:
        return str(error)


def test_a_mapping_gives_the_same_account_before_and_after(tmp_path):
    project = make_project()
    file_import = received(project, FILES["no prompt"])
    work()
    mapping = Mapping.parse(["prompt=Frage", "response=Antwort"])
    assert lifecycle.map_columns(file_import, mapping)
    work()
    file_import.refresh_from_db()
    preview = file_import.report
    assert lifecycle.start_import(file_import)
    work()
    file_import.refresh_from_db()
    assert file_import.report == preview and Response.objects.get().text == "x"
