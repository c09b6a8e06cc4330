"""Tests that runs never resume from damaged checkpoints."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from recipes.rundir import RunDir
from recipes.training import checkpoints
from runs.supervision import workspace

NAMES = "checkpoint-*"


@pytest.fixture
def run_dir(tmp_path) -> RunDir:
    run_dir = RunDir.create(tmp_path / "run", {})
    for step in (2, 4):
        write(run_dir, step)
    return run_dir


def write(run_dir: RunDir, step: int) -> Path:
    draft = run_dir.checkpoints / ".tmp" / f"checkpoint-{step}"
    (draft / "ranks").mkdir(parents=True)
    (draft / "weights.safetensors").write_bytes(bytes(range(200)))
    (draft / "state.json").write_text(json.dumps({"step": step}))
    (draft / "ranks" / "rng_0.pth").write_text("random")
    checkpoints.put_in_place(draft, run_dir.checkpoints / draft.name)
    return run_dir.checkpoints / draft.name


def warnings(run_dir: RunDir) -> list[str]:
    return [e["text"] for e in run_dir.events() if e.get("level") == "warning"]


def truncate(path: Path) -> None:
    data = (path / "weights.safetensors").read_bytes()
    (path / "weights.safetensors").write_bytes(data[:100])


def flip_a_byte(path: Path) -> None:
    data = bytearray((path / "weights.safetensors").read_bytes())
    data[77] ^= 1
    (path / "weights.safetensors").write_bytes(data)


def empty_the_manifest(path: Path) -> None:
    (path / checkpoints.MANIFEST).write_text('{"files": {}}')


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (truncate, "weights.safetensors has 100 bytes instead of 200"),
    "flipped byte": (flip_a_byte, "weights.safetensors was changed after it was written"),
    "missing": (lambda p: (p / "state.json").unlink(), "state.json is missing"),
    "missing below": (lambda p: (p / "ranks/rng_0.pth").unlink(), "ranks/rng_0.pth is missing"),
    "empty": (lambda p: (p / "state.json").write_text(""), "state.json has 0 bytes"),
    "folder for a file": (
        lambda p: ((p / "state.json").unlink(), (p / "state.json").mkdir()),
        "state.json has",
    ),
    "no manifest": (lambda p: (p / checkpoints.MANIFEST).unlink(), "it has no manifest"),
    "garbage": (lambda p: (p / checkpoints.MANIFEST).write_bytes(b"\xff{"), "not valid"),
    "list": (lambda p: (p / checkpoints.MANIFEST).write_text("[1]"), "not valid"),
    "other shape": (lambda p: (p / checkpoints.MANIFEST).write_text('{"files": [1]}'), "not valid"),
    "names nothing": (empty_the_manifest, "names no files"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_newest_valid_checkpoint_is_used_and_damaged_ones_are_named(run_dir, damage):
    change, sentence = DAMAGES[damage]
    change(run_dir.checkpoints / "checkpoint-4")
    newest = checkpoints.newest_good(run_dir, NAMES)
    assert newest is not None and newest.name == "checkpoint-2"
    (warning,) = warnings(run_dir)
    assert warning.startswith("checkpoint-4 is damaged: ") and sentence in warning
    assert checkpoints.newest_good(run_dir, NAMES) == newest
    assert len(warnings(run_dir)) == 1


def test_a_valid_checkpoint_is_used_without_a_warning(run_dir):
    newest = checkpoints.newest_good(run_dir, NAMES)
    assert newest is not None and newest.name == "checkpoint-4"
    assert warnings(run_dir) == []


def test_without_a_valid_checkpoint_a_run_starts_from_the_beginning(run_dir):
    for path in run_dir.checkpoints.glob(NAMES):
        truncate(path)
    assert checkpoints.newest_good(run_dir, NAMES) is None
    assert len(warnings(run_dir)) == 2


def test_the_next_valid_checkpoint_replaces_damaged_ones(run_dir):
    truncate(run_dir.checkpoints / "checkpoint-4")
    checkpoints.newest_good(run_dir, NAMES)
    assert list(run_dir.checkpoints.glob(".damaged-*"))
    write(run_dir, 4)
    assert not list(run_dir.checkpoints.glob(".damaged-*"))
    assert warnings(run_dir)[1:] == []
    assert checkpoints.newest_good(run_dir, NAMES) == run_dir.checkpoints / "checkpoint-4"


def test_files_are_synced_before_they_are_renamed(run_dir, monkeypatch):
    """Check that only synced files get their final name, in case of a power failure."""
    synced, missing = [], []
    real_sync, real_rename = checkpoints.fsync_path, Path.rename

    def sync(path: Path) -> None:
        synced.append(path.name)
        real_sync(path)

    def rename(path: Path, target: Path) -> Path:
        if target.name == "checkpoint-6":
            expected = {"weights.safetensors", "state.json", "rng_0.pth", "ranks", "checkpoint-6"}
            missing.extend(expected - set(synced))
            assert (path / checkpoints.MANIFEST).exists()
            synced.clear()
        return real_rename(path, target)

    monkeypatch.setattr(checkpoints, "fsync_path", sync)
    monkeypatch.setattr(Path, "rename", rename)
    write(run_dir, 6)
    assert missing == []
    assert synced == ["checkpoints"]


@pytest.mark.parametrize("content", [b"", b"[1, 2", b"[1, 3]"])
def test_a_damaged_part_is_computed_again(run_dir, content):
    part = run_dir.checkpoints / "responses-000001.json"
    with checkpoints.sealed(part) as draft:
        draft.write_text("[1, 2]")
    checkpoints.delete_if_damaged(run_dir, part)
    assert part.read_text() == "[1, 2]" and warnings(run_dir) == []
    part.write_bytes(content)
    checkpoints.delete_if_damaged(run_dir, part)
    assert "responses-000001.json is damaged" in warnings(run_dir)[0]
    assert not part.exists()
    checkpoints.delete_if_damaged(run_dir, part)
    assert len(warnings(run_dir)) == 1


def test_a_run_is_not_said_to_resume_from_a_damaged_file(run_dir):
    for number in (8, 9):
        with checkpoints.sealed(run_dir.checkpoints / f"responses-{number:06}.json") as draft:
            draft.write_text("[1, 2]")
    assert workspace.last_checkpoint(run_dir) == 9
    (run_dir.checkpoints / "responses-000009.json").write_text("[1, 3]")
    assert workspace.last_checkpoint(run_dir) == 8
