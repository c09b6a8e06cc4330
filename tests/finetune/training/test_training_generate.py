"""Tests of sampling: seeds, limits and resuming."""

import json
import signal
import sys
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from finetune.engines.sampled_text import (
    Prompt,
    SampledTextError,
    read_prompts,
    sample_seed,
    write_prompts,
)
from finetune.settings import GenerateConfig
from finetune.training.generate import generate
from finetune.training.models.language_model import (
    PolicyChat,
    load_for_sampling,
    load_tokenizer,
)
from finetune.training.sampling import decoding, distribution, seeded
from finetune.training.sampling.decoding import decode
from finetune.training.sampling.distribution import draw
from finetune.training.sampling.requests import plan
from finetune.training.sampling.seeded import sample_batch
from recipes.errors import RecipeError, Stopped
from recipes.runner import run_recipe
from recipes.stopping import StopSignal
from tests.finetune.training.training_runs import (
    interrupt_when,
    messages,
    progress,
    results,
    sampling_run,
    start,
    user,
)
from tests.tiny import make_model, make_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")


def prompts(count, words=1):
    return [Prompt(f"p{n}", user("hello " * (n % 4 + words))) for n in range(count)]


def rows_of(run_dir):
    return pq.read_table(run_dir.output / "responses.parquet").to_pylist()


# --- drawing a token --------------------------------------------------------------------------------


def drawn(probabilities, uniform, **options):
    logits = torch.tensor([probabilities]).log()
    options = {"temperature": 1.0, "top_p": 1.0, **options}
    return draw(logits, torch.tensor([[uniform]], dtype=torch.float64), **options).item()


@pytest.mark.parametrize(
    ("uniform", "token"), [(0.0, 1), (0.49, 1), (0.51, 2), (0.79, 2), (0.81, 0), (0.999999, 0)]
)
def test_a_token_is_read_off_the_cumulative_distribution(uniform, token):
    """Check the sorted distribution: token 1 has ½, token 2 has 0.3, token 0 has 0.2."""
    assert drawn([0.2, 0.5, 0.3], uniform) == token


@pytest.mark.parametrize(("uniform", "token"), [(0.62, 1), (0.63, 2), (0.999999, 2)])
def test_the_nucleus_leaves_out_the_tail_and_is_rescaled(uniform, token):
    """Check that top-p 0.7 keeps ½ and 0.3, so that token 1 gets ½ / 0.8 = 0.625."""
    assert drawn([0.2, 0.5, 0.3], uniform, top_p=0.7) == token


def test_the_likeliest_token_is_always_in_the_nucleus():
    assert drawn([0.2, 0.5, 0.3], 0.999999, top_p=0.01) == 1


def test_no_temperature_takes_the_likeliest_token():
    assert drawn([0.2, 0.5, 0.3], 0.999999, temperature=0.0) == 1


def test_temperature_sharpens():
    """Check that probabilities are squared at ½: 0.25 of 0.38 for token 1, up to 0.658."""
    assert drawn([0.2, 0.5, 0.3], 0.65, temperature=0.5) == 1
    assert drawn([0.2, 0.5, 0.3], 0.66, temperature=0.5) == 2


def test_samples_follow_the_models_distribution(model):
    """Compare the first tokens of 400 samples with the model's probabilities."""
    policy = load_for_sampling(str(model), None, "float32")
    chat = PolicyChat(load_tokenizer(str(model)), policy.generation_config)
    config = GenerateConfig(model=str(model), max_new_tokens=1, samples_per_prompt=400, top_p=1.0)
    requests, _ = plan([Prompt("p", user("hi"))], chat, policy.config, config)
    with torch.no_grad():
        policy.lm_head.weight.mul_(40)  # sharpens the nearly uniform distribution
        logits = policy(torch.tensor([requests[0].prompt_ids])).logits[0, -1]
    expected: Counter[str] = Counter()
    for token, probability in enumerate(logits.softmax(0).tolist()):
        expected[chat.response_text([token])] += probability
    result = Counter(sampled.text for sampled in sample_batch(policy, chat, requests, config))
    for text, share in expected.most_common(3):
        assert 0.02 < share < 0.98
        assert abs(result[text] / 400 - share) < 4 * np.sqrt(share * (1 - share) / 400)


# --- seeds ------------------------------------------------------------------------------------------


