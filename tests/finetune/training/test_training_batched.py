"""Tests of continuous batching: its texts, its checks, and runs without memory or with an interruption."""

import json
import shutil

import pytest
import torch
from transformers.generation.continuous_batching import continuous_api

from finetune.engines.sampled_text import Prompt, read_rows
from finetune.settings import GenerateConfig
from finetune.training.generate import generate
from finetune.training.models.language_model import (
    PolicyChat,
    load_for_sampling,
    load_tokenizer,
)
from finetune.training.sampling import batched
from finetune.training.sampling.batched import PAGE, AnswerJournal, BatchedEngine
from finetune.training.sampling.distribution import Distribution
from finetune.training.sampling.requests import plan
from finetune.training.sampling.seeded import SeededEngine
from recipes.errors import RecipeError, Stopped
from recipes.stopping import StopSignal
from reward.preferences.erasing import Erasure, clean_folder
from tests.finetune.training.training_runs import messages, progress, sampling_run, user
from tests.tiny import make_model

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def policy(model):
    return load_for_sampling(str(model), None, "float32")


@pytest.fixture(scope="module")
def chat(model, policy):
    return PolicyChat(load_tokenizer(str(model)), policy.generation_config)


@pytest.fixture(scope="module")
def config(model):
    return GenerateConfig(
        model=str(model), max_new_tokens=20, samples_per_prompt=3, batch_size=4, top_p=0.9
    )


@pytest.fixture(scope="module")
def requests(policy, chat, config):
    prompts = [Prompt(f"p{n}", user("hello " * (7 * n + 1))) for n in range(3)]
    return plan(prompts, chat, policy.config, config)[0]


@pytest.fixture(scope="module")
def seeded(policy, chat, config, requests):
    """Return the tokens of the engine seeded."""
    return SeededEngine(policy, chat, config).tokens(requests)


def record_passes(policy, monkeypatch, fail=lambda shape: False):
    """Return the list to which each forward pass adds its number of tokens."""
    real, sizes = policy.forward, []

    def forward(*args, **inputs):
        sizes.append(inputs["input_ids"].numel())
        if fail(sizes):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(*args, **inputs)

    monkeypatch.setattr(policy, "forward", forward)
    return sizes


def test_the_tokens_are_those_of_the_engine_seeded(policy, chat, config, requests, seeded):
    engine = BatchedEngine(policy, chat, config)
    assert engine.tokens(requests) == seeded
    assert len(set(map(tuple, seeded))) == 9
    assert policy.config._attn_implementation == "sdpa"


