import math
import uuid
from datetime import timedelta

import pytest
from django.utils import timezone

from labeling import queue, rankings
from labeling.models import Membership, Ranking, Slot
from labeling.rankings import InvalidRanking
from tests.labeling.world import (
    ids,
    in_threads,
    key,
    make_member,
    make_project,
    make_task,
    one_each,
    publish,
)

pytestmark = pytest.mark.django_db


@pytest.fixture
def project():
    return make_project(rankings_per_task=1)


@pytest.fixture
def task(project):
    return make_task(project, responses=3)


@pytest.fixture
def reviewer(project):
    return make_member(project)


@pytest.fixture
def slot(project, task, reviewer):
    return queue.claim(project=project, reviewer=reviewer)


def submit(slot, reviewer, **content):
    content.setdefault("idempotency_key", key())
    content.setdefault("tiers", one_each(slot.task))
    return rankings.submit(slot_id=slot.pk, reviewer=reviewer, **content)


def lapse(slot):
    Slot.objects.filter(pk=slot.pk).update(leased_until=timezone.now() - timedelta(seconds=1))
    assert queue.release_expired() == 1


def test_it_fills_the_slot_with_everything_that_was_said(slot, task, reviewer, project):
    a, b, c = ids(task)
    made = submit(
        slot,
        reviewer,
        tiers=[[b], [a, c]],
        cut=1,
        ratings={b: {"honesty": 5}},
        flags={a: ["unsafe"]},
        rationale="b is kinder\x00",
        active_seconds=12.5,
    )
    ranking = Ranking.objects.get()
    assert (made.ranking, made.duplicate, made.extra) == (ranking, False, False)
    assert ranking.tiers == [[b], [a, c]] and ranking.cut == 1
    assert ranking.ratings == {str(b): {"honesty": 5}} and ranking.flags == {str(a): ["unsafe"]}
    assert ranking.rationale == "b is kinder\ufffd" and ranking.active_seconds == 12.5
    assert ranking.guideline_version_id == project.current_version_id
    assert ranking.shown_order == slot.shown_order and ranking.source == "review"
    slot.refresh_from_db()
    assert (slot.ranking, slot.leased_until, slot.reviewer) == (ranking, None, reviewer)


A, B, C, ALIEN = "a", "b", "c", "alien"


@pytest.mark.parametrize(
    ("field", "content"),
    [
        ("tiers", {"tiers": [[A], [B]]}),
        ("tiers", {"tiers": [[A], [B], [B, C]]}),
        ("tiers", {"tiers": [[A], [B], [C], [ALIEN]]}),
        ("tiers", {"tiers": [[A, B, C], []]}),
        ("tiers", {"tiers": []}),
        ("tiers", {"tiers": [A, B, C]}),
        ("tiers", {"tiers": [["1"], [B], [C]]}),
        ("tiers", {"tiers": [[True], [B], [C]]}),
        ("tiers", {"tiers": "abc"}),
        ("cut", {"cut": 4}),
        ("cut", {"cut": -1}),
        ("strength", {"strength": 2}),
        ("ratings", {"ratings": {A: {"honesty": 6}}}),
        ("ratings", {"ratings": {A: {"honesty": 0}}}),
        ("ratings", {"ratings": {A: {"honesty": True}}}),
        ("ratings", {"ratings": {A: {"wit": 3}}}),
        ("ratings", {"ratings": {ALIEN: {"honesty": 3}}}),
        ("flags", {"flags": {A: ["nonsense"]}}),
        ("flags", {"flags": {ALIEN: ["unsafe"]}}),
        ("rationale", {"rationale": "x" * (rankings.LONGEST_RATIONALE + 1)}),
    ],
)
def test_it_refuses_what_makes_no_sense_and_writes_nothing(slot, task, reviewer, field, content):
    names = dict(zip([A, B, C], ids(task), strict=True)) | {ALIEN: 10**9}

    def named(value):
        if isinstance(value, list):
            return [named(item) for item in value]
        if isinstance(value, dict):
            return {names.get(name, name): rated for name, rated in value.items()}
        return names.get(value, value) if isinstance(value, str) else value

    with pytest.raises(InvalidRanking) as refused:
        submit(slot, reviewer, **{name: named(value) for name, value in content.items()})
    assert list(refused.value.errors) == [field]
    assert refused.value.errors[field].endswith(".")
    assert not Ranking.objects.exists()
    slot.refresh_from_db()
    assert slot.ranking_id is None and slot.reviewer_id == reviewer.pk