def test_a_seed_belongs_to_run_prompt_and_sample():
    seeds = {sample_seed(s, p, n) for s in (0, 1) for p in ("a", "b") for n in (0, 1)}
    assert len(seeds) == 8
    assert sample_seed(0, "a", 1) == sample_seed(0, "a", 1)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_response_does_not_depend_on_the_rest_of_its_batch(model):
    policy = load_for_sampling(str(model), None, "float32")
    chat = PolicyChat(load_tokenizer(str(model)), policy.generation_config)
    config = GenerateConfig(model=str(model), max_new_tokens=16, samples_per_prompt=3)
    requests, _ = plan(prompts(4), chat, policy.config, config)
    together = sample_batch(policy, chat, requests, config)
    alone = [sample_batch(policy, chat, [request], config)[0] for request in requests]
    assert together == alone
    assert len({sampled.text for sampled in together}) > 6


def test_finished_responses_leave_the_batch_without_changing_others(model, monkeypatch):
    policy = load_for_sampling(str(model), None, "float32")
    chat = PolicyChat(load_tokenizer(str(model)), policy.generation_config)
    config = GenerateConfig(model=str(model), max_new_tokens=50, samples_per_prompt=8, seed=3)
    requests, _ = plan(prompts(4), chat, policy.config, config)
    monkeypatch.setattr(decoding, "STAGE", 64)
    at_once = sample_batch(policy, chat, requests, config)
    sizes = shapes_of_passes(policy, monkeypatch)
    monkeypatch.setattr(decoding, "STAGE", 8)
    assert sample_batch(policy, chat, requests, config) == at_once
    longer_than = [
        sum(s.tokens > n or (s.truncated and n < 50) for s in at_once) for n in range(1, 50, 8)
    ]
    assert [rows for rows, _ in sizes[1:]] == longer_than
    assert longer_than[-1] < longer_than[0]


def shapes_of_passes(policy, monkeypatch, most=10**6):
    """Return the list to which each call of `generate` adds its rows and the tokens of a row.

    Calls with more than `most` tokens in all rows run out of memory.
    """
    real, shapes = policy.generate, []

    def small_memory(**inputs):
        rows, tokens = inputs["input_ids"].shape
        shapes.append((rows, tokens))
        if rows * tokens > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(**inputs)

    monkeypatch.setattr(policy, "generate", small_memory)
    return shapes


def test_the_models_published_sampling_is_ignored_by_default(model, tmp_path):
    """Check that a repetition penalty in the model's generation_config is ignored."""
    habit = make_model(tmp_path / "habit")
    settings = json.loads((habit / "generation_config.json").read_text())
    settings |= {"repetition_penalty": 5.0, "temperature": 0.1, "do_sample": True}
    (habit / "generation_config.json").write_text(json.dumps(settings))
    config = GenerateConfig(model=str(model), max_new_tokens=24)
    items = []
    for folder in (model, habit):
        policy = load_for_sampling(str(folder), None, "float32")
        chat = PolicyChat(load_tokenizer(str(folder)), policy.generation_config)
        requests, _ = plan(prompts(2), chat, policy.config, config)
        items.append(sample_batch(policy, chat, requests, config))
    assert items[0] == items[1]


def test_a_prompt_is_forwarded_once_for_all_its_responses(model, monkeypatch):
    policy = load_for_sampling(str(model), None, "float32")
    chat = PolicyChat(load_tokenizer(str(model)), policy.generation_config)
    config = GenerateConfig(model=str(model), max_new_tokens=12, samples_per_prompt=5)
    requests, _ = plan(prompts(3), chat, policy.config, config)
    calls, real = [], policy.model.forward

    def record(**inputs):
        calls.append(tuple(inputs["input_ids"].shape))
        return real(**inputs)

    monkeypatch.setattr(policy.model, "forward", record)
    sample_batch(policy, chat, requests, config)
    assert calls[0] == (3, len(requests[0].prompt_ids))
    assert {tokens for _, tokens in calls[1:]} == {1}
    assert calls[1][0] == 15


