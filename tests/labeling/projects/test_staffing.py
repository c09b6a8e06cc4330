"""Tests of messages: an empty queue, warnings for leads, and a second tab."""

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from labeling.gold import qualification
from labeling.models import Membership, Project, Qualification, Ranking, Slot, Task
from labeling.projects import staffing
from labeling.queue import slots
from labeling.rankings import recording
from labeling.rankings.content import Content
from tests.labeling.pages.test_pages_review import Desk
from tests.labeling.world import key, make_member, make_project, make_task, one_each

pytestmark = pytest.mark.django_db


def page_of(project: Project, user, name: str = "review") -> str:
    client = Client()
    client.force_login(user)
    return client.get(reverse(name, args=[project.slug])).content.decode()


def rank_all(project: Project, reviewer) -> None:
    for task in Task.objects.filter(project=project):
        recording.record(
            task=task,
            reviewer=reviewer,
            source=Ranking.Source.REVIEW,
            content=Content(one_each(task)),
        )


# --- the empty queue -----------------------------------------------------------------------------


def test_the_empty_queue_reports_too_few_reviewers():
    project = make_project(rankings_per_task=3)
    for _ in range(4):
        make_task(project)
    ada, bo = make_member(project), make_member(project)
    rank_all(project, ada)
    rank_all(project, bo)
    html = page_of(project, ada)
    assert "4 tasks wait for other reviewers" in html
    assert "too few reviewers to finish" in html
    assert "Every task" not in html


def test_the_empty_queue_has_no_warning_if_there_are_enough_reviewers():
    project = make_project(rankings_per_task=2)
    make_task(project)
    ada = make_member(project)
    make_member(project)
    rank_all(project, ada)
    html = page_of(project, ada)
    assert "1 task waits for another reviewer" in html and "too few" not in html


def test_the_empty_queue_counts_reserved_and_held_tasks():
    project = make_project(rankings_per_task=1)
    make_task(project)
    make_task(project, held=True)
    ada, bo = make_member(project), make_member(project)
    assert slots.claim(project=project, reviewer=bo) is not None
    html = page_of(project, ada)
    assert "1 task is reserved by someone else" in html
    assert "1 task is held until a lead has checked it" in html
    assert "Every task" not in html


def test_the_empty_queue_says_that_every_task_is_ranked_only_if_true():
    project = make_project(rankings_per_task=1)
    ada = make_member(project)
    assert "The project has no tasks yet." in page_of(project, ada)
    make_task(project)
    rank_all(project, ada)
    assert "Every task is fully ranked." in page_of(project, ada)


# --- warnings for leads --------------------------------------------------------------------------


def test_leads_are_warned_if_tasks_need_more_rankings_than_there_are_reviewers():
    project = make_project(rankings_per_task=4)
    make_task(project)
    make_task(project, rankings_wanted=1)
    lead = make_member(project, "lead")
    make_member(project)
    result = staffing.shortage(project)
    assert (result.tasks, result.reviewers, result.open_tasks) == (1, 2, 2)
    html = page_of(project, lead, "project")
    assert "1 task needs more rankings than this project’s reviewers can still give." in html
    assert "Add at least 2 more reviewers." in html
    make_member(project), make_member(project)
    assert staffing.shortage(project).tasks == 0
    assert "can still give" not in page_of(project, lead, "project")


def test_a_reviewer_is_not_shown_the_warning_for_leads():
    project = make_project(rankings_per_task=4)
    make_task(project)
    assert "can still give" not in page_of(project, make_member(project), "project")


def test_reviewers_who_skipped_ranked_left_or_failed_do_not_count():
    project = make_project(rankings_per_task=2)
    task = make_task(project)
    ada, bo, cy = (make_member(project) for _ in range(3))
    slot = slots.claim(project=project, reviewer=ada)
    assert slot is not None and staffing.shortage(project).tasks == 0
    slots.skip(slot_id=slot.pk, reviewer=ada, reason="unclear")
    assert staffing.shortage(project).tasks == 0
    rank_all(project, bo)
    assert staffing.shortage(project).tasks == 0  # one slot is left, for cy
    cy.is_active = False
    cy.save()
    assert staffing.shortage(project).tasks == 1
    cy.is_active = True
    cy.save()
    Project.objects.update(qualification_percent=80)
    project.refresh_from_db()
    Qualification.objects.create(
        project=project,
        reviewer=cy,
        version=project.current_version,
        state=qualification.FAILED,
        right=0,
        asked=1,
        ended_at=timezone.now(),
    )
    assert staffing.shortage(project).tasks == 1
    assert task.slots.filter(ranking=None).count() == 1


def test_a_former_member_is_not_counted_twice():
    project = make_project(rankings_per_task=2)
    make_task(project)
    ada = make_member(project)
    rank_all(project, ada)
    Membership.objects.filter(user=ada).delete()
    make_member(project)
    assert staffing.shortage(project).tasks == 0


# --- two tabs -------------------------------------------------------------------------------------


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def slot(desk: Desk) -> Slot:
    desk.as_(desk.reviewer).get(desk.url("review"))
    return Slot.objects.get(reviewer=desk.reviewer)


@pytest.mark.parametrize("name", ["review-draft", "review-renew"])
def test_typing_in_a_second_tab_says_that_the_task_was_sent_in_the_first(desk, slot, name):
    client = desk.as_(desk.reviewer)
    client.post(desk.url("review"), desk.answer(slot))
    body = {"fields": {"rationale": ["late"]}, "at": 1}
    refused = client.post(desk.url(name, slot.pk), body, content_type="application/json")
    assert (refused.status_code, refused.json()) == (409, {"reason": "ranked"})


def test_typing_in_a_second_tab_says_that_the_task_was_skipped_in_the_first(desk, slot):
    client = desk.as_(desk.reviewer)
    client.post(desk.url("review-skip", slot.pk), {"reason": "unclear"})
    refused = client.post(desk.url("review-renew", slot.pk))
    assert (refused.status_code, refused.json()) == (409, {"reason": "skipped"})


def test_an_expired_reservation_is_explained(desk, slot):
    Slot.objects.filter(pk=slot.pk).update(
        reviewer=desk.other, shown_order=slot.shown_order, draft=None, draft_by=None
    )
    refused = desk.as_(desk.reviewer).post(desk.url("review-renew", slot.pk))
    assert (refused.status_code, refused.json()) == (409, {"reason": "expired"})


def test_a_different_answer_from_a_second_tab_is_counted_once(desk, slot):
    client = desk.as_(desk.reviewer)
    for ranks in ((1, 2, 3), (3, 2, 1)):
        data = desk.answer(slot, ranks, shown="", idempotency_key=str(key()))
        reply = client.post(desk.url("review"), data, headers={"Accept": "application/json"})
        assert reply.status_code == 200
        assert "<strong>1</strong> done today" in reply.json()["progress"]
    assert Ranking.objects.filter(superseded_at=None).count() == 1
