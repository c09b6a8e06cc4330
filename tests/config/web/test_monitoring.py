"""Tests of the readiness check, the metrics and the log lines."""

import json
import logging
import os
import subprocess
import sys
from datetime import timedelta
from urllib.parse import urlsplit

import pytest
from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.db import connection
from django.utils import timezone

from config import doctor
from config.env import VARIABLES
from config.web import readiness
from database import clock
from formatting.log_lines import JsonFormatter, TextFormatter, log_ids
from labeling.models import Project
from runs.models import Run, State
from tests.labeling.world import make_member, make_project, make_task

pytestmark = pytest.mark.django_db
TOKEN = {"authorization": "Bearer scrape-me"}


@pytest.fixture(autouse=True)
def token(settings, tmp_path):
    settings.METRICS_TOKEN = "scrape-me"
    settings.VAR_DIR = tmp_path
    (tmp_path / "metrics").mkdir()


def values_of(client) -> dict[str, float]:
    """Return the value of each sample by its name and labels."""
    answer = client.get("/metrics/", headers=TOKEN)
    assert answer.status_code == 200
    lines = [line for line in answer.content.decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


@pytest.mark.parametrize(
    "headers",
    [{}, {"authorization": "Bearer wrong"}, {"authorization": "scrape-me"}, {"authorization": "é"}],
)
def test_metrics_do_not_exist_without_the_token(client, headers):
    assert client.get("/metrics/", headers=headers).status_code == 404


def test_metrics_do_not_exist_if_no_token_is_set(client, settings):
    settings.METRICS_TOKEN = ""
    for headers in ({}, {"authorization": "Bearer "}, TOKEN):
        assert client.get("/metrics/", headers=headers).status_code == 404


def test_slots_are_counted_by_project_and_state(client):
    project = make_project(rankings_per_task=2)
    make_task(project)
    task = make_task(project)
    reviewer = make_member(project)
    slot = task.slots.first()
    slot.reviewer, slot.leased_until = reviewer, clock.now() + timedelta(hours=1)
    slot.save()
    values = values_of(client)
    assert values[f'tiebreak_tasks{{project="{project.slug}"}}'] == 2
    assert values[f'tiebreak_slots{{project="{project.slug}",state="free"}}'] == 3
    assert values[f'tiebreak_slots{{project="{project.slug}",state="leased"}}'] == 1
    assert values["tiebreak_expired_leases"] == 0
    task.slots.filter(pk=slot.pk).update(leased_until=clock.now() - timedelta(seconds=1))
    assert values_of(client)["tiebreak_expired_leases"] == 1


def test_runs_are_counted_by_kind_and_state_with_their_ages(client):
    now = timezone.now()
    Run.objects.create(kind="dpo")
    Run.objects.update(created_at=now - timedelta(minutes=10))
    Run.objects.create(
        kind="reward", state=State.RUNNING, started_at=now - timedelta(minutes=5),
        lease_expires_at=now,
    )  # fmt: skip
    Run.objects.create(
        kind="reward", state=State.FAILED, started_at=now - timedelta(hours=3),
        finished_at=now - timedelta(hours=1),
    )  # fmt: skip
    values = values_of(client)
    assert values['tiebreak_runs{kind="dpo",state="queued"}'] == 1
    assert values['tiebreak_runs{kind="reward",state="failed"}'] == 1
    assert 600 <= values['tiebreak_oldest_run_seconds{state="queued"}'] < 700
    assert 300 <= values['tiebreak_oldest_run_seconds{state="running"}'] < 400
    assert 7500 <= values['tiebreak_run_seconds_total{kind="reward"}'] < 7600
    assert 'tiebreak_run_seconds_total{kind="dpo"}' not in values


def test_hostile_project_names_cannot_add_metrics(client):
    project = make_project()
    Project.objects.filter(pk=project.pk).update(slug='a"} 1\nevil 1\n#')
    assert "evil" not in values_of(client)


DURATIONS = """
import django
django.setup()
from django.test import Client
client = Client(SERVER_NAME="localhost")
for path in ("/api/v1/nothing", "/api/v1/openapi.json", "/i18n.js"):
    client.get(path)
print(client.get("/metrics/", headers={"authorization": "Bearer scrape-me"}).content.decode())
"""


def test_durations_of_api_requests_are_added_up_over_processes(tmp_path):
    server = urlsplit(os.environ["DATABASE_URL"])
    environment = {
        **os.environ, "TIEBREAK_METRICS_TOKEN": "scrape-me", "DJANGO_SETTINGS_MODULE": "config.settings",
        "TIEBREAK_VAR": str(tmp_path), "TIEBREAK_SECRET_KEY": "secret" * 10,
    }  # fmt: skip
    environment["DATABASE_URL"] = server._replace(
        path=f"/{connection.settings_dict['NAME']}"
    ).geturl()
    for _ in range(2):
        output = subprocess.run(
            [sys.executable, "-c", DURATIONS], cwd=django_settings.BASE_DIR, env=environment,
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
    counts = [line for line in output.splitlines() if line.startswith("tiebreak_api_seconds_count")]
    assert any('route="api/v1/openapi.json",status="200"} 2.0' in line for line in counts), output
    assert "i18n" not in output


# --- readiness -----------------------------------------------------------------------------------


def test_a_working_site_is_ready(client):
    answer = client.get("/ready/")
    assert (answer.status_code, answer.json()) == (200, {"database": "ok", "folders": "ok"})


def test_unapplied_migrations_are_not_ready(client, monkeypatch):
    monkeypatch.setattr(doctor, "unapplied_migrations", lambda: 3)
    answer = client.get("/ready/")
    assert (answer.status_code, answer.json()["database"]) == (503, "failed")


def test_a_folder_that_cannot_be_written_is_not_ready(client, settings, tmp_path, caplog):
    (tmp_path / "runs").write_text("a file")
    settings.RUNS_DIR = tmp_path / "runs"
    answer = client.get("/ready/")
    assert (answer.status_code, answer.json()["folders"]) == (503, "failed")
    assert str(tmp_path) not in answer.content.decode()
    assert str(tmp_path / "runs") in caplog.text


def test_only_the_scraper_can_ask_for_all_checks(client):
    assert client.get("/ready/?all").status_code == 403


def test_missing_workers_and_redis_are_reported(client, settings, monkeypatch):
    monkeypatch.setattr(readiness, "WORKER_SECONDS", 0.1)
    answer = client.get("/ready/?all", headers=TOKEN)
    assert answer.status_code == 503
    assert answer.json() == {
        "database": "ok", "folders": "ok", "redis": "ok", "workers": "failed",
    }  # fmt: skip


# --- logs ----------------------------------------------------------------------------------------


@pytest.fixture
def lines(settings):
    """Return a list to which the lines of `tiebreak` are added, in the JSON format of the settings."""
    written: list[dict] = []
    handler = logging.Handler()
    handler.setFormatter(JsonFormatter())
    handler.emit = lambda record: written.append(json.loads(handler.format(record)))
    logger = logging.getLogger("tiebreak")
    logger.addHandler(handler)
    yield written
    logger.removeHandler(handler)


def test_a_line_logged_in_a_request_has_the_id_of_the_response(client, lines, monkeypatch):
    monkeypatch.setattr(doctor, "unapplied_migrations", lambda: 3)
    first, second = client.get("/ready/"), client.get("/ready/")
    assert [line["request"] for line in lines] == [a["X-Request-ID"] for a in (first, second)]
    assert first["X-Request-ID"] != second["X-Request-ID"]
    logging.getLogger("tiebreak").warning("outside")
    assert "request" not in lines[-1]


@pytest.mark.parametrize(
    ("proxies", "sent", "used"),
    [(1, "a-b_c.1", True), (0, "a-b_c.1", False), (1, "x" * 65, False), (1, 'a"b', False)],
)
def test_only_a_valid_id_of_a_proxy_is_used(client, settings, proxies, sent, used):
    settings.PROXIES = proxies
    answer = client.get("/health/", headers={"X-Request-ID": sent})
    assert (answer["X-Request-ID"] == sent) is used


def test_a_line_of_a_run_has_its_number_and_an_exception_its_traceback(lines):
    with log_ids(run="12"):
        try:
            raise ValueError("broken\nline")
        except ValueError:
            logging.getLogger("tiebreak.runs").exception("Run %s: %s", 12, "ü")
    [line] = lines
    assert (line["run"], line["message"], line["level"]) == ("12", "Run 12: ü", "ERROR")
    assert "ValueError: broken" in line["exception"]


def test_text_lines_contain_the_ids():
    record = logging.LogRecord("tiebreak", logging.INFO, "", 1, "hello", None, None)
    with log_ids(run="12"):
        assert TextFormatter().format(record).endswith("INFO tiebreak run=12 hello")
    assert TextFormatter().format(record).endswith("INFO tiebreak hello")


def test_an_unknown_format_of_log_lines_is_refused(monkeypatch):
    monkeypatch.setenv("TIEBREAK_LOG_FORMAT", "xml")
    with pytest.raises(ImproperlyConfigured, match="it must be text or json"):
        VARIABLES["TIEBREAK_LOG_FORMAT"].choice("text", "json")


WORKER = """
import logging
from config.celery import app
app.log.setup(loglevel="INFO")
logging.getLogger("tiebreak").warning("from the worker")
"""


def test_workers_log_in_the_format_of_the_settings():
    environment = {
        **os.environ, "TIEBREAK_LOG_FORMAT": "json", "TIEBREAK_SECRET_KEY": "secret" * 10,
    }  # fmt: skip
    output = subprocess.run(
        [sys.executable, "-c", WORKER], cwd=django_settings.BASE_DIR, env=environment,
        capture_output=True, text=True, check=True,
    ).stderr  # fmt: skip
    assert json.loads(output)["message"] == "from the worker"
