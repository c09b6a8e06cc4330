"""Tests of the balanced order of display over the slots of a task."""

from itertools import permutations

import pytest

from labeling.models import Slot
from labeling.queue import slots
from labeling.queue.display_order import shown_order_for
from labeling.rankings import recording
from labeling.rankings.content import Content
from tests.labeling.world import ids, key, make_member, make_project, make_task, one_each

SIZES = range(2, 10)


@pytest.mark.parametrize("k", SIZES)
def test_each_response_has_each_position_once_over_as_many_slots(k):
    responses = list(range(100, 100 + k))
    for block in (1, 1 + k):
        rows = [shown_order_for(7, number, responses) for number in range(block, block + k)]
        assert all(sorted(row) == responses for row in rows)
        assert all(sorted(column) == responses for column in zip(*rows, strict=True))


@pytest.mark.parametrize("k", [2, 4, 6, 8])
def test_two_slots_show_every_pair_in_both_orders(k):
    first, second = (shown_order_for(3, number, range(k)) for number in (1, 2))
    assert first == second[::-1]


@pytest.mark.parametrize("k", [3, 5, 7, 9])
def test_an_odd_number_needs_twice_as_many_slots_for_both_orders_of_every_pair(k):
    rows = [shown_order_for(3, number, range(k)) for number in range(1, 2 * k + 1)]
    for a, b in permutations(range(k), 2):
        assert sum(row.index(a) < row.index(b) for row in rows) == k


def test_a_pair_alternates_its_order():
    a, b = shown_order_for(1, 1, [10, 20]), shown_order_for(1, 2, [10, 20])
    assert a == b[::-1]


def test_tasks_are_shuffled_differently():
    assert {shown_order_for(task, 1, range(4))[0] for task in range(40)} == set(range(4))


@pytest.mark.django_db
@pytest.mark.parametrize("k", SIZES)
def test_a_lease_stores_the_order_of_its_number(k):
    project = make_project(rankings_per_task=min(2 * k + 1, 9))
    task = make_task(project, responses=k)
    for _ in range(project.rankings_per_task):
        slot = slots.claim(project=project, reviewer=make_member(project))
        assert slot.shown_order == shown_order_for(task.pk, slot.number, ids(task))
    for _ in range(3 * k):
        slot = slots.lease_new_slot(task=task, reviewer=make_member(project))
        assert slot.shown_order == shown_order_for(task.pk, slot.number, ids(task))


@pytest.mark.django_db
def test_a_late_extra_keeps_the_order_its_form_showed():
    project = make_project(rankings_per_task=1)
    task, late, quick = make_task(project, responses=5), make_member(project), make_member(project)
    slot = slots.claim(project=project, reviewer=late)
    shown = slot.shown_order
    slots.release(slot_id=slot.pk, reviewer=late)
    for reviewer in (quick, late):
        slots.claim(project=project, reviewer=reviewer)
        sent = recording.submit(
            slot_id=slot.pk,
            reviewer=reviewer,
            idempotency_key=key(),
            content=Content(one_each(task)),
        )
    assert sent.extra and sent.ranking.shown_order == shown


@pytest.mark.django_db
def test_a_late_answer_that_takes_another_slot_keeps_the_order_its_form_showed():
    project = make_project(rankings_per_task=2)
    task, late = make_task(project, responses=4), make_member(project)
    slot = slots.claim(project=project, reviewer=late)
    shown = slot.shown_order
    slots.release(slot_id=slot.pk, reviewer=late)
    Slot.objects.filter(pk=slot.pk).update(position=1)
    assert slots.claim(project=project, reviewer=make_member(project)).pk == slot.pk
    sent = recording.submit(
        slot_id=slot.pk, reviewer=late, idempotency_key=key(), content=Content(one_each(task))
    )
    filled = Slot.objects.get(ranking=sent.ranking)
    assert filled.pk != slot.pk
    assert sent.ranking.shown_order == filled.shown_order == shown
