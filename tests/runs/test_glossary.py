"""Tests of the glossary, from which every page takes the labels and explanations of figures."""

import json
import re

import pytest

from config.env import BASE_DIR
from formatting.glossary import ALIASES, GLOSSARY, MAIN, in_order, label_of, term_of
from runs import kinds
from tests.forks import check_curves


@pytest.mark.parametrize("name", GLOSSARY)
def test_each_explanation_consists_of_sentences(name):
    assert GLOSSARY[name].label
    assert re.fullmatch(r"[A-Z0-9].*\.", GLOSSARY[name].explanation)


def test_the_main_figures_and_all_shares_have_an_explanation():
    shares = set().union(*(kind.shares for kind in kinds.all_kinds()))
    names = {*MAIN, *ALIASES.values(), *shares} - {"share"}  # the merged share is a nested value
    assert sorted(name for name in names if term_of(name) is None) == []


def test_each_figure_in_a_template_has_an_explanation():
    used = {
        name
        for path in (BASE_DIR / "templates").rglob("*.html")
        for name in re.findall(r'{% (?:figure|term) "([^"]+)"', path.read_text())
    }
    assert sorted(name for name in used if term_of(name) is None) == []


def test_a_recipe_with_an_unknown_curve_fails_its_test(tmp_path):
    events = tmp_path / "events.jsonl"
    events.write_text(json.dumps({"event": "progress", "loss": 1.0, "metrics": {"kl": 1}}) + "\n")
    check_curves(events)
    with events.open("a") as file:
        file.write(json.dumps({"event": "progress", "metrics": {"made/up": 2.0}}) + "\n")
    with pytest.raises(AssertionError, match="made/up"):
        check_curves(events)


def test_figures_are_ordered_by_importance_and_then_by_label():
    names = ["zeta", "memory_mb", "grad_norm", "loss", "reviewer_agreement"]
    assert in_order(names) == (["loss", "reviewer_agreement", "memory_mb"], ["grad_norm", "zeta"])
    assert label_of("made/up_name") == "made up name"
