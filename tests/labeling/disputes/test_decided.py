"""Tests of decided disputes, savings of sequential overlap, and the marking of gold for leads."""

import pytest
from django.urls import reverse

from accounts.models import Role
from labeling.disputes import adjudication
from labeling.gold import making
from labeling.models import Membership, Slot
from labeling.quality import measures
from labeling.queue import slots
from labeling.queue.gold_copies import copies_of
from labeling.rankings import overlap, recording
from labeling.rankings.content import Content
from labeling.removal.withdrawing import withdraw
from tests.clients import signed_in
from tests.labeling.disputes.test_adjudication import dispute
from tests.labeling.gold.gold_world import make_gold
from tests.labeling.world import ids, key, make_member, make_project, make_task, make_user, one_each

pytestmark = pytest.mark.django_db


@pytest.fixture
def client():
    return signed_in(make_user(Role.TRAINER))


def page(client, name, project, *args, query=""):
    answer = client.get(reverse(name, args=[project.slug, *args]) + query)
    assert answer.status_code == 200
    return answer.content.decode()


# --- decided disputes ----------------------------------------------------------------------------


def decide(task, **fields):
    chosen = {"tiers": one_each(task), "cause": "guideline", "note": "Says nothing of rhymes."}
    return adjudication.decide(task=task, by=make_user(Role.TRAINER), **(chosen | fields))


def test_both_lists_of_disputes_show_their_number(project, client):
    still_open, decided = dispute(project), dispute(project)
    decide(decided)
    for query in ("", "?show=decided"):
        tabs = page(client, "project-disputes", project, query=query)
        assert 'Open <span class="muted">1</span>' in tabs
        assert 'Decided <span class="muted">1</span>' in tabs
        assert (f">#{decided.pk}<" in tabs) == bool(query)
        assert (f">#{still_open.pk}<" in tabs) != bool(query)


def test_every_decision_is_on_one_of_the_pages_of_the_list(project, client):
    tasks = [dispute(project) for _ in range(27)]
    for task in tasks:
        decide(task)
    both = page(client, "project-disputes", project, query="?show=decided")
    both += page(client, "project-disputes", project, query="?show=decided&page=2")
    assert all(f">#{task.pk}<" in both for task in tasks)


def test_the_page_of_a_task_shows_its_decision(project, client):
    task = dispute(project)
    undecided = page(client, "project-task", project, task.pk)
    assert "Decision</h2>" not in undecided and "Decide this task" in undecided
    decision = decide(task, shown_order=ids(task))
    shown = page(client, "project-task", project, task.pk)
    assert "Decision</h2>" in shown
    assert "Says nothing of rhymes." in shown
    assert str(decision.get_cause_display()) in shown
    assert decision.by.username in shown
    assert "Decide this task" not in shown, "Change is next to the decision"


def test_a_decided_or_withdrawn_dispute_is_not_counted_as_disputed(project, client):
    tasks = [dispute(project) for _ in range(3)]
    assert len(measures.quality_of(project).disputes) == 3
    decide(tasks[0])
    assert len(measures.quality_of(project).disputes) == 2
    withdraw(content=tasks[1], by=make_user(Role.TRAINER))
    shown = page(client, "project-quality", project)
    assert 'figure-value">1</span><span class="figure-label">of' in shown
    assert [f">Task {task.pk}<" in shown for task in tasks] == [False, False, True]


# --- rankings saved ------------------------------------------------------------------------------


def ranked(task, order=1):
    tiers = [[i] for i in ids(task)[::order]]
    recording.record(
        task=task, reviewer=make_member(task.project), source="simulation", content=Content(tiers)
    )


def test_tasks_decided_by_a_lead_do_not_count_as_savings():
    project = make_project(rankings_per_task=2, overlap="sequential", rankings_at_most=4)
    task = make_task(project)
    ranked(task)
    ranked(task, -1)
    decide(task)
    result = overlap.savings(project)
    assert (result.tasks, result.rankings_saved) == (0, 0)
    clear = make_task(project)
    ranked(clear)
    ranked(clear)
    result = overlap.savings(project)
    assert (result.tasks, result.rankings, result.rankings_saved) == (1, 2, 2)


