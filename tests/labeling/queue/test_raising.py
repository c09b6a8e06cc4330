"""Tests of raising the number of rankings of existing tasks."""

import json

import pytest
from django.core.management import CommandError, call_command
from django.urls import reverse

from accounts.models import AuditEntry, Role
from labeling.disputes import adjudication
from labeling.models import Adjudication, Slot, Task
from labeling.queue import raising
from labeling.queue import slots as queue
from labeling.queue.tasks import release_held
from labeling.rankings import overlap, recording
from labeling.rankings.content import Content
from labeling.removal import withdrawing
from tests.clients import signed_in
from tests.labeling.gold.gold_world import make_gold
from tests.labeling.world import (
    ids,
    in_threads,
    key,
    make_member,
    make_project,
    make_task,
    make_user,
    one_each,
)

pytestmark = pytest.mark.django_db


@pytest.fixture
def project():
    return make_project(rankings_per_task=1)


def slots(task):
    return Slot.objects.filter(task=task).count()


def test_every_task_with_fewer_rankings_gets_the_missing_slots(project):
    first, second, third = (make_task(project, rankings_wanted=expected) for expected in (1, 2, 4))
    elsewhere = make_task(make_project(rankings_per_task=1))
    planned = raising.plan(project=project, wanted=3)
    assert (planned.tasks, planned.slots, planned.left_out) == (2, 3, {"enough": 1})
    assert [slots(task) for task in (first, second, third)] == [1, 2, 4]
    assert raising.apply(project=project, wanted=3, by=None) == planned
    assert [slots(task) for task in (first, second, third, elsewhere)] == [3, 3, 4, 1]
    tasks = Task.objects.filter(project=project).order_by("pk")
    assert list(tasks.values_list("rankings_wanted", flat=True)) == [3, 3, 4]
    assert raising.apply(project=project, wanted=3, by=None).slots == 0


def test_a_finished_task_is_offered_to_others_again(project):
    task = make_task(project)
    first, second = make_member(project), make_member(project)
    slot = queue.claim(project=project, reviewer=first)
    recording.submit(
        slot_id=slot.pk, reviewer=first, idempotency_key=key(), content=Content(one_each(task))
    )
    assert queue.claim(project=project, reviewer=second) is None
    raising.apply(project=project, wanted=2, by=None)
    assert queue.claim(project=project, reviewer=second).task == task
    assert queue.claim(project=project, reviewer=first) is None


def test_a_single_task_can_be_raised(project):
    task, other = make_task(project), make_task(project)
    assert raising.apply(project=project, wanted=2, by=None, task=task).slots == 1
    assert [slots(task), slots(other)] == [2, 1]


def test_gold_and_its_source_tasks_are_unchanged(project):
    gold = make_gold(project)
    planned = raising.apply(project=project, wanted=3, by=None)
    assert (planned.tasks, planned.left_out) == (0, {"gold": 1, "parked": 1})
    assert slots(gold.task) == 0


def test_a_complete_source_task_of_gold_is_unchanged(project):
    task = make_task(project)
    recording.record(
        task=task, reviewer=make_member(project), source="review", content=Content(one_each(task))
    )
    adjudicated = [{"kind": "above", "a": ids(task)[0], "b": ids(task)[1]}]
    from labeling.gold import making

    making.make(task=task, constraints=adjudicated)
    assert raising.plan(project=project, wanted=3).left_out == {"gold": 1, "parked": 1}


def test_a_decided_task_gets_no_more_slots(project):
    task = make_task(project)
    lead = make_user(Role.TRAINER)
    adjudication.decide(task=task, by=lead, tiers=one_each(task), cause="close")
    assert raising.apply(project=project, wanted=3, by=None).left_out == {"decided": 1}
    assert slots(task) == 1
    assert Adjudication.objects.exists()


def test_a_withdrawn_task_is_unchanged(project):
    task = make_task(project)
    withdrawing.withdraw(content=task, by=make_user(Role.TRAINER))
    assert raising.apply(project=project, wanted=3, by=None).left_out == {"withdrawn": 1}
    assert slots(task) == 1


def test_a_held_task_gets_its_slots_when_it_is_released(project):
    task = make_task(project, held=True)
    planned = raising.apply(project=project, wanted=3, by=None)
    assert (planned.tasks, planned.slots, planned.later) == (1, 0, 3)
    assert slots(task) == 0
    release_held(project=project, task_ids=[task.pk])
    assert slots(task) == 3


@pytest.mark.parametrize("kind", ["comparison", "relabel"])
def test_comparisons_and_relabelled_tasks_keep_their_number(project, kind):
    task = make_task(project, kind=kind)
    assert raising.apply(project=project, wanted=3, by=None).left_out == {kind: 1}
    assert slots(task) == 1


