"""Tests of stored paths after a move of var/ or the checkout, and of missing or altered files."""

import json
import shutil
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
from django.apps import apps

from runs import execution, kinds, services, storage
from runs.models import Artifact, Run, State
from runs.services import InvalidConfig
from runs.supervision import workspace
from tests.runs.kinds import COUNTING
from tests.runs.test_lifecycle import in_state

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("runs_dir")]


@pytest.fixture
def reader(monkeypatch) -> str:
    """Register a kind of run that reads the folder in its setting `word`."""
    kind = replace(COUNTING, name="reading", folders=frozenset({"word"}))
    monkeypatch.setitem(kinds._kinds, kind.name, kind)
    return kind.name


@pytest.fixture
def finished(begin) -> Run:
    return execution.run_now(begin(total=2, send=False).pk)


def queue(kind: str, word: str) -> Run:
    return services.start(kind, {"total": 2}, None, inputs={"word": word}, send=False)


def test_paths_are_stored_relative_to_the_innermost_root(settings, tmp_path):
    settings.BASE_DIR, settings.VAR_DIR = tmp_path / "site", tmp_path / "site" / "var"
    settings.RUNS_DIR = settings.VAR_DIR / "runs"
    for path, form in {
        settings.RUNS_DIR / "12" / "output": "runs:12/output",
        settings.VAR_DIR / "models" / "a": "var:models/a",
        settings.BASE_DIR / "demo" / "tiny_model": "checkout:demo/tiny_model",
        Path("/srv/models/llama"): "/srv/models/llama",
    }.items():
        assert storage.stored(path) == form
        assert storage.resolve(form) == str(path)
    for name in ("org/name", "org/name@v1"):
        assert storage.resolve(name) == name
        storage.check(name)


def test_an_adapter_is_found_after_its_folder_was_moved(reader, finished, settings, runs_dir):
    moved = runs_dir.rename(runs_dir.with_name("moved"))
    with pytest.raises(InvalidConfig, match=r"runs/\d+/output is missing") as refused:
        queue(reader, f"runs:{finished.pk}/output")
    assert "manage.py doctor" in str(refused.value)
    assert Run.objects.count() == 1
    settings.RUNS_DIR = moved
    run = execution.run_now(queue(reader, f"runs:{finished.pk}/output").pk)
    assert (run.state, run.error) == (State.SUCCEEDED, "")
    spec = json.loads((moved / str(run.pk) / "run.json").read_text())
    assert spec["config"]["word"] == str(moved / str(finished.pk) / "output")
    assert run.config["word"] == f"runs:{finished.pk}/output"


def test_a_run_resumed_after_a_move_reads_the_new_folder(reader, finished, settings, runs_dir):
    run = queue(reader, f"runs:{finished.pk}/output")
    workspace.prepare(run, kinds.get(reader))
    settings.RUNS_DIR = runs_dir.rename(runs_dir.with_name("moved"))
    run_dir = workspace.prepare(run, kinds.get(reader))
    assert run_dir.spec()["config"]["word"].startswith(f"{settings.RUNS_DIR}/")


def alter(output: Path) -> None:
    data = bytearray((output / "count.json").read_bytes())
    data[5] ^= 1
    (output / "count.json").write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (alter, "count.json was altered after the run published it."),
        (lambda output: (output / "count.json").unlink(), "count.json is missing."),
        (lambda output: shutil.rmtree(output / "parts"), "parts is missing."),
    ],
)
def test_an_altered_adapter_is_refused_before_it_is_used(
    reader, finished, runs_dir, damage, sentence
):
    """Check the size when the run is queued and the digest when it starts."""
    run = queue(reader, f"runs:{finished.pk}/output")
    damage(runs_dir / str(finished.pk) / "output")
    run = execution.run_now(run.pk)
    assert run.state == State.FAILED
    assert sentence in run.error
    assert "Restore" in run.error
    assert not workspace.log_of(workspace.run_dir_of(run)).exists()


def test_the_migration_makes_paths_relative_and_back(settings, tmp_path):
    migration = import_module("runs.migrations.0004_relative_paths")
    (settings.RUNS_DIR / "7" / "output").mkdir(parents=True)
    here, moved = f"{settings.RUNS_DIR}/7/output", "/before/the/move/var/runs/7/output"
    demo = "/before/the/move/demo/tiny_model"
    run = in_state(
        State.SUCCEEDED,
        config={"adapter": here, "baseline_adapter": moved, "model": demo, "base_model": "org/a",
                "reward_model": "/elsewhere/model", "seed": 3},
    )  # fmt: skip
    artifact = Artifact.objects.create(run=run, name="a", path=here, bytes=1, sha256="0")
    migration.change(apps, storage.portable)
    run.refresh_from_db()
    artifact.refresh_from_db()
    assert artifact.path == "runs:7/output"
    assert run.config == {
        "adapter": "runs:7/output", "baseline_adapter": "runs:7/output",
        "model": "checkout:demo/tiny_model", "base_model": "org/a",
        "reward_model": "/elsewhere/model", "seed": 3,
    }  # fmt: skip
    migration.change(apps, storage.resolve)
    run.refresh_from_db()
    assert run.config["adapter"] == here
