"""Tests that withdrawn content is in no snapshot, export, score, generation or evaluation."""

import json
from collections import Counter

import pytest

from finetune.engines import generation
from finetune.evaluation import runs
from finetune.evaluation.answers import answers_of
from finetune.evaluation.comparisons import peoples_verdicts
from finetune.models import Evaluation, EvaluationItem
from labeling.models import Response, Task
from labeling.removal import withdrawing
from recipes.preferences.groups import read_groups
from reward.preferences.exports import Export
from reward.preferences.snapshots import SnapshotFilter, freeze
from reward.scoring.scores import unscored
from tests.finetune.factory import (
    make_adapter,
    make_base,
    make_reward_model,
    make_run,
    make_snapshot,
)
from tests.reward.factory import make_project, make_prompt, make_task, make_user, rank, response_ids

pytestmark = pytest.mark.django_db
ALL = SnapshotFilter()


@pytest.fixture
def task(project):
    new_task = make_task(make_prompt(project, "Kept?"))
    rank(new_task, make_user())
    return new_task


@pytest.fixture
def other(project):
    new_task = make_task(make_prompt(project, "Withdrawn?"), ("secret", "words"))
    rank(new_task, make_user(), ((0,), (1,)))
    return new_task


def groups(snapshot):
    return {group.group_id: group for group in read_groups(snapshot.file)}


@pytest.mark.parametrize("kind", ["task", "prompt"])
def test_a_snapshot_excludes_and_counts_withdrawn_rankings(kind, project, task, other):
    old = freeze(project=project, filter=ALL, by=None)
    withdrawing.withdraw(content=other if kind == "task" else other.prompt, by=None)
    new = freeze(project=project, filter=ALL, by=None)
    assert set(groups(new)) == {str(task.prompt_id)}
    assert new.counts["left_out"] == {"withdrawn": 1} and new.counts["considered"] == 2
    assert set(groups(old)) == {str(task.prompt_id), str(other.prompt_id)}, "the old one stays"


def test_a_snapshot_leaves_out_a_withdrawn_response_and_keeps_the_rest(project, task):
    a, b, c = response_ids(task)
    rank(task, make_user(), ((2,), (0, 1)), cut=1, ratings={str(b): {"h": 1}, str(a): {"h": 2}})
    withdrawing.withdraw(content=Response.objects.get(pk=b), by=None)
    snapshot = freeze(project=project, filter=ALL, by=None)
    [group] = groups(snapshot).values()
    assert group.response_ids == [a, c] and group.responses == ["good", "poor"]
    assert [ranking.tiers for ranking in group.rankings] == [[[a], [c]], [[c], [a]]]
    assert group.rankings[1].cut == 1 and str(b) not in json.dumps(group.meta)
    assert snapshot.counts["responses_withdrawn"] == 1
    assert snapshot.counts["used"] == 2 and snapshot.counts["left_out"] == {}


def test_a_snapshot_after_restoring_equals_the_one_before_withdrawing(project, task, other):
    before = freeze(project=project, filter=ALL, by=None)
    withdrawing.withdraw(content=other.prompt, by=None)
    withdrawing.restore(content=other.prompt, by=None)
    assert freeze(project=project, filter=ALL, by=None) == before


@pytest.mark.parametrize("form", ["kwise", "full", "pairs"])
def test_exports_leave_out_withdrawn_content(form, project, task, other):
    withdrawing.withdraw(content=other.prompt, by=None)
    withdrawing.withdraw(content=task.responses.get(text="fair"), by=None)
    rows = [
        row for _, batch in Export(project=project, form=form).batches(Counter()) for row in batch
    ]
    text = json.dumps(rows, default=str)
    assert "Kept?" in text and "good" in text and "poor" in text
    assert "secret" not in text and "Withdrawn?" not in text and "fair" not in text


def test_a_full_export_counts_omissions(project, task, other):
    withdrawing.withdraw(content=other.prompt, by=None)
    counts = Export(project=project, form="full").count()
    assert counts["prompts"] == 1 and counts["prompts_withdrawn"] == 1


def test_withdrawn_responses_are_not_scored(project, task, other):
    model = make_reward_model(freeze(project=project, filter=ALL, by=None))
    withdrawing.withdraw(content=other.prompt, by=None)
    withdrawing.withdraw(content=task.responses.get(text="fair"), by=None)
    assert {response.text for response in unscored(model)} == {"good", "poor"}


def test_withdrawn_prompts_are_not_generated_for(project, task, other):
    withdrawing.withdraw(content=other.prompt, by=None)
    inputs = {"project": project.pk, "prompts": "all"}
    assert list(generation.prompts_to_answer(inputs)) == [task.prompt]


def test_an_evaluation_chooses_no_withdrawn_prompt():
    snapshot = make_snapshot(make_project(), prompts=12, test_fraction=0.5)
    candidate = make_adapter(make_base(snapshot.project), snapshot)
    evaluations_inputs = {
        "project": candidate.project_id,
        "candidate": candidate.pk,
        "baseline": candidate.parent_id,
        "snapshot": snapshot.pk,
        "judge": f"reward_model:{make_reward_model(snapshot).pk}",
    }
    parts = runs.parts_of(evaluations_inputs)
    before, _ = runs.held_out_prompts(parts)
    gone = Task.objects.get(prompt=int(before[0].prompt_id)).prompt
    withdrawing.withdraw(content=gone, by=None)
    after, _ = runs.held_out_prompts(parts)
    assert [p.prompt_id for p in after] == [p.prompt_id for p in before[1:]]


def test_an_evaluation_shows_no_answers_to_withdrawn_prompts_and_counts_no_verdicts(
    project, task, other
):
    snapshot = freeze(project=project, filter=ALL, by=None)
    adapter = make_adapter(make_base(project), snapshot)
    evaluation = Evaluation.objects.create(
        project=project,
        run=make_run("evaluate"),
        candidate=adapter,
        baseline=adapter.parent,
        judge="length",
    )
    for compared in (task, other):
        EvaluationItem.objects.create(
            evaluation=evaluation,
            prompt=compared.prompt,
            baseline_text="b",
            candidate_text="c",
            verdict=1.0,
            task=compared,
            candidate_response_id=response_ids(compared)[0],
        )
    assert peoples_verdicts(evaluation.blind_verdicts())["value"] == 1.0
    withdrawing.withdraw(content=other.prompt, by=None)
    assert peoples_verdicts(evaluation.blind_verdicts()) is None
    shown = answers_of(evaluation, "")
    assert [item.prompt for item in shown.items] == [task.prompt] and shown.counts[0][2] == 1
