"""Tests of scoring a project: the recipe's input, and storing its output."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from accounts.models import Role
from labeling.models import Response
from reward.models import ResponseScore, RewardModel
from reward.scoring import scores
from reward.training.score_project import SCORES
from runs.kinds import CannotRun
from runs.models import Run
from tests.finetune.factory import laid_out, make_reward_model, make_run, make_snapshot
from tests.reward.factory import make_project, make_prompt, make_task, make_user

pytestmark = pytest.mark.django_db


@pytest.fixture
def model():
    return make_reward_model(make_snapshot(make_project(), prompts=2))


def make_score_run(model, **inputs):
    return make_run(
        "score", inputs={"reward_model": model.pk, **inputs}, config={"reward_model": model.path}
    )


def to_score(run_dir):
    return pq.read_table(run_dir.data / "responses.parquet").to_pylist()


def publish_scores(run_dir, rows):
    report = {"responses": len(rows), "scored": len(rows), "unread": 0}
    with run_dir.publish() as output:
        (output / "report.json").write_text(json.dumps(report))
        pq.write_table(pa.Table.from_pylist(rows, schema=SCORES), output / "scores.parquet")


def said(response_id, score=1.0, features=(1.0, 2.0)):
    return {
        "response_id": response_id,
        "score": score,
        "uncertainty": 0.1,
        "features": np.array(features, "<f4").tobytes(),
    }


def test_each_prompt_is_one_row_with_all_its_responses(model):
    run = make_score_run(model)
    run_dir = laid_out(run)
    make_task(make_prompt(make_project()))
    assert scores.prepare(run, run_dir) == {"responses_to_score": 6}
    rows = to_score(run_dir)
    assert len(rows) == 2
    responses = Response.objects.filter(prompt__project=model.project)
    assert sorted(pk for row in rows for pk in row["response_ids"]) == sorted(
        responses.values_list("pk", flat=True)
    )
    assert rows[0]["responses"] == ["good", "fair", "poor"]
    assert rows[0]["prompt"] == responses.get(pk=rows[0]["response_ids"][0]).prompt.messages


def test_a_second_run_scores_only_new_responses(model):
    run = make_score_run(model)
    run_dir = laid_out(run)
    scores.prepare(run, run_dir)
    publish_scores(run_dir, [said(pk) for row in to_score(run_dir) for pk in row["response_ids"]])
    assert scores.finish(run, run_dir)["stored"] == 6
    with pytest.raises(CannotRun, match="has already scored every response"):
        scores.from_inputs(run.inputs)
    new = make_task(make_prompt(model.project), ("one", "two"))
    assert scores.from_inputs(run.inputs) == {"reward_model": model.path}
    second = make_score_run(model)
    scores.prepare(second, laid_out(second))
    [row] = to_score(laid_out(second))
    assert row["response_ids"] == list(new.responses.order_by("pk").values_list("pk", flat=True))
    other = make_reward_model(model.snapshot)
    assert scores.unscored(other).count() == 8


def test_unreadable_responses_are_not_retried(model):
    pk = scores.unscored(model).values_list("pk", flat=True)[0]
    run = make_score_run(model)
    nothing = {"response_id": pk, "score": None, "uncertainty": None, "features": None}
    publish_scores(laid_out(run), [nothing])
    scores.finish(run, laid_out(run))
    assert ResponseScore.objects.get().score is None
    assert not scores.unscored(model).filter(pk=pk).exists()


def test_finishing_twice_stores_scores_once_and_ignores_other_projects(model):
    run = make_score_run(model)
    stranger = make_task(make_prompt(make_project())).responses.first()
    ours = scores.unscored(model).first()
    publish_scores(laid_out(run), [said(ours.pk, 2.5), said(stranger.pk), said(10**9)])
    assert scores.finish(run, laid_out(run))["stored"] == 1
    assert scores.finish(run, laid_out(run))["stored"] == 0
    row = ResponseScore.objects.get()
    assert (row.response_id, row.score, row.uncertainty) == (ours.pk, 2.5, 0.1)
    assert np.frombuffer(bytes(row.features), "<f4").tolist() == [1.0, 2.0]


def test_a_missing_file_is_reported(model):
    run = make_score_run(model)
    publish_scores(laid_out(run), [])
    (laid_out(run).output / "scores.parquet").unlink()
    with pytest.raises(CannotRun, match="cannot be read"):
        scores.finish(run, laid_out(run))


def test_archived_projects_and_missing_models_are_refused(model):
    with pytest.raises(CannotRun, match="There is no reward model 999999"):
        scores.from_inputs({"reward_model": 999999})
    model.project.archived_at = timezone.now()
    model.project.save(update_fields=["archived_at"])
    with pytest.raises(CannotRun, match="is archived"):
        scores.from_inputs({"reward_model": model.pk})


# --- start -------------------------------------------------------------------------------------


def test_the_form_starts_a_run_for_the_chosen_model(model):
    client = Client()
    client.force_login(make_user(Role.TRAINER))
    address = reverse("run-launch", args=["score"])
    page = client.get(address, {"reward_model": model.pk, "order": "on"}).content.decode()
    assert str(model) in page and "Order the queue" in page and "checked" in page
    request_id = page.split('name="request_id" value="')[1].split('"')[0]
    form = {
        "reward_model": model.pk, "order": "on", "random_share": "0.3",
        "config-batch_tokens": 4096, "config-keep_features": "on", "request_id": request_id,
    }  # fmt: skip
    answer = client.post(address, form)
    assert answer.status_code == 302
    run = Run.objects.get(kind="score")
    assert run.inputs == {"reward_model": model.pk, "order": True, "random_share": 0.3}
    assert run.config == {
        "reward_model": model.path, "batch_tokens": 4096, "keep_features": True,
    }  # fmt: skip


@pytest.mark.parametrize("role", [Role.REVIEWER, Role.LEAD])
def test_only_trainers_can_start_scoring(model, role):
    client = Client()
    client.force_login(make_user(role))
    assert client.post(reverse("run-launch", args=["score"])).status_code == 403
    assert not Run.objects.filter(kind="score").exists()


def test_the_command_takes_the_promoted_model_of_a_project(model, capsys):
    RewardModel.objects.filter(pk=model.pk).update(state="promoted")
    make_reward_model(model.snapshot)
    options = {"project": model.project.slug, "dry_run": True, "order": True, "random_share": 0.1}
    call_command("score_responses", **options)
    output = json.loads(capsys.readouterr().out)
    assert output["inputs"] == {"reward_model": model.pk, "order": True, "random_share": 0.1}
    assert not Run.objects.filter(kind="score").exists()
    with pytest.raises(CommandError, match="has no reward model"):
        call_command("score_responses", project=make_project().slug)


def test_the_command_queues_a_run_of_the_model_named(model):
    call_command("score_responses", model=model.pk, no_wait=True, assignments=["batch_tokens=128"])
    run = Run.objects.get(kind="score")
    assert run.config["batch_tokens"] == 128 and run.inputs["order"] is False
