"""Tests of the tiny model that ships: it loads like any other and writes readable replies."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from demo import rule, world
from demo.build_model import SHIPPED

pytestmark = pytest.mark.torch

MODEL_LIMIT_MB = 9


@pytest.fixture(scope="module")
def samples() -> list[tuple[world.Letter, str]]:
    """Generate 24 replies at temperature 1, with left padding."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED)
    model = AutoModelForCausalLM.from_pretrained(SHIPPED)
    letters = world.prompts(24, seed=11)
    texts = [
        tokenizer.apply_chat_template(letter.messages, tokenize=False, add_generation_prompt=True)
        for letter in letters
    ]
    batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
    written = model.generate(**batch, do_sample=True, temperature=1.0, max_new_tokens=112)
    replies = tokenizer.batch_decode(
        written[:, batch["input_ids"].shape[1] :], skip_special_tokens=True
    )
    return list(zip(letters, replies, strict=True))


def test_replies_are_readable_and_vary_in_quality(samples):
    marks = [rule.explain(letter.messages, reply)["reads"] for letter, reply in samples]
    scores = [rule.score(letter.messages, reply) for letter, reply in samples]
    assert sum(mark > 0.5 for mark in marks) >= 0.75 * len(marks)
    assert sum(score >= rule.LINE for score in scores) >= 4
    assert sum(score < rule.LINE for score in scores) >= 4


def test_replies_end_with_the_end_token(samples):
    assert all(len(reply.split()) < 100 for _, reply in samples)
    assert sum(reply.rstrip()[-1:].isalpha() or reply.rstrip()[-1:] in ".!" for _, reply in samples) > 18  # fmt: skip


def test_the_tokenizer_pads_left_round_trips_text_and_has_a_chat_template():
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(SHIPPED)
    assert tokenizer.padding_side == "left"
    text = "Naïve 🪿, 42 — “quoted”\n\n\ttabs  and  spaces"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    chat = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]
    prompt_text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    answered = [*chat, {"role": "assistant", "content": "A"}]
    assert prompt_text == "<|system|>S<|end|><|user|>U<|end|><|assistant|>"
    assert tokenizer.apply_chat_template(answered, tokenize=False) == prompt_text + "A<|end|>"
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_letters_and_replies_fit_into_few_tokens():
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(SHIPPED)
    texts = list(world.texts(500, seed=9))
    replies = sorted(len(tokenizer(t["messages"][-1]["content"])["input_ids"]) for t in texts)
    letters = sorted(len(tokenizer(t["messages"][0]["content"])["input_ids"]) for t in texts)
    assert letters[int(0.95 * len(letters))] <= 64
    assert replies[int(0.95 * len(replies))] <= 96


def test_the_model_is_small_enough_to_ship():
    assert sum(f.stat().st_size for f in SHIPPED.iterdir()) < MODEL_LIMIT_MB * 1e6


def test_the_recipe_is_deterministic_and_its_model_can_be_loaded(tmp_path):
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    chats = [json.dumps(text) + "\n" for text in world.texts(96, seed=0)]
    (tmp_path / "texts.jsonl").write_text("".join(chats))
    for name in ("one", "two"):
        command = [sys.executable, "-m", "finetune.training.tiny_model"]
        command += [str(tmp_path / "texts.jsonl"), str(tmp_path / name), "--steps", "3"]
        command += ["--hidden", "32", "--layers", "1", "--vocab-size", "400", "--threads", "1"]
        subprocess.run(command, check=True, cwd=Path(__file__).parents[2], timeout=120)
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert all(first[key].equal(second[key]) for key in first)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "one")
    assert model.config.vocab_size == len(AutoTokenizer.from_pretrained(tmp_path / "one")) == 400
