"""Tests of the queue: its order, its page, and the reasons why runs wait."""

from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db.models.functions import Now
from django.urls import reverse

from accounts.models import AuditEntry, Role, User
from recipes.machine.gpus import VISIBLE
from runs import execution, lifecycle, live, queue
from runs.models import Machine, Priority, Run, State
from runs.supervision import machine_report
from tests.machines import GPU_MB, TEMPERATURE, USE, install_smi
from tests.reward.factory import join, make_project
from tests.runs.test_lifecycle import in_state

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("runs_dir")]


@pytest.fixture
def trainer(client):
    client.force_login(User.objects.create_user("tara", role=Role.TRAINER, all_projects=True))
    return client


def report(host: str = "big", *, ago: int = 0, gpus=()) -> Machine:
    at = Now() - timedelta(seconds=ago)
    return Machine.objects.create(host=host, slots=1, gpus=list(gpus), reported_at=at)


def test_workers_claim_by_priority_and_then_by_age():
    low, old, new, high = (
        in_state(State.QUEUED, priority=priority)
        for priority in (Priority.LOW, Priority.NORMAL, Priority.NORMAL, Priority.HIGH)
    )
    claimed = []
    while lease := lifecycle.claim_next("big:1:1"):
        claimed.append(lease.run_id)
    assert claimed == [high.pk, old.pk, new.pk, low.pk]


def test_a_trainer_changes_the_priority_of_a_queued_run(trainer):
    run = in_state(State.QUEUED)
    trainer.post(reverse("run-priority", args=[run.pk]), {"priority": "1"})
    run.refresh_from_db()
    assert run.priority == Priority.HIGH
    assert AuditEntry.objects.get(action="set priority").details == {"priority": "High"}


@pytest.mark.parametrize("value", ["2", "", "high", "²", "1e0", "9" * 30])
def test_an_unknown_priority_changes_nothing(trainer, value):
    run = in_state(State.QUEUED)
    page = trainer.post(reverse("run-priority", args=[run.pk]), {"priority": value}, follow=True)
    run.refresh_from_db()
    assert run.priority == Priority.NORMAL and "Choose a priority" in page.text


def test_a_running_run_keeps_its_priority(trainer):
    run = in_state(State.RUNNING)
    page = trainer.post(reverse("run-priority", args=[run.pk]), {"priority": "1"}, follow=True)
    run.refresh_from_db()
    assert run.priority == Priority.NORMAL and "no longer queued" in page.text


def test_a_lead_cannot_change_a_priority_and_sees_no_other_projects(client, trainer):
    lead = User.objects.create_user("leo", role=Role.LEAD)
    project = make_project()
    join(project, lead, "lead")
    own = in_state(State.QUEUED, project=project, title="My run")
    in_state(State.QUEUED, title="Secret run")
    client.force_login(lead)
    page = client.get(reverse("run-queue")).text
    assert "My run" in page and "Secret run" not in page and "A run of another project" in page
    assert client.post(reverse("run-priority", args=[own.pk]), {"priority": "1"}).status_code == 403


def test_the_command_changes_the_priority():
    run, ended = in_state(State.QUEUED), in_state(State.FAILED)
    call_command("runs", "priority", str(run.pk), "low", stdout=StringIO())
    run.refresh_from_db()
    assert run.priority == Priority.LOW
    with pytest.raises(CommandError, match="Only the priority of a queued run"):
        call_command("runs", "priority", str(ended.pk), "high")


def test_each_reason_for_waiting_is_a_sentence():
    run = in_state(State.QUEUED)
    assert queue.reason_of(run).startswith("No worker is running.")
    machine = report()
    assert queue.reason_of(run).startswith("The message broker is not reachable.")
    run.message_sent_at = run.created_at
    assert queue.reason_of(run) == "Waiting for a worker."
    in_state(State.QUEUED)
    in_state(State.QUEUED, priority=Priority.HIGH)
    assert queue.reason_of(run) == "Waiting for 1 other run."
    in_state(State.RUNNING)
    assert queue.reason_of(run) == "Waiting for 2 other runs."
    Run.objects.exclude(pk=run.pk).delete()
    Machine.objects.filter(pk=machine.pk).update(reported_at=Now() - timedelta(minutes=2))
    assert queue.reason_of(run).startswith("No worker is running.")
    assert queue.reason_of(in_state(State.FAILED)) == ""


def test_a_worker_reports_its_gpus_and_the_page_shows_who_has_them(
    trainer, begin, settings, tmp_path, monkeypatch
):
    monkeypatch.delenv(VISIBLE, raising=False)
    install_smi(monkeypatch, tmp_path, gpus=2, free_mb=GPU_MB - 500)
    settings.RUNS_AT_ONCE = 2
    machine_report.report()
    machine_report.report()
    [machine] = Machine.objects.all()
    assert machine.slots == 2 and [gpu["uuid"] for gpu in machine.gpus] == ["GPU-aa0", "GPU-aa1"]
    run = execution.run_now(begin(send=False).pk)
    assert run.gpus == ["GPU-aa0"]
    owner = f"{machine.host}:1:1"
    running = in_state(State.RUNNING, gpus=["GPU-aa1"], lease_owner=owner, title="Mine")
    other = in_state(State.RUNNING, lease_owner=owner, title="No GPU")
    [host] = queue.overview().hosts
    assert [device.run for device in host.devices] == [None, running] and host.others == [other]
    page = trainer.get(reverse("run-queue")).text
    assert f"{USE}%" in page and f"{TEMPERATURE} °C" in page and f"500 of {GPU_MB:,}" in page
    figures = {name: value for name, value, _ in live.progress(running).main}
    assert figures["gpu_use"] == f"{USE}%" and figures["gpu_temperature"] == f"{TEMPERATURE} °C"
    assert "gpu_use" not in {name for name, _, _ in live.progress(other).main}


def test_the_page_of_an_empty_queue_says_how_to_start_a_worker(trainer):
    page = trainer.get(reverse("run-queue")).text
    assert "No worker is running" in page and "No run is waiting" in page
    report(gpus=[{}, {"index": "0", "name": "<b>"}])
    page = trainer.get(reverse("run-queue")).text
    assert "No worker is running" not in page and "<b>" not in page


def test_the_queries_of_the_queue_do_not_grow_with_the_runs(trainer, django_assert_num_queries):
    report()
    for _ in range(12):
        in_state(State.QUEUED)
        in_state(State.RUNNING, lease_owner="big:1:1")
    # session, user, running, machines, queued, visible, changeable
    with django_assert_num_queries(7):
        trainer.get(reverse("run-queue"))
