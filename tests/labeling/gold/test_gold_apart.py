"""Tests that gold is excluded from statistics and counts of rankings."""

import pytest

from labeling.quality.measures import quality_of
from labeling.queue import slots
from labeling.reviewing import assignment
from labeling.reviewing.progress import by_reviewer, done_today, of_project
from tests.labeling.gold.gold_world import answer, make_gold, work
from tests.labeling.world import make_member, make_project, make_task

pytestmark = pytest.mark.django_db


def answered(one, *reviewers, right=True):
    for reviewer in reviewers:
        answer(slots.lease_new_slot(task=one.task, reviewer=reviewer), reviewer, right=right)


def test_gold_counts_for_no_agreement_and_no_dispute():
    project = make_project(rankings_per_task=2)
    item, a, b = make_gold(project), make_member(project), make_member(project)
    answered(item, a)
    answered(item, b, right=False)
    result = quality_of(project)
    assert (result.tasks, result.agreement.pairs, list(result.disputes)) == (0, 0, [])


def test_gold_counts_for_no_progress_and_no_list_of_reviewers():
    project = make_project(rankings_per_task=1)
    task = make_task(project)
    item, reviewer = make_gold(project), make_member(project)
    answered(item, reviewer)
    counted = of_project(project)
    assert (counted.tasks, counted.slots, counted.filled) == (2, 1, 0)  # and the task it is made of
    assert by_reviewer(project) == []
    answer(slots.claim(project=project, reviewer=reviewer), reviewer)
    assert of_project(project).percent == 100
    assert task.slots.filter(ranking__isnull=False).exists()
    assert [row.rankings for row in by_reviewer(project)] == [1]


def test_todays_count_includes_checks_but_not_training_or_qualification():
    project = make_project(qualification_percent=50)
    reviewer = make_member(project)
    make_gold(project, "training")
    make_gold(project, "qualification")
    assert len(work(project, reviewer, 3)) == 2
    assert done_today(project, reviewer) == 0
    answered(make_gold(project), reviewer)
    assert done_today(project, reviewer) == 1


def test_released_gold_slots_are_not_among_the_tasks_left():
    project = make_project()
    item, reviewer = make_gold(project), make_member(project)
    slot = slots.lease_new_slot(task=item.task, reviewer=reviewer)
    slots.release(slot_id=slot.pk, reviewer=reviewer)
    assert assignment.current(project=project, reviewer=make_member(project)) is None
