import re
from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.db.models import Count
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from labeling.models import QueueCursor, Skip, Slot, Task
from labeling.queue import claims
from labeling.queue import slots as queue
from labeling.queue.tasks import add_task, set_priority
from labeling.rankings import recording
from labeling.rankings.content import Content
from labeling.tasks import release_expired_leases
from tests.labeling.world import (
    ids,
    in_threads,
    key,
    make_many,
    make_member,
    make_project,
    make_task,
    one_each,
)

pytestmark = pytest.mark.django_db


def rank(slot: Slot, reviewer) -> recording.Submission:
    return recording.submit(
        slot_id=slot.pk,
        reviewer=reviewer,
        idempotency_key=key(),
        content=Content(one_each(slot.task)),
    )


def expire(slot: Slot) -> None:
    Slot.objects.filter(pk=slot.pk).update(leased_until=timezone.now() - timedelta(seconds=1))


def test_a_claim_leases_a_slot_and_stores_the_shuffled_order():
    project = make_project(lease_minutes=10)
    task, reviewer = make_task(project, responses=5), make_member(project)
    slot = queue.claim(project=project, reviewer=reviewer)
    assert (slot.task_id, slot.reviewer_id, slot.ranking_id) == (task.pk, reviewer.pk, None)
    assert sorted(slot.shown_order) == ids(task)
    assert slot.shown_at is None and slot.draft is None
    left = slot.leased_until - timezone.now()
    assert timedelta(minutes=9) < left < timedelta(minutes=11)


def test_a_second_claim_returns_and_renews_the_current_lease():
    project = make_project()
    make_task(project), make_task(project)
    reviewer = make_member(project)
    slot = queue.claim(project=project, reviewer=reviewer)
    expire(slot)
    again = queue.claim(project=project, reviewer=reviewer)
    assert again.pk == slot.pk and again.leased_until > timezone.now()


def test_a_claim_costs_one_statement():
    project = make_project()
    make_task(project)
    reviewer = make_member(project)
    with CaptureQueriesContext(
        connection,
    ) as queries:
        queue.claim(project=project, reviewer=reviewer)
    work = [q["sql"] for q in queries if "SAVEPOINT" not in q["sql"]]
    assert len(work) == 1 and "SKIP LOCKED" in work[0]


def test_tasks_are_claimed_by_priority_and_then_by_age():
    project = make_project(rankings_per_task=1)
    low, first, second = (make_task(project, priority=priority) for priority in (2, 7, 7))
    reviewer = make_member(project)
    order = []
    while slot := queue.claim(project=project, reviewer=reviewer):
        order.append(slot.task_id)
        rank(slot, reviewer)
    assert order == [first.pk, second.pk, low.pk]


def test_started_tasks_are_finished_before_others_begin():
    project = make_project(rankings_per_task=2)
    first, second = make_task(project), make_task(project)
    values = [queue.claim(project=project, reviewer=make_member(project)).task_id for _ in range(4)]
    assert values == [first.pk, first.pk, second.pk, second.pk]


def test_a_reviewer_gets_a_task_only_once():
    project = make_project(rankings_per_task=3)
    tasks = {make_task(project).pk for _ in range(3)}
    reviewer = make_member(project)
    items = []
    while slot := queue.claim(project=project, reviewer=reviewer):
        items.append(slot.task_id)
        rank(slot, reviewer)
    assert sorted(items) == sorted(tasks)


def test_a_claim_stays_within_its_project():
    here, there = make_project(), make_project()
    make_task(there)
    assert queue.claim(project=here, reviewer=make_member(here)) is None


def test_a_skipped_task_is_offered_only_to_others():
    project = make_project(rankings_per_task=1)
    skipped, other = make_task(project), make_task(project)
    reviewer, colleague = make_member(project), make_member(project)
    slot = queue.claim(project=project, reviewer=reviewer)
    assert queue.skip(slot_id=slot.pk, reviewer=reviewer, reason="unclear", note="What?")
    assert Skip.objects.get().note == "What?"
    following = queue.claim(project=project, reviewer=reviewer)
    assert following.task_id == other.pk
    rank(following, reviewer)
    assert queue.claim(project=project, reviewer=reviewer) is None
    assert queue.claim(project=project, reviewer=colleague).task_id == skipped.pk