def test_sequential_overlap_keeps_added_slots_within_the_limit():
    project = make_project(rankings_per_task=2, overlap="sequential", rankings_at_most=3)
    task = make_task(project)
    with pytest.raises(raising.CannotRaise, match="at most 3 rankings"):
        raising.plan(project=project, wanted=4)
    assert raising.apply(project=project, wanted=3, by=None).slots == 1
    for _ in range(2):
        recording.record(
            task=task,
            reviewer=make_member(project),
            source="review",
            content=Content(one_each(task)),
        )
    overlap.after_ranking(task)
    assert slots(task) == 3, "two who agree make it clear, and the lead asked for three"


@pytest.mark.django_db(transaction=True)
def test_two_concurrent_leads_add_the_slots_once():
    project = make_project(rankings_per_task=1)
    tasks = [make_task(project) for _ in range(20)]
    raised = in_threads(
        *[lambda: raising.apply(project=project, wanted=3, by=None)] * 3,
        *[lambda task=task: queue.add_slot(task=task) for task in tasks[:2]],
    )
    assert not [result for result in raised if isinstance(result, Exception)]
    for task in tasks:
        task.refresh_from_db()
        assert slots(task) == task.rankings_wanted >= 3


# --- the page ------------------------------------------------------------------------------------


def url(project, query=""):
    return reverse("project-raise", args=[project.slug]) + query


def test_the_page_shows_the_slots_first_and_then_adds_them(project):
    task = make_task(project)
    lead = make_member(project, "lead")
    lead.role = Role.LEAD
    lead.save()
    client = signed_in(lead)
    page = client.get(url(project, "?wanted=3")).content.decode()
    assert "Requests 2 more rankings" in page
    assert "cannot be completed without more reviewers" in page
    assert slots(task) == 1
    answer = client.post(url(project), {"wanted": "3", "slots": "2"})
    assert answer.url == reverse("project-data", args=[project.slug])
    assert slots(task) == 3
    entry = AuditEntry.objects.get(action="rankings raised")
    assert entry.details == {"wanted": 3, "tasks": 1, "slots": 2}


def test_the_page_of_a_task_leads_to_the_form_for_that_task(project):
    task = make_task(project)
    client = signed_in(make_user(Role.TRAINER))
    page = client.get(reverse("project-task", args=[project.slug, task.pk])).content.decode()
    assert url(project, f"?task={task.pk}") in page
    assert f'value="{task.pk}"' in client.get(url(project, f"?task={task.pk}")).content.decode()
    sent = {"wanted": "2", "task": task.pk, "slots": "1"}
    assert client.post(url(project), sent).url.endswith(f"/data/{task.pk}/")


@pytest.mark.parametrize(
    ("sent", "sentence"),
    [
        ({"wanted": "3", "slots": "7"}, "is now 2 instead of 7"),
        ({"wanted": "3"}, "Check the numbers again"),
        ({"wanted": "10", "slots": "9"}, "Select a valid choice"),
        ({"wanted": "3", "slots": "2", "task": "99999"}, "This project has no task 99999."),
        ({}, ">Preview<"),
    ],
)
def test_slots_that_the_lead_has_not_seen_are_not_added(project, sent, sentence):
    task = make_task(project)
    answer = signed_in(make_user(Role.TRAINER)).post(url(project), sent)
    assert answer.status_code == 422
    assert sentence in answer.content.decode()
    assert slots(task) == 1


def test_only_leads_of_the_project_can_raise(project):
    task = make_task(project)
    sent = {"wanted": "3", "slots": "2"}
    assert signed_in(make_member(project)).post(url(project), sent).status_code == 403
    assert signed_in(make_member(make_project())).post(url(project), sent).status_code == 404
    assert signed_in(make_user(Role.TRAINER)).put(url(project)).status_code == 405
    assert slots(task) == 1


# --- the command ---------------------------------------------------------------------------------


def test_the_command_counts_first_and_then_adds(project, capsys):
    task, held = make_task(project), make_task(project, held=True)
    chosen = ["--project", project.slug, "--wanted", "3"]
    call_command("raise_rankings", *chosen, "--dry-run")
    assert "Would request 2 more rankings of 2 tasks." in capsys.readouterr().out
    assert slots(task) == 1
    call_command("raise_rankings", *chosen, "--task", str(task.pk), "--json")
    added = json.loads(capsys.readouterr().out)
    assert (added["slots"], added["tasks"], slots(task)) == (2, 1, 3)
    call_command("raise_rankings", *chosen)
    assert "Another 3 will be requested" in capsys.readouterr().out
    held.refresh_from_db()
    assert held.rankings_wanted == 3


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--project", "no", "--wanted", "3"], "There is no project"),
        (["--wanted", "10"], "1 to 9 rankings"),
        (["--wanted", "3", "--task", "99999"], "has no task 99999"),
    ],
)
def test_the_command_explains_errors(project, options, sentence):
    values = options if "--project" in options else ["--project", project.slug, *options]
    with pytest.raises(CommandError, match=sentence):
        call_command("raise_rankings", *values)