def test_responses_to_a_prompt_share_its_pages(policy, chat, config, requests, seeded, monkeypatch):
    monkeypatch.setattr(BatchedEngine, "_is_checked", lambda self, request: False)
    sizes = record_passes(policy, monkeypatch)
    assert BatchedEngine(policy, chat, config).tokens(requests) == seeded
    lengths = [len(request.prompt_ids) for request in requests]
    shared = sum(2 * (length // PAGE * PAGE) for length in sorted(set(lengths)))
    assert shared > 100
    assert sum(sizes) == sum(lengths) - shared + sum(len(row) - 1 for row in seeded)


def test_a_prompt_may_be_longer_than_a_forward_pass(
    policy, chat, config, requests, seeded, monkeypatch
):
    monkeypatch.setattr(batched, "TOKENS_AT_ONCE", 48)
    assert max(len(request.prompt_ids) for request in requests) > 80
    assert BatchedEngine(policy, chat, config).tokens(requests) == seeded


def test_no_kernel_is_fetched_from_a_hub(policy, chat, config, requests, seeded, monkeypatch):
    """Check that the functions that would offer a kernel of a hub are not asked."""
    for name in ("is_flash_attn_3_available", "is_flash_attn_2_available"):
        monkeypatch.setattr(continuous_api, name, None)
    assert BatchedEngine(policy, chat, config).tokens(requests[:1]) == seeded[:1]


@pytest.mark.parametrize("family", ["bloom", "mamba"])
def test_a_family_that_pages_do_not_fit_is_refused(family, tmp_path):
    """Check a family whose probabilities would be wrong, and one that cannot be stored in pages."""
    folder = make_model(tmp_path / "model", family)
    policy = load_for_sampling(str(folder), None, "float32")
    chat = PolicyChat(load_tokenizer(str(folder)), policy.generation_config)
    config = GenerateConfig(model=str(folder), max_new_tokens=8)
    requests, _ = plan([Prompt("p", user("hello"))], chat, policy.config, config)
    with pytest.raises(RecipeError, match=r"does not work with this model .*Set engine to seeded"):
        BatchedEngine(policy, chat, config).tokens(requests)


def test_a_repetition_penalty_is_refused(policy, chat, config):
    with pytest.raises(RecipeError, match="does not support a repetition penalty"):
        BatchedEngine(policy, chat, config, Distribution(repetition_penalty=1.2))


def test_out_of_memory_loses_no_token(policy, chat, config, requests, seeded, monkeypatch):
    """Check that the tokens before the failure are not sampled again."""
    monkeypatch.setattr(BatchedEngine, "_is_checked", lambda self, request: False)
    counted = record_passes(policy, monkeypatch)
    engine = BatchedEngine(policy, chat, config)
    engine.tokens(requests)
    passes = len(counted)
    failing = record_passes(policy, monkeypatch, fail=lambda sizes: len(sizes) == 15)
    engine = BatchedEngine(policy, chat, config)
    assert engine.tokens(requests) == seeded
    assert engine.rows_at_once == 2
    assert len(failing) < 14 + 2 * passes, "a start from the beginning needs more passes"


def test_memory_that_does_not_suffice_for_one_response_ends_the_run(
    policy, chat, config, requests, monkeypatch
):
    record_passes(policy, monkeypatch, fail=lambda sizes: True)
    with pytest.raises(torch.OutOfMemoryError):
        BatchedEngine(policy, chat, config).tokens(requests)


# --- runs -------------------------------------------------------------------------------------------


def batched_run(path, model, **settings):
    prompts = [Prompt(f"p{n}", user("hello " * (n + 1))) for n in range(4)]
    return sampling_run(path, "generate", prompts, model=str(model), engine="batched", **settings)


def responses_of(run_dir):
    return read_rows(run_dir.output / "responses.parquet")


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    run_dir = batched_run(tmp_path_factory.mktemp("whole"), model)
    generate(run_dir, StopSignal())
    return run_dir


@pytest.fixture(scope="module")
def seeded_run(model, tmp_path_factory):
    run_dir = batched_run(tmp_path_factory.mktemp("seeded"), model)
    spec = json.loads((run_dir.path / "run.json").read_text())
    spec["config"]["engine"] = "seeded"
    (run_dir.path / "run.json").write_text(json.dumps(spec))
    generate(run_dir, StopSignal())
    return run_dir


def test_a_run_gives_the_responses_of_seeded(whole, seeded_run):
    assert responses_of(whole) == responses_of(seeded_run)
    reports = [json.loads((run.output / "report.json").read_text()) for run in (whole, seeded_run)]
    assert [report["engine"] for report in reports] == ["batched", "seeded"]
    steps = [(event["step"], event["total"]) for event in progress(whole)]
    assert steps == [(4, 16), (8, 16), (12, 16), (16, 16)]


def test_an_interrupted_run_samples_only_the_missing_responses(whole, model, tmp_path, monkeypatch):
    run_dir = batched_run(tmp_path, model)
    stop, add = StopSignal(), AnswerJournal.add

    def add_and_stop(journal, line):
        add(journal, line)
        stop.requested = len(journal.answers) == 5

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(AnswerJournal, "add", add_and_stop)
        generate(run_dir, stop)
    assert not run_dir.output.exists()
    journal = run_dir.checkpoints / ".responses.jsonl"
    lines = journal.read_bytes().splitlines()
    assert 5 <= len(lines) < 16
    journal.write_bytes(b"\n".join(lines[:-1]) + b"\n" + lines[-1][:-9])  # as after a power failure
    generate(run_dir, StopSignal())
    assert journal.read_bytes().splitlines()[: len(lines) - 1] == lines[:-1]
    assert "1 lines of .responses.jsonl are damaged" in messages(run_dir, "warning")[0]
    assert responses_of(run_dir) == responses_of(whole)


@pytest.mark.parametrize("engine", ["batched", "seeded"])
def test_an_erased_response_leaves_neither_text_nor_tokens(engine, whole, seeded_run, tmp_path):
    run_dir = whole if engine == "batched" else seeded_run
    folder = shutil.copytree(run_dir.checkpoints, tmp_path / "checkpoints")
    rows = [row for file in folder.rglob("*.json*") for row in stored(file)]
    row = max(rows, key=lambda row: len(row["text"]))
    assert len(row["text"]) > 5 and len(row["token_ids"]) > 5
    assert clean_folder(folder, Erasure(row["prompt_id"], False, frozenset([7]), (row["text"],)))
    for file in folder.rglob("*"):
        if file.is_file():
            assert row["text"] not in file.read_text()
            assert str(row["token_ids"])[1:-1] not in " ".join(file.read_text().split())


def stored(file):
    """Return the responses in a file of checkpoints."""
    if file.suffix == ".jsonl":
        return [json.loads(line)["line"] for line in file.read_text().splitlines()]
    rows = json.loads(file.read_text())
    return rows if isinstance(rows, list) else []
