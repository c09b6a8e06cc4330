"""Tests of the optimizer's settings, by a Trainer with a model of two weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from recipes.rundir import RunDir
from recipes.settings import ConfigError
from recipes.training.trainer import common_arguments
from reward.settings import RewardConfig

ROWS, EPOCHS, BATCH = 20, 2, 2  # 20 steps
PEAK = 0.1


class Slope(torch.nn.Module):
    """A model whose gradient depends only on the rows."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(2))

    def forward(self, gradient: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (gradient * self.weight).sum(dim=-1).mean()}


class Recorder(TrainerCallback):
    """A callback that records the learning rate and the gradient norm of each step."""

    def __init__(self):
        self.rates: list[float] = []
        self.norms: list[float] = []

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self.rates.append(kwargs["optimizer"].param_groups[0]["lr"])
        self.norms.append(kwargs["model"].weight.grad.norm().item())


def trained(
    folder: Path, gradient: tuple[float, float] = (0.0, 0.0), **settings: Any
) -> tuple[Recorder, torch.Tensor]:
    sizes = {"batch_size": BATCH, "micro_batch_size": BATCH, "epochs": EPOCHS}
    settings = {"base_model": "m", "learning_rate": PEAK, "warmup": 0.0, **sizes, **settings}
    config = RewardConfig.from_dict(settings)
    run_dir, recorder, model = RunDir.create(folder, {}), Recorder(), Slope()
    arguments = common_arguments(run_dir, config, rows=ROWS, batch=(BATCH, 1), saves=1)
    Trainer(
        model=model,
        args=TrainingArguments(**{**arguments, "save_strategy": "no", "use_cpu": True}),
        train_dataset=[{"gradient": torch.tensor(gradient)}] * ROWS,
        callbacks=[recorder],
    ).train()
    return recorder, model.weight.detach()


@pytest.mark.parametrize(("warmup", "rising"), [(0.0, 0), (0.25, 5), (0.5, 10)])
def test_the_learning_rate_rises_during_the_warm_up(tmp_path, warmup, rising):
    recorder, _ = trained(tmp_path, warmup=warmup, schedule="constant_with_warmup")
    expected = [PEAK * step / rising for step in range(rising)] + [PEAK] * (20 - rising)
    assert recorder.rates == pytest.approx(expected)


@pytest.mark.parametrize(
    ("schedule", "half_way", "last"),
    [
        ("constant_with_warmup", 1.0, 1.0),
        ("linear", 0.5, 0.05),
        ("cosine", 0.5, 0.00616),  # (1 + cos(19/20 π)) / 2
    ],
)
def test_the_learning_rate_follows_the_schedule(tmp_path, schedule, half_way, last):
    recorder, _ = trained(tmp_path, schedule=schedule)
    assert recorder.rates[10] == pytest.approx(PEAK * half_way)
    assert recorder.rates[19] == pytest.approx(PEAK * last, rel=0.01)
    if schedule == "cosine":  # not linear
        assert recorder.rates[5] == pytest.approx(PEAK * (1 + 0.5**0.5) / 2)


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_weights_decay_by_the_share_of_the_setting_at_each_step(tmp_path, decay):
    _, weight = trained(tmp_path, weight_decay=decay, schedule="constant_with_warmup")
    left = (1 - PEAK * decay) ** 20  # no gradient, so AdamW does nothing else
    assert weight.tolist() == pytest.approx([left, left], rel=1e-5)


@pytest.mark.parametrize(("longest", "arrives"), [(1.0, 1.0), (2.5, 2.5), (100.0, 5.0)])
def test_gradients_are_clipped_to_the_limit(tmp_path, longest, arrives):
    recorder, _ = trained(tmp_path, gradient=(3.0, 4.0), max_grad_norm=longest)
    assert recorder.norms == pytest.approx([arrives] * 20, rel=1e-5)


def test_label_mistakes_need_at_least_two_parts():
    with pytest.raises(ConfigError, match="One part leaves nothing to train on"):
        RewardConfig.from_dict({"base_model": "m", "label_mistakes": 1})
    for parts in (0, 2):
        RewardConfig.from_dict({"base_model": "m", "label_mistakes": parts})
