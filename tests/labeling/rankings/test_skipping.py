"""Tests of undoing skips, by the reviewer for a while and by leads at any time."""

from datetime import timedelta

import pytest
from django.db.models import F
from django.urls import reverse

from accounts.models import AuditEntry, Role
from labeling.models import Ranking, Skip, Slot
from labeling.queue import slots
from labeling.rankings import recording
from labeling.rankings.content import Content
from labeling.rankings.undo import UNDO_FOR
from tests.clients import signed_in
from tests.labeling.gold.gold_world import make_gold
from tests.labeling.world import key, make_member, make_project, make_task, make_user, one_each

pytestmark = pytest.mark.django_db


@pytest.fixture
def project():
    return make_project(rankings_per_task=1)


def skipped(project, reviewer, draft=None):
    slot = slots.claim(project=project, reviewer=reviewer)
    if draft:
        slots.save_draft(slot_id=slot.pk, reviewer=reviewer, draft=draft)
    assert slots.skip(slot_id=slot.pk, reviewer=reviewer, reason="unclear")
    return Skip.objects.latest("id")


def url(skip):
    return reverse("review-undo-skip", args=[skip.task.project.slug, skip.pk])


def test_undoing_a_skip_restores_the_reviewers_input(project, reviewer):
    task = make_task(project)
    draft = {"fields": {"rationale": ["Half a th"]}, "at": 1}
    shown = slots.claim(project=project, reviewer=reviewer).shown_order
    skip = skipped(project, reviewer, draft)
    answer = signed_in(reviewer).post(url(skip))
    assert answer.url == reverse("review", args=[project.slug])
    slot = Slot.objects.get(task=task)
    assert (slot.reviewer, slot.draft, slot.shown_order) == (reviewer, draft, shown)
    assert not Skip.objects.exists()
    assert "Half a th" in signed_in(reviewer).get(answer.url).content.decode()
    sent = recording.submit(
        slot_id=slot.pk, reviewer=reviewer, idempotency_key=key(), content=Content(one_each(task))
    )
    assert not sent.extra


def test_undoing_a_skip_returns_its_sheet_and_keeps_the_open_task_next(project, reviewer):
    first, second = make_task(project), make_task(project)
    skip = skipped(project, reviewer)
    assert slots.claim(project=project, reviewer=reviewer).task == second
    answer = signed_in(reviewer).post(url(skip), headers={"Accept": "application/json"})
    assert f'data-slot="{Slot.objects.get(task=first).pk}"' in answer.json()["sheet"]
    leases = Slot.objects.filter(reviewer=reviewer).values_list("task", "ahead")
    assert set(leases) == {(first.pk, False), (second.pk, True)}


@pytest.mark.parametrize("tasks", [1, 2])
def test_the_review_page_offers_to_undo_the_skip(project, reviewer, tasks):
    for _ in range(tasks):
        make_task(project)
    skip = skipped(project, reviewer)
    page = signed_in(reviewer).get(reverse("review", args=[project.slug])).content.decode()
    assert f'action="{url(skip)}"' in page


def test_the_page_undoes_a_ranking_sent_after_the_skip(project, reviewer):
    make_task(project), make_task(project)
    skip = skipped(project, reviewer)
    slot = slots.claim(project=project, reviewer=reviewer)
    recording.submit(
        slot_id=slot.pk,
        reviewer=reviewer,
        idempotency_key=key(),
        content=Content(one_each(slot.task)),
    )
    page = signed_in(reviewer).get(reverse("review", args=[project.slug])).content.decode()
    assert url(skip) not in page
    assert reverse("review-undo", args=[project.slug, Ranking.objects.get().pk]) in page


def test_a_skip_can_be_undone_as_long_as_a_ranking(project, reviewer):
    make_task(project)
    skip = skipped(project, reviewer)
    Skip.objects.update(created_at=F("created_at") - UNDO_FOR + timedelta(seconds=20))
    page = signed_in(reviewer).get(reverse("review", args=[project.slug])).content.decode()
    assert url(skip) in page
    Skip.objects.update(created_at=F("created_at") - timedelta(seconds=20))
    page = signed_in(reviewer).get(reverse("review", args=[project.slug])).content.decode()
    assert url(skip) not in page
    answer = signed_in(reviewer).post(url(skip), headers={"Accept": "application/json"})
    assert answer.status_code == 409
    assert "too late" in answer.json()["errors"]["skip"]
    assert Skip.objects.exists()


def test_the_skip_of_a_task_that_others_took_cannot_be_undone(project, reviewer):
    make_task(project)
    skip = skipped(project, reviewer)
    other = make_member(project)
    taken = slots.claim(project=project, reviewer=other)
    answer = signed_in(reviewer).post(url(skip), headers={"Accept": "application/json"})
    assert answer.status_code == 409
    assert Skip.objects.exists()
    taken.refresh_from_db()
    assert taken.reviewer == other


def test_another_reviewers_skip_cannot_be_undone(project, reviewer):
    make_task(project)
    skip = skipped(project, reviewer)
    for person in (make_member(project), make_user(Role.TRAINER)):
        answer = signed_in(person).post(url(skip), headers={"Accept": "application/json"})
        assert answer.status_code == 409
    assert signed_in(make_member(make_project())).post(url(skip)).status_code == 404
    assert signed_in(reviewer).get(url(skip)).status_code == 405
    assert Skip.objects.exists()


@pytest.mark.parametrize("purpose", ["training", "qualification"])
def test_a_skip_in_training_or_qualification_is_final(project, reviewer, purpose):
    gold = make_gold(project, purpose)
    slot = slots.lease_new_slot(task=gold.task, reviewer=reviewer)
    slots.skip(slot_id=slot.pk, reviewer=reviewer, reason="unclear")
    skip = Skip.objects.get()
    answer = signed_in(reviewer).post(url(skip), headers={"Accept": "application/json"})
    assert answer.status_code == 409
    lead = signed_in(make_user(Role.TRAINER))
    lead.post(reverse("project-skip-undo", args=[project.slug, gold.task.pk, skip.pk]))
    assert Skip.objects.exists()


# --- by a lead -----------------------------------------------------------------------------------


def lift_url(skip):
    return reverse("project-skip-undo", args=[skip.task.project.slug, skip.task_id, skip.pk])


def test_a_lead_undoes_a_skip_and_the_task_is_offered_again(project, reviewer):
    task = make_task(project)
    skip = skipped(project, reviewer)
    Skip.objects.update(created_at=F("created_at") - timedelta(days=9))
    assert slots.claim(project=project, reviewer=reviewer) is None
    client = signed_in(make_user(Role.TRAINER))
    page = client.get(reverse("project-task", args=[project.slug, task.pk])).content.decode()
    assert f'action="{lift_url(skip)}"' in page
    assert client.post(lift_url(skip)).status_code == 302
    assert slots.claim(project=project, reviewer=reviewer).task == task
    entry = AuditEntry.objects.get(action="skip undone")
    assert entry.details["reviewer"] == reviewer.username
    assert client.post(lift_url(skip)).status_code == 404


def test_only_a_lead_of_the_project_undoes_a_skip(project, reviewer):
    make_task(project)
    skip = skipped(project, reviewer)
    assert signed_in(reviewer).post(lift_url(skip)).status_code == 403
    lead = make_member(make_project(), "lead")
    assert signed_in(lead).post(lift_url(skip)).status_code == 404
    assert signed_in(make_user(Role.TRAINER)).get(lift_url(skip)).status_code == 405
    assert Skip.objects.exists()
