"""Tests of leases ahead, held tasks and slots outside the queue."""

from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from labeling.models import QueueCursor, Slot, Task
from labeling.queue import slots as queue
from labeling.queue.tasks import release_held, set_priority
from labeling.rankings import recording
from labeling.rankings.content import Content
from tests.labeling.world import (
    in_threads,
    key,
    make_many,
    make_member,
    make_project,
    make_task,
    one_each,
)

pytestmark = pytest.mark.django_db


@pytest.fixture
def project():
    return make_project(rankings_per_task=2, lease_minutes=10)


def both(project, reviewer):
    """Return the current lease and the one ahead."""
    return (
        queue.claim(project=project, reviewer=reviewer),
        queue.claim_ahead(project=project, reviewer=reviewer),
    )


def rank(slot, reviewer):
    return recording.submit(
        slot_id=slot.pk,
        reviewer=reviewer,
        idempotency_key=key(),
        content=Content(one_each(slot.task)),
    )


def expire(*slots):
    ids = [slot.pk for slot in slots]
    Slot.objects.filter(pk__in=ids).update(leased_until=timezone.now() - timedelta(seconds=1))


def test_another_task_is_leased_ahead(project, reviewer):
    first, second = make_task(project), make_task(project)
    current, ahead = both(project, reviewer)
    assert (current.task_id, ahead.task_id) == (first.pk, second.pk)
    assert (current.ahead, ahead.ahead) == (False, True)
    assert ahead.reviewer_id == reviewer.pk and sorted(ahead.shown_order)


def test_nothing_is_leased_ahead_without_a_current_lease(project, reviewer):
    make_task(project)
    assert queue.claim_ahead(project=project, reviewer=reviewer) is None
    assert not Slot.objects.exclude(reviewer=None).exists()


def test_nothing_is_leased_ahead_of_the_last_task(project, reviewer):
    make_task(project)
    assert both(project, reviewer)[1] is None


def test_a_lease_ahead_costs_one_statement(project, reviewer):
    make_task(project), make_task(project)
    queue.claim(project=project, reviewer=reviewer)
    with CaptureQueriesContext(connection) as queries:
        queue.claim_ahead(project=project, reviewer=reviewer)
    assert len([q for q in queries if "SAVEPOINT" not in q["sql"]]) == 1


def test_a_prefetched_task_does_not_count_as_seen_until_it_is_shown(project, reviewer):
    make_task(project), make_task(project)
    current, ahead = both(project, reviewer)
    queue.mark_shown(slot_id=current.pk, reviewer=reviewer)
    queue.renew(slot_id=current.pk, reviewer=reviewer)
    rank(current, reviewer)
    promoted = queue.claim(project=project, reviewer=reviewer)
    assert promoted.pk == ahead.pk and promoted.shown_at is None
    assert queue.mark_shown(slot_id=promoted.pk, reviewer=reviewer)
    assert Slot.objects.get(pk=promoted.pk).shown_at is not None


def fill(slot, reviewer):
    rank(slot, reviewer)


def skip(slot, reviewer):
    assert queue.skip(slot_id=slot.pk, reviewer=reviewer, reason="other")


def release(slot, reviewer):
    assert queue.release(slot_id=slot.pk, reviewer=reviewer)


def run_out(slot, reviewer):
    expire(slot)
    assert queue.release_expired() == 1


@pytest.mark.parametrize("end", [fill, skip, release, run_out])
def test_the_lease_ahead_becomes_current_when_the_current_one_ends(project, reviewer, end):
    make_task(project), make_task(project), make_task(project)
    current, ahead = both(project, reviewer)
    end(current, reviewer)
    promoted = queue.claim(project=project, reviewer=reviewer)
    assert (promoted.pk, promoted.ahead) == (ahead.pk, False)
    following = queue.claim_ahead(project=project, reviewer=reviewer)
    assert following.ahead and following.task_id != promoted.task_id


@pytest.mark.parametrize("end", [fill, skip, release, run_out])
def test_the_lease_ahead_can_end_first(project, reviewer, end):
    make_task(project), make_task(project), make_task(project)
    current, ahead = both(project, reviewer)
    end(ahead, reviewer)
    assert Slot.objects.get(pk=ahead.pk).ahead is False
    again, following = both(project, reviewer)
    assert again.pk == current.pk and not again.ahead
    assert following.ahead and following.pk != ahead.pk


def test_both_leases_are_returned_and_renewed(project, reviewer):
    make_task(project), make_task(project), make_task(project)
    slots = both(project, reviewer)
    expire(*slots)
    again = both(project, reviewer)
    assert [slot.pk for slot in again] == [slot.pk for slot in slots]
    later = timezone.now() + timedelta(minutes=9)
    assert Slot.objects.filter(leased_until__gt=later).count() == 2


