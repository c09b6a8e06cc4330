"""Tests of the layout for each model family: shared if both layouts agree, otherwise plain."""

import json
import re

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from recipes.errors import RecipeError
from recipes.layout import attention, families
from recipes.layout.collate import Collator
from recipes.layout.families import check_gradients, check_shared, window_problem
from recipes.models.chat_format import ChatFormat
from recipes.preferences.loss import bradley_terry
from recipes.stopping import StopSignal
from recipes.training.trainer import final_loss
from reward.settings import RewardConfig
from reward.training.card import model_card
from reward.training.merge import merge
from reward.training.models.reading import check_reading
from reward.training.models.reward_model import (
    RewardModel,
    load_reward_model,
    load_tokenizer,
    make_reward_model,
    readable_tokens,
    score_groups,
)
from reward.training.score import Scorer
from reward.training.train import train
from tests.recipes.layout.test_training_layout import UNEVEN, reward_model, token_group
from tests.reward.world import make_groups, make_run, messages
from tests.tiny import make_encoder, make_model, make_tokenizer, tiny_config

torch.set_num_threads(1)

FEW_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
SHARING = {
    "llama": {},  # and SmolLM2
    "qwen2": {},
    "qwen3": {},
    "mistral": {},
    "gemma": {},
    "gemma2": {},
    "gemma3_text": {},
    "smollm3": {},
    "phi3": {},
    "gpt2": {},
    "opt": {},
    "olmo2": {},
    "qwen3_moe": FEW_EXPERTS,
}
PROMPT = [{"role": "user", "content": "Write 7 letters."}]


def untrained(path, **config):
    settings = RewardConfig(
        base_model=str(path), lora_r=4, lora_alpha=8, lora_dropout=0.0, **config
    )
    torch.manual_seed(0)
    return make_reward_model(settings, load_tokenizer(str(path)))


def random_adapter(model):
    """Randomise the adapter, because a new one has no effect and would hide errors."""
    torch.manual_seed(1)
    for _, weight in model.named_parameters():
        if weight.requires_grad:
            weight.data += 0.05 * torch.randn_like(weight)
    return model


# --- families that share the prompt ---------------------------------------------------------------