def test_it_takes_a_strength_for_one_of_two(project, reviewer):
    task = make_task(project, responses=2)
    slot = queue.claim(project=project, reviewer=reviewer)
    first, second = ids(task)
    for tiers, strength in (([[first, second]], 1), ([[first], [second]], 4)):
        with pytest.raises(InvalidRanking):
            submit(slot, reviewer, tiers=tiers, strength=strength)
    assert submit(slot, reviewer, tiers=[[first], [second]], strength=3).ranking.strength == 3


@pytest.mark.parametrize(("said", "kept"), [(-5, 0), (math.nan, 0), (math.inf, 0), (1e9, 86400)])
def test_a_wrong_clock_costs_no_ranking(slot, reviewer, said, kept):
    assert submit(slot, reviewer, active_seconds=said).ranking.active_seconds == kept


def test_it_says_when_no_guideline_is_published():
    project = make_project(published=False)
    make_task(project)
    reviewer = make_member(project)
    slot = queue.claim(project=project, reviewer=reviewer)
    with pytest.raises(InvalidRanking, match="no published guideline"):
        submit(slot, reviewer)


def test_it_says_when_the_slot_is_gone(reviewer):
    with pytest.raises(InvalidRanking, match="no longer there"):
        rankings.submit(slot_id=10**9, reviewer=reviewer, idempotency_key=key(), tiers=[])


# --- twice ---------------------------------------------------------------------------------------


def test_the_same_key_twice_is_one_ranking(slot, reviewer):
    same = key()
    first = submit(slot, reviewer, idempotency_key=same)
    second = submit(slot, reviewer, idempotency_key=same)
    assert (second.ranking, second.duplicate) == (first.ranking, True)
    assert Ranking.objects.count() == 1


def test_the_same_answer_from_a_second_tab_is_one_ranking(slot, reviewer):
    submit(slot, reviewer, active_seconds=3)
    assert submit(slot, reviewer, active_seconds=9).duplicate
    assert Ranking.objects.count() == 1


def test_another_answer_from_a_second_tab_supersedes(slot, task, reviewer):
    first = submit(slot, reviewer).ranking
    second = submit(slot, reviewer, tiers=[ids(task)]).ranking
    first.refresh_from_db()
    slot.refresh_from_db()
    assert first.superseded_at and second.supersedes == first and slot.ranking == second


def test_a_key_of_someone_else_or_of_another_task_is_refused(project, slot, reviewer):
    same = key()
    submit(slot, reviewer, idempotency_key=same)
    make_task(project)
    other = queue.claim(project=project, reviewer=reviewer)
    with pytest.raises(InvalidRanking, match="another task"):
        submit(other, reviewer, idempotency_key=same)
    colleague = make_member(project)
    with pytest.raises(InvalidRanking, match="someone else"):
        submit(slot, colleague, idempotency_key=same)
    assert Ranking.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_submitting_many_times_at_once_is_one_ranking(slot, reviewer):
    same = key()
    made = in_threads(*[lambda: submit(slot, reviewer, idempotency_key=same)] * 6)
    assert len({submission.ranking.pk for submission in made}) == 1
    assert sorted(submission.duplicate for submission in made) == [False] + [True] * 5
    assert Ranking.objects.count() == 1


# --- late ----------------------------------------------------------------------------------------


def test_a_late_answer_fills_the_slot_while_it_is_free(slot, reviewer):
    lapse(slot)
    made = submit(slot, reviewer)
    assert not made.extra and made.ranking.shown_order == slot.shown_order
    slot.refresh_from_db()
    assert slot.ranking == made.ranking


def test_a_late_answer_is_kept_as_an_extra_when_the_slot_is_taken(project, slot, reviewer):
    lapse(slot)
    colleague = make_member(project)
    taken = queue.claim(project=project, reviewer=colleague)
    made = submit(slot, reviewer)
    assert made.extra and made.ranking.extra and made.ranking.shown_order == slot.shown_order
    taken.refresh_from_db()
    assert taken.reviewer == colleague and taken.ranking is None
    assert not submit(taken, colleague).extra
    assert Ranking.objects.count() == 2


def test_a_late_answer_takes_another_free_slot_before_it_becomes_an_extra():
    project = make_project(rankings_per_task=2)
    task = make_task(project)
    reviewer, colleague = make_member(project), make_member(project)
    slot = queue.claim(project=project, reviewer=reviewer)
    lapse(slot)
    Slot.objects.filter(pk=slot.pk).update(
        reviewer=colleague, leased_until=timezone.now() + timedelta(minutes=5)
    )
    made = submit(slot, reviewer)
    assert not made.extra and task.slots.get(ranking=made.ranking).pk != slot.pk


