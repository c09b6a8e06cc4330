"""Tests of messages for full disks, unwritable folders and damaged files, with real errors."""

import errno
import fcntl
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finetune.engines.sampled_text import (
    Prompt,
    SampledTextError,
    prompts_schema,
    read_prompts,
    write_prompts,
)
from recipes.machine import faults
from recipes.machine.faults import storage_problem
from recipes.preferences.groups import PreferenceError, read_groups, write_groups
from runs import execution, lifecycle, queue
from runs.models import State
from runs.supervision import child, machine_report, machine_slots, supervisor
from runs.supervision.machine_slots import MachineSlot
from tests.disks import files_limited_to
from tests.finetune.training.training_runs import groups_that_like_b


def write_plainly(path: Path) -> None:
    path.write_bytes(bytes(100_000))


def write_arrow(path: Path) -> None:
    pq.write_table(pa.table({"a": [os.urandom(100_000)]}), path)


def write_torch(path: Path) -> None:
    import torch

    torch.save(torch.rand(50_000), path)


def write_safetensors(path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"a": torch.rand(50_000)}, path)


WRITERS = [
    write_plainly,
    write_arrow,
    pytest.param(write_torch, marks=pytest.mark.torch),
    pytest.param(write_safetensors, marks=pytest.mark.torch),
]


@pytest.mark.parametrize("write", WRITERS)
def test_a_full_disk_is_reported_for_every_library(tmp_path, write):
    write(tmp_path / "warm-up")  # imports write files too
    with files_limited_to(10_000), pytest.raises(Exception) as raised:
        write(tmp_path / "big")
    sentence = storage_problem(raised.value, tmp_path)
    assert sentence and sentence.startswith(f"No space is left in {tmp_path} (")
    assert "Free some space" in sentence


@pytest.mark.parametrize("write", WRITERS)
def test_a_missing_folder_is_named(tmp_path, write):
    write(tmp_path / "warm-up")
    with pytest.raises(Exception) as raised:
        write(tmp_path / "gone" / "file")
    assert str(tmp_path / "gone") in (storage_problem(raised.value, tmp_path / "gone") or "")


def test_the_cause_of_an_error_is_considered(tmp_path):
    try:
        try:
            raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "file"))
        except OSError as error:
            raise RuntimeError("cannot save") from error
    except RuntimeError as error:
        sentence = storage_problem(error)
    assert sentence and f"{tmp_path} cannot be written or read: permission denied" in sentence


def test_a_read_only_file_system_has_its_own_remedy(tmp_path):
    error = OSError(errno.EROFS, "Read-only file system", str(tmp_path / "file"))
    sentence = storage_problem(error) or ""
    assert f"{tmp_path} cannot be written: it is on a read-only file system. Mount it" in sentence


def test_a_folder_in_which_no_file_can_be_created_has_a_problem(tmp_path):
    assert faults.folder_problem(tmp_path) is None
    assert f"{tmp_path / 'gone'} is missing" in (faults.folder_problem(tmp_path / "gone") or "")


@pytest.mark.parametrize(
    "error",
    [ValueError("no"), ConnectionRefusedError(111, "refused"), OSError("strange"), KeyError()],
)
def test_other_errors_are_unchanged(error):
    assert storage_problem(error, "/tmp") is None


# --- damaged Parquet ------------------------------------------------------------------------------


