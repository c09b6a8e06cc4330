"""Tests that runs are logged to a tracking server, and do not wait for it."""

import json

import pytest

from runs import execution
from runs.models import State
from tests.recipes.tracking.server import tracking_server
from tests.worker import wait_until

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("runs_dir")]


def test_a_run_is_logged_while_its_recipe_sees_no_key(settings, monkeypatch, begin, runs_dir):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "secret")
    with tracking_server() as server:
        settings.MLFLOW_TRACKING_URI = server.url
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
        run = execution.run_now(begin(send=False).pk)
        assert run.state == State.SUCCEEDED
        wait_until(lambda: [r["status"] for r in server.runs.values()] == ["FINISHED"])
    [logged] = server.runs.values()
    assert {metric["key"] for metric in logged["metrics"]} >= {"loss"}
    assert {tag["key"]: tag["value"] for tag in logged["tags"]}["tiebreak.run"] == str(run.pk)
    assert "secret" not in json.dumps([event.data for event in run.events.all()])


def test_a_run_does_not_wait_for_a_server_that_does_not_answer(settings, monkeypatch, begin):
    settings.MLFLOW_TRACKING_URI = "http://127.0.0.1:1"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    assert execution.run_now(begin(send=False).pk).state == State.SUCCEEDED