def test_renewing_the_current_lease_renews_the_one_ahead(project, reviewer):
    make_task(project), make_task(project)
    current, ahead = both(project, reviewer)
    expire(current, ahead)
    assert queue.renew(slot_id=current.pk, reviewer=reviewer)
    assert queue.release_expired() == 0
    assert not queue.renew(slot_id=ahead.pk, reviewer=make_member(project))


def test_advancing_promotes_shows_and_leases_ahead_in_one_statement(project, reviewer):
    make_task(project), make_task(project), make_task(project)
    current, ahead = both(project, reviewer)
    rank(current, reviewer)
    with CaptureQueriesContext(connection) as queries:
        now, following = queue.advance(project=project, reviewer=reviewer, shown_slot=ahead.pk)
    assert len([q for q in queries if "SAVEPOINT" not in q["sql"]]) == 1
    assert (now.pk, now.ahead) == (ahead.pk, False) and now.shown_at is not None
    assert following.ahead and following.shown_at is None
    again, same = queue.advance(project=project, reviewer=reviewer, shown_slot=following.pk)
    assert (again.pk, again.shown_at, same.pk) == (now.pk, now.shown_at, following.pk)
    assert same.shown_at is None


def test_advancing_with_another_open_task_shows_nothing(project, reviewer):
    make_task(project), make_task(project), make_task(project)
    current, ahead = both(project, reviewer)
    now, following = queue.advance(project=project, reviewer=reviewer, shown_slot=ahead.pk)
    assert (now.pk, following.pk) == (current.pk, ahead.pk)
    assert not Slot.objects.exclude(shown_at=None).exists()


def test_advancing_without_leases_leases_both(project, reviewer):
    assert queue.advance(project=project, reviewer=reviewer, shown_slot=0) == (None, None)
    make_task(project)
    assert queue.advance(project=project, reviewer=reviewer, shown_slot=0)[1] is None
    make_task(project)
    current, ahead = queue.advance(project=project, reviewer=reviewer, shown_slot=0)
    assert not current.ahead and ahead.ahead


def test_a_draft_returns_before_the_lease_ahead(project, reviewer):
    make_task(project), make_task(project), make_task(project)
    current, ahead = both(project, reviewer)
    queue.save_draft(slot_id=current.pk, reviewer=reviewer, draft={"x": 1})
    expire(current)
    queue.release_expired()
    again, still = both(project, reviewer)
    assert (again.pk, again.draft) == (current.pk, {"x": 1})
    assert still.pk == ahead.pk and still.ahead


def test_a_draft_of_the_task_ahead_survives_its_lease(project, reviewer):
    make_task(project), make_task(project)
    current, ahead = both(project, reviewer)
    queue.save_draft(slot_id=ahead.pk, reviewer=reviewer, draft={"x": 1})
    expire(ahead)
    assert queue.release_expired() == 1
    again, following = both(project, reviewer)
    assert again.pk == current.pk
    assert (following.pk, following.ahead, following.draft) == (ahead.pk, True, {"x": 1})


def test_the_cursor_does_not_pass_a_task_that_may_be_released(project, reviewer):
    held = make_task(project)
    make_many(project, 60, ranked_by=reviewer)
    last = make_task(project)
    current, ahead = both(project, reviewer)
    assert (current.task_id, ahead.task_id) == (held.pk, last.pk)
    cursor = QueueCursor.objects.filter(reviewer=reviewer).first()
    other = held.slots.get(reviewer=None)
    assert cursor is None or cursor.position < other.position


def test_an_answer_to_the_slot_ahead_fills_it(project, reviewer):
    make_task(project), make_task(project)
    current, ahead = both(project, reviewer)
    sent = rank(ahead, reviewer)
    ahead.refresh_from_db()
    assert ahead.ranking_id == sent.ranking.pk and not sent.extra
    assert queue.claim(project=project, reviewer=reviewer).pk == current.pk


@pytest.mark.django_db(transaction=True)
def test_a_reviewer_with_many_tabs_holds_two_leases():
    project = make_project()
    for _ in range(8):
        make_task(project)
    reviewer = make_member(project)
    results = in_threads(*[lambda: both(project, reviewer)] * 6)
    assert not [result for result in results if isinstance(result, Exception)]
    assert len({(current.pk, ahead.pk) for current, ahead in results}) == 1
    assert Slot.objects.filter(reviewer=reviewer).count() == 2


# --- held tasks ----------------------------------------------------------------------------------


def test_a_held_task_is_not_assigned_until_it_is_released(project, reviewer):
    task = make_task(project, held=True)
    assert task.held and not task.slots.exists()
    assert queue.claim(project=project, reviewer=reviewer) is None
    assert release_held(project=project, task_ids=[task.pk]) == 1
    task.refresh_from_db()
    assert not task.held and task.slots.count() == 2
    assert queue.claim(project=project, reviewer=reviewer).task_id == task.pk


