"""Tests of the logging of curves to TensorBoard, MLflow and Weights & Biases."""

import json
import struct
import sys
from types import ModuleType, SimpleNamespace

import pytest

from recipes.rundir import RunDir
from recipes.tracking import __main__ as tracking
from recipes.tracking.tensorboard import write_tensorboard
from tests.recipes.tracking.server import tracking_server


@pytest.fixture
def run_dir(tmp_path):
    spec = {"kind": "dpo", "run_id": 7, "config": {"beta": 0.1, "adapter": None}}
    return RunDir.create(tmp_path / "run", spec)


@pytest.fixture
def mlflow(monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tracking, "POLL_SECONDS", 0.01)
    with tracking_server() as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
        yield server


def progress(run_dir, *steps):
    for step in steps:
        run_dir.emit("progress", step=step, total=9, loss=1 / step, metrics={"held_out/kl": 2.0})


def scalars(run_dir):
    """Return (step, name, value) of each scalar in the TensorBoard files, which are TFRecords."""
    from tensorboardX.proto import event_pb2

    rows = []
    for path in sorted((run_dir.path / "tensorboard").iterdir()):
        data, start = path.read_bytes(), 0
        while start < len(data):
            (length,) = struct.unpack_from("<Q", data, start)
            event = event_pb2.Event.FromString(data[start + 12 : start + 12 + length])
            rows += [(event.step, v.tag, round(v.simple_value, 4)) for v in event.summary.value]
            start += 16 + length
    return rows


@pytest.mark.torch  # tensorboardX comes with the extra `train`
def test_the_curves_are_written_as_tensorboard_files(run_dir):
    write_tensorboard(run_dir)
    run_dir.message("Hello.")
    assert not (run_dir.path / "tensorboard").exists()
    progress(run_dir, 1, 2)
    assert scalars(run_dir) == [
        (1, "held_out/kl", 2.0), (1, "loss", 1.0), (2, "held_out/kl", 2.0), (2, "loss", 0.5),
    ]  # fmt: skip


@pytest.mark.torch  # tensorboardX comes with the extra `train`
def test_tensorboard_files_that_cannot_be_written_do_not_end_the_run(run_dir):
    (run_dir.path / "tensorboard").write_text("in the way")
    write_tensorboard(run_dir)
    progress(run_dir, 1, 2)
    warnings = [e["text"] for e in run_dir.events() if e.get("level") == "warning"]
    assert len(warnings) == 1 and warnings[0].startswith("TensorBoard files cannot be written")


def test_mlflow_gets_the_settings_the_curves_and_the_outcome(run_dir, mlflow):
    progress(run_dir, 1, 2)
    assert tracking.follow(run_dir, "Lamps", "lamps", ["succeeded"]) == 0
    assert list(mlflow.experiments) == ["tiebreak-lamps"]
    [run] = mlflow.runs.values()
    assert run["run_name"] == "Lamps" and run["status"] == "FINISHED"
    assert run["params"] == [{"key": "beta", "value": "0.1"}]
    assert [(m["key"], m["step"], m["value"]) for m in run["metrics"]] == [
        ("held_out/kl", 1, 2.0), ("loss", 1, 1.0), ("held_out/kl", 2, 2.0), ("loss", 2, 0.5),
    ]  # fmt: skip


def test_another_attempt_continues_the_same_run_in_mlflow(run_dir, mlflow):
    progress(run_dir, 1)
    tracking.follow(run_dir, "Lamps", "lamps", ["stopped"])
    [run] = mlflow.runs.values()
    assert run["status"] == "KILLED"
    progress(run_dir, 2)
    tracking.follow(run_dir, "Lamps", "lamps", ["failed"])
    assert len(mlflow.runs) == 1 and run["status"] == "FAILED"
    assert [m["step"] for m in run["metrics"] if m["key"] == "loss"] == [1, 2]


def test_a_service_that_cannot_be_reached_is_tried_again_and_reported_once(
    run_dir, mlflow, monkeypatch
):
    progress(run_dir, 1)
    mlflow.refusals = 3
    monkeypatch.setattr(tracking, "LONGEST_WAIT", 0.0)
    tracking.follow(run_dir, "Lamps", "lamps", ["succeeded"])
    [run] = mlflow.runs.values()
    assert run["status"] == "FINISHED" and len(run["metrics"]) == 2
    warnings = [e["text"] for e in run_dir.events() if e.get("level") == "warning"]
    assert mlflow.refusals == 0 and len(warnings) == 1
    assert warnings[0].startswith("MLflow does not get the curves: HTTPStatusError")


def test_weights_and_biases_gets_the_curves(run_dir, monkeypatch):
    """A stand-in for the package records the calls, because it is not installed by default."""
    calls = []
    run = SimpleNamespace(
        define_metric=lambda *a, **k: None,
        log=lambda values: calls.append(values),
        finish=lambda exit_code: calls.append(exit_code),
    )
    module = ModuleType("wandb")
    module.init = lambda **options: calls.append(options) or run
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    progress(run_dir, 1)
    tracking.follow(run_dir, "Lamps", "lamps", ["succeeded"])
    options, values, status = calls
    assert (options["project"], options["name"]) == ("tiebreak-lamps", "Lamps")
    assert values == {"held_out/kl": 2.0, "loss": 1.0, "tiebreak_step": 1} and status == 0
    assert json.loads((run_dir.path / ".tracking.json").read_text())["wandb"]["id"] == options["id"]


def test_invalid_lines_of_events_are_skipped(run_dir, mlflow):
    with run_dir.events_file.open("a") as file:
        file.write('nonsense\n[1]\n{"event": "progress", "step": "x", "loss": 1}\n')
        file.write('{"event": "progress", "step": 3, "loss": 1, "at": 5}\n{"event": "progress", ')
    tracking.follow(run_dir, "Lamps", "lamps", ["succeeded"])
    [run] = mlflow.runs.values()
    assert [m["step"] for m in run["metrics"]] == [3]
