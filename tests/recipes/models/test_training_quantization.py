"""Tests of 4-bit weights: the library's options, and errors."""

import pytest
import torch

from recipes.errors import RecipeError
from recipes.models import quantization
from recipes.settings import ConfigError
from reward.settings import RewardConfig
from reward.training.models.reward_model import (
    load_tokenizer,
    make_reward_model,
    prepare_quantized,
)
from tests.recipes.layout.test_training_layout import reward_model
from tests.tiny import make_encoder, make_model

torch.set_num_threads(1)


def config(path="m", **changes):
    return RewardConfig(base_model=str(path), quantize="nf4", lora_r=4, **changes)


@pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without a GPU")
def test_quantization_is_refused_without_cuda(tmp_path):
    path = make_model(tmp_path)
    with pytest.raises(RecipeError, match="quantize: nf4 needs a CUDA GPU"):
        make_reward_model(config(path), load_tokenizer(str(path)))


def test_quantization_is_refused_without_the_package(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(quantization.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"bitsandbytes, which is not installed.*\.\[quantize\]"):
        quantization.loading(config(), torch.bfloat16)


def test_nf4_uses_the_gpu_of_this_process_and_excludes_the_head(monkeypatch):
    monkeypatch.setattr(quantization, "check_support", lambda: None)
    monkeypatch.setenv("LOCAL_RANK", "1")
    options = quantization.loading(config(), torch.bfloat16)
    expected = options["quantization_config"].to_dict()
    assert expected["load_in_4bit"] and expected["bnb_4bit_quant_type"] == "nf4"
    assert (
        expected["bnb_4bit_use_double_quant"] and expected["bnb_4bit_compute_dtype"] == "bfloat16"
    )
    assert "score" in expected["llm_int8_skip_modules"] and options["device_map"] == {"": 1}
    assert quantization.loading(RewardConfig(base_model="m"), torch.bfloat16) == {}


def test_every_weight_cannot_be_trained_in_four_bits():
    settings = {"base_model": "m", "quantize": "nf4", "lora_r": 0}
    with pytest.raises(ConfigError) as refused:
        RewardConfig.from_dict(settings)
    assert refused.value.errors["quantize"].startswith("LoRA rank 0 trains all weights")


def test_an_encoder_is_not_quantized(tmp_path):
    path = make_encoder(tmp_path)
    base = make_reward_model(
        RewardConfig(base_model=str(path)), load_tokenizer(str(path))
    ).classifier
    with pytest.raises(RecipeError, match="is for decoders"):
        prepare_quantized(base, config(path))


def test_frozen_weights_are_loaded_in_bfloat16_and_trained_weights_are_not(tmp_path):
    model = reward_model(tmp_path, dtype="bfloat16")
    kinds = {weight.requires_grad: set() for weight in model.parameters()}
    for name, weight in model.named_parameters():
        if "original_module" not in name:  # PEFT's copy of the head, which nothing reads
            kinds[weight.requires_grad].add(weight.dtype)
    assert kinds == {True: {torch.float32}, False: {torch.bfloat16}}
