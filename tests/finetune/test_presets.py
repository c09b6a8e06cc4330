"""Tests of the presets of all methods and of reward models."""

import io
import json
from dataclasses import replace

import pytest
from django.core.management import CommandError, call_command

from finetune.registry import add_base
from recipes.presets import BEST_QUALITY, GOALS, QUICK_LOOK, SMALL_GPU
from recipes.settings import ConfigError
from runs import kinds, services
from runs.models import Run
from runs.services import InvalidConfig
from tests.finetune.factory import make_snapshot
from tests.reward.factory import make_user

TRAINED = [
    kind.name
    for kind in kinds.all_kinds()
    if kind.config_class.presets() and not kind.module.startswith("tests.")
]
MEMORY_ONLY = {
    "micro_batch_size",
    "tokens_at_once",
    "gradient_checkpointing",
    "sampling_batch_size",
}


def presets_of(name: str) -> dict:
    return {preset.name: preset.values for preset in kinds.get(name).config_class.presets()}


def config_with(name: str, preset: str, **values):
    cls = kinds.get(name).config_class
    needed = {o.name: "a" for o in cls.options() if o.required}
    return cls.from_dict({**needed, **cls.with_preset(preset, values)})


def work(config) -> float:
    """Return the passes over the data, or over samples, relative to those of other settings."""
    steps = getattr(config, "steps", None)
    amount = steps if steps else 100 * config.epochs
    amount *= getattr(config, "number_of_rounds", 1) * getattr(config, "samples_per_prompt", 1)
    return amount * (getattr(config, "prompts_per_round", None) or 100)


def test_all_methods_and_reward_models_have_the_three_presets():
    assert set(TRAINED) == {"reward", "dpo", "best_of_n", "grpo", "kto", "online", "rloo", "sft"}
    assert all(list(presets_of(name)) == list(GOALS) for name in TRAINED)


@pytest.mark.parametrize("name", TRAINED)
def test_each_preset_does_what_it_says(name):
    default = config_with(name, "")
    for preset, values in presets_of(name).items():
        config = config_with(name, preset)
        assert values
        assert config == replace(default, **values)
        assert all(getattr(default, setting) != value for setting, value in values.items())
    assert work(config_with(name, QUICK_LOOK)) <= work(default) / 2
    best = config_with(name, BEST_QUALITY)
    assert work(best) * best.lora_r >= 2 * work(default) * default.lora_r
    assert set(presets_of(name)[SMALL_GPU]) <= MEMORY_ONLY
    assert config_with(name, SMALL_GPU).micro_batch_size == 1


def test_settings_change_those_of_the_preset():
    config = config_with("dpo", BEST_QUALITY, epochs="3")
    assert (config.epochs, config.lora_r) == (3, 32)


@pytest.mark.parametrize("name", ["fast", "Quick look", "quick_look"])
def test_an_unknown_preset_is_refused_with_the_presets(name):
    with pytest.raises(ConfigError, match="quick-look, best-quality, small-gpu"):
        kinds.get("dpo").config_class.with_preset(name, {})
    with pytest.raises(ConfigError, match="have no presets"):
        kinds.get("merge").config_class.with_preset(name, {})


@pytest.mark.django_db
def test_services_and_the_command_start_the_same_run_from_a_preset(project):
    snapshot = make_snapshot(project, prompts=2)
    model, _ = add_base(project=project, base="org/base", by=make_user())
    inputs = {"project": project.pk, "snapshot": snapshot.pk, "model": model.pk}
    started = services.start("kto", {"beta": 0.2}, None, inputs=inputs, preset=QUICK_LOOK)
    assert (started.config["epochs"], started.config["beta"]) == (0.25, 0.2)
    command = ["finetune", "--method", "kto", "--snapshot", str(snapshot.pk), "--set", "beta=0.2"]
    plan = io.StringIO()
    call_command(*command, "--preset", QUICK_LOOK, "--dry-run", stdout=plan)
    assert json.loads(plan.getvalue())["config"] == started.config
    with pytest.raises(InvalidConfig, match="preset: There is no preset 'fast'"):
        services.start("kto", {}, None, inputs=inputs, preset="fast")
    with pytest.raises(CommandError, match="invalid choice: 'fast'"):
        call_command(*command, "--preset", "fast")
    assert Run.objects.count() == 1