def test_an_unknown_reason_to_skip_is_refused():
    project = make_project()
    make_task(project)
    reviewer = make_member(project)
    slot = queue.claim(project=project, reviewer=reviewer)
    with pytest.raises(ValueError, match="reason"):
        queue.skip(slot_id=slot.pk, reviewer=reviewer, reason="lunch")
    slot.refresh_from_db()
    assert slot.reviewer_id == reviewer.pk and not Skip.objects.exists()


def test_a_released_slot_goes_to_the_back():
    project = make_project(rankings_per_task=1)
    first, second = make_task(project), make_task(project)
    reviewer, colleague = make_member(project), make_member(project)
    slot = queue.claim(project=project, reviewer=reviewer)
    assert queue.release(slot_id=slot.pk, reviewer=reviewer)
    assert queue.claim(project=project, reviewer=colleague).task_id == second.pk
    assert queue.claim(project=project, reviewer=reviewer).task_id == first.pk


def test_only_the_holder_can_change_a_lease():
    project = make_project()
    make_task(project)
    reviewer, stranger = make_member(project), make_member(project)
    slot = queue.claim(project=project, reviewer=reviewer)
    before = Slot.objects.filter(pk=slot.pk).values().get()
    for move in (queue.renew, queue.release, queue.mark_shown):
        assert move(slot_id=slot.pk, reviewer=stranger) is False
    assert queue.skip(slot_id=slot.pk, reviewer=stranger, reason="other") is False
    assert queue.save_draft(slot_id=slot.pk, reviewer=stranger, draft={"x": 1}) is False
    assert Slot.objects.filter(pk=slot.pk).values().get() == before
    assert not Skip.objects.exists()


def test_a_current_lease_is_never_given_to_another_reviewer():
    project = make_project(rankings_per_task=1)
    make_task(project)
    reviewer, colleague = make_member(project), make_member(project)
    queue.claim(project=project, reviewer=reviewer)
    assert queue.claim(project=project, reviewer=colleague) is None
    assert queue.release_expired() == 0


def test_an_expired_lease_is_freed_by_the_periodic_task():
    project = make_project(rankings_per_task=1)
    make_task(project), make_task(project)
    reviewer = make_member(project)
    slot = queue.claim(project=project, reviewer=reviewer)
    expire(slot)
    assert release_expired_leases() == 1
    slot.refresh_from_db()
    assert (slot.reviewer_id, slot.leased_until, slot.shown_order) == (None, None, None)
    assert slot.position == Slot.objects.order_by("-position").first().position
    assert release_expired_leases() == 0


def test_an_expired_lease_is_freed_immediately_if_no_other_task_is_left():
    project = make_project(rankings_per_task=1)
    make_task(project)
    slot = queue.claim(project=project, reviewer=make_member(project))
    expire(slot)
    assert queue.claim(project=project, reviewer=make_member(project)).pk == slot.pk


def test_a_draft_survives_its_lease_and_returns_to_its_reviewer():
    project = make_project(rankings_per_task=1)
    make_task(project), make_task(project)
    reviewer = make_member(project)
    slot = queue.claim(project=project, reviewer=reviewer)
    assert queue.save_draft(slot_id=slot.pk, reviewer=reviewer, draft={"tiers": [[1]]})
    expire(slot)
    assert queue.release_expired() == 1
    assert queue.save_draft(slot_id=slot.pk, reviewer=reviewer, draft={"tiers": [[2]]})
    again = queue.claim(project=project, reviewer=reviewer)
    assert (again.pk, again.draft, again.shown_order) == (
        slot.pk, {"tiers": [[2]]}, slot.shown_order,
    )  # fmt: skip


