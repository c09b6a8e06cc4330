"""LLM judges in evaluations, the measurement of their agreement, and their part in a promotion."""

import json

import pytest
from django.core.management import CommandError, call_command
from django.urls import reverse

from finetune.engines import served
from finetune.evaluation import agreement, judges, llm_judge, runs
from finetune.evaluation.agreement import orders_of, reference_pairs
from finetune.forms.evaluation import judge_choices
from finetune.models import Evaluation, JudgeAgreement, Model
from finetune.registry import add_served
from finetune.removal.deletion import delete
from labeling.models import Adjudication, Project, Task
from runs import services
from runs.kinds import CannotRun
from tests.finetune.engines.openai_server import openai_server
from tests.finetune.evaluation.test_training_llm_judge import shorter
from tests.finetune.factory import (
    laid_out,
    make_adapter,
    make_base,
    make_evaluation,
    make_run,
    make_snapshot,
    publish_answers,
)
from tests.reward.factory import (
    make_project,
    make_prompt,
    make_task,
    make_user,
    make_version,
    rank,
    response_ids,
)
from tests.worker import celery_worker, runs_dir, wait_for_end

__all__ = ["celery_worker", "runs_dir"]

pytestmark = pytest.mark.django_db


@pytest.fixture
def declare(settings, tmp_path):
    settings.ENDPOINTS = tmp_path / "endpoints.toml"

    def write(url="https://api.example.com/v1"):
        settings.ENDPOINTS.write_text(f'[hosted]\nurl = "{url}"\n')

    write()
    return write


def publish(project):
    """Give the project a published guideline version."""
    version = make_version(project)
    version.text = "Prefer the shorter answer."
    version.save()
    from labeling.guidelines.versions import publish

    publish(version=version, by=make_user("lead", is_superuser=True))
    project.refresh_from_db()
    return version


@pytest.fixture
def project(db, declare):
    project = make_project()
    publish(project)
    return project


@pytest.fixture
def judge(project):
    return add_served(project=project, endpoint="hosted", model="judge-1", by=None)[0]


@pytest.fixture
def candidate(project):
    return make_adapter(make_base(project), make_snapshot(project, prompts=30, test_fraction=0.5))


def measured(judge, interval=(0.6, 0.8), **report):
    run = make_run("measure_judge", inputs={"project": judge.project_id, "model": judge.pk})
    figures = {"value": 0.7, "interval": list(interval), "pairs": 40, "prompts": 40}
    by_prompt = {str(n): [int(n % 10 < 7), int(n % 10 >= 7), 0] for n in range(100)}
    return JudgeAgreement.objects.create(
        project=judge.project, judge=judge, run=run,
        guideline_version=judge.project.current_version, instructions="x",
        report={"agreement": figures, "by_prompt": by_prompt, **report},
    )  # fmt: skip


# --- pairs with a known order ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rankings", "orders"),
    [
        ([[[1], [2]]], [(1, 2)]),
        ([[[1, 2]]], []),
        ([[[1], [2]], [[1], [2]]], [(1, 2)]),
        ([[[1], [2]], [[2], [1]]], []),
        ([[[1], [2]], [[2], [1]], [[1], [2]]], [(1, 2)]),
        ([[[1], [2]], [[1, 2]], [[1, 2]]], []),
        ([[[1], [2]], [[3]]], []),
        ([[[3], [1], [2]], [[3], [2], [1]]], [(3, 1), (3, 2)]),
    ],
)
def test_the_majority_of_the_rankings_decides_a_pair(rankings, orders):
    assert sorted(orders_of(rankings)) == orders


def test_decisions_come_first_and_majorities_fill_up(project):
    one, other, alone = (make_task(make_prompt(project)) for _ in range(3))
    first, second = make_user(), make_user()
    for reviewer in (first, second):
        rank(one, reviewer)
        rank(other, reviewer)
    rank(alone, first)
    ids = response_ids(one)
    Adjudication.objects.create(
        task=one, tiers=[[ids[2]], [ids[0], ids[1]]], cause="close", by=make_user("lead")
    )
    pairs = reference_pairs(project, 100, seed=1)
    assert [pair["source"] for pair in pairs] == ["decision"] * 2 + ["majority"] * 3
    assert {(pair["better"], pair["worse"]) for pair in pairs[:2]} == {
        ("poor", "good"), ("poor", "fair"),
    }  # fmt: skip
    assert {(pair["better"], pair["worse"]) for pair in pairs[2:]} == {
        ("good", "fair"), ("good", "poor"), ("fair", "poor"),
    }  # fmt: skip
    assert {pair["prompt_id"] for pair in pairs[2:]} == {str(other.prompt_id)}
    assert len(reference_pairs(project, 3, seed=1)) == 3


