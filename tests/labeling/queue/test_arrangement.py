"""Tests of rearranging tasks in the queue."""

import pytest

from labeling.models import QueueCursor, Slot, Task
from labeling.queue import arrangement, slots
from labeling.queue.tasks import set_priority
from labeling.rankings import recording
from labeling.rankings.content import Content
from tests.labeling.world import key, make_member, make_project, make_task, one_each

pytestmark = pytest.mark.django_db


def served(project, reviewer, count):
    """Let a reviewer claim and rank `count` tasks, and return them."""
    items = []
    for _ in range(count):
        slot = slots.claim(project=project, reviewer=reviewer)
        recording.submit(
            slot_id=slot.pk,
            reviewer=reviewer,
            idempotency_key=key(),
            content=Content(one_each(slot.task)),
        )
        items.append(slot.task_id)
    return items


def test_tasks_are_assigned_in_the_requested_order(project):
    a, b, c = (make_task(project).pk for _ in range(3))
    assert arrangement.rearrange(project=project, task_ids=[c, a, b]) == 3
    assert served(project, make_member(project), 3) == [c, a, b]


def test_other_tasks_keep_their_position(project):
    a, stays, b, c = (make_task(project).pk for _ in range(4))
    before = list(Slot.objects.filter(task=stays).values_list("position", flat=True))
    arrangement.rearrange(project=project, task_ids=[c, b, a])
    assert list(Slot.objects.filter(task=stays).values_list("position", flat=True)) == before
    assert served(project, make_member(project), 4) == [c, stays, b, a]


def test_a_task_keeps_its_slots_together_and_its_priority(project):
    a = make_task(project, rankings_wanted=3).pk
    b = make_task(project, rankings_wanted=1).pk
    urgent = make_task(project, priority=9).pk
    arrangement.rearrange(project=project, task_ids=[b, a, urgent])
    order = Slot.objects.filter(priority=5).order_by("position").values_list("task", "number")
    assert list(order) == [(b, 1), (a, 1), (a, 2), (a, 3)]
    assert served(project, make_member(project), 3) == [urgent, b, a]
    assert dict(Task.objects.values_list("pk", "priority")) == {a: 5, b: 5, urgent: 9}


def test_a_leased_slot_does_not_move(project):
    a, b = make_task(project), make_task(project)
    held = slots.claim(project=project, reviewer=make_member(project))
    arrangement.rearrange(project=project, task_ids=[b.pk, a.pk])
    after = Slot.objects.get(pk=held.pk)
    assert (after.position, after.reviewer_id) == (held.position, held.reviewer_id)


def test_a_reviewer_whose_cursor_passed_a_moved_task_gets_it(project):
    reviewer = make_member(project)
    a, b = make_task(project).pk, make_task(project).pk
    last = Slot.objects.order_by("-position").first().position
    QueueCursor.objects.create(project=project, reviewer=reviewer, priority=5, position=last - 2)
    arrangement.rearrange(project=project, task_ids=[b, a])
    assert served(project, reviewer, 2) == [b, a]


def test_tasks_of_another_project_do_not_move(project):
    other = make_project()
    theirs = make_task(other).pk, make_task(other).pk
    assert arrangement.rearrange(project=project, task_ids=theirs[::-1]) == 0


def test_only_unstarted_tasks_are_waiting(project):
    ranked, open_now, drafted, waits, urgent = (make_task(project) for _ in range(5))
    make_task(project, held=True)
    make_task(project, kind=Task.Kind.COMPARISON)
    set_priority(task=urgent, priority=9)
    someone = make_member(project)
    recording.record(
        task=ranked,
        reviewer=make_member(project),
        source="import",
        content=Content(one_each(ranked)),
    )
    Slot.objects.filter(task=drafted, number=1).update(draft={}, draft_by=someone)
    Slot.objects.filter(task=open_now, number=1).update(
        reviewer=someone, leased_until="2100-01-01T00:00Z"
    )
    result = arrangement.waiting(project=project, most=10)
    assert [task.task_id for task in result] == [urgent.pk, waits.pk]
    assert [task.priority for task in result] == [9, 5]
    assert result[1].prompt_hash == waits.prompt.content_hash
    assert len(arrangement.waiting(project=project, most=1)) == 1
