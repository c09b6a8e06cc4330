"""Tests of forecasts from the launch form or command, through the worker, to the page of the run."""

import io
import json
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse

from accounts.models import Role
from config.env import Variable
from finetune.methods.dpo import DPOSettings
from finetune.registry import add_base
from recipes.preflight.forecast import Amounts, Measurement, Phase, Rehearsal
from reward.models import Snapshot
from runs import live, preflight, services
from runs.models import Forecast, Run, RunEvent
from tests.finetune.factory import make_snapshot
from tests.forks import Program
from tests.reward.factory import make_user
from tests.tiny import make_model

pytestmark = pytest.mark.django_db
SMALL = {
    "batch_size": 4, "micro_batch_size": 2, "lora_r": 2, "lora_alpha": 4, "sample_prompts": 0,
}  # fmt: skip
PARTS = Amounts(100, 10_000, 0, 0, 0, 200, 150)


@pytest.fixture
def trainer():
    return make_user(Role.TRAINER)


@pytest.fixture
def client(trainer):
    client = Client()
    client.force_login(trainer)
    return client


@pytest.fixture
def inputs(project, trainer, tmp_path):
    model, _ = add_base(project=project, base=str(make_model(tmp_path / "tiny")), by=trainer)
    snapshot = make_snapshot(project, prompts=12, test_fraction=0.3)
    return {"project": project.pk, "snapshot": snapshot.pk, "model": model.pk}


@pytest.fixture
def forked_program(monkeypatch, tmp_path):
    """Fork the program that measures, instead of starting Python."""

    def run(arguments: list[str], gpus: tuple[str, ...]) -> tuple[int, str]:
        log = tmp_path / "log.txt"
        status = Program("recipes.preflight", *arguments, log=log).wait(120)
        return status, (log.read_text().strip().splitlines() or [""])[-1]

    monkeypatch.setattr(preflight, "run_program", run)


def measured(megabytes: float, capacity: float = 1000.0) -> dict:
    phases = {"Training": Phase(10.0, megabytes)}
    rehearsals = (Rehearsal(2, phases),)
    return Measurement(rehearsals, 2, 100.0, PARTS, PARTS, True, "CPU", capacity).to_dict()


def store(config: dict, inputs: dict, **fields) -> Forecast:
    complete = services.checked("dpo", config, inputs)
    key = preflight.key_of("dpo", complete, inputs)
    values = {"kind": "dpo", "config": complete, "inputs": inputs, "state": "done", **fields}
    return Forecast.objects.update_or_create(key=key, defaults=values)[0]


def form(inputs: dict, **config) -> dict:
    values = {option.name: option.default for option in DPOSettings.options()}
    values |= {**SMALL, **config}
    posted = {f"config-{n}": v for n, v in values.items() if n not in ("model", "adapter")}
    return {k: v for k, v in {**inputs, **posted}.items() if v is not None and v is not False}


def panel(client, inputs, expected: int = 200, **config) -> str:
    address = reverse("run-forecast", args=["dpo"])
    reply = client.post(address, form(inputs, **config), headers={"HX-Request": "true"})
    assert reply.status_code == expected
    return " ".join(reply.content.decode().split())


# --- measuring --------------------------------------------------------------------------------------


def test_a_command_measures_and_forecasts_a_run_without_starting_it(inputs, forked_program):
    out = io.StringIO()
    settings = [f"--set={name}={value}" for name, value in SMALL.items()]
    snapshot = str(inputs["snapshot"])
    call_command("finetune", "--snapshot", snapshot, "--forecast", *settings, stdout=out)
    assert "Peak memory" in out.getvalue() and "on one CPU, time" in out.getvalue()
    assert not Run.objects.exists()
    row = Forecast.objects.get()
    assert row.state == "done" and row.finished_at >= row.started_at
    assert row.measurement["whole"]["train_prompts"] > 0
    run = services.start("dpo", {**SMALL, "epochs": 3}, None, inputs=inputs)
    assert run.forecast["memory_mb"] > 0 and run.forecast["device"] == "CPU"