@pytest.mark.parametrize("family", ["gpt2", "gemma3_text", "bloom", "lfm2", "mamba"])
def test_models_with_other_positions_and_caches_sample_the_same_without_a_cache(
    family, tmp_path, monkeypatch
):
    """Check learned positions, a sliding window of 8, ALiBi, convolutions, and a family without such a
    cache.
    """
    changes = {
        "gemma3_text": {"sliding_window": 8},
        "lfm2": {"layer_types": ["conv", "full_attention"]},
    }
    folder = make_model(tmp_path / "model", family, **changes.get(family, {}))
    policy = load_for_sampling(str(folder), None, "float32")
    chat = PolicyChat(load_tokenizer(str(folder)), policy.generation_config)
    config = GenerateConfig(model=str(folder), max_new_tokens=24, samples_per_prompt=2)
    requests, _ = plan(prompts(3), chat, policy.config, config)
    monkeypatch.setattr(decoding, "STAGE", 8)
    sampled = sample_batch(policy, chat, requests, config)
    for response in sampled:
        request = next(request for request in requests if request.key == response.key)
        assert response.token_ids == sampled_without_cache(policy, chat, request)


@torch.no_grad()
def sampled_without_cache(policy, chat, request):
    uniforms = np.random.Generator(np.random.Philox(request.seed)).random(24)
    ids = list(request.prompt_ids)
    for uniform in uniforms:
        logits = policy(input_ids=torch.tensor([ids]), use_cache=False).logits[:, -1]
        uniform = torch.tensor([[uniform]], dtype=torch.float64)
        ids.append(draw(logits, uniform, temperature=1.0, top_p=0.95).item())
        if ids[-1] in chat.stop_ids:
            break
    return ids[len(request.prompt_ids) :]


def test_out_of_memory_halves_the_batch_and_loses_no_token(model, monkeypatch):
    policy = load_for_sampling(str(model), None, "float32")
    chat = PolicyChat(load_tokenizer(str(model)), policy.generation_config)
    config = GenerateConfig(model=str(model), max_new_tokens=30, samples_per_prompt=2)
    requests, _ = plan(prompts(2, words=2), chat, policy.config, config)
    monkeypatch.setattr(decoding, "STAGE", 8)
    expected = sample_batch(policy, chat, requests, config)
    length = len(requests[0].prompt_ids)
    shapes = shapes_of_passes(policy, monkeypatch, most=4 * (length + 10))
    assert sample_batch(policy, chat, requests, config) == expected
    full = (4, length + 17)
    failed = shapes.index(full)
    assert shapes[:failed] == [(2, length), (4, length + 1), (4, length + 9)]
    assert shapes[failed + 1][0] == 2, "half of the rows"
    assert shapes[failed + 1][1] == length + 17, "with the tokens that they had"


def test_a_run_says_that_memory_ran_out_and_continues_with_fewer_responses(
    model, tmp_path, monkeypatch
):
    sizes = []

    def small_memory(model, chat, rows, distribution):
        sizes.append(len(rows))
        if len(rows) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        decode(model, chat, rows, distribution)

    monkeypatch.setattr(seeded, "decode", small_memory)
    run_dir = sampling_run(tmp_path, "generate", prompts(4), model=str(model), batch_size=8)
    generate(run_dir, StopSignal())
    assert sizes == [8, 4, 2, 2, 2, 2, 2, 2, 2, 2]
    assert any("at most 2 responses are sampled" in text for text in messages(run_dir))
    assert len(rows_of(run_dir)) == 16


# --- drawing without a sort -------------------------------------------------------------------------


def distributions(rows, words):
    """Yield logits, (B, V), from nearly certain to uniform, some with many equal values."""
    generator = torch.Generator().manual_seed(0)
    for scale in (0.0, 0.5, 2.0, 6.0):
        logits = torch.randn(rows, words, generator=generator) * scale
        yield logits
        yield logits.bfloat16().float()
        yield logits.round()


