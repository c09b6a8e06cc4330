"""Tests of the number format that follows from the setting and the GPU."""

from types import SimpleNamespace

import pytest
import torch

from recipes.errors import RecipeError
from recipes.models import references
from recipes.models.references import dtype_for
from recipes.rundir import RunDir
from recipes.training.callbacks import RefuseNonFinite
from recipes.training.trainer import common_arguments
from reward.settings import RewardConfig


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [
        (None, torch.float32),  # no GPU
        ((7, 0), torch.float16),  # V100
        ((7, 5), torch.float16),  # T4: emulates bfloat16
        ((8, 0), torch.bfloat16),  # A100
        ((8, 9), torch.bfloat16),  # L4
        ((9, 0), torch.bfloat16),  # H100
        ((12, 0), torch.bfloat16),  # RTX 5090
    ],
)
def test_auto_is_bfloat16_only_if_the_hardware_supports_it(capability, dtype):
    assert dtype_for("auto", capability) == dtype


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_a_named_format_is_used_everywhere(name):
    assert dtype_for(name, None) == dtype_for(name, (7, 5)) == getattr(torch, name)


def test_float16_without_a_gpu_is_refused():
    assert dtype_for("float16", (7, 5)) == torch.float16
    with pytest.raises(RecipeError, match=r"needs a CUDA GPU.*Set it to auto or float32"):
        dtype_for("float16", None)


@pytest.mark.parametrize(
    ("dtype", "capability", "flags"),
    [
        ("auto", (7, 5), {"fp16": True, "bf16": False}),
        ("auto", (9, 0), {"fp16": False, "bf16": True}),
        ("float16", (9, 0), {"fp16": True, "bf16": False}),
        ("float32", (9, 0), {"fp16": False, "bf16": False}),
    ],
)
def test_training_uses_a_gradient_scaler_in_float16(
    tmp_path, monkeypatch, dtype, capability, flags
):
    """Trainer makes the scaler if fp16 is set."""
    monkeypatch.setattr(references, "cuda_capability", lambda: capability)
    (tmp_path / "checkpoints").mkdir()
    config = RewardConfig(base_model="m", dtype=dtype)
    arguments = common_arguments(RunDir(tmp_path), config, rows=8, batch=(4, 1), saves=1)
    assert {name: arguments[name] for name in flags} == flags


def overflowing_model():
    model = torch.nn.Linear(1, 1)
    model(torch.ones(1, 1)).sum().backward()
    model.weight.grad[:] = torch.inf
    return model


def test_a_gradient_that_is_not_finite_ends_the_run():
    state = SimpleNamespace(global_step=4)
    with pytest.raises(RecipeError, match="not finite at step 5"):
        RefuseNonFinite().on_pre_optimizer_step(
            SimpleNamespace(fp16=False), state, None, model=overflowing_model()
        )


def test_in_float16_only_repeated_overflows_end_the_run():
    args, state = SimpleNamespace(fp16=True), SimpleNamespace(global_step=0)
    callback, model = RefuseNonFinite(), overflowing_model()
    for _ in range(2):
        for _ in range(callback.SCALER_STEPS):
            callback.on_pre_optimizer_step(args, state, None, model=model)
        finite = torch.nn.Linear(1, 1)
        callback.on_pre_optimizer_step(args, state, None, model=finite)
    for _ in range(callback.SCALER_STEPS):
        callback.on_pre_optimizer_step(args, state, None, model=model)
    with pytest.raises(RecipeError, match="not finite"):
        callback.on_pre_optimizer_step(args, state, None, model=model)
