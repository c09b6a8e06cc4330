from itertools import pairwise

import pytest

from labeling.gold import constraints, making, schedule
from labeling.models import Gold, Ranking, Slot
from labeling.queue import slots as queue
from labeling.rankings import recording
from labeling.rankings.content import Content
from labeling.rankings.recording import InvalidRanking
from labeling.reviewing import assignment
from labeling.reviewing.progress import of_reviewer
from tests.labeling.gold.gold_world import answer, make_gold, work
from tests.labeling.world import (
    ids,
    in_threads,
    make_many,
    make_member,
    make_project,
    make_task,
)  # fmt: skip

pytestmark = pytest.mark.django_db


def kinds(slots):
    return [slot.task.kind for slot in slots]


# --- without gold --------------------------------------------------------------------------------


def test_without_gold_tasks_come_from_the_queue(django_assert_max_num_queries):
    project = make_project()
    task = make_task(project)
    reviewer = make_member(project)
    queue.claim(project=project, reviewer=reviewer)
    with django_assert_max_num_queries(
        4
    ):  # a savepoint's two, the claim, and whether there is gold
        slot = assignment.current(project=project, reviewer=reviewer)
    assert slot.task == task


def test_no_task_is_assigned_before_a_guideline_is_published():
    project = make_project(published=False, qualification_percent=80)
    make_task(project)
    reviewer = make_member(project)
    assert assignment.current(project=project, reviewer=reviewer) is None
    assert assignment.ahead(project=project, reviewer=reviewer) is None
    assert assignment.stage(project=project, reviewer=reviewer) is None


# --- gold among real work ------------------------------------------------------------------------


@pytest.mark.slow
def test_the_share_of_gold_is_as_set_and_gold_is_spread_out():
    project = make_project(gold_percent=20, rankings_per_task=1)
    for _ in range(30):
        make_gold(project, responses=2)
    make_many(project, 200)
    reviewer = make_member(project)
    had = kinds(work(project, reviewer, 100))
    places = [n for n, kind in enumerate(had) if kind == "gold"]
    assert 16 <= len(places) <= 24
    gaps = [b - a for a, b in pairwise(places)]
    assert min(gaps) >= 2 and max(gaps) <= 8 and len(set(gaps)) > 2


@pytest.mark.parametrize("percent", [1, 3, 10, 30, 50])
def test_gaps_between_gold_have_the_requested_mean(percent):
    gaps = [
        schedule.gap(percent=percent, project_id=1, reviewer_id=2, task_id=n) for n in range(4000)
    ]
    assert sum(gaps) / len(gaps) == pytest.approx(100 / percent, rel=0.02)
    assert min(gaps) >= 2 and max(gaps) <= 150 / percent + 1


def test_each_reviewer_gets_gold_in_a_different_order_and_at_different_intervals():
    project = make_project(gold_percent=50)
    for _ in range(6):
        make_gold(project)
    reviewers = [make_member(project) for _ in range(4)]
    orders = {tuple(schedule.remaining(project, reviewer)) for reviewer in reviewers}
    assert len(orders) > 1 and len({frozenset(order) for order in orders}) == 1


def test_a_reviewer_gets_each_gold_task_once_even_after_a_skip():
    project = make_project(gold_percent=50, rankings_per_task=1)
    for _ in range(3):
        make_gold(project)
    for _ in range(12):
        make_task(project)
    reviewer = make_member(project)
    skipped = None
    had = []
    while slot := assignment.current(project=project, reviewer=reviewer):
        if skipped is None and slot.task.kind == "gold":
            skipped = slot.task_id
            queue.skip(slot_id=slot.pk, reviewer=reviewer, reason="unclear")
            continue
        answer(slot, reviewer)
        had.append(slot)
    tasks = [slot.task_id for slot in had]
    assert kinds(had).count("gold") == 2 and skipped not in tasks
    assert len(tasks) == len(set(tasks)) == 14


def test_a_reviewer_who_ranked_the_prompt_gets_no_gold_of_it():
    project = make_project(gold_percent=50)
    reviewer, other = make_member(project), make_member(project)
    task = make_task(project)
    recording.record(
        task=task, reviewer=reviewer, source="import", content=Content([[i] for i in ids(task)])
    )
    make_gold(project)
    known = making.make(
        task=task, constraints=constraints.constraints_from([[i] for i in ids(task)], None)
    )
    assert known.task_id not in schedule.remaining(project, reviewer)
    assert known.task_id in schedule.remaining(project, other)


def test_gold_is_leased_ahead_like_any_other_task():
    project = make_project(gold_percent=50, rankings_per_task=1)
    for _ in range(5):
        make_gold(project)
    make_many(project, 30)
    reviewer = make_member(project)
    kinds_shown = []
    for _ in range(20):
        slot = assignment.current(project=project, reviewer=reviewer)
        after = assignment.ahead(project=project, reviewer=reviewer)
        assert after == assignment.ahead(project=project, reviewer=reviewer)
        assert after.task_id != slot.task_id and after.shown_at is None
        answer(slot, reviewer)
        assert assignment.current(project=project, reviewer=reviewer).pk == after.pk
        kinds_shown.append(slot.task.kind)
    assert 4 <= kinds_shown.count("gold") <= 5


def test_nothing_is_leased_ahead_without_a_current_slot():
    project = make_project(gold_percent=50)
    make_gold(project)
    assert assignment.ahead(project=project, reviewer=make_member(project)) is None