def test_rankings_by_programs_and_withdrawn_prompts_are_not_a_reference(project):
    from django.utils import timezone

    programs = [make_user(simulated=True) for _ in range(2)]
    people = [make_user() for _ in range(2)]
    simulated, withdrawn = make_task(make_prompt(project)), make_task(make_prompt(project))
    for reviewer in programs:
        rank(simulated, reviewer, source="simulation")
    for reviewer in people:
        rank(withdrawn, reviewer)
    withdrawn.prompt.withdrawn_at = timezone.now()
    withdrawn.prompt.save()
    assert reference_pairs(project, 100, seed=0) == []
    Project.objects.filter(pk=project.pk).update(simulated=True)
    assert len(reference_pairs(Project.objects.get(pk=project.pk), 100, seed=0)) == 3


def test_without_enough_pairs_or_a_guideline_nothing_is_measured(project, judge, declare):
    run = make_run(
        "measure_judge", inputs={"project": project.pk, "model": judge.pk}, config={"seed": 0}
    )
    with pytest.raises(CannotRun, match="too few pairs"):
        agreement.prepare(run, laid_out(run))
    bare = add_served(project=make_project(), endpoint="hosted", model="judge-1", by=None)[0]
    with pytest.raises(CannotRun, match="no published guideline"):
        agreement.from_inputs({"project": bare.project_id, "model": bare.pk})


def test_a_worker_measures_the_agreement_of_a_judge(
    celery_worker, runs_dir, transactional_db, declare
):
    project = make_project()
    publish(project)
    reviewers = [make_user() for _ in range(2)]
    for number in range(8):
        order = ((0,), (1,)) if number < 6 else ((1,), (0,))
        task = make_task(make_prompt(project), ("short", "a longer one"))
        for reviewer in reviewers:
            rank(task, reviewer, order)
    with openai_server() as server:
        server.replies = shorter
        declare(server.url)
        judge = add_served(project=project, endpoint="hosted", model="judge-1", by=None)[0]
        inputs = {"project": project.pk, "model": judge.pk, "limit": 100}
        run = services.start("measure_judge", {}, None, inputs=inputs)
        celery_worker()
        wait_for_end(run, 60)
    assert run.state == "succeeded", run.error
    assert len(server.requests) == 16
    assert "Prefer the shorter answer." in server.bodies[0]["messages"][0]["content"]
    row = JudgeAgreement.objects.get()
    figures = row.report["agreement"]
    assert (figures["agree"], figures["disagree"], figures["value"]) == (6, 2, 0.75)
    assert row.guideline_version == project.current_version
    assert "agrees with the reviewers on 75.0% of 8 pairs (95% interval" in row.note
    assert "by_prompt" not in run.result and run.result["sources"] == {"majority": 8}
    assert row.note in dict(judge_choices(project))[f"llm:{judge.pk}"]


# --- evaluations ----------------------------------------------------------------------------------


def inputs_of(candidate, judge, **changes):
    return {
        "project": candidate.project_id, "candidate": candidate.pk,
        "baseline": candidate.parent_id, "snapshot": candidate.snapshot_id,
        "judge": f"llm:{judge.pk}", **changes,
    }  # fmt: skip


def test_an_llm_judge_is_offered_with_its_agreement(project, judge, client, admin, candidate):
    name = f"llm:{judge.pk}"
    title = "LLM judge judge-1 (hosted)"
    assert dict(judge_choices(project))[name] == (
        f"{title}: agreement with the reviewers not measured"
    )
    row = measured(judge)
    assert dict(judge_choices(project))[name] == f"{title}: {row.note}"
    client.force_login(admin)
    page = client.get(reverse("run-launch", args=["evaluate"]) + f"?candidate={candidate.pk}")
    assert row.note in page.content.decode()
    assert not dict(judge_choices(make_project())).get(name)
    with pytest.raises(CommandError, match=r"agrees with the reviewers on 70\.0% of 40 pairs"):
        call_command("evaluate", str(candidate.pk), "--judge", "help")


def test_the_run_gets_the_guideline_and_the_endpoint(candidate, judge):
    settings = runs.from_inputs(inputs_of(candidate, judge))
    assert (settings["judge_endpoint"], settings["judge_model"]) == ("hosted", "judge-1")
    run = make_run("evaluate", inputs=inputs_of(candidate, judge), config={"seed": 0})
    run_dir = laid_out(run)
    facts = runs.prepare(run, run_dir)
    version = judge.project.current_version
    assert facts["judge_guideline_version"] == version.number
    assert facts["judge_instructions"] == llm_judge.instructions_hash()
    written = llm_judge.read_instructions(run_dir.data / "judge.json")
    assert "Prefer the shorter answer." in written.guideline and len(written.secret) == 32
    assert served.variables(run, run_dir) == {}
    assert Evaluation.objects.get(run=run).judge == f"llm:{judge.pk}"


