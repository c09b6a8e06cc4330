"""Tests that a run and its adapter write chats in the same way on every day."""

import json
from datetime import date

import pytest
import torch

from finetune.engines.sampled_text import Prompt, read_rows
from finetune.methods.dpo import DPOSettings
from finetune.settings import GenerateConfig
from finetune.training.evaluate import evaluate
from finetune.training.generate import generate
from finetune.training.models.language_model import PolicyChat, load_tokenizer
from finetune.training.train import train
from recipes.errors import RecipeError, Stopped
from recipes.models.chat_format import ChatFormat
from recipes.models.chat_options import ChatRecord, freeze, read_options
from recipes.preferences.groups import Group, Judgment
from recipes.preferences.tokens import prepare
from recipes.rundir import RunDir
from recipes.settings import ConfigError
from recipes.stopping import StopSignal
from reward.training.score import Scorer
from reward.training.train import train as train_reward
from tests.finetune.training.training_runs import (
    dpo_run,
    groups_that_like_b,
    messages,
    ranked_group,
    sampling_run,
    user,
)
from tests.reward.world import make_run as reward_run
from tests.tiny import CHAT_TEMPLATE, make_model, make_tokenizer

torch.set_num_threads(1)

SATURDAY, SUNDAY = date(2026, 11, 28), date(2026, 11, 29)
DATED = "{{ strftime_now('%d %b %Y') }}{% if brief %}!{% endif %}" + CHAT_TEMPLATE


@pytest.fixture
def model(tmp_path):
    """Return the folder of a model whose template prints the date and reads the option `brief`."""
    folder = make_model(tmp_path / "model")
    write_template(folder, DATED)
    return folder


def write_template(folder, template):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)


def config(model, **settings):
    return GenerateConfig.from_dict({"model": str(model), **settings})


def new_run(path):
    return RunDir.create(path, {})


def text_of(record, tokenizer):
    chat = PolicyChat(tokenizer, options=record.options)
    return tokenizer.decode(chat.prompt_ids(user("Hi")))


# --- a run ------------------------------------------------------------------------------------------


def test_a_run_keeps_the_date_of_its_first_day(tmp_path, model):
    tokenizer, run_dir = load_tokenizer(str(model)), new_run(tmp_path / "run")
    first = freeze(run_dir, config(model), tokenizer, today=SATURDAY)
    again = freeze(run_dir, config(model), tokenizer, today=SUNDAY)
    assert again == first and text_of(again, tokenizer).startswith("28 Nov 2026")
    assert json.loads((run_dir.path / "chat.json").read_text())["chat_date"] == "2026-11-28"
    other = freeze(new_run(tmp_path / "other"), config(model), tokenizer, today=SUNDAY)
    assert text_of(other, tokenizer).startswith("29 Nov 2026")
    assert other.sha256 == first.sha256  # the template is the same


def test_the_date_can_be_set(tmp_path, model):
    tokenizer = load_tokenizer(str(model))
    settings = config(model, chat_date="2025-01-31")
    record = freeze(new_run(tmp_path / "run"), settings, tokenizer, today=SUNDAY)
    assert text_of(record, tokenizer).startswith("31 Jan 2025")


def test_a_template_that_changed_since_the_first_day_is_refused(tmp_path, model):
    run_dir = new_run(tmp_path / "run")
    freeze(run_dir, config(model), load_tokenizer(str(model)), today=SATURDAY)
    write_template(model, DATED.replace("<|end|>", "<|end|>\n"))
    with pytest.raises(RecipeError, match=r"changed since this run began.*start a new run"):
        freeze(run_dir, config(model), load_tokenizer(str(model)), today=SUNDAY)


def test_a_part_of_a_run_has_the_record_of_the_whole(tmp_path, model):
    class Part(RunDir):
        @property
        def whole(self):
            return RunDir(self.path.parents[1])

    run_dir, tokenizer = new_run(tmp_path / "run"), load_tokenizer(str(model))
    whole = freeze(run_dir, config(model), tokenizer, today=SATURDAY)
    part = Part(run_dir.path / "parts" / "half")
    assert freeze(part, config(model), tokenizer, today=SUNDAY) == whole


def test_a_damaged_record_is_refused(tmp_path, model):
    run_dir, tokenizer = new_run(tmp_path / "run"), load_tokenizer(str(model))
    (run_dir.path / "chat.json").write_text("{}")
    with pytest.raises(RecipeError, match=r"chat\.json is damaged"):
        freeze(run_dir, config(model), tokenizer)


# --- from training to generation --------------------------------------------------------------------


