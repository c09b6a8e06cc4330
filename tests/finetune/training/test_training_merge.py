"""Tests of the recipe that merges an adapter into its base."""

import json
import shutil
from datetime import date

import pytest
import torch
from transformers import AutoModelForCausalLM

from finetune.training import merge as merging
from finetune.training.merge import LARGEST_SHARE, TEXTS, merge
from finetune.training.merge_check import difference, distance
from finetune.training.models.language_model import (
    adapter_state,
    add_adapter,
    load_for_sampling,
    load_model,
    load_tokenizer,
)
from recipes.errors import RecipeError, Stopped
from recipes.models.chat_options import ChatRecord, fingerprint
from recipes.preferences.groups import write_groups
from recipes.rundir import RunDir
from recipes.runner import run_recipe
from recipes.stopping import StopSignal
from tests.finetune.training.training_runs import (
    groups_that_like_b,
    make_adapter,
    messages,
    report_of,
    results,
)
from tests.tiny import make_model

pytestmark = pytest.mark.usefixtures("one_thread")

IDS = torch.tensor([[1, 5, 80, 90, 100]])


@pytest.fixture(scope="module")
def adapter(tmp_path_factory, model):
    return make_adapter(tmp_path_factory.mktemp("adapters") / "strong", model, scale=1.0)


@pytest.fixture(scope="module")
def tied(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("models") / "tied", tie_word_embeddings=True)


@pytest.fixture
def in_this_process(monkeypatch):
    """Compare the written files in this process, where a new one would take seconds to start."""
    monkeypatch.setattr(
        merging, "number_from_new_process", lambda what, module, *paths: difference(*paths)
    )


def merge_run(path, model, adapter, *, groups=(), **config):
    spec = {"model": str(model), "adapter": str(adapter), **config}
    run_dir = RunDir.create(path, {"kind": "merge", "config": spec})
    if groups:
        write_groups(run_dir.data / "preferences.parquet", groups)
    return run_dir


@torch.no_grad()
def logits_of(model):
    return model(IDS).logits


def tuned(model, adapter):
    return add_adapter(load_model(str(model), "float32"), str(adapter))


def test_a_merged_model_keeps_the_options_of_the_chat_template(tmp_path, model, adapter):
    record = ChatRecord({}, date(2026, 11, 29), fingerprint(load_tokenizer(str(model)), {}))
    shutil.copytree(adapter, tmp_path / "adapter")
    record.write(tmp_path / "adapter")
    run_dir = merge_run(tmp_path / "run", model, tmp_path / "adapter")
    merge(run_dir, StopSignal())
    assert ChatRecord.read(run_dir.output) == record
    again = merge_run(tmp_path / "again", run_dir.output, adapter)
    merge(again, StopSignal())
    assert ChatRecord.read(again.output) == record


def test_a_merged_model_predicts_what_base_and_adapter_predict(tmp_path, model, adapter):
    run_dir = merge_run(tmp_path / "run", model, adapter, groups=groups_that_like_b(16))
    merge(run_dir, StopSignal())
    merged = AutoModelForCausalLM.from_pretrained(run_dir.output, dtype=torch.float32)
    expected, base = logits_of(tuned(model, adapter)), logits_of(load_model(str(model), "float32"))
    assert (logits_of(merged) - expected).abs().max() < 1e-4
    assert (logits_of(merged) - base).abs().max() > 1e-2
    names = {path.name for path in run_dir.output.iterdir()}
    assert {"tokenizer.json", "report.json", "README.md", "model.safetensors"} <= names
    assert "adapter_config.json" not in names
    report = report_of(run_dir)
    assert report["texts"] == 4 and report["text_source"] == "held-out prompts"
    assert report["share"] < 1e-3 and report["tuned_vs_base"] > 0.01
    assert [result["share"] for result in results(run_dir)] == [report["share"]]
    assert not (run_dir.path / ".comparison").exists()


def test_without_data_the_tuned_model_writes_the_text(in_this_process, tmp_path, model, adapter):
    run_dir = merge_run(tmp_path / "run", model, adapter)
    merge(run_dir, StopSignal())
    report = report_of(run_dir)
    assert report["text_source"] == "text by the tuned model"
    assert 0 < report["texts"] <= len(merging.QUESTIONS)


def test_only_real_text_is_compared_and_at_most_eight_pieces(tmp_path, model, adapter):
    groups = groups_that_like_b(60)
    run_dir = merge_run(tmp_path / "run", model, adapter, groups=groups)
    texts, _ = merging.texts_of(run_dir, tuned(model, adapter), chat_of(model))
    assert len(texts) == TEXTS
    decoded = [chat_of(model).tokenizer.decode(text.ids) for text in texts]
    held_out = [group for group in groups if group.split == "test"]
    for group, text in zip(held_out, decoded, strict=False):
        assert group.responses[0] in text and group.prompt[0]["content"] in text
    for text in texts:
        assert max(text.positions) == len(text.ids) - 2