def test_a_judge_of_another_project_or_without_a_guideline_is_refused(candidate, declare):
    other = add_served(project=make_project(), endpoint="hosted", model="judge-1", by=None)[0]
    with pytest.raises(CannotRun, match="belongs to another project"):
        runs.from_inputs(inputs_of(candidate, other))
    own = make_base(candidate.project)
    with pytest.raises(CannotRun, match="No judge is called"):
        runs.from_inputs(inputs_of(candidate, own))


def finished(candidate, judge, verdicts, **changes):
    """Return the evaluation of a run whose judge gave these verdicts; None for an unreadable reply."""
    run = make_run("evaluate", inputs=inputs_of(candidate, judge, **changes), config={"seed": 0})
    run_dir = laid_out(run)
    facts = runs.prepare(run, run_dir)
    spec = run_dir.spec()
    (run_dir.path / "run.json").write_text(
        json.dumps({**spec, "inputs": {**spec["inputs"], **facts}})
    )
    rows = [
        {
            "of": make_prompt(candidate.project),
            "baseline": f"b{n}",
            "candidate": f"c{n}",
            "judge_verdict": verdict,
        }
        for n, verdict in enumerate(verdicts)
    ]
    publish_answers(run_dir, rows)
    path = run_dir.output / "report.json"
    missing = verdicts.count(None)
    usage = {"requests": 2 * len(verdicts), "prompt_tokens": 9, "response_tokens": 8, "cost": 0.5,
             "currency": "USD", "requests_without_token_counts": 0}  # fmt: skip
    figures = {
        "pairs": len(verdicts), "without_verdict": missing, "unreadable_replies": missing,
        "missing_replies": [], "orders_differ": 1, "first_preferred": 0.5, "usage": usage,
    }  # fmt: skip
    path.write_text(json.dumps({**json.loads(path.read_text()), "judge": figures}))
    return Evaluation.objects.get(pk=runs.finish(run, run_dir)["evaluation"])


def test_verdicts_in_both_orders_become_items_and_missing_ones_are_counted(candidate, judge):
    evaluation = finished(candidate, judge, [1.0, 0.5, 0.0, None], comparisons=True)
    items = list(evaluation.items.values_list("verdict", flat=True))
    assert items == [1.0, 0.5, 0.0, None]
    assert evaluation.report["unscored"] == 1
    assert evaluation.report["win_rate"]["answers"] == 3
    assert len(evaluation.judged().units) == 3
    assert Task.objects.filter(kind=Task.Kind.COMPARISON).count() == 4  # people judge all of them


def test_the_page_shows_the_judge_its_agreement_and_its_cost(client, admin, candidate, judge):
    client.force_login(admin)
    evaluation = finished(candidate, judge, [1.0, 0.5, 0.0, None])
    url = reverse("evaluation", args=[evaluation.pk])
    page = " ".join(client.get(url).content.decode().split())
    assert "Its agreement with the reviewers was not measured" in page
    assert "No verdict on 1 of 4 pairs: 1 reply was unreadable." in page
    assert "The two verdicts differ on 1, which count as ties" in page
    assert "8 requests, 9 tokens of prompts and 8 of replies, 0.5 USD." in page
    assert "No verdict 1" in page
    assert client.get(url + "?verdict=none").content.decode().count('<article class="card') == 1
    row = measured(judge)
    assert row.note in client.get(url).content.decode()
    assert row.note in client.get(reverse("model", args=[candidate.pk])).content.decode()


def test_a_measured_judge_gives_a_calibrated_win_rate(client, admin, candidate, judge):
    measured(judge)
    evaluation = finished(candidate, judge, [1.0] * 12 + [0.0] * 8)
    assert evaluation.report["agreement"]["value"] == 0.7
    estimate = evaluation.report["calibrated"]
    assert estimate["value"] == pytest.approx(0.5 + 0.1 / 0.4)
    client.force_login(admin)
    page = client.get(reverse("evaluation", args=[evaluation.pk])).content.decode()
    assert "Calibrated win rate" in page and "75.0%" in page


def test_a_judge_that_reads_nothing_makes_no_attempt(candidate, judge):
    with pytest.raises(CannotRun, match="None of the answers can be judged"):
        finished(candidate, judge, [None, None])
    assert Evaluation.objects.get().attempt is None