def test_releasing_twice_or_from_another_project_does_nothing(project):
    task, free = make_task(project, held=True), make_task(project)
    assert release_held(project=make_project(), task_ids=[task.pk]) == 0
    assert Task.objects.get(pk=task.pk).held
    assert release_held(project=project, task_ids=[task.pk, free.pk]) == 1
    assert release_held(project=project, task_ids=[task.pk, free.pk]) == 0
    assert (task.slots.count(), free.slots.count()) == (2, 2)


def test_a_held_task_with_an_imported_ranking_gets_only_the_missing_slots(project, reviewer):
    task = make_task(project, held=True)
    recording.record(task=task, reviewer=reviewer, source="import", content=Content(one_each(task)))
    release_held(project=project, task_ids=[task.pk])
    assert sorted(task.slots.values_list("number", "ranking__reviewer")) == [
        (1, reviewer.pk),
        (2, None),
    ]


# --- slots outside the queue ----------------------------------------------------------------------


def test_an_added_slot_is_assigned_before_other_tasks_begin():
    project = make_project(rankings_per_task=1)
    begun, waiting = make_task(project), make_task(project)
    rank(queue.claim(project=project, reviewer=(first := make_member(project))), first)
    slot = queue.add_slot(task=begun)
    begun.refresh_from_db()
    assert (slot.number, begun.rankings_wanted) == (2, 2)
    assert queue.claim(project=project, reviewer=first).task_id == waiting.pk
    assert queue.claim(project=project, reviewer=make_member(project)).pk == slot.pk


def test_a_task_never_wants_more_than_nine(project):
    task = make_task(project, rankings_wanted=9)
    with pytest.raises(ValueError, match="already needs 9 rankings"):
        queue.add_slot(task=task)
    assert task.slots.count() == 9


@pytest.mark.django_db(transaction=True)
def test_slots_added_concurrently_get_different_numbers():
    project = make_project(rankings_per_task=1)
    task = make_task(project)
    results = in_threads(
        *[lambda: queue.add_slot(task=task)] * 3,
        *[
            lambda user=user: queue.lease_new_slot(task=task, reviewer=user)
            for user in [make_member(project) for _ in range(3)]
        ],
    )
    assert sorted(slot.number for slot in results) == [2, 3, 4, 5, 6, 7]


def test_gold_tasks_cannot_be_claimed(project, reviewer):
    free = make_task(project, kind=Task.Kind.GOLD)
    held = make_task(project, kind=Task.Kind.GOLD, held=True)
    assert release_held(project=project, task_ids=[held.pk]) == 1
    assert not free.slots.exists() and not held.slots.exists()
    assert queue.claim(project=project, reviewer=reviewer) is None


def test_a_new_slot_is_leased_immediately_and_filled_like_any_other(project, reviewer):
    task = make_task(project, kind=Task.Kind.GOLD)
    slot = queue.lease_new_slot(task=task, reviewer=reviewer)
    assert slot.leased_until > timezone.now() + timedelta(minutes=9)
    assert queue.claim(project=project, reviewer=reviewer).pk == slot.pk
    sent = rank(slot, reviewer)
    assert not sent.extra and Slot.objects.get(pk=slot.pk).ranking_id == sent.ranking.pk
    with pytest.raises(ValueError, match="has ranked"):
        queue.lease_new_slot(task=task, reviewer=reviewer)


def test_a_new_slot_can_be_leased_ahead(project, reviewer):
    make_task(project)
    gold = make_task(project, kind=Task.Kind.GOLD)
    current = queue.claim(project=project, reviewer=reviewer)
    slot = queue.lease_new_slot(task=gold, reviewer=reviewer, ahead=True)
    assert slot.ahead and queue.claim_ahead(project=project, reviewer=reviewer).pk == slot.pk
    rank(current, reviewer)
    assert queue.claim(project=project, reviewer=reviewer).pk == slot.pk


def test_a_new_slot_yields_to_an_existing_lease(project, reviewer):
    make_task(project)
    gold = make_task(project, kind=Task.Kind.GOLD)
    current = queue.claim(project=project, reviewer=reviewer)
    assert queue.lease_new_slot(task=gold, reviewer=reviewer).pk == current.pk
    assert not gold.slots.exists()


def test_a_released_new_slot_is_not_claimed_and_is_reused(project, reviewer):
    gold = make_task(project, kind=Task.Kind.GOLD)
    slot = queue.lease_new_slot(task=gold, reviewer=reviewer)
    expire(slot)
    queue.release_expired()
    set_priority(task=gold, priority=9)
    colleague = make_member(project)
    assert queue.claim(project=project, reviewer=colleague) is None
    assert queue.lease_new_slot(task=gold, reviewer=colleague).pk == slot.pk


@pytest.mark.django_db(transaction=True)
def test_a_new_slot_wanted_in_many_tabs_is_leased_once():
    project = make_project()
    gold = make_task(project, kind=Task.Kind.GOLD)
    reviewer = make_member(project)
    slots = in_threads(*[lambda: queue.lease_new_slot(task=gold, reviewer=reviewer)] * 5)
    assert len({slot.pk for slot in slots}) == 1 and gold.slots.count() == 1
