"""Tests of published models: verified weights, and cards that name the right base."""

import pytest
import torch
import yaml
from safetensors.torch import save_file

from recipes.errors import RecipeError
from recipes.publishing.card import chats, front_matter, held_out_table, loading
from recipes.publishing.output import verify_saved
from reward.training.card import model_card


@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_a_weight_that_was_not_written_as_trained_is_named(tmp_path, damage):
    model = torch.nn.Linear(2, 1)
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    save_file(weights, tmp_path / "model.safetensors")
    verify_saved(model, tmp_path)
    if damage == "missing":
        del weights["bias"]
    else:
        weights["bias"] += 1e-6
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(RecipeError, match="bias is missing"):
        verify_saved(model, tmp_path)


CODE = 'base = AutoModel.from_pretrained("{base}", num_labels=1)'


def test_the_loading_code_pins_the_revision_that_was_trained_on():
    pinned = 'base = AutoModel.from_pretrained("lab/tiny", revision="abc123", num_labels=1)'
    assert loading(CODE, "lab/tiny@abc123") == pinned
    assert loading(CODE, "lab/tiny") == CODE.replace("{base}", "lab/tiny")


def test_a_folder_may_have_an_at_sign_in_its_name(tmp_path):
    folder = tmp_path / "tiny@home"
    folder.mkdir()
    assert loading(CODE, str(folder)) == CODE.replace("{base}", str(folder))


def test_the_cards_base_model_is_public():
    assert "base_model: lab/tiny\n" in front_matter({}, "lab/tiny@abc123")
    assert "base_model" not in front_matter({}, "/srv/models/tiny")


def test_the_card_says_how_chats_were_written():
    record = {"chat_template_kwargs": {"enable_thinking": False}, "chat_date": "2026-11-29"}
    [_, text] = chats(record)
    assert '`{"enable_thinking": false}`' in text and "printed 2026-11-29" in text
    assert "options" not in chats({**record, "chat_template_kwargs": {}})[1]
    assert chats(None) == []


def card_report(**changes):
    figure = {"value": 0.75, "interval": [0.5, 0.875], "reason": None, "prompts": 3, "pairs": 4}
    report = {
        "base_model": "lab/tiny",
        "config": {"lora_r": 4},
        "outputs": {"heads": 1, "criteria": []},
        "data": {"train": {"prompts": 9, "pairs": 20}},
        "accuracy": figure,
        "reviewer_agreement": figure,
        "longer_is_better": figure,
        "calibration": {"ece": 0.0312},
        "temperature": {"value": 1.5},
        "left_out": [],
        "training": {"text_format": "chat template"},
        "inputs": {"snapshot_hash": "0123456789abcdef"},
    }
    return {**report, **changes}


def test_the_card_has_figures_for_hubs_and_a_sentence_about_the_temperature():
    text = model_card(card_report())
    front = yaml.safe_load(text.split("---")[1])
    [result] = front["model-index"][0]["results"]
    assert [(m["type"], m["value"]) for m in result["metrics"]] == [
        ("accuracy", 0.75),
        ("ece", 0.0312),
    ]
    assert result["dataset"]["name"] == "Snapshot 0123456789ab"
    assert "Divide a difference in score by the temperature 1.50" in text


def test_a_card_explains_scores_of_different_prompts():
    assert "only with other scores for the same prompt" in model_card(card_report())
    text = model_card(card_report(config={"lora_r": 4, "cut_weight": 0.5}))
    assert "above 0 means acceptable" in text and "only with other scores" not in text


def test_a_card_names_the_highest_possible_accuracy():
    limit = {"value": 0.88, "interval": [0.86, 0.8931]}
    text = model_card(card_report(accuracy_limit=limit))
    assert "about 89.3% is the most any model can reach" in text and "ceiling" not in text


def test_a_card_without_figures_claims_none():
    unknown = {**card_report()["accuracy"], "value": None, "reason": "Nobody compared."}
    text = model_card(card_report(accuracy=unknown, temperature={"value": None}))
    assert "model-index" not in text and "Divide a difference" not in text


def test_a_figure_without_a_value_gives_its_reason():
    counts = {"prompts": 3, "pairs": 4}
    known = {"value": 0.75, "interval": [0.5, 0.875], "reason": None, **counts}
    unknown = {"value": None, "interval": None, "reason": "Nobody compared.", **counts}
    table = held_out_table({"accuracy": known, "agreement": unknown})
    assert table[2:] == [
        "| accuracy | 75.0% | 50.0% to 87.5% | 3 | 4 |",
        "| agreement | – | Nobody compared. | 3 | 4 |",
        "",
    ]