def test_every_damage_to_a_preference_file_raises_one_error_class(tmp_path):
    path = tmp_path / "preferences.parquet"
    write_groups(path, groups_that_like_b(12))
    sound = path.read_bytes()
    damages = [sound[:n] for n in (0, 3, len(sound) // 2, len(sound) - 9)]
    for index in range(0, len(sound), max(1, len(sound) // 300)):
        damages.append(sound[:index] + bytes([sound[index] ^ 255]) + sound[index + 1 :])
    refused = 0
    for data in damages:
        path.write_bytes(data)
        try:
            list(read_groups(path))
        except PreferenceError as error:
            assert str(error).endswith((".", ")"))
            refused += 1
    assert refused > 50
    path.unlink()
    with pytest.raises(PreferenceError, match="it is missing"):
        list(read_groups(path))


def test_damaged_prompts_are_refused_with_a_sentence(tmp_path):
    path = tmp_path / "prompts.parquet"
    write_prompts(path, [Prompt(str(n), [{"role": "user", "content": "x" * n}]) for n in range(40)])
    assert prompts_schema().names
    data = bytearray(path.read_bytes())
    data[len(data) // 4] ^= 255
    data[len(data) // 2] ^= 255
    path.write_bytes(data)
    with pytest.raises(SampledTextError, match="cannot be read as Parquet: it is damaged"):
        read_prompts(path)


# --- runs -----------------------------------------------------------------------------------------


@pytest.mark.django_db
@pytest.mark.usefixtures("runs_dir")
def test_a_recipe_that_cannot_write_its_error_fails_with_a_sentence(begin, monkeypatch):
    monkeypatch.setattr(faults, "FULL_BYTES", 1 << 60)
    run = execution.run_now(begin(trouble="silent", send=False).pk)
    assert run.state == State.FAILED
    assert run.error.startswith("No space is left in ")


@pytest.mark.django_db
def test_a_folder_that_cannot_be_created_is_named(begin, settings, tmp_path):
    (tmp_path / "file").write_text("in the way")
    settings.RUNS_DIR = tmp_path / "file" / "runs"
    run = execution.run_now(begin(send=False).pk)
    assert run.state == State.FAILED
    assert str(settings.RUNS_DIR) in run.error
    assert "manage.py doctor" in run.error


@pytest.mark.django_db
@pytest.mark.usefixtures("runs_dir")
def test_a_run_waits_for_space_with_a_sentence_and_then_starts(begin, settings):
    run = begin(send=False)
    with files_limited_to(0):
        execution.execute_next()
    run.refresh_from_db()
    assert (run.state, run.attempt) == (State.QUEUED, 0)
    assert f"No space is left in {settings.VAR_DIR}" in queue.reason_of(run)
    with machine_slots.acquire() as slot:
        assert slot is not None
    execution.execute_next()
    run.refresh_from_db()
    assert run.state == State.SUCCEEDED


@pytest.mark.django_db
@pytest.mark.usefixtures("runs_dir")
def test_no_run_is_taken_from_the_queue_while_the_disk_is_nearly_full(begin, monkeypatch):
    run = begin(send=False)
    monkeypatch.setattr(faults, "FULL_BYTES", 1 << 60)
    execution.execute_next()
    run.refresh_from_db()
    assert run.state == State.QUEUED
    (host,) = queue.overview().hosts
    assert "No space is left in " in host.problem
    monkeypatch.undo()
    machine_report.report()
    assert queue.reason_of(run) != host.problem and "space" not in queue.reason_of(run)


@pytest.mark.django_db
@pytest.mark.usefixtures("runs_dir")
def test_a_recipe_whose_slot_cannot_be_written_is_not_left_alone(begin, tmp_path, runs_dir):
    run = begin(total=1000, delay=0.05, send=False)
    slot = MachineSlot(os.open(tmp_path / "slot", os.O_RDWR | os.O_CREAT))
    read_only = os.open(tmp_path / "slot", os.O_RDONLY)
    os.dup2(read_only, slot.descriptor)
    lease = lifecycle.claim(run.pk, "me")
    assert lease
    supervisor.supervise(lease, slot)
    run.refresh_from_db()
    assert (run.state, "Bad file descriptor" in run.error) == (State.FAILED, True)
    with (runs_dir / str(run.pk) / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while a recipe runs


@pytest.mark.django_db
@pytest.mark.usefixtures("runs_dir")
def test_a_finished_run_succeeds_although_it_cannot_be_marked(begin, runs_dir):
    run = begin(send=False)
    (runs_dir / str(run.pk) / "..finished.draft").mkdir(parents=True)
    assert execution.run_now(run.pk).state == State.SUCCEEDED


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_recipe_that_cannot_be_started_leaves_no_descriptor_open(tmp_path):
    before = open_descriptors()
    with (tmp_path / "lock").open("w") as lock, pytest.raises(FileNotFoundError):
        child.Child(["true"], log=tmp_path / "gone" / "log.txt", lock=lock.fileno())
    assert open_descriptors() == before


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("runs_dir")
@pytest.mark.parametrize(("word", "state"), [("outage", "succeeded"), ("long outage", "failed")])
def test_a_run_is_prepared_again_after_an_outage_of_the_database(begin, settings, word, state):
    settings.RUN_MAX_ATTEMPTS = 2
    run = execution.run_now(begin(word=word, send=False).pk)
    assert (run.state, run.attempt) == (state, 2)
    expected = "The database did not respond while attempt 2 was prepared (connection refused)."
    assert run.error.startswith(expected) == (state == State.FAILED)