def test_an_answer_to_the_old_slot_fills_the_one_held_now():
    project = make_project(rankings_per_task=2)
    make_task(project)
    reviewer = make_member(project)
    old = queue.claim(project=project, reviewer=reviewer)
    lapse(old)
    new = queue.claim(project=project, reviewer=reviewer)
    made = submit(old, reviewer)
    new.refresh_from_db()
    assert new.pk != old.pk and new.ranking == made.ranking and not made.extra


def test_an_extra_ranking_keeps_its_reviewer_from_the_task(project, slot, reviewer):
    lapse(slot)
    taken = queue.claim(project=project, reviewer=make_member(project))
    submit(slot, reviewer)
    queue.release(slot_id=taken.pk, reviewer=taken.reviewer)
    assert queue.claim(project=project, reviewer=reviewer) is None


def test_a_stranger_cannot_answer_a_free_slot(project, task):
    stranger = make_member(make_project())
    with pytest.raises(InvalidRanking, match="do not belong"):
        submit(task.slots.get(), stranger)
    assert not Ranking.objects.exists()


def test_a_former_member_may_finish_what_they_hold(slot, reviewer, project):
    Membership.objects.filter(user=reviewer).delete()
    assert not submit(slot, reviewer).extra


# --- revisions -----------------------------------------------------------------------------------


def test_a_revision_supersedes_under_todays_guideline(project, slot, task, reviewer):
    old = submit(slot, reviewer).ranking
    version = publish(project, "Be kinder.")
    same = key()
    for duplicate in (False, True):
        made = rankings.revise(
            ranking=old, reviewer=reviewer, idempotency_key=same, tiers=[ids(task)]
        )
        assert made.duplicate is duplicate
    old.refresh_from_db()
    slot.refresh_from_db()
    assert old.superseded_at and slot.ranking == made.ranking
    assert (made.ranking.supersedes, made.ranking.guideline_version) == (old, version)
    assert made.ranking.shown_order == old.shown_order
    assert Ranking.objects.count() == 2


def test_only_its_reviewer_revises_a_ranking(project, slot, reviewer, task):
    old = submit(slot, reviewer).ranking
    with pytest.raises(InvalidRanking, match="Only the reviewer"):
        rankings.revise(
            ranking=old, reviewer=make_member(project), idempotency_key=key(), tiers=[ids(task)]
        )
    assert Ranking.objects.count() == 1


# --- made elsewhere ------------------------------------------------------------------------------


def test_a_recorded_ranking_fills_a_slot_and_repeats_without_effect(task, reviewer):
    for created in (True, False):
        made, new = rankings.record(
            task=task, reviewer=reviewer, source="import", tiers=one_each(task)
        )
        assert new is created
    assert made.guideline_version is None and task.slots.get().ranking == made


def test_a_recorded_ranking_gets_a_slot_when_all_are_taken(project, task):
    for number in (1, 2):
        rankings.record(
            task=task, reviewer=make_member(project), source="import", tiers=one_each(task)
        )
        assert task.slots.filter(ranking__isnull=False).count() == number


def test_a_simulated_ranking_names_the_guideline(project, task, reviewer):
    made, _ = rankings.record(
        task=task,
        reviewer=reviewer,
        source="simulation",
        tiers=one_each(task),
        shown_order=ids(task)[::-1],
        idempotency_key=uuid.uuid4(),
    )
    assert made.guideline_version == project.current_version
    assert made.shown_order == ids(task)[::-1]


def test_a_second_recorded_ranking_by_one_reviewer_is_refused(task, reviewer):
    for expected in (None, "has ranked"):
        if expected is None:
            rankings.record(task=task, reviewer=reviewer, source="import", tiers=one_each(task))
            continue
        with pytest.raises(InvalidRanking, match=expected):
            rankings.record(
                task=task,
                reviewer=reviewer,
                source="import",
                tiers=one_each(task),
                idempotency_key=key(),
            )


def test_a_partial_ranking_is_recorded_only_when_it_says_so(task, reviewer):
    some = one_each(task)[:2]
    with pytest.raises(InvalidRanking, match="place"):
        rankings.record(task=task, reviewer=reviewer, source="import", tiers=some)
    made, _ = rankings.record(
        task=task, reviewer=reviewer, source="import", tiers=some, partial=True
    )
    assert made.tiers == some
    with pytest.raises(InvalidRanking, match="at least two"):
        rankings.record(
            task=make_task(task.project),
            reviewer=reviewer,
            source="import",
            tiers=[],
            partial=True,
        )