@pytest.mark.parametrize("family", SHARING)
def test_both_layouts_give_the_same_scores_loss_and_gradients(tmp_path, family):
    model = random_adapter(untrained(make_model(tmp_path / family, family, **SHARING[family])))
    check_reading(model, UNEVEN, 0)
    assert check_shared(model, UNEVEN, 0, longest=31) is None
    results = {}
    for layout in ("plain", "shared"):
        batch = Collator(0, layout)(UNEVEN)
        wins, _ = batch.pop("wins"), batch.pop("labels")
        model.zero_grad()
        scores = model(**batch)["scores"]
        loss = bradley_terry(scores, wins).mean()
        loss.backward()
        gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        results[layout] = (scores.detach(), loss.item(), gradients)
    torch.testing.assert_close(results["plain"][0], results["shared"][0], atol=1e-5, rtol=0)
    assert results["plain"][1] == pytest.approx(results["shared"][1], abs=1e-6)
    assert len(results["plain"][2]) > 10
    for name, gradient in results["plain"][2].items():
        torch.testing.assert_close(gradient, results["shared"][2][name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_decoder_may_share_the_prompt_in_any_number_format(tmp_path, dtype):
    model = untrained(make_model(tmp_path, num_hidden_layers=6), dtype=dtype)
    assert check_shared(model, UNEVEN, 0, longest=31) is None


# --- families that cannot -------------------------------------------------------------------------

JAMBA = {"num_experts": 1, "use_mamba_kernels": False}


@pytest.mark.parametrize(
    ("family", "changes", "why"),
    [
        ("bloom", {}, "it fails in the shared layout"),
        ("mpt", {"d_model": 32, "n_heads": 4, "n_layers": 2}, "differs by [0-9.]+% between"),
        ("jamba", JAMBA, "has linear_attention layers, which carry a state"),
        ("qwen3_next", FEW_EXPERTS, "has linear_attention layers, which carry a state"),
        ("mistral", {"sliding_window": 16}, "looks back only 16 tokens and inputs have up to 31"),
        ("gemma3_text", {"sliding_window": 16}, "looks back only 16 tokens"),
    ],
)
def test_a_family_that_cannot_share_reports_why_and_scores(tmp_path, family, changes, why):
    model = untrained(make_model(tmp_path / family, family, **changes))
    problem = check_shared(model, UNEVEN, 0, longest=31)
    assert problem is not None and re.search(why, problem), problem
    assert torch.isfinite(score_groups(model, UNEVEN, Collator(0, "plain"))).all()


def test_an_encoder_always_uses_the_plain_layout(tmp_path):
    model = untrained(make_encoder(tmp_path))
    assert check_shared(model, UNEVEN, 0, longest=31).startswith("it is an encoder")


def test_attention_windows_matter_only_for_longer_inputs():
    config = tiny_config("gemma3_text", sliding_window=16)
    assert window_problem(config, 16) is None and "looks back" in window_problem(config, 17)
    config.layer_types = ["full_attention"] * 2
    assert window_problem(config, 17) is None
    assert window_problem(tiny_config("qwen2"), 10_000) is None


def test_a_small_leak_between_responses_is_detected(tmp_path, monkeypatch):
    """Check that a Jamba model is caught even if its layers are not recognised by name."""
    monkeypatch.setattr(families, "unsupported_architecture", lambda model: None)
    for dtype in ("float32", "bfloat16"):
        folder = make_model(tmp_path / dtype, "jamba", **JAMBA)
        model = untrained(folder, dtype=dtype)
        assert check_shared(model, UNEVEN, 0, longest=31) is not None


def test_disagreeing_layouts_are_detected(tmp_path, monkeypatch):
    model = reward_model(tmp_path)
    honest = model._shared

    def without_restarts(batch):
        straight = torch.arange(batch["input_ids"].shape[1])
        return honest({**batch, "position_ids": straight.expand_as(batch["input_ids"])})

    monkeypatch.setattr(model, "_shared", without_restarts)
    assert "differs by" in check_shared(model, UNEVEN, 0, longest=31)


def test_a_classifier_that_reads_another_token_is_refused(tmp_path, monkeypatch):
    model = reward_model(tmp_path)
    monkeypatch.setattr(model, "_plain", lambda ids, mask: torch.zeros(len(ids), 32))
    with pytest.raises(RecipeError, match="does not read the score at the last token"):
        check_reading(model, UNEVEN, 0)


def test_the_reason_for_the_plain_layout_is_in_events_and_report(tmp_path):
    path = make_model(tmp_path / "model", "mistral", sliding_window=16)
    run_dir = make_run(tmp_path / "run", path, make_groups(8, 2), epochs=1)
    train(run_dir, StopSignal())
    [warning] = [text for text in messages(run_dir, "warning") if "cannot share the prompt" in text]
    training = json.loads((run_dir.output / "report.json").read_text())["training"]
    assert training["layout"] == "plain" and training["layout_reason"] in warning
    assert training["layout_reason"].startswith("it looks back only 16 tokens")


# --- unusable base models ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "says"),
    [
        ("mamba", "no sequence classifier for the family mamba"),
        ("bart", "an encoder-decoder"),
    ],
)
def test_other_families_are_refused_with_a_sentence(tmp_path, family, says):
    tiny_config(family).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(RecipeError, match=says):
        untrained(tmp_path)


def test_a_checkpoint_that_lacks_weights_is_refused(tmp_path):
    path = make_model(tmp_path)
    config = tiny_config(num_hidden_layers=3)
    config.save_pretrained(path)
    with pytest.raises(RecipeError, match=r"lacks 9 weights .* such as model\.layers\.2"):
        untrained(path)


def test_a_base_with_other_labels_gets_a_new_head(tmp_path):
    config = tiny_config(num_labels=5)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    assert score_groups(untrained(tmp_path), UNEVEN, Collator(0, "shared")).shape == (3, 4)


# --- gradients ------------------------------------------------------------------------------------


class Backward(torch.autograd.Function):
    """A function whose gradient is scaled by `factor`, or fails if that is 0."""

    @staticmethod
    def forward(ctx, values, factor):
        ctx.factor = factor
        return values.clone()

    @staticmethod
    def backward(ctx, gradient):
        if not ctx.factor:
            raise RuntimeError("no valid configuration for this kernel")
        return gradient * ctx.factor, None


class Faulty(RewardModel):
    """A model with correct outputs whose gradients are wrong except with dense attention."""

    factor, dense_too, response = 0.0, False, None

    def _shared(self, batch):
        hidden = super()._shared(batch)  # (G, K, H)
        if self.attends == attention.DENSE and not self.dense_too:
            return hidden
        faulty = Backward.apply(hidden, self.factor)
        if self.response is None:
            return faulty
        here = torch.arange(hidden.shape[1]) == self.response
        return torch.where(here[None, :, None], faulty, hidden)


@pytest.mark.parametrize("factor", [0.0, 1.1])
def test_an_attention_with_a_failing_backward_pass_is_not_used(tmp_path, factor):
    model = random_adapter(reward_model(tmp_path))
    assert check_gradients(model, UNEVEN, 0, torch.float32) is None
    assert model.attends == attention.PIECES
    faulty = Faulty(model.ordinary)
    faulty.factor = factor
    before = torch.random.get_rng_state()
    assert check_gradients(faulty, UNEVEN, 0, torch.float32) is None
    assert faulty.attends == attention.DENSE and faulty.training
    assert not any(weight.grad is not None for weight in faulty.parameters())
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("response", range(4))
def test_the_gradient_of_every_response_is_compared(tmp_path, response):
    faulty = Faulty(random_adapter(reward_model(tmp_path)).ordinary)
    faulty.factor, faulty.response = 1.5, response
    assert check_gradients(faulty, [token_group(1, 6, [4, 7, 3, 5])], 0, torch.float32) is None
    assert faulty.attends == attention.DENSE


def test_gradients_that_fail_or_differ_are_reported(tmp_path):
    faulty = Faulty(random_adapter(reward_model(tmp_path)).ordinary)
    faulty.dense_too = True
    assert "backward pass fails (RuntimeError: no valid" in check_gradients(
        faulty, UNEVEN, 0, torch.float32
    )
    faulty.factor = 1.1
    assert "gradients differ by" in check_gradients(faulty, UNEVEN, 0, torch.float32)


# --- how long an input may be ---------------------------------------------------------------------


def test_positions_numbered_from_the_padding_id_shorten_the_readable_length(tmp_path):
    path = make_encoder(tmp_path, "roberta", max_position_embeddings=64, pad_token_id=1)
    assert readable_tokens(str(path), make_tokenizer(), None) == 62


def test_an_input_stays_below_the_length_from_which_positions_are_rescaled(tmp_path):
    factors = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, **factors}
    config = tiny_config(
        "phi3",
        max_position_embeddings=512,
        original_max_position_embeddings=128,
        rope_parameters={**rope, "original_max_position_embeddings": 128},
    )
    config.save_pretrained(tmp_path)
    assert readable_tokens(str(tmp_path), make_tokenizer(), None) == 128