def chat_of(model):
    from finetune.training.models.language_model import PolicyChat, load_tokenizer

    return PolicyChat(load_tokenizer(str(model)))


# --- planted faults ---------------------------------------------------------------------------------


def test_a_merge_that_loses_the_adapter_is_refused(
    in_this_process, tmp_path, model, adapter, monkeypatch
):
    def lose(policy):
        return policy.unload(), False

    monkeypatch.setattr(merging, "with_merged_weights", lose)
    run_dir = merge_run(tmp_path / "run", model, adapter, groups=groups_that_like_b(16))
    with pytest.raises(RecipeError, match=r"differs .* by 100.0% of the adapter's effect.* lost"):
        merge(run_dir, StopSignal())
    assert not run_dir.output.exists() and not (run_dir.path / ".output-draft").exists()


def test_a_merge_that_loses_one_layer_of_the_adapter_is_refused(
    in_this_process, tmp_path, model, adapter, monkeypatch
):
    real = merging.with_merged_weights

    def lose_one(policy):
        lost = policy.get_base_model().model.layers[1].mlp.down_proj
        lost.lora_B["default"].weight.data.zero_()
        return real(policy)

    monkeypatch.setattr(merging, "with_merged_weights", lose_one)
    run_dir = merge_run(tmp_path / "run", model, adapter, groups=groups_that_like_b(16))
    with pytest.raises(RecipeError, match="Nothing was published"):
        merge(run_dir, StopSignal())


def test_weights_damaged_on_disk_are_noticed_by_the_new_process(
    tmp_path, model, adapter, monkeypatch
):
    real = merging.number_from_new_process

    def damage(what, module, draft, folder):
        load_model(str(model), "float32").save_pretrained(draft)
        return real(what, module, draft, folder)

    monkeypatch.setattr(merging, "number_from_new_process", damage)
    run_dir = merge_run(tmp_path / "run", model, adapter, groups=groups_that_like_b(16))
    with pytest.raises(RecipeError, match=r"100\.0%"):
        merge(run_dir, StopSignal())


def test_files_that_cannot_be_loaded_are_refused_with_the_reason(
    tmp_path, model, adapter, monkeypatch
):
    real = merging.number_from_new_process

    def lose_a_file(what, module, draft, folder):
        (draft / "tokenizer.json").unlink()
        (draft / "config.json").unlink()
        return real(what, module, draft, folder)

    monkeypatch.setattr(merging, "number_from_new_process", lose_a_file)
    run_dir = merge_run(tmp_path / "run", model, adapter)
    with pytest.raises(RecipeError, match=r"could not be checked: The model .* cannot be loaded"):
        merge(run_dir, StopSignal())
    assert not run_dir.output.exists()


def test_an_adapter_without_effect_is_refused(in_this_process, tmp_path, model):
    idle = make_adapter(tmp_path / "idle", model, scale=0.0)
    run_dir = merge_run(tmp_path / "run", model, idle)
    with pytest.raises(RecipeError, match="The adapter changes nothing"):
        merge(run_dir, StopSignal())


def test_a_number_format_that_rounds_the_adapter_away_is_refused(in_this_process, tmp_path, model):
    faint = make_adapter(tmp_path / "faint", model, scale=1e-3)
    groups = groups_that_like_b(16)
    whole = merge_run(tmp_path / "float32", model, faint, groups=groups)
    merge(whole, StopSignal())
    assert report_of(whole)["share"] < LARGEST_SHARE
    rounded = merge_run(tmp_path / "bfloat16", model, faint, groups=groups, output_dtype="bfloat16")
    with pytest.raises(RecipeError, match=r"bfloat16 probably rounds .* Choose float32"):
        merge(rounded, StopSignal())


def test_a_strong_adapter_can_be_saved_in_half_precision(in_this_process, tmp_path, model, adapter):
    run_dir = merge_run(tmp_path / "run", model, adapter, output_dtype="bfloat16")
    merge(run_dir, StopSignal())
    merged = AutoModelForCausalLM.from_pretrained(run_dir.output)
    assert merged.dtype == torch.bfloat16
    assert 0 < report_of(run_dir)["share"] < LARGEST_SHARE


def test_a_stopped_merge_publishes_nothing(tmp_path, model, adapter):
    stop = StopSignal()
    stop.requested = True
    run_dir = merge_run(tmp_path / "run", model, adapter)
    with pytest.raises(Stopped):
        merge(run_dir, stop)
    assert not run_dir.output.exists()