def test_tasks_with_fixed_overlap_do_not_count_as_savings():
    project = make_project(rankings_per_task=1, rankings_at_most=3)
    ranked(make_task(project))
    assert overlap.savings(project).tasks == 0
    project.overlap = "sequential"
    project.save()
    assert overlap.savings(project).tasks == 0, "what was finished before stays out"


def test_an_unclear_task_saves_nothing():
    project = make_project(rankings_per_task=2, overlap="sequential", rankings_at_most=3)
    task = make_task(project)
    ranked(task)
    ranked(task)
    assert overlap.savings(project).rankings_saved == 1
    slots.add_slot(task=task)
    ranked(task)
    result = overlap.savings(project)
    assert (result.tasks, result.rankings_saved) == (1, 0)


# --- gold ----------------------------------------------------------------------------------------


def test_leads_see_gold_and_the_tasks_it_was_made_from(project, client):
    gold = make_gold(project)
    original = gold.task.prompt.tasks.exclude(pk=gold.task_id).get()
    plain = make_task(project)
    assert copies_of([original.pk, plain.pk, gold.task_id]) == {original.pk: gold.pk}
    listed = page(client, "project-data", project)
    assert listed.count(">gold</span>") == 1
    assert listed.count(">has a gold copy</span>") == 1
    assert ">gold</span>" in page(client, "project-task", project, gold.task_id)
    assert ">has a gold copy</a>" in page(client, "project-task", project, original.pk)
    assert ">has a gold copy<" not in page(client, "project-task", project, plain.pk)


def test_disputes_show_that_gold_was_made_from_the_task(project, client):
    task = dispute(project)
    a, b, *_ = ids(task)
    result = making.make(task=task, constraints=[{"kind": "above", "a": a, "b": b}])
    assert "has a gold copy" in page(client, "project-disputes", project)
    assert "has a gold copy" in page(client, "project-dispute", project, task.pk)
    making.retire(gold=result, by=None)
    assert "has a gold copy" not in page(client, "project-disputes", project)


def test_reviewers_cannot_recognise_gold(project):
    make_gold(project)
    reviewer = make_member(project)
    for name in ("project-data", "project-disputes", "project-gold"):
        answer = signed_in(reviewer).get(reverse(name, args=[project.slug]))
        assert answer.status_code == 403


# --- removed reviewers ---------------------------------------------------------------------------


def reserved(project):
    task = make_task(project, rankings_wanted=1)
    reviewer = make_member(project)
    slot = slots.claim(project=project, reviewer=reviewer)
    assert slot.task == task
    return slot, reviewer


def delete_one(reviewer):
    Membership.objects.get(user=reviewer).delete()


def delete_many(reviewer):
    Membership.objects.filter(user=reviewer).delete()


def give_to_another(reviewer):
    Membership.objects.filter(user=reviewer).update(user=make_user())


def deactivate(reviewer):
    reviewer.is_active = False
    reviewer.save()


@pytest.mark.parametrize("remove", [delete_one, delete_many, give_to_another, deactivate])
def test_reservations_of_a_removed_reviewer_go_to_others(project, remove):
    slot, reviewer = reserved(project)
    other = make_member(project)
    assert slots.claim(project=project, reviewer=other) is None
    remove(reviewer)
    slot.refresh_from_db()
    assert (slot.reviewer, slot.leased_until, slot.ahead) == (None, None, False)
    assert slots.claim(project=project, reviewer=other).pk == slot.pk


def test_removing_a_reviewer_keeps_their_rankings_and_other_reservations(project):
    slot, reviewer = reserved(project)
    recording.submit(
        slot_id=slot.pk,
        reviewer=reviewer,
        idempotency_key=key(),
        content=Content(one_each(slot.task)),
    )
    elsewhere = make_project(rankings_per_task=1)
    Membership.objects.create(project=elsewhere, user=reviewer)
    make_task(elsewhere)
    held = slots.claim(project=elsewhere, reviewer=reviewer)
    Membership.objects.get(user=reviewer, project=project).delete()
    slot.refresh_from_db()
    assert slot.reviewer == reviewer and slot.ranking is not None
    assert Slot.objects.get(pk=held.pk).reviewer == reviewer


def test_other_changes_of_a_member_keep_reservations(project):
    slot, reviewer = reserved(project)
    Membership.objects.filter(user=reviewer).update(role="lead")
    reviewer.first_name = "Ada"
    reviewer.save()
    slot.refresh_from_db()
    assert slot.reviewer == reviewer
