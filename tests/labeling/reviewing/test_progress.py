"""Tests of cached counts for pages."""

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from labeling.core import counts
from labeling.models import Ranking
from labeling.queue import slots
from labeling.rankings import recording
from labeling.rankings.content import Content
from labeling.reviewing import progress
from labeling.tasks import count_large_projects
from tests.labeling.world import key, make_member, make_project, make_task, one_each

pytestmark = pytest.mark.django_db


def rank(project, reviewer) -> Ranking:
    slot = slots.claim(project=project, reviewer=reviewer)
    return recording.submit(
        slot_id=slot.pk,
        reviewer=reviewer,
        idempotency_key=key(),
        content=Content(one_each(slot.task)),
    ).ranking


def test_small_counts_are_always_current():
    project = make_project()
    make_task(project)
    assert progress.of_project(project).slots == 2
    make_task(project)
    assert progress.of_project(project).slots == 4


def test_large_counts_are_cached_for_a_while(monkeypatch):
    monkeypatch.setattr(counts, "LARGE", 2)
    project, other = make_project(), make_project()
    make_task(project), make_task(other)
    assert progress.of_project(project).slots == 2
    make_task(project), make_task(other)
    assert (progress.of_project(project).slots, progress.of_project(other).slots) == (2, 4)
    assert count_large_projects() == 2
    assert (progress.of_project(project).slots, progress.of_project(other).slots) == (4, 4)


def test_pages_read_the_workers_counts_of_large_projects(monkeypatch, django_assert_num_queries):
    monkeypatch.setattr(counts, "LARGE", 4)
    project, small = make_project(), make_project()
    make_task(small), make_task(project), make_task(project)
    reviewer = make_member(project)
    for _ in range(2):
        rank(project, reviewer)
    assert count_large_projects() == 1
    with django_assert_num_queries(1):
        assert progress.of_project(project).filled == 2
    monkeypatch.setattr(counts, "LARGE", 2)
    progress.by_reviewer.recount(project)
    with django_assert_num_queries(1):
        assert [row.rankings for row in progress.by_reviewer(project)] == [2]


def test_expired_counts_are_recomputed(monkeypatch):
    monkeypatch.setattr(counts, "LARGE", 2)
    monkeypatch.setattr(counts, "CACHE_SECONDS", -1)
    make_task(project := make_project())
    assert progress.of_project(project).slots == 2
    make_task(project)
    assert progress.of_project(project).slots == 4


def test_each_ranking_adds_one_to_the_progress_with_one_short_query():
    project = make_project(rankings_per_task=1)
    for _ in range(5):
        make_task(project)
    reviewer = make_member(project)
    before = progress.of_reviewer(project, reviewer)
    assert (before.today, before.waiting) == (0, 5)
    figures = [progress.after_ranking(project, reviewer, rank(project, reviewer))]
    for _ in range(3):
        ranking = rank(project, reviewer)
        with CaptureQueriesContext(connection) as queries:
            figures.append(progress.after_ranking(project, reviewer, ranking))
        assert len(queries) == 1
    assert [(item.today, item.waiting) for item in figures] == [(1, 4), (2, 3), (3, 2), (4, 1)]


def test_rankings_of_other_projects_and_people_do_not_count():
    project, elsewhere = make_project(rankings_per_task=2), make_project()
    make_task(project), make_task(project), make_task(elsewhere)
    reviewer, colleague = make_member(project), make_member(project)
    elsewhere.memberships.create(user=reviewer)
    ranking = rank(project, reviewer)
    first = progress.after_ranking(project, reviewer, ranking)
    rank(project, colleague)
    rank(elsewhere, reviewer)
    again = progress.after_ranking(project, reviewer, ranking)
    assert again.today == first.today == 1