def test_a_draft_is_not_shown_to_the_next_reviewer():
    project = make_project(rankings_per_task=1)
    make_task(project)
    reviewer, colleague = make_member(project), make_member(project)
    slot = queue.claim(project=project, reviewer=reviewer)
    queue.save_draft(slot_id=slot.pk, reviewer=reviewer, draft={"tiers": [[1]]})
    expire(slot)
    queue.release_expired()
    taken = queue.claim(project=project, reviewer=colleague)
    assert taken.pk == slot.pk and taken.draft is None
    assert queue.save_draft(slot_id=slot.pk, reviewer=reviewer, draft={}) is False


def test_a_draft_renews_the_lease():
    project = make_project(lease_minutes=20)
    make_task(project)
    reviewer = make_member(project)
    slot = queue.claim(project=project, reviewer=reviewer)
    expire(slot)
    assert queue.save_draft(slot_id=slot.pk, reviewer=reviewer, draft={})
    slot.refresh_from_db()
    assert slot.leased_until > timezone.now() + timedelta(minutes=19)


def test_a_slot_is_marked_as_shown_once():
    project = make_project()
    make_task(project)
    reviewer = make_member(project)
    slot = queue.claim(project=project, reviewer=reviewer)
    assert queue.mark_shown(slot_id=slot.pk, reviewer=reviewer) is True
    assert queue.mark_shown(slot_id=slot.pk, reviewer=reviewer) is False


# --- the cursor ----------------------------------------------------------------------------------


def rows_stepped_over(project, reviewer) -> int:
    """Return the number of slots that the claim examined and skipped, from its query plan.

    Without statistics of so young a table, PostgreSQL may scan all of it instead of the index.
    """
    values = claims.parameters_of(project, reviewer, ahead=False)
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {claims.CLAIM}", values)
        [[plan]] = cursor.fetchall()
        transaction.set_rollback(True)
    return max(_removed(plan[0]["Plan"]))


def _removed(node: dict):
    yield node.get("Rows Removed by Filter", 0) * node["Actual Loops"]
    for child in node.get("Plans", []):
        yield from _removed(child)


def test_a_long_history_is_skipped_once():
    project = make_project(rankings_per_task=2)
    reviewer = make_member(project)
    make_many(project, 1000, ranked_by=reviewer)
    task = make_task(project)
    assert rows_stepped_over(project, reviewer) >= 1000
    slot = queue.claim(project=project, reviewer=reviewer)
    assert slot.task_id == task.pk
    rank(slot, reviewer)
    make_task(project)
    assert rows_stepped_over(project, reviewer) <= claims.CURSOR_STEP


def test_the_cursor_remembers_an_exhausted_priority():
    project = make_project(rankings_per_task=2)
    reviewer = make_member(project)
    make_many(project, 60, ranked_by=reviewer)
    low = make_task(project, priority=1)
    assert queue.claim(project=project, reviewer=reviewer).task_id == low.pk
    cursor = QueueCursor.objects.get(project=project, reviewer=reviewer, priority=5)
    assert cursor.position == Slot.objects.filter(priority=5).order_by("-position")[0].position


def test_the_plan_reads_the_queue_in_order_and_sorts_nothing_large():
    project = make_project()
    reviewer = make_member(project)
    make_many(project, 1000, ranked_by=reviewer)
    make_many(project, 1000)
    values = claims.parameters_of(project, reviewer, ahead=False)
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN {claims.CLAIM}", values)
        plan = "\n".join(row[0] for row in cursor.fetchall())
    assert "slot_free" in plan and "Hash" not in plan
    assert (
        not re.search(r"Sort Key: slot\w*\.\"position\"", plan)
        and "Bitmap Heap Scan on labeling_slot" not in plan
    )
    for table in ("slot", "ranking", "task", "taskresponse"):
        assert f"Seq Scan on labeling_{table}" not in plan


@pytest.mark.django_db(transaction=True)
def test_the_cursor_never_passes_a_slot_that_was_only_locked():
    project = make_project(rankings_per_task=2)
    reviewer = make_member(project)
    locked = make_task(project)
    make_many(project, 60, ranked_by=reviewer)
    last = make_task(project)
    with transaction.atomic():
        list(Slot.objects.filter(task=locked).select_for_update())
        [slot] = in_threads(lambda: queue.claim(project=project, reviewer=reviewer))
        assert slot.task_id == last.pk
    rank(slot, reviewer)
    assert queue.claim(project=project, reviewer=reviewer).task_id == locked.pk


