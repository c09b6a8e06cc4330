"""Test of the whole loop, with real recipes on a tiny model."""

from collections import Counter

import pytest

from accounts.models import AuditEntry, Role
from finetune.evaluation import judges
from finetune.models import Evaluation, Model
from finetune.registry import add_base, default_model
from labeling.models import Ranking, Response, Task
from labeling.rankings.content import Content
from labeling.rankings.recording import record
from reward.models import RewardModel
from reward.preferences.snapshots import SnapshotFilter, freeze, ranking_ids
from runs import execution, services
from runs.models import Run, State
from tests.reward.factory import make_project, make_prompt, make_user
from tests.tiny import make_model

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("forked_recipes")]
SMALL = {
    "batch_size": 8, "micro_batch_size": 8, "lora_r": 2, "lora_alpha": 4, "epochs": 1,
}  # fmt: skip
SAMPLES = {"sample_prompts": 2, "sample_tokens": 4}
SHORT = {"max_new_tokens": 8, "temperature": 1.0, "top_p": 1.0}


def count_e(messages, text: str) -> float:
    return float(text.count("e"))


@pytest.fixture
def rule():
    judges.register("count-e", "The more e, the better", count_e)
    yield "count-e"
    judges._rules.pop("count-e")


def run(kind: str, config: dict, inputs: dict, by) -> Run:
    begun = services.start(kind, config, by, inputs=inputs, send=False)
    ended = execution.run_now(begun.pk)
    assert ended.state == State.SUCCEEDED, ended.error
    return ended


def test_the_loop_leads_from_a_base_to_a_promoted_adapter_and_back_to_each_ranking(tmp_path, rule):
    trainer, project = make_user(Role.TRAINER), make_project()
    reviewers = [make_user() for _ in range(2)]
    for number in range(16):
        make_prompt(project, f"Write {number}.")
    base, _ = add_base(project=project, base=str(make_model(tmp_path / "tiny")), by=trainer)
    here = {"project": project.pk}

    sampled = run(
        "generate", {**SHORT, "samples_per_prompt": 3}, {**here, "model": base.pk}, trainer
    )
    assert sampled.result["tasks"] == Task.objects.count() == 16
    assert sum(sampled.result[name] for name in ("responses", "identical", "empty")) == 16 * 3

    for task in Task.objects.all():
        ids = task.responses.order_by("-text").values_list("pk", flat=True)
        for reviewer in reviewers:
            record(
                task=task, reviewer=reviewer, source="import", content=Content([[pk] for pk in ids])
            )

    chosen = SnapshotFilter(test_fraction=0.4)
    snapshot = freeze(project=project, filter=chosen, by=trainer)
    assert snapshot.counts["used"] == 32
    assert snapshot.counts["splits"]["test"]["prompts"] > 2

    from_snapshot = {**here, "snapshot": snapshot.pk}
    rewarded = run("reward", {**SMALL, "base_model": base.base}, from_snapshot, trainer)
    settings = {**SMALL, **SAMPLES, "evaluations": 0}
    tuned = run("dpo", settings, {**from_snapshot, "model": base.pk}, trainer).model
    assert tuned.parent == base and tuned.snapshot == snapshot

    held_out = snapshot.counts["splits"]["test"]["prompts"]
    inputs = {**from_snapshot, "candidate": tuned.pk, "baseline": base.pk}
    judge = f"reward_model:{rewarded.reward_model.pk}"
    run("evaluate", SHORT, {**inputs, "judge": judge, "comparisons": True}, trainer)
    evaluation = Evaluation.objects.get()
    assert evaluation.report["win_rate"]["answers"] == held_out == evaluation.items.count()
    assert evaluation.reward_model == RewardModel.objects.get()
    told_apart = evaluation.items.exclude(task=None)
    assert told_apart.count() == evaluation.report["comparisons"]
    assert all(item.task.kind == Task.Kind.COMPARISON for item in told_apart)

    tuned.promote(by=trainer, reason="This is a test of the loop.")
    assert default_model(project) == tuned

    # and back: adapter → run → snapshot → rankings → reviewers and guideline versions
    promoted = Model.objects.get(project=project, state="promoted")
    assert promoted.run.kind == "dpo" and promoted.run.inputs["snapshot"] == snapshot.pk
    walked = Ranking.objects.filter(pk__in=ranking_ids(promoted.snapshot))
    assert Counter(r.reviewer for r in walked) == dict.fromkeys(reviewers, 16)
    responses = Response.objects.filter(places__task__in=walked.values("task"))
    assert {response.sampling["run"] for response in responses} == {sampled.pk}
    assert AuditEntry.objects.filter(action="promoted", user=trainer).count() == 1