def test_a_run_whose_data_cannot_be_used_has_no_forecast(inputs, forked_program):
    config = services.checked("dpo", {**SMALL, "max_length": 8}, inputs)
    row = preflight.measured_now("dpo", config, inputs)
    assert (row.state, row.measurement) == ("failed", None)
    assert "nothing to train on" in row.error


def test_a_program_that_runs_out_of_memory_is_not_a_failure(inputs, monkeypatch):
    reply = (preflight.OUT_OF_MEMORY, "Out of memory with 2 examples at a time.")
    monkeypatch.setattr(preflight, "run_program", lambda *arguments: reply)
    row = preflight.measured_now("dpo", services.checked("dpo", SMALL, inputs), inputs)
    assert (row.state, row.error) == ("too_large", reply[1])


def test_a_message_that_arrives_twice_measures_once(inputs, monkeypatch):
    calls = []
    monkeypatch.setattr(preflight, "run_program", lambda *a: (calls.append(a), (1, "No."))[1])
    row = preflight.request("dpo", services.checked("dpo", SMALL, inputs), inputs)
    preflight.measure(row.pk)
    preflight.measure(row.pk)
    assert len(calls) == 1
    assert not list(Path(preflight.settings.VAR_DIR, "preflight").glob("*"))


def test_settings_without_effect_on_memory_share_a_measurement(inputs):
    config = services.checked("dpo", SMALL, inputs)
    key = preflight.key_of("dpo", config, inputs)
    assert preflight.key_of("dpo", {**config, "learning_rate": 1e-3, "epochs": 9}, inputs) == key
    assert preflight.key_of("dpo", {**config, "lora_r": 64}, inputs) != key
    assert preflight.key_of("dpo", config, {**inputs, "snapshot": 999}) != key


# --- the panel --------------------------------------------------------------------------------------


def test_the_launch_page_offers_a_forecast_where_there_is_one(client):
    assert (
        "Forecast memory and time"
        in client.get(reverse("run-launch", args=["dpo"])).content.decode()
    )
    address = reverse("run-launch", args=["generate"])
    assert "Forecast memory and time" not in client.get(address).content.decode()
    assert client.post(reverse("run-forecast", args=["generate"])).status_code == 404


def test_the_panel_waits_polls_and_shows_the_forecast(client, inputs, settings):
    settings.PRICE_PER_HOUR = (3600.0, "EUR")
    waiting = panel(client, inputs)
    assert "Waiting for a worker" in waiting and 'hx-trigger="every 2s"' in waiting
    row = Forecast.objects.get()
    panel(client, {**inputs, "shown": f"{row.pk} queued "}, expected=204)  # nothing has changed
    store(SMALL, inputs, measurement=measured(400))
    shown = panel(client, inputs)
    assert "500 MB" in shown and "10 s" in shown and "10.00 EUR" in shown
    assert "hx-trigger" not in shown and "does not fit" not in shown
    assert "20.00 EUR" in panel(client, inputs, epochs=2)  # without another measurement
    assert Forecast.objects.count() == 1


def test_a_run_that_does_not_fit_gets_changes_that_would(client, inputs):
    store(SMALL, inputs, measurement=measured(5000))
    store({**SMALL, "micro_batch_size": 1}, inputs, measurement=measured(700))
    store({**SMALL, "gradient_checkpointing": "on"}, inputs, measurement=measured(4000))
    shown = panel(client, inputs)
    assert "does not fit into memory" in shown
    assert "Prompts per forward pass: <strong>1</strong>" in shown and "800 MB" in shown
    assert 'data-preflight-apply="{&quot;micro_batch_size&quot;: 1}"' in shown
    assert "<span>Gradient checkpointing: <strong>on" not in shown  # does not fit
    # Both changes together, and half of the longest sequence, are measured next.
    queued = [row.config for row in Forecast.objects.filter(state="queued")]
    assert {(c["micro_batch_size"], c["gradient_checkpointing"], c["max_length"]) for c in queued} == {
        (1, "on", 1024), (2, "auto", 75),
    }  # fmt: skip
    assert "being measured" in shown and 'hx-trigger="every 2s"' in shown
    assert shown.count("data-preflight-apply") == 3  # also before they are measured