@pytest.fixture
def adapter(tmp_path, model):
    """Return the output of a DPO run that began on Saturday, with the option `brief`."""
    settings = {"chat_template_kwargs": {"brief": True}, "chat_date": SATURDAY.isoformat()}
    run_dir = dpo_run(tmp_path / "dpo", model, groups_that_like_b(16), epochs=0.5, **settings)
    train(run_dir, StopSignal())
    return run_dir.output


def test_training_generation_and_evaluation_use_the_same_template(tmp_path, model, adapter):
    record = ChatRecord.read(adapter)
    assert (record.kwargs, record.day) == ({"brief": True}, SATURDAY)
    report = json.loads((adapter / "report.json").read_text())
    assert report["chat"] == {**record.to_dict(), "notes": {"train": {}, "test": {}}}
    tokenizer = load_tokenizer(str(model))
    text = "28 Nov 2026!<|user|>Hi<|end|><|assistant|>"
    assert text_of(record, tokenizer) == text
    assert text[: text.index("Hi")] in report["first_batch"]

    settings = {"model": str(model), "adapter": str(adapter)}
    sampled = sampling_run(tmp_path / "g", "generate", [Prompt("a", user("Hi"))], **settings)
    generate(sampled, StopSignal())
    assert ChatRecord.read(sampled.output) == record
    [row, *_] = read_rows(sampled.output / "responses.parquet")
    assert json.loads(row["meta"])["prompt_tokens"] == len(tokenizer(text)["input_ids"])

    compared = sampling_run(tmp_path / "e", "evaluate", [Prompt("a", user("Hi"))], **settings)
    evaluate(compared, StopSignal())
    report = json.loads((compared.output / "report.json").read_text())
    assert report["chat"] == {**record.to_dict(), "notes": {}}


def test_a_template_that_changed_since_the_training_is_refused(tmp_path, model, adapter):
    write_template(model, DATED.replace("%d %b", "%d. %b"))
    settings = {"model": str(model), "adapter": str(adapter)}
    for name, recipe in (("generate", generate), ("evaluate", evaluate)):
        run_dir = sampling_run(tmp_path / name, name, [Prompt("a", user("Hi"))], **settings)
        with pytest.raises(RecipeError, match=r"changed since .* was trained"):
            recipe(run_dir, StopSignal())
        assert not run_dir.output.exists()


def test_options_that_differ_from_training_are_refused(tmp_path, model, adapter):
    settings = config(model, chat_template_kwargs={"brief": False})
    with pytest.raises(RecipeError, match="was trained with chat_template_kwargs"):
        freeze(
            new_run(tmp_path / "g"), settings, load_tokenizer(str(model)), sources=[str(adapter)]
        )


def test_adapters_of_different_days_can_be_compared(tmp_path, model, adapter):
    """Check that both answer the same prompts, with the date of the candidate."""
    settings = {"chat_template_kwargs": {"brief": True}, "chat_date": SUNDAY.isoformat()}
    later = dpo_run(tmp_path / "later", model, groups_that_like_b(16), epochs=0.5, **settings)
    train(later, StopSignal())
    settings = {"model": str(model), "adapter": str(later.output), "baseline_adapter": str(adapter)}
    compared = sampling_run(tmp_path / "e", "evaluate", [Prompt("a", user("Hi"))], **settings)
    evaluate(compared, StopSignal())
    report = json.loads((compared.output / "report.json").read_text())
    assert report["chat"]["chat_date"] == SUNDAY.isoformat()


def test_a_resumed_training_refuses_a_changed_template(tmp_path, model):
    run_dir = dpo_run(tmp_path / "dpo", model, groups_that_like_b(16))
    stop = StopSignal()
    stop.requested = True
    with pytest.raises(Stopped):
        train(run_dir, stop)
    write_template(model, DATED.replace("<|end|>", "<|end|>\n"))
    with pytest.raises(RecipeError, match="changed since this run began"):
        train(run_dir, StopSignal())


def test_a_served_model_keeps_its_options(model, adapter):
    """Check that the folder is enough to write chats as in training, on any day."""
    tokenizer = load_tokenizer(str(adapter))
    options = read_options(adapter, tokenizer)
    assert tokenizer.decode(ChatFormat(tokenizer, options).encode(user("Hi"), ["a"])[0]) == (
        "28 Nov 2026!<|user|>Hi<|end|><|assistant|>"
    )
    tokenizer.chat_template += "?"
    with pytest.raises(RecipeError, match="changed since"):
        read_options(adapter, tokenizer)


