"""Tests that settings load without torch, and recipes without Django."""

import subprocess
import sys
from dataclasses import dataclass

import pytest

from finetune.methods.dpo import DPOSettings
from finetune.methods.method import all_methods
from finetune.settings import EvaluateConfig, GenerateConfig, MergeConfig, without_retired
from recipes.settings import ConfigError, RecipeConfig, option

CONFIGS = (
    GenerateConfig,
    MergeConfig,
    EvaluateConfig,
    *(method.settings for method in all_methods()),
)


def loaded_by(*modules, say="0"):
    """Import modules in a new process; return the value of `say` and the loaded packages."""
    code = (
        f"import sys, {', '.join(modules)}; print({say}, *{{m.split('.')[0] for m in sys.modules}})"
    )
    text, *packages = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    return text, set(packages)


def test_settings_pairs_and_win_rates_load_without_torch_or_django():
    _, result = loaded_by(
        "finetune.settings",
        "finetune.statistics.win_rate",
        *sorted({method.__module__ for method in all_methods()}),
        "finetune.report",
        "recipes.preferences.pairs",
        "finetune.engines.sampled_text",
    )
    assert not result & {"torch", "transformers", "trl", "peft", "django", "celery"}


def test_the_recipes_load_without_django_or_a_database_and_send_nothing_to_anyone():
    silent, result = loaded_by(
        "finetune.training.generate",
        "finetune.training.train",
        "finetune.training.evaluate",
        "finetune.training.merge",
        "finetune.training.merge_check",
        say="sys.modules['huggingface_hub.constants'].HF_HUB_DISABLE_TELEMETRY",
    )
    assert silent == "True"
    assert "torch" in result
    assert not result & {"django", "celery", "psycopg", "redis", "config"}


# --- settings ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", CONFIGS)
def test_every_setting_has_help_and_a_legal_default(config):
    for item in config.options():
        assert len(item.help) > 20, item.name
    required = {item.name: "x" for item in config.options() if item.required}
    assert set(required) <= {"model", "adapter", "reward_model"}
    config.from_dict(required)


@pytest.mark.parametrize("config", CONFIGS)
def test_numbers_outside_their_limits_are_refused_with_the_field(config):
    required = {item.name: "x" for item in config.options() if item.required}
    for item in config.options():
        for limit, step in ((item.min, -1), (item.max, 1)):
            if limit is not None:
                with pytest.raises(ConfigError) as error:
                    config.from_dict({**required, item.name: limit + step})
                assert list(error.value.errors) == [item.name]


def test_settings_survive_json():
    config = DPOSettings.from_dict({"model": "m", "beta": 0.3, "epochs": "2"})
    assert DPOSettings.from_dict(config.to_dict()) == config
    assert (config.beta, config.epochs) == (0.3, 2)


@pytest.mark.parametrize(
    ("values", "field", "words"),
    [
        ({}, "model", "required"),
        ({"model": " "}, "model", "may not be empty"),
        ({"model": "m", "lora_r": 1.5}, "lora_r", "whole number"),
        ({"model": "m", "epochs": "two"}, "epochs", "a number"),
        ({"model": "m", "beta": "nan"}, "beta", "a number"),
        ({"model": "m", "ties": "none"}, "ties", "half, davidson, rao_kupper"),
        ({"model": "m", "beto": 1}, "beto", "no such setting"),
        ({"model": "m", "length_normalised": 3}, "length_normalised", "yes or no"),
        ({"model": "m", "seed": None}, "seed", "may not be empty"),
        (
            {"model": "m", "batch_size": 32, "micro_batch_size": 5},
            "micro_batch_size",
            "does not divide",
        ),
        ({"model": "m", "lora_targets": " , "}, "lora_targets", "at least one layer"),
    ],
)
def test_a_wrong_setting_is_named_in_a_sentence(values, field, words):
    with pytest.raises(ConfigError, match=words) as error:
        DPOSettings.from_dict(values)
    assert list(error.value.errors) == [field]
    assert error.value.errors[field].endswith(".")


def test_all_wrong_settings_are_named_together():
    with pytest.raises(ConfigError) as error:
        DPOSettings.from_dict({"epochs": "x", "beta": "y"})
    assert set(error.value.errors) == {"model", "epochs", "beta"}


def test_settings_of_earlier_runs_are_translated_or_named():
    earlier = {"model": "m", "weighting": "equal", "min_margin": 0.0}
    values, retired = without_retired({**earlier, "gradient_checkpointing": True})
    assert DPOSettings.from_dict(values).gradient_checkpointing == "on"
    assert retired == ["min_margin", "weighting"]
    assert without_retired({"gradient_checkpointing": False})[0] == {
        "gradient_checkpointing": "off"
    }


def test_an_optional_setting_may_be_empty():
    config = GenerateConfig.from_dict({"model": "m", "max_prompt_tokens": "", "adapter": None})
    assert (config.max_prompt_tokens, config.adapter) == (None, None)


def test_limits_are_inclusive():
    @dataclass(frozen=True, kw_only=True)
    class Narrow(RecipeConfig):
        n: int = option(2, "Between two and three.", min=2, max=3)

    assert [Narrow.from_dict({"n": n}).n for n in (2, 3)] == [2, 3]
