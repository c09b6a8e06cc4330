"""Test of the letters of rationales in full exports."""

import json

import pytest

from tests.reward.factory import make_project, make_prompt, make_task, make_user, rank, response_ids
from tests.reward.test_commands import exported

pytestmark = pytest.mark.django_db


def test_a_full_export_maps_the_letters_of_rationales_to_responses(tmp_path):
    project = make_project()
    task = make_task(make_prompt(project, "Why?"), ("a", "b", "c"))
    first, second, third = response_ids(task)
    words = "C is best, plan B is not mentioned by A."
    rank(task, make_user(), rationale=words, shown_order=[third, first, second])
    rank(task, make_user(), rationale="Option C", shown_order=[third, first, second])
    rank(task, make_user(), rationale=words)
    file = tmp_path / "all.jsonl"
    exported("--project", project.slug, str(file), "--format", "full")
    row = json.loads(file.read_text())
    sure, doubtful, unknown = row["tasks"][0]["rankings"]
    assert sure["rationale"] == words
    assert json.loads(sure["rationale_letters"]) == {"A": 2, "B": 0, "C": 1}
    assert sure["rationale_resolved"] == "C [1] is best, plan B is not mentioned by A [2]."
    assert (doubtful["rationale"], doubtful["rationale_resolved"]) == ("Option C", "")
    assert (unknown["rationale_letters"], unknown["rationale_resolved"]) == ("{}", "")