def test_a_reward_model_scores_the_text_it_was_trained_on(tmp_path, model):
    settings = {"chat_template_kwargs": {"brief": True}, "chat_date": SATURDAY.isoformat()}
    run_dir = reward_run(tmp_path / "reward", model, groups_that_like_b(8), **settings)
    train_reward(run_dir, StopSignal())
    scorer = Scorer(run_dir.output)
    prompt, _ = scorer.chat.encode(user("Hi"), ["a"])
    assert scorer.tokenizer.decode(prompt) == "28 Nov 2026!<|user|>Hi<|end|><|assistant|>"
    assert 'with the options `{"brief": true}`' in (run_dir.output / "README.md").read_text()


# --- settings ---------------------------------------------------------------------------------------


def test_options_are_a_json_object_or_its_text():
    for value in ({"brief": False}, '{"brief": false}'):
        settings = DPOSettings.from_dict({"model": "m", "chat_template_kwargs": value})
        assert settings.chat_template_kwargs == {"brief": False}
        assert DPOSettings.from_dict(settings.to_dict()) == settings
    assert (
        DPOSettings.from_dict({"model": "m", "chat_template_kwargs": ""}).chat_template_kwargs
        is None
    )


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"chat_template_kwargs": "brief"}, "Expected a JSON object"),
        ({"chat_template_kwargs": "[1]"}, "Expected a JSON object"),
        ({"chat_template_kwargs": {"tokenize": True}}, "tokenize is not an option"),
        ({"chat_template_kwargs": {"eos_token": "x"}}, "eos_token is not an option"),
        ({"chat_date": "29 November"}, "is not a date; use YYYY-MM-DD"),
        ({"chat_date": "2026-02-30"}, "is not a date"),
    ],
)
def test_invalid_options_are_refused(settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        DPOSettings.from_dict({"model": "m", **settings})


# --- texts that are left out or counted -------------------------------------------------------------


def test_responses_with_equal_tokens_are_left_out_and_counted():
    """Check responses that differ only in spaces, which the template removes."""
    tokenizer = make_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE.replace("message.content", "message.content | trim")
    group = ranked_group("g", ["Yes.", "No.", " Yes. "], [[0], [1], [2]])
    prepared = prepare([group], PolicyChat(tokenizer), 100)
    assert prepared.groups["train"][0].response_ids == [0, 1]
    assert prepared.tokens["train"][0].wins.tolist() == [[0, 1], [0, 0]]
    [row] = prepared.account()
    assert (row["why"], row["count"]) == ("the same tokens as an earlier response to its prompt", 1)


def test_a_response_that_was_cut_off_has_no_end_token_in_training(tmp_path):
    tokenizer = make_tokenizer()
    group = ranked_group("g", ["Yes, because", "No."], [[0], [1]])
    group.meta["responses_cut_off"] = [True, False]
    prepared = prepare([group], PolicyChat(tokenizer), 100)
    [tokens] = prepared.tokens["train"]
    texts = [tokenizer.decode(ids) for ids in tokens.responses]
    assert texts == ["Yes, because", "No.<|end|>"]
    assert prepared.text_notes() == {"train": {"cut_off": 1}, "test": {}}
    run_dir = new_run(tmp_path / "run")
    prepared.report_left_out(run_dir)
    assert messages(run_dir) == [
        "In train: 1 responses cut off by a length limit, whose end is not trained."
    ]


def test_a_reward_model_reads_complete_conversations():
    group = Group("g", user("Hi"), [1, 2], ["Yes, because", "No."], [Judgment("r", [[1], [2]])])
    group.meta["responses_cut_off"] = [True, False]
    [tokens] = prepare([group], ChatFormat(make_tokenizer()), 100).tokens["train"]
    assert [ids[-1] for ids in tokens.responses] == [make_tokenizer().eos_token_id] * 2


def test_control_tokens_in_prompts_are_counted_in_a_run(tmp_path):
    model = make_model(tmp_path / "model")
    prompts = [Prompt("a", user("What does <|end|> mean?")), Prompt("b", user("Hi"))]
    run_dir = sampling_run(tmp_path / "g", "generate", prompts, model=str(model))
    generate(run_dir, StopSignal())
    report = json.loads((run_dir.output / "report.json").read_text())
    assert report["chat"]["notes"] == {"control_tokens": 1}
    assert "In the prompts: 1 texts that contain control tokens, read as plain text." in messages(
        run_dir
    )


def test_added_tokens_without_an_embedding_are_refused(tmp_path):
    folder = make_model(tmp_path / "model")
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["<tool>"])
    tokenizer.save_pretrained(folder)
    run_dir = sampling_run(tmp_path / "g", "generate", [Prompt("a", user("Hi"))], model=str(folder))
    with pytest.raises(
        RecipeError, match=r"1 tokens outside the 262 .*: <tool>\. They were added to the tokenizer"
    ):
        generate(run_dir, StopSignal())