def test_an_end_token_that_is_also_padding_is_removed(tmp_path):
    """Check a tokenizer like GPT-2's, with which the classifier would read the previous token."""
    tokenizer = make_tokenizer(chat=False)
    tokenizer.bos_token, tokenizer.pad_token = None, "<|end|>"
    tokenizer.save_pretrained(tmp_path)
    tokenizer = load_tokenizer(str(tmp_path))
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    _, [response] = ChatFormat(tokenizer).encode(PROMPT, ["Yes"])
    assert tokenizer.decode(response) == " Yes"
    tokenizer = make_tokenizer(chat=False)
    _, [response] = ChatFormat(tokenizer).encode(PROMPT, ["Yes"])
    assert tokenizer.decode(response) == " Yes<|end|>"


# --- encoders -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoder_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    path = make_encoder(folder / "bert")
    run_dir = make_run(folder / "run", path, make_groups(24, 12), heads=2, epochs=6)
    train(run_dir, StopSignal())
    return run_dir


def test_an_encoder_gives_the_same_scores_after_loading_and_after_merging(encoder_run, tmp_path):
    report = json.loads((encoder_run.output / "report.json").read_text())
    assert report["training"]["layout"] == "plain"
    assert report["training"]["curve"][-1][1] < report["training"]["curve"][0][1]
    conversations = [(PROMPT, ["axxb", "zzz", "x"])]
    [first] = Scorer(encoder_run.output).score(conversations)
    [again] = Scorer(encoder_run.output).score(conversations)
    np.testing.assert_array_equal(first, again)
    assert len(set(first)) == 3
    [merged] = Scorer(merge(encoder_run.path, tmp_path / "out")).score(conversations)
    np.testing.assert_allclose(merged, first, atol=1e-5)