@pytest.mark.parametrize(
    "limits",
    [
        {"top_p": 1.0},
        {"top_p": 0.95},
        {"top_p": 0.3},
        {"top_p": 0.95, "top_k": 40},
        {"min_p": 0.02},
    ],
    ids=str,
)
def test_drawing_from_the_likeliest_tokens_equals_a_full_sort(limits):
    limits = {"top_p": 1.0, "top_k": 0, "min_p": 0.0} | limits
    uniforms = torch.rand(64, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    uniforms[:2] = torch.tensor([[0.0], [1 - 2**-53]])
    for logits in distributions(64, 3000):
        probs = logits.softmax(1)
        expected = distribution._draw_from_all(probs, uniforms, *limits.values())
        fast = distribution._draw_from_likeliest(
            probs, uniforms, *limits.values(), counts=(32, 256)
        )
        assert fast.tolist() == expected.tolist()


def test_a_peaked_distribution_is_drawn_without_a_full_sort(monkeypatch):
    logits = torch.randn(16, 50_000, generator=torch.Generator().manual_seed(0)) * 4
    monkeypatch.setattr(distribution, "_draw_from_all", None)
    uniforms = torch.full((16, 1), 0.5, dtype=torch.float64)
    for top_p in (0.9, 1.0):
        assert draw(logits, uniforms, temperature=0.7, top_p=top_p).shape == (16, 1)


# --- runs -------------------------------------------------------------------------------------------


def test_a_run_writes_k_responses_per_prompt_in_order(model, tmp_path):
    run_dir = sampling_run(tmp_path, "generate", prompts(5), model=str(model), samples_per_prompt=3)
    generate(run_dir, StopSignal())
    rows = rows_of(run_dir)
    assert [(r["prompt_id"], r["sample"]) for r in rows] == [
        (f"p{n}", k) for n in range(5) for k in range(3)
    ]
    assert rows[3]["prompt"] == user("hello hello ")
    assert rows[3]["seed"] == sample_seed(0, "p1", 0)
    assert results(run_dir)[-1]["responses"] == 15
    assert [(e["step"], e["total"]) for e in progress(run_dir)] == [(n, 4) for n in range(1, 5)]


def test_a_prompt_can_set_its_number_of_responses(model, tmp_path):
    prompts = [Prompt("a", user("x"), n=1), Prompt("b", user("y")), Prompt("c", user("z"), n=0)]
    run_dir = sampling_run(tmp_path, "generate", prompts, model=str(model), samples_per_prompt=2)
    generate(run_dir, StopSignal())
    assert [r["prompt_id"] for r in rows_of(run_dir)] == ["a", "b", "b"]


def test_the_same_seed_gives_the_same_text_and_another_seed_another(model, tmp_path):
    texts = []
    for number, seed in enumerate((7, 7, 8)):
        run_dir = sampling_run(
            tmp_path / str(number), "generate", prompts(3), model=str(model), seed=seed
        )
        generate(run_dir, StopSignal())
        texts.append([r["response"] for r in rows_of(run_dir)])
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


def test_a_response_without_an_end_is_marked(model, tmp_path):
    run_dir = sampling_run(
        tmp_path, "generate", prompts(6), model=str(model), samples_per_prompt=8, max_new_tokens=60
    )
    generate(run_dir, StopSignal())
    meta = [json.loads(r["meta"]) for r in rows_of(run_dir)]
    assert {m["truncated"] for m in meta} == {True, False}
    assert all(m["tokens"] == 60 for m in meta if m["truncated"])
    assert all(m["tokens"] <= 60 for m in meta)
    share = sum(m["truncated"] for m in meta) / len(meta)
    assert results(run_dir)[-1]["truncated"] == pytest.approx(share, abs=1e-4)


def test_prompts_that_are_too_long_are_left_out_and_reported(model, tmp_path):
    """Check a model with 512 positions and a response of 12 tokens."""
    prompts = [Prompt("fits", user("x" * 490)), Prompt("long", user("x" * 600))]
    run_dir = sampling_run(tmp_path, "generate", prompts, model=str(model))
    generate(run_dir, StopSignal())
    assert {r["prompt_id"] for r in rows_of(run_dir)} == {"fits"}
    result = results(run_dir)[-1]["left_out"]
    assert result == [{"what": "prompts", "why": "longer than 500 tokens", "count": 1}]
    assert "long" in messages(run_dir, "warning")[0]


def test_the_maximum_number_of_prompts_is_respected(model, tmp_path):
    prompts = [Prompt("fits", user("x" * 5)), Prompt("long", user("x" * 50))]
    run_dir = sampling_run(tmp_path, "generate", prompts, model=str(model), max_prompt_tokens=20)
    generate(run_dir, StopSignal())
    assert {r["prompt_id"] for r in rows_of(run_dir)} == {"fits"}


def test_a_run_without_prompts_is_refused(model, tmp_path):
    run_dir = sampling_run(tmp_path, "generate", [Prompt("a", user("x" * 900))], model=str(model))
    with pytest.raises(RecipeError, match="Nothing to sample"):
        generate(run_dir, StopSignal())
    assert not run_dir.output.exists()


def test_a_missing_model_is_reported(tmp_path):
    run_dir = sampling_run(tmp_path, "generate", prompts(1), model=str(tmp_path / "none"))
    with pytest.raises(RecipeError, match="does not exist"):
        generate(run_dir, StopSignal())


def test_a_prompt_that_occurs_twice_is_refused(tmp_path):
    write_prompts(tmp_path / "p.parquet", [Prompt("a", user("x")), Prompt("a", user("y"))])
    with pytest.raises(SampledTextError, match="the prompt a twice"):
        read_prompts(tmp_path / "p.parquet")


def test_a_resumed_run_gives_the_same_result(model, tmp_path):
    settings = {"model": str(model), "batch_size": 2, "max_new_tokens": 40}
    whole = sampling_run(tmp_path / "whole", "generate", prompts(20), **settings)
    generate(whole, StopSignal())

    killed = sampling_run(tmp_path / "killed", "generate", prompts(20), **settings)
    process = start("finetune.training.generate", killed)
    third = killed.checkpoints / "responses-000002.json"
    assert interrupt_when(process, third, signal.SIGKILL) == -signal.SIGKILL
    assert not killed.output.exists()
    written = third.stat().st_mtime_ns
    second = killed.checkpoints / "responses-000001.json"
    second.write_bytes(second.read_bytes()[:-30])  # truncated, as by a disk fault
    generate(killed, StopSignal())
    assert "responses-000001.json is damaged" in messages(killed, "warning")[0]
    assert third.stat().st_mtime_ns == written
    assert rows_of(killed) == rows_of(whole)


def test_a_run_that_was_asked_to_stop_keeps_its_finished_batches(model, tmp_path):
    run_dir = sampling_run(tmp_path, "generate", prompts(4), model=str(model))
    stop = StopSignal()
    stop.requested = True
    with pytest.raises(Stopped):
        generate(run_dir, stop)
    assert not run_dir.output.exists()
    generate(run_dir, StopSignal())
    assert len(rows_of(run_dir)) == 16


def test_the_program_explains_an_error_and_exits_with_1(tmp_path, monkeypatch, capsys):
    run_dir = sampling_run(tmp_path, "generate", prompts(1), model="x", temperature=-1)
    monkeypatch.setattr(sys, "argv", ["generate", str(tmp_path)])
    monkeypatch.setattr(StopSignal, "listen", lambda self: None)
    assert run_recipe(generate, "") == 1
    assert messages(run_dir, "error") == ["temperature: Must be at least 0."]
    assert "Must be at least 0" in capsys.readouterr().err


# --- chats ------------------------------------------------------------------------------------------

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi?"}]


@pytest.mark.parametrize("chat", [True, False], ids=["chat template", "plain"])
def test_training_reads_the_prompt_that_generation_reads(chat):
    form = PolicyChat(make_tokenizer(chat))
    prompt, (response,) = form.encode(CHAT, ["Hello."])
    assert prompt.tolist() == form.prompt_ids(CHAT)
    assert form.response_text(response.tolist()) == "Hello."


def test_the_chat_template_is_used():
    form = PolicyChat(make_tokenizer())
    prompt, (response,) = form.encode(CHAT, ["Hello."])
    decode = form.tokenizer.decode
    assert decode(prompt) == "<|system|>Be brief.<|end|><|user|>Hi?<|end|><|assistant|>"
    assert decode(response) == "Hello.<|end|>"


def test_without_a_chat_template_the_chat_is_written_out():
    form = PolicyChat(make_tokenizer(chat=False))
    prompt, (response,) = form.encode(CHAT, ["Hello."])
    assert form.tokenizer.decode(prompt) == "System: Be brief.\n\nUser: Hi?\n\nAssistant:"
    assert form.tokenizer.decode(response) == " Hello.<|end|>"


def test_without_a_chat_template_a_response_ends_where_the_next_turn_begins():
    form = PolicyChat(make_tokenizer(chat=False))
    ids = form.tokenizer(" Hello.\n\nUser: And then?")["input_ids"]
    assert form.response_text(ids) == "Hello."


def test_template_text_after_the_end_token_is_not_learned():
    tokenizer = make_tokenizer()
    tokenizer.chat_template = tokenizer.chat_template.replace("<|end|>", "<|end|>\n")
    _, (response,) = PolicyChat(tokenizer).encode(CHAT, ["Hello."])
    assert tokenizer.decode(response) == "Hello.<|end|>"


def test_the_token_that_ends_a_turn_in_the_template_ends_a_response():
    tokenizer = make_tokenizer()
    tokenizer.chat_template = tokenizer.chat_template.replace("<|end|>", "<|bos|>")
    assert PolicyChat(tokenizer).stop_ids == sorted(
        [tokenizer.bos_token_id, tokenizer.eos_token_id]
    )
