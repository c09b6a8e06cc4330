"""Tests of the list of runs: filters, sorting, metrics, tags, notes and the archive."""

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction

from accounts.models import AuditEntry, Role, User
from runs import lifecycle
from runs.catalog import notes
from runs.catalog.metrics import Metric, metrics_of
from runs.models import Run, State
from tests.reward.factory import join, make_project
from tests.runs.test_lifecycle import in_state

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("runs_dir")]

ESTIMATE = {"value": 0.7, "interval": [0.6, 0.8]}


@pytest.fixture
def trainer(client):
    user = User.objects.create_user("trainer", role=Role.TRAINER, all_projects=True)
    client.force_login(user)
    return client


def listed(client, query: str = "") -> list[str]:
    """Return the titles of the runs in the list, in its order."""
    return [run.title for run in client.get(f"/runs/{query}").context["page"]]


def result(title: str, **values) -> Run:
    return in_state(State.SUCCEEDED, title=title, result=values)


# --- metrics --------------------------------------------------------------------------------------


def test_metrics_are_numbers_and_estimates_but_not_ids():
    values = {"accuracy": ESTIMATE, "loss": 0.5, "model": 7, "text": "x", "flag": True}
    unknown = {"value": None, "interval": None, "reason": "Too few."}
    assert metrics_of({**values, "win_rate": unknown, "odd": {"value": "x"}}) == {
        "accuracy": Metric(0.7, (0.6, 0.8)),
        "loss": Metric(0.5),
    }


def test_the_list_is_sorted_by_a_metric_with_missing_values_last(trainer):
    result("middle", accuracy=ESTIMATE)
    result("best", accuracy=0.9)
    result("without", loss=0.1)
    result("worst", accuracy={"value": 0.5})
    result("unknown", accuracy={"value": None})
    ranked = listed(trainer, "?metric=accuracy&sort=-metric")
    assert ranked[:3] == ["best", "middle", "worst"] and set(ranked[3:]) == {"without", "unknown"}
    assert listed(trainer, "?metric=accuracy&sort=metric")[:3] == ["worst", "middle", "best"]


def test_the_list_is_filtered_by_the_limits_of_a_metric(trainer):
    for title, value in (("low", 0.5), ("middle", 0.7), ("high", 0.9)):
        result(title, accuracy={"value": value, "interval": [0, 1]})
    assert listed(trainer, "?metric=accuracy&least=70%25") == ["high", "middle"]
    assert listed(trainer, "?metric=accuracy&most=0.6") == ["low"]
    assert listed(trainer, "?least=70%25") == ["high", "middle", "low"]  # no metric chosen


@pytest.mark.parametrize("text", ["much", "nan", "inf", "1e999", "%"])
def test_a_limit_that_is_not_a_number_is_reported_next_to_its_field(trainer, text):
    result("one", accuracy=0.5)
    answer = trainer.get("/runs/", {"metric": "accuracy", "least": text})
    assert answer.status_code == 200
    assert "Enter a number, such as 0.7 or 70%." in answer.text


def test_a_metric_has_a_column_in_the_list(trainer):
    result("one", accuracy=0.123456)
    answer = trainer.get("/runs/?metric=accuracy")
    assert "0.1235" in answer.text and "0.1235" not in trainer.get("/runs/").text


@pytest.mark.parametrize("query", ["?sort=nonsense", "?sort=-metric", "?metric=gone", "?model=x"])
def test_an_unknown_order_or_filter_is_ignored(trainer, query):
    result("old")
    result("new")
    assert listed(trainer, query) == ["new", "old"]


# --- references -----------------------------------------------------------------------------------


def test_the_list_is_filtered_by_the_rows_that_a_run_read_or_created(trainer):
    in_state(State.FAILED, title="read", inputs={"model": 7})
    in_state(State.FAILED, title="compared", inputs={"candidate": 3, "baseline": 7})
    result("created", model=7)
    in_state(State.FAILED, title="other", inputs={"model": 8, "snapshot": 7})
    assert set(listed(trainer, "?model=7")) == {"read", "compared", "created"}
    assert listed(trainer, "?snapshot=7") == ["other"]


# --- tags and notes -------------------------------------------------------------------------------


def test_tags_are_trimmed_and_each_is_stored_once():
    assert notes.parse_tags(" baseline, long  run ,Baseline,, ") == ["baseline", "long run"]


@pytest.mark.parametrize("text", ["x" * 41, ",".join(map(str, range(21)))])
def test_a_long_tag_and_too_many_tags_are_refused(text):
    with pytest.raises(ValidationError):
        notes.parse_tags(text)


def test_a_trainer_tags_a_run_and_filters_the_list_by_the_tag(trainer):
    run, _ = result("mine"), result("other")
    answer = trainer.post(f"/runs/{run.pk}/notes", {"tags": "keep, <b>", "notes": "Better data."})
    assert answer.status_code == 302
    assert listed(trainer, "?tag=keep") == listed(trainer, "?q=keep") == ["mine"]
    page = trainer.get(f"/runs/{run.pk}/").text
    assert "Better data." in page and "&lt;b&gt;" in page and "<b>" not in page
    assert AuditEntry.objects.get(action="run notes changed").details["tags"] == ["keep", "<b>"]


def test_invalid_tags_keep_what_was_typed(trainer):
    run = result("mine")
    answer = trainer.post(f"/runs/{run.pk}/notes", {"tags": "x" * 50, "notes": "Typed."})
    assert answer.status_code == 422
    assert "Typed." in answer.text and "The maximum is 40." in answer.text
    run.refresh_from_db()
    assert (run.tags, run.notes) == ([], "")


def test_a_lead_cannot_change_notes_or_archive(client):
    lead, project = User.objects.create_user("lead", role=Role.LEAD), make_project()
    join(project, lead, "lead")
    run = in_state(State.FAILED, project=project)
    client.force_login(lead)
    assert client.post(f"/runs/{run.pk}/notes", {"tags": "a", "notes": ""}).status_code == 403
    assert client.post(f"/runs/{run.pk}/archive").status_code == 403
    run.refresh_from_db()
    assert run.tags == [] and run.archived_at is None


# --- archive --------------------------------------------------------------------------------------


def test_an_archived_run_is_left_out_of_the_list_until_it_is_restored(trainer):
    run, _ = result("mine"), result("other")
    trainer.post(f"/runs/{run.pk}/archive")
    assert listed(trainer) == ["other"]
    assert listed(trainer, "?show=archived") == ["mine"]
    assert listed(trainer, "?show=all") == ["other", "mine"]
    trainer.post(f"/runs/{run.pk}/archive", {"restore": "1"})
    assert listed(trainer) == ["other", "mine"]


@pytest.mark.parametrize("state", [State.QUEUED, State.RUNNING])
def test_a_run_that_has_not_ended_is_not_archived(trainer, state):
    run = in_state(state)
    answer = trainer.post(f"/runs/{run.pk}/archive", follow=True)
    assert "has not ended" in answer.text
    run.refresh_from_db()
    assert run.archived_at is None
    with pytest.raises(IntegrityError), transaction.atomic():
        Run.objects.filter(pk=run.pk).update(archived_at=run.created_at)


def test_continuing_an_archived_run_restores_it():
    run = in_state(State.FAILED)
    assert notes.archive(run, by=None) and not notes.archive(run, by=None)
    assert lifecycle.restart(run, None)
    run.refresh_from_db()
    assert (run.state, run.archived_at) == (State.QUEUED, None)