def test_the_card_s_own_code_reads_the_text_as_the_product_does(encoder_run):
    card = (encoder_run.output / "README.md").read_text()
    code = card.split("```python\n")[1].split("```")[0]
    results = {}
    exec(code.replace("PATH_OF_THIS_FOLDER", str(encoder_run.output)), results)
    conversation = ([{"role": "user", "content": "How are you?"}], ["Fine."])
    [[expected]] = Scorer(encoder_run.output).score([conversation])
    assert results["score"].item() == pytest.approx(expected, abs=1e-5)


def test_the_card_warns_if_preferring_length_is_as_accurate(encoder_run):
    report = json.loads((encoder_run.output / "report.json").read_text())
    sentence = "no better than always preferring the longer response"
    for own, longer, warns in ((0.63, 0.67, True), (0.7, 0.67, False), (None, 0.67, False)):
        figures = {"accuracy": own, "longer_is_better": longer}
        changed = {name: {**report[name], "value": value} for name, value in figures.items()}
        changed = {k: {**v, "interval": [0.5, 0.8], "reason": "-"} for k, v in changed.items()}
        assert (sentence in model_card({**report, **changed})) == warns


def test_the_final_loss_is_an_average_over_steps():
    assert final_loss([(n, 1.0) for n in range(18)] + [(18, 0.8), (19, 0.2)]) == pytest.approx(0.5)
    assert final_loss([(1, 0.7)]) == 0.7 and final_loss([]) is None


def test_a_pooling_layer_that_the_checkpoint_lacked_is_trained_and_saved(encoder_run):
    spec = json.loads((encoder_run.output / "adapter_config.json").read_text())
    assert set(spec["modules_to_save"]) == {"classifier", "score", "bert.pooler.dense"}
    assert not any("pooler" in name for name in spec["target_modules"])


def test_a_base_that_does_not_fit_the_adapter_is_refused(encoder_run, tmp_path):
    for file in encoder_run.output.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    spec = json.loads((tmp_path / "adapter_config.json").read_text())
    spec["modules_to_save"] = ["classifier"]
    (tmp_path / "adapter_config.json").write_text(json.dumps(spec))
    with pytest.raises(RecipeError, match=r"lack bert\.pooler\.dense"):
        load_reward_model(tmp_path, load_tokenizer(str(tmp_path), adapter=True), heads=2)


def test_an_encoder_reads_its_first_token_the_text_and_its_separator(tmp_path):
    tokenizer = load_tokenizer(str(make_encoder(tmp_path)))
    prompt, [response] = ChatFormat(tokenizer).encode(PROMPT, ["Yes"])
    text = tokenizer.decode([*prompt, *response])
    assert text == "<|bos|>User: Write 7 letters.\n\nAssistant: Yes<|end|>"


@pytest.mark.parametrize("family", ["roberta", "distilbert", "modernbert", "electra", "mpnet"])
def test_other_encoders_can_be_trained_and_scored(tmp_path, family):
    model = untrained(make_encoder(tmp_path, family))
    short = [token_group(1, 6, [4, 5])]
    scores = score_groups(model, short, Collator(0, "plain"))
    assert torch.isfinite(scores).all() and len(set(scores[0].tolist())) == 2
