"""Tests of sampling as the model's generation_config.json recommends."""

import json

import numpy as np
import pytest
import torch
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from finetune.engines.sampled_text import Prompt
from finetune.settings import GenerateConfig
from finetune.training.generate import generate
from finetune.training.models.language_model import (
    PolicyChat,
    load_for_sampling,
    load_tokenizer,
)
from finetune.training.sampling.distribution import Distribution, SeededSampling
from finetune.training.sampling.requests import plan
from finetune.training.sampling.seeded import sample_batch
from recipes.errors import RecipeError
from recipes.stopping import StopSignal
from tests.finetune.training.training_runs import sampling_run, user
from tests.tiny import make_model

torch.set_num_threads(1)

QWEN_3 = {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95}


def publish(folder, **fields):
    GenerationConfig(eos_token_id=2, **fields).save_pretrained(folder)
    return str(folder)


def test_the_published_values_are_followed(tmp_path):
    expected = Distribution(temperature=0.6, top_p=0.95, top_k=20)
    assert Distribution.published(publish(tmp_path, **QWEN_3)) == expected
    config = GenerateConfig(model=str(tmp_path), temperature=0.1, sampling="published")
    assert Distribution.of_run(config) == expected


def test_the_settings_are_the_default(tmp_path):
    config = GenerateConfig(model=publish(tmp_path, **QWEN_3), temperature=0.1)
    assert Distribution.of_run(config) == Distribution(temperature=0.1, top_p=0.95)


def test_published_greedy_decoding_takes_the_likeliest_token(tmp_path):
    reference = publish(tmp_path, do_sample=False, repetition_penalty=1.1)
    assert Distribution.published(reference) == Distribution(0.0, repetition_penalty=1.1)


def test_a_model_without_published_sampling_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="publishes no sampling settings"):
        Distribution.published(str(make_model(tmp_path / "model")))


@pytest.mark.parametrize("field", [{"num_beams": 4}, {"typical_p": 0.9}, {"suppress_tokens": [3]}])
def test_published_fields_that_are_not_followed_are_refused(tmp_path, field):
    with pytest.raises(RecipeError, match=f"has {next(iter(field))}, which Tiebreak does not"):
        Distribution.published(publish(tmp_path, **QWEN_3, **field))


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0.6, "top_k": 20, "top_p": 0.95},
        {"temperature": 1.5, "min_p": 0.1, "repetition_penalty": 1.3},
        {"top_k": 7, "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 0.8},
    ],
)
def test_tokens_follow_the_distribution_of_transformers(fields):
    """Draw tokens at even steps of the uniform number; their shares are the probabilities."""
    torch.manual_seed(0)
    steps = 4000
    logits_1V, context_1T = torch.randn(1, 50), torch.tensor([[1, 7, 7, 12]])
    expected = LogitsProcessorList(
        [
            RepetitionPenaltyLogitsProcessor(fields.get("repetition_penalty", 1.0)),
            TemperatureLogitsWarper(fields.get("temperature", 1.0)),
            TopKLogitsWarper(fields.get("top_k", 50)),
            TopPLogitsWarper(fields.get("top_p", 1.0)),
            MinPLogitsWarper(fields.get("min_p", 0.0)),
        ]
    )(context_1T, logits_1V).softmax(dim=1)[0]
    uniforms = ((np.arange(steps) + 0.5) / steps)[:, None]
    padded = torch.cat([torch.zeros(1, 2, dtype=torch.long), context_1T], dim=1).expand(steps, -1)
    mask = [[0, 0, 1, 1, 1, 1]] * steps
    processor = SeededSampling(uniforms, Distribution(**fields), mask, "cpu")
    drawn = processor(padded, logits_1V.expand(steps, -1)).argmax(dim=1)
    shares = torch.bincount(drawn, minlength=50) / steps
    assert (shares - expected).abs().max() < 1 / steps + 1e-6
    assert (expected > 0).sum() > 3


def test_a_penalty_does_not_depend_on_padding(tmp_path):
    """Prompts of different lengths are padded with a token that counts as not seen."""
    model = make_model(tmp_path / "model")
    policy = load_for_sampling(str(model), None, "float32")
    chat = PolicyChat(load_tokenizer(str(model)), policy.generation_config)
    config = GenerateConfig(model=str(model), max_new_tokens=40, samples_per_prompt=1)
    prompts = [Prompt("a", user("x")), Prompt("b", user("a much longer prompt"))]
    requests, _ = plan(prompts, chat, policy.config, config)
    distribution = Distribution(repetition_penalty=5.0)
    together = sample_batch(policy, chat, requests, config, distribution)
    alone = [sample_batch(policy, chat, [r], config, distribution)[0] for r in requests]
    assert together == alone
    assert together != sample_batch(policy, chat, requests, config)


def test_a_run_reports_its_sampling_distribution(tmp_path):
    model = make_model(tmp_path / "model")
    publish(model, **QWEN_3)
    settings = {"model": str(model), "sampling": "published"}
    run_dir = sampling_run(tmp_path / "g", "generate", [Prompt("a", user("Hi"))], **settings)
    generate(run_dir, StopSignal())
    report = json.loads((run_dir.output / "report.json").read_text())
    assert report["distribution"] == Distribution(0.6, 0.95, 20).to_dict()
