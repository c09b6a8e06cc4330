"""Tests of `manage.py doctor` on damaged installations."""

import json
import shutil
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from config import doctor
from runs import storage
from runs.models import Artifact, Run, State
from tests.finetune.factory import make_adapter, make_base, make_reward_model, make_snapshot
from tests.reward.factory import make_project

pytestmark = pytest.mark.django_db


@pytest.fixture
def world(settings, tmp_path, monkeypatch) -> dict[str, Any]:
    """Create a snapshot, an adapter with a recorded file, a reward model and a queued run."""
    settings.VAR_DIR = tmp_path
    settings.RUNS_DIR, settings.SNAPSHOTS_DIR = tmp_path / "runs", tmp_path / "snapshots"
    settings.UPLOADS_DIR = tmp_path / "uploads"
    monkeypatch.setattr(doctor, "MIN_FREE_BYTES", 0)
    project = make_project()
    snapshot = make_snapshot(project, prompts=2)
    base = make_base(project)
    adapter = make_adapter(base, snapshot)
    weights = Path(adapter.adapter_folder) / "adapter_model.safetensors"
    weights.write_bytes(b"weights")
    Artifact.objects.create(
        run=adapter.run, name=weights.name, path=storage.stored(weights), bytes=7,
        sha256=storage.digest_of(weights, [weights]),
    )  # fmt: skip
    waiting = Run.objects.create(kind="generate", config={"adapter": adapter.adapter})
    reward = make_reward_model(snapshot)
    return {
        "snapshot": snapshot, "adapter": adapter, "weights": weights, "reward": reward,
        "waiting": waiting, "base": base, "root": tmp_path,
    }  # fmt: skip


def examined(*options: str) -> tuple[str, int]:
    """Return the output and the exit status of the command."""
    out = StringIO()
    try:
        call_command("doctor", *options, stdout=out)
    except CommandError as error:
        return f"{out.getvalue()}{error}", error.returncode
    return out.getvalue(), 0


def test_an_installation_without_problems_is_reported(world):
    assert examined() == ("Nothing is missing or altered.\n", 0)


def move_runs(world) -> None:
    (world["root"] / "runs").rename(world["root"] / "elsewhere")


def alter_weights(world) -> None:
    world["weights"].write_bytes(b"weightz")


def damage_snapshot(world) -> None:
    file = world["snapshot"].file
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 255
    file.write_bytes(data)


def lose_base(world) -> None:
    type(world["base"]).objects.filter(pk=world["base"].pk).update(base="/no/such/model")


def leave_a_stray(world) -> None:
    (world["root"] / "runs" / "4711").mkdir()
    (world["root"] / "runs" / "4711" / ".prepared").write_text("by another database")


def block_folder(world) -> None:
    shutil.rmtree(world["root"] / "uploads", ignore_errors=True)
    (world["root"] / "uploads").write_text("a file is in the way")


@pytest.mark.parametrize(
    ("damage", "sentences"),
    [
        (move_runs, ["adapter-{adapter.run_id}", "reward-{reward.run_id}", "is missing",
                     "run {waiting.pk}: It is queued and will fail", "TIEBREAK_RUNS_DIR"]),
        (alter_weights, ["adapter_model.safetensors was altered after the run published it", "Restore"]),
        (lambda world: world["weights"].unlink(), ["adapter_model.safetensors is missing"]),
        (lambda world: world["snapshot"].file.unlink(), ["snapshot {snapshot.pk}", "is missing"]),
        (damage_snapshot, ["snapshot {snapshot.pk}", "freeze a new snapshot"]),
        (lose_base, ["model {base.pk}", "The folder /no/such/model is missing"]),
        (leave_a_stray, ["folder 4711", "belongs to no run in this database"]),
        (block_folder, ["uploads cannot be written", "TIEBREAK_UPLOADS_DIR"]),
    ],
)  # fmt: skip
def test_each_problem_is_named_with_a_remedy(world, damage, sentences):
    damage(world)
    text, status = examined()
    assert status == doctor_status() == 2
    for sentence in sentences:
        assert sentence.format(**world) in text


def doctor_status() -> int:
    from config.management.commands.doctor import EXIT_PROBLEMS

    return EXIT_PROBLEMS


def test_quick_compares_only_sizes(world):
    alter_weights(world)
    assert examined("--quick")[1] == 0
    world["weights"].write_bytes(b"short")
    assert examined("--quick")[1] == 2


def test_a_full_disk_is_a_warning(world, monkeypatch):
    monkeypatch.setattr(doctor, "MIN_FREE_BYTES", 1 << 60)
    text, status = examined()
    assert status == 0
    assert text.count("MB left") == 1
    assert text.endswith("0 problems and 1 warnings.\n")


def test_json_has_one_object_per_problem(world):
    alter_weights(world)
    rows = [json.loads(line) for line in examined("--json")[0].splitlines()[:-1]]
    assert {row["serious"] for row in rows} == {True}
    assert {"about", "sentence", "serious"} == set(rows[0])


def test_the_command_changes_nothing(world):
    before = sorted(path for path in world["root"].rglob("*") if path.is_file())
    examined()
    assert sorted(path for path in world["root"].rglob("*") if path.is_file()) == before
    assert Run.objects.get(pk=world["waiting"].pk).state == State.QUEUED
