"""Tests of the model server, in a process of its own, with real tiny models."""

import asyncio
import time
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest

from serving.address import Server
from serving.client import FAST, INT8, Client, LanguageModel, Piece, Sampling, Start
from serving.errors import CannotLoad, NotRunning, Refused, TooSlow
from tests.serving.adapters import make_adapter
from tests.serving.running import Running, end_of, events_of, text_of
from tests.tiny import make_model

pytestmark = [pytest.mark.torch, pytest.mark.processes]

SAMPLING = Sampling(temperature=1.0, top_p=0.95, seed=5, max_tokens=40)
PROMPTS = ["Hi", "Why is the sky blue?", "é" * 30]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("base"), max_position_embeddings=4096)


@pytest.fixture(scope="module")
def adapters(base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return [make_adapter(base, folder / str(seed), seed=seed) for seed in range(2)]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory):
    with Running(tmp_path_factory.mktemp("server"), forked=True) as running:
        yield running


def sampled_by_a_run(
    base: Path, adapter: Path | None, text: str, sampling: Sampling
) -> tuple[str, int]:
    """Return the text and the number of tokens that a generation run samples."""
    from finetune.engines.engine import Request
    from finetune.engines.sampled_text import Prompt
    from finetune.settings import SamplingConfig
    from finetune.training.models.language_model import load_policy, load_tokenizer
    from finetune.training.sampling.seeded import sample_batch
    from recipes.models.chat_options import read_options

    tokenizer = load_tokenizer(str(base))
    options = read_options(base, tokenizer)
    model, chat = load_policy(str(base), adapter and str(adapter), "auto", tokenizer, options)
    messages = [{"role": "user", "content": text}]
    config = SamplingConfig(
        temperature=sampling.temperature, top_p=sampling.top_p, max_new_tokens=sampling.max_tokens
    )
    request = Request(Prompt("1", messages), chat.prompt_ids(messages), 0, sampling.seed or 0)
    [sampled] = sample_batch(model, chat, [request], config)
    return sampled.text, sampled.tokens


def test_a_base_and_its_adapters_answer_as_generation_runs_do(running, base, adapters):
    texts = set()
    for adapter in (None, *adapters, None, adapters[0]):
        model = LanguageModel(str(base), str(adapter or ""))
        for prompt in PROMPTS:
            events = running.ask(model, prompt, SAMPLING)
            expected, tokens = sampled_by_a_run(base, adapter, prompt, SAMPLING)
            assert (text_of(events), end_of(events).tokens) == (expected, tokens)
            texts.add(expected)
    assert len(texts) == 9, "three models, three prompts"


def test_streams_with_different_adapters_do_not_disturb_each_other(running, base, adapters):
    models = [LanguageModel(str(base), str(adapter or "")) for adapter in (None, *adapters)] * 4
    alone = [text_of(running.ask(model, "Hi", SAMPLING)) for model in models[:3]] * 4

    async def together():
        return await asyncio.gather(*(events_of(running.server, m, "Hi", SAMPLING) for m in models))

    assert [text_of(events) for events in asyncio.run(together())] == alone


def test_a_client_that_leaves_makes_room_for_the_next_one(base, tmp_path):
    async def start_and_leave(server: Server) -> None:
        async with Client(server) as client:
            endless = Sampling(temperature=0, max_tokens=4000)
            chat = client.chat(
                LanguageModel(str(base)), [{"role": "user", "content": "a"}], endless
            )
            async with aclosing(chat) as events:
                async for event in events:
                    if isinstance(event, Piece) and event.tokens > 3:
                        break

    with Running(tmp_path, "--streams", "1", "--waiting", "0", forked=True) as running:
        asyncio.run(start_and_leave(running.server))
        time.sleep(0.5)
        assert end_of(running.ask(LanguageModel(str(base)), "Hi", seconds=10))
        assert "Traceback" not in running.log.read_text()


def test_the_seed_of_the_server_repeats_its_answer(running, base):
    model, unseeded = LanguageModel(str(base)), replace(SAMPLING, seed=None)
    first, second = (running.ask(model, "Hi", unseeded) for _ in range(2))
    assert isinstance(first[0], Start)
    assert first[0].seed != second[0].seed
    again = running.ask(model, "Hi", replace(SAMPLING, seed=first[0].seed))
    assert text_of(again) == text_of(first)


def test_a_chat_that_is_too_long_is_refused(running, base):
    with pytest.raises(Refused, match="reads at most 4096"):
        running.ask(LanguageModel(str(base)), "x" * 5000)


def test_a_missing_model_is_named(running, tmp_path):
    with pytest.raises(CannotLoad, match=f"The folder {tmp_path}/none does not exist"):
        running.ask(LanguageModel(f"{tmp_path}/none"), "Hi")


def test_the_time_limit_of_a_request_ends_it(running, base):
    endless = Sampling(temperature=0, max_tokens=4000)  # the greedy answer never stops by itself
    with pytest.raises(TooSlow):
        running.ask(LanguageModel(str(base)), "a", endless, seconds=0.2)


def test_without_a_server_the_error_names_the_command(tmp_path):
    with pytest.raises(NotRunning, match=r"manage.py model_server"):
        asyncio.run(events_of(Server(f"unix:{tmp_path}/none"), LanguageModel("x"), "Hi"))


def test_chats_get_8_bit_weights_and_the_reply_says_so(running, base, adapters):
    for adapter in ("", str(adapters[0])):
        start, *_, end = running.ask(LanguageModel(str(base), adapter, INT8), "Hi", SAMPLING)
        assert (start.dtype, end.tokens > 0) == (INT8, True)
    start, *_ = running.ask(LanguageModel(str(base)), "Hi", SAMPLING)
    assert start.dtype == "float32"
    fast, *_ = running.ask(LanguageModel(str(base), "", FAST), "Hi", SAMPLING)
    assert fast.dtype in (INT8, "float32")


def test_8_bit_weights_predict_nearly_the_same_alone_and_in_a_batch(base, adapters):
    import torch
    from transformers import DynamicCache

    from finetune.training.serving.batches import can_batch
    from finetune.training.serving.loaded import load_base

    plain, rounded = load_base(str(base), "float32"), load_base(str(base), INT8)
    logits = []
    with torch.no_grad():
        for each in (plain, rounded):
            variant = each.add(str(base), str(adapters[0]), 8)
            logits.append(each.forward(variant, [7], DynamicCache(config=each.network.config)))
        difference = (logits[1] - logits[0]).abs().max() / logits[0].abs().max()
        assert 0 < difference < 0.05
        assert can_batch(rounded, variant)
        for module in rounded.network.modules():
            if getattr(module, "int8_OI", None) is not None:
                module.int8_OI.zero_()
        forgotten = rounded.forward(variant, [7], DynamicCache(config=rounded.network.config))
    assert (forgotten - logits[0]).abs().max() > 0.2 * logits[0].abs().max()