def test_every_task_lowers_the_number_of_tasks_left_by_one():
    project = make_project(gold_percent=30, rankings_per_task=1)
    for _ in range(8):
        make_gold(project)
    for _ in range(15):
        make_task(project)
    reviewer = make_member(project)
    left, had = [], []
    while slot := assignment.current(project=project, reviewer=reviewer):
        if len(had) % 2:
            assignment.ahead(project=project, reviewer=reviewer)
        left.append(of_reviewer(project, reviewer).waiting)
        answer(slot, reviewer)
        had.append(slot.task.kind)
    assert 3 <= had.count("gold") <= 8
    assert left == list(range(len(had), 0, -1))


def test_expired_gold_is_not_assigned_to_others():
    project = make_project(gold_percent=50)
    gold = make_gold(project)
    first, other = make_member(project), make_member(project)
    slot = queue.lease_new_slot(task=gold.task, reviewer=first)
    Slot.objects.filter(pk=slot.pk).update(leased_until="2020-01-01T00:00Z")
    assert queue.claim(project=project, reviewer=other) is None
    assert answer(slot, first).extra is False  # and a late answer to it is kept


@pytest.mark.django_db(transaction=True)
def test_a_reviewer_with_two_concurrent_tabs_gets_one_slot():
    project = make_project(gold_percent=50)
    for _ in range(4):
        make_gold(project)
        make_task(project)
    reviewer = make_member(project)
    for _ in range(6):
        result = in_threads(*[lambda: assignment.current(project=project, reviewer=reviewer)] * 4)
        assert len({slot.pk for slot in result}) == 1
        answer(result[0], reviewer)


def test_retired_gold_is_not_assigned():
    project = make_project(gold_percent=50, rankings_per_task=1)
    gold = make_gold(project)
    Gold.objects.filter(pk=gold.pk).update(retired_at="2026-01-01T00:00Z")
    for _ in range(6):
        make_task(project)
    assert set(kinds(work(project, make_member(project), 9))) == {"ranking"}


# --- training ------------------------------------------------------------------------------------


def test_training_comes_first_and_in_order():
    project = make_project()
    make_task(project)
    golds = [make_gold(project, "training") for _ in range(2)]
    reviewer = make_member(project)
    stage = assignment.stage(project=project, reviewer=reviewer)
    assert (stage.purpose, stage.number, stage.course.total) == ("training", 1, 2)
    had = work(project, reviewer, 9, right=False)
    assert [slot.task_id for slot in had[:2]] == [gold.task_id for gold in golds]
    assert kinds(had) == ["gold", "gold", "ranking"]
    assert assignment.stage(project=project, reviewer=reviewer) is None


def test_nothing_is_leased_ahead_in_training():
    project = make_project()
    make_task(project)
    make_gold(project, "training")
    reviewer = make_member(project)
    slot = assignment.current(project=project, reviewer=reviewer)
    assert assignment.stage_of(slot).purpose == "training"
    assert assignment.ahead(project=project, reviewer=reviewer) is None


def test_unseen_tasks_are_released_when_training_is_added():
    project = make_project()
    for _ in range(3):
        make_task(project)
    reviewer = make_member(project)
    first = assignment.current(project=project, reviewer=reviewer)
    unseen = assignment.ahead(project=project, reviewer=reviewer)
    gold = make_gold(project, "training")
    assert assignment.current(project=project, reviewer=reviewer).pk == first.pk
    answer(first, reviewer)
    assert assignment.current(project=project, reviewer=reviewer).task == gold.task
    unseen.refresh_from_db()
    assert unseen.reviewer_id is None


# --- late and unassigned --------------------------------------------------------------------------


def test_a_ranking_of_an_unassigned_task_is_refused(db):
    project = make_project(rankings_per_task=2)
    task = make_task(project)
    reviewer, stranger = make_member(project), make_member(project)
    slot = queue.claim(project=project, reviewer=reviewer)
    for other in task.slots.all():
        with pytest.raises(InvalidRanking, match="not assigned to you"):
            answer(other, stranger)
    assert not Ranking.objects.exists()
    assert answer(slot, reviewer)


@pytest.mark.parametrize("end", ["expiry", "release", "taken"])
def test_a_late_ranking_of_a_former_holder_is_kept(end):
    project = make_project(rankings_per_task=1)
    make_task(project)
    reviewer, other = make_member(project), make_member(project)
    slot = queue.claim(project=project, reviewer=reviewer)
    if end == "release":
        queue.release(slot_id=slot.pk, reviewer=reviewer)
    else:
        Slot.objects.filter(pk=slot.pk).update(leased_until="2020-01-01T00:00Z")
        queue.release_expired()
    if end == "taken":
        answer(queue.claim(project=project, reviewer=other), other)
    assert answer(slot, reviewer).extra is (end == "taken")


def test_a_slot_records_each_reviewer_once():
    project = make_project(rankings_per_task=1)
    make_task(project)
    reviewers = [make_member(project) for _ in range(2)]
    for reviewer in [*reviewers, *reviewers]:
        slot = queue.claim(project=project, reviewer=reviewer)
        queue.release(slot_id=slot.pk, reviewer=reviewer)
    slot.refresh_from_db()
    assert slot.past_reviewers == [item.pk for item in reviewers]