# --- tied embeddings --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lora",
    [
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": ["lm_head", "embed_tokens"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    ],
    ids=["reads", "writes", "both", "trains the head", "trains the embeddings"],
)
def test_an_adapter_on_one_use_of_tied_embeddings_unties_them(
    in_this_process, tmp_path, tied, lora
):
    adapter = make_adapter(tmp_path / "adapter", tied, scale=1.0, **lora)
    run_dir = merge_run(tmp_path / "run", tied, adapter)
    merge(run_dir, StopSignal())
    merged = AutoModelForCausalLM.from_pretrained(run_dir.output, dtype=torch.float32)
    assert not merged.config.tie_word_embeddings
    assert (logits_of(merged) - logits_of(tuned(tied, adapter))).abs().max() < 1e-4
    assert any("one matrix to read and to write" in note for note in report_of(run_dir)["notes"])


def test_tied_embeddings_without_an_adapter_on_them_stay_tied(in_this_process, tmp_path, tied):
    adapter = make_adapter(tmp_path / "adapter", tied, scale=1.0)
    run_dir = merge_run(tmp_path / "run", tied, adapter)
    merge(run_dir, StopSignal())
    assert AutoModelForCausalLM.from_pretrained(run_dir.output).config.tie_word_embeddings
    assert report_of(run_dir)["notes"] == []


# --- quantized bases --------------------------------------------------------------------------------


def test_an_adapter_of_a_quantized_base_is_merged_with_a_note(
    in_this_process, tmp_path, model, adapter
):
    copy = shutil.copytree(adapter, tmp_path / "adapter")
    (copy / "report.json").write_text(json.dumps({"config": {"quantize": "nf4"}}))
    run_dir = merge_run(tmp_path / "run", model, copy)
    merge(run_dir, StopSignal())
    assert any("quantized to nf4" in text for text in messages(run_dir))
    assert "quantized to nf4" in (run_dir.output / "README.md").read_text()


def test_a_base_published_with_quantized_weights_is_refused(tmp_path, model, adapter):
    quantized = shutil.copytree(model, tmp_path / "quantized")
    config = json.loads((quantized / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (quantized / "config.json").write_text(json.dumps(config))
    run_dir = merge_run(tmp_path / "run", quantized, adapter)
    with pytest.raises(RecipeError, match=r"weights of .* are quantized"):
        merge(run_dir, StopSignal())


# --- the distance -----------------------------------------------------------------------------------


def test_the_distance_weighs_tokens_by_their_probability():
    tuned_TV = torch.tensor([[0.75, 0.25]]).log()
    other_TV = tuned_TV + torch.tensor([[0.2, 0.6]])
    assert distance(tuned_TV, other_TV) == pytest.approx((0.75 * 0.04 + 0.25 * 0.36) ** 0.5)
    assert distance(tuned_TV, tuned_TV) == 0.0


def test_impossible_tokens_do_not_count_and_invalid_numbers_fail_the_check():
    tuned_TV = torch.tensor([[1.0, 0.0]]).log()
    assert distance(tuned_TV, torch.tensor([[-0.5, -torch.inf]])) == pytest.approx(0.5)
    broken = distance(tuned_TV, torch.tensor([[torch.nan, 0.0]]))
    with pytest.raises(RecipeError):
        merging.check(broken, 1.0, "float32")


def test_the_command_line_merges_a_run_directory(tmp_path, model, adapter, monkeypatch):
    run_dir = merge_run(tmp_path / "run", model, adapter)
    monkeypatch.setattr("sys.argv", ["merge", str(run_dir.path)])
    assert run_recipe(merge, merging.__doc__) == 0
    assert (run_dir.output / "config.json").exists()


# --- merges in memory, for sampling ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("scale", "dtype", "state"),
    [
        (1.0, "float32", "merged"),
        (1e-3, "float32", "merged"),
        (1.0, "bfloat16", "merged"),
        (1e-3, "bfloat16", "separate"),
    ],
)
def test_an_adapter_is_merged_for_sampling_unless_rounding_would_remove_it(
    tmp_path, model, scale, dtype, state
):
    adapter = str(make_adapter(tmp_path / "adapter", model, scale=scale))
    sampler = load_for_sampling(str(model), adapter, dtype)
    assert adapter_state(sampler, adapter) == state
    assert next(sampler.parameters()).dtype == getattr(torch, dtype)
    expected = add_adapter(load_model(str(model), dtype), adapter)
    if state == "separate":
        assert torch.equal(logits_of(sampler), logits_of(expected))
    else:
        effect = (logits_of(expected) - logits_of(load_model(str(model), dtype))).abs().mean()
        assert (logits_of(sampler) - logits_of(expected)).abs().mean() < 0.1 * effect
    assert adapter_state(load_for_sampling(str(model), None, dtype), None) is None