def test_slots_before_the_cursor_are_searched_at_most_once_a_minute():
    project = make_project(rankings_per_task=1)
    reviewer = make_member(project)
    task = make_task(project)
    hidden = QueueCursor.objects.create(
        project=project, reviewer=reviewer, priority=task.priority, position=2**40
    )
    assert queue.claim(project=project, reviewer=reviewer) is None
    QueueCursor.objects.filter(pk=hidden.pk).update(
        rescanned_at=timezone.now() - 2 * queue.RESCAN_AFTER
    )
    assert queue.claim(project=project, reviewer=reviewer).task_id == task.pk


# --- adding tasks --------------------------------------------------------------------------------


def test_adding_a_task_again_creates_no_duplicate():
    project = make_project()
    task = make_task(project)
    responses = list(task.responses.all())
    again, created = add_task(project=project, prompt=task.prompt, responses=responses[::-1])
    assert (again, created) == (task, False)
    assert task.slots.count() == project.rankings_per_task


def test_missing_slots_are_added():
    project = make_project(rankings_per_task=3)
    assert make_task(project).slots.count() == 3
    task = make_task(project, rankings_wanted=1, priority=8)
    assert list(task.slots.values_list("number", "priority", "project")) == [(1, 8, project.pk)]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"responses": 1}, "2 to 9 responses; this one has 1"),
        ({"responses": 10}, "2 to 9 responses; this one has 10"),
        ({"priority": 10}, "priority goes from 0 to 9"),
        ({"rankings_wanted": 10}, "1 to 9 rankings"),
    ],
)
def test_a_task_that_cannot_be_ranked_is_refused(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        make_task(make_project(), **fields)
    assert not Task.objects.exists()


def test_responses_of_another_prompt_are_refused():
    project = make_project()
    task, other = make_task(project), make_task(project)
    with pytest.raises(ValueError, match="its own prompt"):
        add_task(project=project, prompt=task.prompt, responses=list(other.responses.all()))


def test_a_changed_priority_moves_the_open_slots():
    project = make_project(rankings_per_task=1)
    first, second = make_task(project), make_task(project)
    set_priority(task=second, priority=9)
    assert queue.claim(project=project, reviewer=make_member(project)).task_id == second.pk
    second.refresh_from_db()
    assert second.priority == 9 and first.slots.get().priority == 5


# --- concurrency ---------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_one_reviewer_claiming_in_many_tabs_holds_one_lease():
    project = make_project()
    for _ in range(8):
        make_task(project)
    reviewer = make_member(project)
    slots = in_threads(*[lambda: queue.claim(project=project, reviewer=reviewer)] * 6)
    assert len({slot.pk for slot in slots}) == 1
    assert Slot.objects.filter(reviewer=reviewer).count() == 1


@pytest.mark.django_db(transaction=True)
def test_concurrent_reviewers_fill_every_slot_exactly_once():
    project = make_project(rankings_per_task=2)
    tasks = [make_task(project, responses=2) for _ in range(20)]
    reviewers = [make_member(project) for _ in range(4)]

    def work(reviewer):
        done = 0
        while slot := queue.claim(project=project, reviewer=reviewer):
            if slot.pk % 5 == 0 and done % 2:
                queue.release(slot_id=slot.pk, reviewer=reviewer)
            else:
                rank(slot, reviewer)
            done += 1
        return done

    results = in_threads(*[lambda reviewer=reviewer: work(reviewer) for reviewer in reviewers])
    assert all(isinstance(result, int) for result in results), results
    assert not Slot.objects.filter(ranking=None).exists()
    per_task = Task.objects.annotate(
        n=Count("rankings"), people=Count("rankings__reviewer", distinct=True)
    )
    assert set(per_task.values_list("n", "people")) == {(2, 2)}
    assert len(tasks) == per_task.count()