def test_the_panel_says_what_is_wrong_with_the_settings(client, inputs):
    assert "does not divide" in panel(client, inputs, micro_batch_size=3)
    assert "Choose the inputs first" in panel(client, {})
    assert not Forecast.objects.exists()


def test_a_failed_forecast_is_repeated_on_request_only(client, inputs):
    store(SMALL, inputs, state="failed", error="The disk is full.")
    assert "The disk is full." in panel(client, inputs)
    assert "Waiting for a worker" in panel(client, {**inputs, "repeat": "1"})


def test_without_scripts_the_forecast_is_a_page(client, inputs):
    store(SMALL, inputs, measurement=measured(400))
    page = client.post(reverse("run-forecast", args=["dpo"]), form(inputs))
    assert b"<html" in page.content and b"500 MB" in page.content


def test_reviewers_get_no_forecast(inputs):
    client = Client()
    client.force_login(make_user(Role.REVIEWER))
    assert client.post(reverse("run-forecast", args=["dpo"]), form(inputs)).status_code == 403
    assert not Forecast.objects.exists()


# --- the run ----------------------------------------------------------------------------------------


def test_the_page_of_a_run_compares_the_forecast_with_the_outcome(client, inputs):
    store(SMALL, inputs, measurement=measured(400))
    run = services.start("dpo", SMALL, None, inputs=inputs)
    for number, memory in enumerate([300.0, 470.0, 310.0]):
        RunEvent.objects.create(
            run=run, number=number, at=run.created_at, event="progress", data={"memory_mb": memory}
        )
    assert live.peak_memory_mb(run) == 470.0
    page = client.get(reverse("run", args=[run.pk])).content.decode()
    assert "Forecast and outcome" in page and "500 MB" in page and "470 MB" in page
    other = services.start("dpo", {**SMALL, "lora_r": 4}, None, inputs=inputs)
    assert (
        "Forecast and outcome" not in client.get(reverse("run", args=[other.pk])).content.decode()
    )


def test_a_command_lists_changes_for_a_run_that_does_not_fit(inputs, monkeypatch):
    def run(arguments: list[str], gpus: tuple[str, ...]) -> tuple[int, str]:
        folder = Path(arguments[0])
        micro = json.loads((folder / "run.json").read_text())["config"]["micro_batch_size"]
        (folder / "measurement.json").write_text(json.dumps(measured(500 * micro)))
        return 0, ""

    monkeypatch.setattr(preflight, "run_program", run)
    out = io.StringIO()
    settings = [f"--set={name}={value}" for name, value in SMALL.items()]
    snapshot = str(Snapshot.objects.get().pk)
    with pytest.raises(CommandError, match="Nothing was started") as raised:
        call_command("finetune", "--snapshot", snapshot, "--forecast", *settings, stdout=out)
    assert raised.value.returncode == 2
    assert "--set micro_batch_size=1: Peak memory 600 MB of 1000 MB" in out.getvalue()
    assert "  --set gradient_checkpointing=on:" not in out.getvalue()


def test_a_price_is_an_amount_with_a_currency(monkeypatch):
    variable = Variable("TIEBREAK_PRICE_PER_HOUR", "", "")
    assert variable.price() is None
    for text, price in {"2.50 EUR": (2.5, "EUR"), "3": (3.0, "")}.items():
        monkeypatch.setenv(variable.name, text)
        assert variable.price() == price
    for text in ("EUR", "-1 EUR", "1e9", "2,50 EUR", "nan"):
        monkeypatch.setenv(variable.name, text)
        with pytest.raises(ImproperlyConfigured, match="must be an amount"):
            variable.price()