# --- promotion ------------------------------------------------------------------------------------


def doubts_of(candidate, judge, **fields):
    report = {"llm_judge": {"pairs": 40, "without_verdict": 0}, **fields}
    evaluation = make_evaluation(candidate, verdicts=[1.0] * 40, judge=f"llm:{judge.pk}")
    Evaluation.objects.filter(pk=evaluation.pk).update(report={**evaluation.report, **report})
    return candidate.doubts()


def let_judges_decide(project):
    Project.objects.filter(pk=project.pk).update(promotion_policy="judge")


def test_an_llm_judge_alone_never_promotes_where_people_decide(candidate, judge):
    measured(judge)
    (doubt,) = doubts_of(candidate, judge)
    assert "needs people's verdicts" in doubt


def test_a_measured_judge_can_promote_where_the_judge_decides(candidate, judge):
    let_judges_decide(candidate.project)
    measured(judge)
    assert doubts_of(Model.objects.get(pk=candidate.pk), judge) == []


def test_an_unmeasured_a_guessing_and_a_silent_judge_do_not_count(candidate, judge):
    let_judges_decide(candidate.project)
    candidate = Model.objects.get(pk=candidate.pk)
    (doubt,) = doubts_of(candidate, judge)
    assert "was not measured, so its verdicts do not count" in doubt
    measured(judge, interval=(0.45, 0.8))
    assert "not proven to be above chance" in candidate.doubts()[0]
    measured(judge)
    assert candidate.doubts() == []
    silent = {"pairs": 43, "without_verdict": 3}
    Evaluation.objects.update(report={**Evaluation.objects.get().report, "llm_judge": silent})
    assert "gave no verdict on 3 of 43 pairs" in candidate.doubts()[0]


# --- elsewhere ------------------------------------------------------------------------------------


def test_a_judge_name_that_no_longer_exists_is_shown_as_it_is(db):
    assert judges.title_of("llm:999999") == judges.label_of("llm:999999") == "llm:999999"
    for name in ("llm:", "llm:x", "llm:-1"):
        assert judges.existing(name) is None
    with pytest.raises(ValueError, match="already taken"):
        judges.register("llm:x", "x", lambda messages, text: 0.0)


def test_a_project_is_deleted_with_its_measurements(judge):
    from django.utils import timezone

    measured(judge)
    Project.objects.filter(pk=judge.project_id).update(archived_at=timezone.now())
    delete(project=judge.project, by=None)
    assert not JudgeAgreement.objects.exists()


def test_the_command_starts_a_measurement(judge, capsys):
    make_prompt(judge.project)
    call_command("measure_judge", str(judge.pk), "--limit", "50", "--dry-run")
    printed = json.loads(capsys.readouterr().out)
    assert printed["inputs"]["limit"] == 50 and printed["config"]["model"] == "judge-1"
    with pytest.raises(CommandError, match="from 2 to 10,000"):
        call_command("measure_judge", str(judge.pk), "--limit", "1", "--dry-run")


def test_a_certificate_recomputes_a_control_variate_without_a_verdict(candidate, judge):
    from finetune.certificate import contents, recomputing

    evaluation = finished(
        candidate, judge, [1.0, 0.5, 0.0, None] * 4, comparisons=True, control=True
    )
    written = contents._evaluation(evaluation, counts=True)
    assert None in {row["verdict"] for row in written["judge"]["verdicts"]}
    excess = evaluation.excess_by_prompt
    rows = [(prompt, 0.5) for prompt in excess]
    assert list(recomputing.excess_of(written, rows)) == pytest.approx(list(excess.values()))
    assert recomputing.recomputed(written, "judge", simulated=False)["path"]


def test_a_model_on_an_endpoint_can_be_the_baseline(candidate, judge, client, admin):
    make_base(candidate.project)
    inputs = inputs_of(candidate, judge, baseline=judge.pk)
    settings = runs.from_inputs(inputs)
    assert (settings["baseline_endpoint"], settings["baseline_name"]) == ("hosted", "judge-1")
    assert settings["baseline_model"] is None and settings["baseline_adapter"] is None
    run = make_run("evaluate", inputs=inputs, config={"seed": 0})
    run_dir = laid_out(run)
    runs.prepare(run, run_dir)
    assert json.loads((run_dir.data / "endpoint-baseline.json").read_text())["name"] == "hosted"
    client.force_login(admin)
    page = client.get(reverse("run-launch", args=["evaluate"]) + f"?candidate={candidate.pk}")
    assert page.content.decode().count(f'<option value="{judge.pk}"') == 1
