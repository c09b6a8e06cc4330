"""Tests of messages for full disks, unwritable folders and damaged files, with real errors."""

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
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
from runs import execution
from runs.models import State
from tests.finetune.training.training_runs import groups_that_like_b


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """Limit the size of files, which causes a real error (EFBIG), as a quota does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


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
