import math
import uuid
from datetime import timedelta

import pytest
from django.utils import timezone

from labeling.guidelines import versions
from labeling.models import Gold, Membership, Project, Ranking, Slot
from labeling.queue import slots
from labeling.rankings import recording, revision_window
from labeling.rankings import undo as undoing
from labeling.rankings.content import MAX_RATIONALE_LENGTH, Content
from labeling.rankings.recording import InvalidRanking
from tests.labeling.gold.gold_world import make_gold
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
def slot(project, task, reviewer):
    return slots.claim(project=project, reviewer=reviewer)


def submit(slot, reviewer, **content):
    others = {
        "idempotency_key": key(),
        **{
            name: content.pop(name)
            for name in ("idempotency_key", "guideline_version")
            if name in content
        },
    }
    content.setdefault("tiers", one_each(slot.task))
    return recording.submit(
        slot_id=slot.pk, reviewer=reviewer, content=Content(**content), **others
    )


def lapse(slot):
    Slot.objects.filter(pk=slot.pk).update(leased_until=timezone.now() - timedelta(seconds=1))
    assert slots.release_expired() == 1


def test_a_submit_fills_the_slot_with_all_its_content(slot, task, reviewer, project):
    a, b, c = ids(task)
    submission = submit(
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
    assert (submission.ranking, submission.duplicate, submission.extra) == (ranking, False, False)
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
        ("rationale", {"rationale": "x" * (MAX_RATIONALE_LENGTH + 1)}),
    ],
)
def test_invalid_content_is_refused_and_nothing_is_written(slot, task, reviewer, field, content):
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


def test_a_pair_may_have_a_strength(project, reviewer):
    task = make_task(project, responses=2)
    slot = slots.claim(project=project, reviewer=reviewer)
    first, second = ids(task)
    for tiers, strength in (([[first, second]], 1), ([[first], [second]], 4)):
        with pytest.raises(InvalidRanking):
            submit(slot, reviewer, tiers=tiers, strength=strength)
    assert submit(slot, reviewer, tiers=[[first], [second]], strength=3).ranking.strength == 3


@pytest.mark.parametrize(("said", "kept"), [(-5, 0), (math.nan, 0), (math.inf, 0), (1e9, 86400)])
def test_a_ranking_with_an_impossible_time_is_stored_without_it(slot, reviewer, said, kept):
    assert submit(slot, reviewer, active_seconds=said).ranking.active_seconds == kept


def test_a_missing_guideline_is_reported():
    project = make_project(published=False)
    make_task(project)
    reviewer = make_member(project)
    slot = slots.claim(project=project, reviewer=reviewer)
    with pytest.raises(InvalidRanking, match="no published guideline"):
        submit(slot, reviewer)


def test_a_missing_slot_is_reported(reviewer):
    with pytest.raises(InvalidRanking, match="no longer exists"):
        recording.submit(
            slot_id=10**9, reviewer=reviewer, idempotency_key=key(), content=Content([])
        )


# --- twice ---------------------------------------------------------------------------------------


def test_submitting_the_same_key_twice_stores_one_ranking(slot, reviewer):
    same = key()
    first = submit(slot, reviewer, idempotency_key=same)
    second = submit(slot, reviewer, idempotency_key=same)
    assert (second.ranking, second.duplicate) == (first.ranking, True)
    assert Ranking.objects.count() == 1


def test_the_same_answer_from_a_second_tab_is_stored_once(slot, reviewer):
    submit(slot, reviewer, active_seconds=3)
    assert submit(slot, reviewer, active_seconds=9).duplicate
    assert Ranking.objects.count() == 1


def test_a_different_answer_from_a_second_tab_supersedes_the_first(slot, task, reviewer):
    first = submit(slot, reviewer).ranking
    second = submit(slot, reviewer, tiers=[ids(task)]).ranking
    first.refresh_from_db()
    slot.refresh_from_db()
    assert first.superseded_at and second.supersedes == first and slot.ranking == second


def test_a_key_of_another_reviewer_or_task_is_refused(project, slot, reviewer):
    same = key()
    submit(slot, reviewer, idempotency_key=same)
    make_task(project)
    other = slots.claim(project=project, reviewer=reviewer)
    with pytest.raises(InvalidRanking, match="another task"):
        submit(other, reviewer, idempotency_key=same)
    colleague = make_member(project)
    with pytest.raises(InvalidRanking, match="someone else"):
        submit(slot, colleague, idempotency_key=same)
    assert Ranking.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_many_concurrent_submits_make_one_ranking(slot, reviewer):
    same = key()
    result = in_threads(*[lambda: submit(slot, reviewer, idempotency_key=same)] * 6)
    assert len({submission.ranking.pk for submission in result}) == 1
    assert sorted(submission.duplicate for submission in result) == [False] + [True] * 5
    assert Ranking.objects.count() == 1


# --- late ----------------------------------------------------------------------------------------


def test_a_late_answer_fills_the_slot_while_it_is_free(slot, reviewer):
    lapse(slot)
    submission = submit(slot, reviewer)
    assert not submission.extra and submission.ranking.shown_order == slot.shown_order
    slot.refresh_from_db()
    assert slot.ranking == submission.ranking


def test_a_late_answer_is_kept_as_an_extra_when_the_slot_is_taken(project, slot, reviewer):
    lapse(slot)
    colleague = make_member(project)
    taken = slots.claim(project=project, reviewer=colleague)
    submission = submit(slot, reviewer)
    assert (
        submission.extra
        and submission.ranking.extra
        and submission.ranking.shown_order == slot.shown_order
    )
    taken.refresh_from_db()
    assert taken.reviewer == colleague and taken.ranking is None
    assert not submit(taken, colleague).extra
    assert Ranking.objects.count() == 2


def test_a_late_answer_takes_another_free_slot_before_it_becomes_an_extra():
    project = make_project(rankings_per_task=2)
    task = make_task(project)
    reviewer, colleague = make_member(project), make_member(project)
    slot = slots.claim(project=project, reviewer=reviewer)
    lapse(slot)
    Slot.objects.filter(pk=slot.pk).update(
        reviewer=colleague, leased_until=timezone.now() + timedelta(minutes=5)
    )
    submission = submit(slot, reviewer)
    assert not submission.extra and task.slots.get(ranking=submission.ranking).pk != slot.pk


def test_an_answer_to_the_old_slot_fills_the_one_held_now():
    project = make_project(rankings_per_task=2)
    make_task(project)
    reviewer = make_member(project)
    old = slots.claim(project=project, reviewer=reviewer)
    lapse(old)
    new = slots.claim(project=project, reviewer=reviewer)
    submission = submit(old, reviewer)
    new.refresh_from_db()
    assert new.pk != old.pk and new.ranking == submission.ranking and not submission.extra


def test_the_reviewer_of_an_extra_ranking_does_not_get_the_task_again(project, slot, reviewer):
    lapse(slot)
    taken = slots.claim(project=project, reviewer=make_member(project))
    submit(slot, reviewer)
    slots.release(slot_id=taken.pk, reviewer=taken.reviewer)
    assert slots.claim(project=project, reviewer=reviewer) is None


def test_only_its_former_reviewer_can_answer_a_free_slot(project, task):
    stranger = make_member(make_project())
    with pytest.raises(InvalidRanking, match="no longer a member"):
        submit(task.slots.get(), stranger)
    assert not Ranking.objects.exists()


def test_a_former_member_holds_no_slot_and_cannot_submit(slot, reviewer, project):
    Membership.objects.filter(user=reviewer).delete()
    slot.refresh_from_db()
    assert slot.reviewer is None and slot.leased_until is None
    with pytest.raises(recording.InvalidRanking, match="no longer a member of this project"):
        submit(slot, reviewer)
    assert not Ranking.objects.exists()


# --- revisions -----------------------------------------------------------------------------------


def test_a_revision_supersedes_under_the_current_guideline(project, slot, task, reviewer):
    old = submit(slot, reviewer).ranking
    version = publish(project, "Be kinder.")
    same = key()
    for duplicate in (False, True):
        submission = recording.revise(
            ranking=old, reviewer=reviewer, idempotency_key=same, content=Content([ids(task)])
        )
        assert submission.duplicate is duplicate
    old.refresh_from_db()
    slot.refresh_from_db()
    assert old.superseded_at and slot.ranking == submission.ranking
    assert (submission.ranking.supersedes, submission.ranking.guideline_version) == (old, version)
    assert submission.ranking.shown_order == old.shown_order
    assert Ranking.objects.count() == 2


def test_only_its_reviewer_revises_a_ranking(project, slot, reviewer, task):
    old = submit(slot, reviewer).ranking
    with pytest.raises(InvalidRanking, match="Only the reviewer"):
        recording.revise(
            ranking=old,
            reviewer=make_member(project),
            idempotency_key=key(),
            content=Content([ids(task)]),
        )
    assert Ranking.objects.count() == 1


# --- made elsewhere ------------------------------------------------------------------------------


def test_a_recorded_ranking_fills_a_slot_and_repeats_without_effect(task, reviewer):
    for created in (True, False):
        result, new = recording.record(
            task=task, reviewer=reviewer, source="import", content=Content(one_each(task))
        )
        assert new is created
    assert result.guideline_version is None and task.slots.get().ranking == result


def test_a_recorded_ranking_gets_a_slot_when_all_are_taken(project, task):
    for number in (1, 2):
        recording.record(
            task=task,
            reviewer=make_member(project),
            source="import",
            content=Content(one_each(task)),
        )
        assert task.slots.filter(ranking__isnull=False).count() == number


def test_a_simulated_ranking_names_the_guideline(project, task, reviewer):
    result, _ = recording.record(
        task=task,
        reviewer=reviewer,
        source="simulation",
        content=Content(one_each(task)),
        shown_order=ids(task)[::-1],
        idempotency_key=uuid.uuid4(),
    )
    assert result.guideline_version == project.current_version
    assert result.shown_order == ids(task)[::-1]


def test_a_second_recorded_ranking_by_one_reviewer_is_refused(task, reviewer):
    for expected in (None, "has ranked"):
        if expected is None:
            recording.record(
                task=task, reviewer=reviewer, source="import", content=Content(one_each(task))
            )
            continue
        with pytest.raises(InvalidRanking, match=expected):
            recording.record(
                task=task,
                reviewer=reviewer,
                source="import",
                content=Content(one_each(task)),
                idempotency_key=key(),
            )


def test_a_partial_ranking_must_be_declared_as_such(task, reviewer):
    some = one_each(task)[:2]
    with pytest.raises(InvalidRanking, match="are not ranked yet"):
        recording.record(task=task, reviewer=reviewer, source="import", content=Content(some))
    result, _ = recording.record(
        task=task, reviewer=reviewer, source="import", content=Content(some), partial=True
    )
    assert result.tiers == some
    with pytest.raises(InvalidRanking, match="at least two"):
        recording.record(
            task=make_task(task.project),
            reviewer=reviewer,
            source="import",
            content=Content([]),
            partial=True,
        )


# --- requirements of a project --------------------------------------------------------------------


def test_a_tie_is_refused_in_projects_without_ties(project, slot, task, reviewer):
    Project.objects.update(allow_ties=False)
    a, b, c = ids(task)
    with pytest.raises(InvalidRanking, match="does not allow ties"):
        submit(slot, reviewer, tiers=[[a], [b, c]])
    assert submit(slot, reviewer).ranking.tiers == one_each(task)


def test_unplaced_responses_are_accepted_only_where_allowed(slot, task, reviewer):
    a, b, _ = ids(task)
    with pytest.raises(InvalidRanking, match="Rank every response"):
        submit(slot, reviewer, tiers=[[a], [b]])
    Project.objects.update(allow_partial=True)
    with pytest.raises(InvalidRanking, match="at least two"):
        submit(slot, reviewer, tiers=[[a]])
    assert submit(slot, reviewer, tiers=[[a], [b]]).ranking.tiers == [[a], [b]]


def test_the_rationale_must_have_the_projects_minimum_length(slot, reviewer):
    Project.objects.update(min_rationale=5)
    with pytest.raises(InvalidRanking, match="at least 5 characters; it has 4"):
        submit(slot, reviewer, rationale="  kind  ")
    assert submit(slot, reviewer, rationale="kinder").ranking.rationale == "kinder"


def test_revisions_are_possible_only_within_the_window(project, slot, task, reviewer):
    Project.objects.update(revision_hours=2)
    first = submit(slot, reviewer).ranking
    until = revision_window.revisable_until(Ranking.objects.get(pk=first.pk))
    assert until == first.created_at + timedelta(hours=2)
    again = {"reviewer": reviewer, "idempotency_key": key()}
    second = recording.revise(ranking=first, content=Content([ids(task)]), **again).ranking
    assert (
        revision_window.revisable_until(second) == until
    )  # counted from the first, not the revision
    [listed] = revision_window.with_first_sent(Ranking.objects.filter(pk=second.pk))
    assert revision_window.revisable_until(listed) == until

    task = make_task(project)
    old = Ranking.objects.create(
        task=task,
        reviewer=reviewer,
        tiers=one_each(task),
        created_at=timezone.now() - timedelta(hours=3),
    )
    with pytest.raises(InvalidRanking, match="no longer be revised"):
        recording.revise(
            ranking=old, content=Content([ids(task)]), reviewer=reviewer, idempotency_key=key()
        )
    assert Ranking.objects.get(task=task) == old


def test_without_a_window_no_tab_can_revise(slot, task, reviewer):
    Project.objects.update(revision_hours=0)
    first = submit(slot, reviewer).ranking
    with pytest.raises(InvalidRanking, match="no longer be revised"):
        submit(slot, reviewer, tiers=[ids(task)])
    assert submit(slot, reviewer).duplicate  # the same answer again is not a revision
    assert Ranking.objects.get() == first


def test_a_ranking_records_the_version_that_was_shown(project, slot, reviewer):
    shown = project.current_version
    publish(project, "Be brief.")
    assert submit(slot, reviewer, guideline_version=shown.pk).ranking.guideline_version == shown


def test_drafts_and_versions_of_other_projects_are_ignored(project, slot, reviewer):
    alien = make_project().current_version
    draft = versions.draft_from(version=project.current_version, by=None)
    for version_id in (alien.pk, draft.pk, 10**9):
        submission = submit(slot, reviewer, guideline_version=version_id, rationale=str(version_id))
        assert submission.ranking.guideline_version == project.current_version


# --- undo ----------------------------------------------------------------------------------------

DRAFT = {"fields": {"rationale": ["again"]}, "at": 1}


def undo(ranking, reviewer):
    return undoing.undo(ranking=ranking, reviewer=reviewer, draft=DRAFT)


def test_undoing_a_ranking_restores_its_slot_and_a_draft(slot, reviewer):
    ranking = submit(slot, reviewer).ranking
    undo(ranking, reviewer)
    ranking.refresh_from_db()
    slot.refresh_from_db()
    assert ranking.superseded_at and not hasattr(ranking, "superseded_by")
    assert (slot.reviewer, slot.ranking, slot.draft, slot.draft_by) == (
        reviewer, None, DRAFT, reviewer,
    )  # fmt: skip
    assert slot.leased_until > timezone.now() and slot.shown_order == ranking.shown_order
    again = submit(slot, reviewer).ranking
    assert (again.supersedes, slot.__class__.objects.get(pk=slot.pk).ranking) == (None, again)


def test_an_undo_makes_the_open_task_the_next_and_releases_the_one_ahead(project, slot, reviewer):
    ranking = submit(slot, reviewer).ranking
    make_task(project)
    make_task(project)
    current = slots.claim(project=project, reviewer=reviewer)
    ahead = slots.claim_ahead(project=project, reviewer=reviewer)
    undo(ranking, reviewer)
    assert slots.claim(project=project, reviewer=reviewer) == slot
    assert slots.claim_ahead(project=project, reviewer=reviewer) == current
    ahead.refresh_from_db()
    assert (ahead.reviewer, ahead.leased_until, ahead.ahead) == (None, None, False)
    assert slots.claim(project=project, reviewer=make_member(project)) == ahead


def test_a_late_retry_does_not_restore_an_undone_ranking(slot, reviewer):
    same = key()
    ranking = submit(slot, reviewer, idempotency_key=same).ranking
    undo(ranking, reviewer)
    assert submit(slot, reviewer, idempotency_key=same).duplicate
    assert not Ranking.objects.filter(superseded_at=None).exists()


def test_an_undo_is_refused_when_late_foreign_repeated_or_revised(
    slot, task, reviewer, project, monkeypatch
):
    ranking = submit(slot, reviewer).ranking
    with pytest.raises(InvalidRanking, match="too late"):
        undo(ranking, make_member(project))
    monkeypatch.setattr(undoing, "UNDO_FOR", timedelta(0))
    with pytest.raises(InvalidRanking, match="too late"):
        undo(ranking, reviewer)
    monkeypatch.undo()
    revised = recording.revise(
        ranking=ranking, reviewer=reviewer, idempotency_key=key(), content=Content([ids(task)])
    ).ranking
    for item in (ranking, revised):
        with pytest.raises(InvalidRanking, match="too late"):
            undo(item, reviewer)
    assert Slot.objects.get(pk=slot.pk).ranking == revised


def test_an_undo_is_refused_after_the_answer_was_shown(project, reviewer):
    gold = make_gold(project, Gold.Purpose.TRAINING)
    ranking = submit(slots.lease_new_slot(task=gold.task, reviewer=reviewer), reviewer).ranking
    with pytest.raises(InvalidRanking, match="too late"):
        undo(ranking, reviewer)


def test_an_undo_is_refused_after_other_rankings_were_visible(slot, reviewer):
    ranking = submit(slot, reviewer).ranking
    Project.objects.update(sees_others=Project.Sees.AFTER, revision_hours=0)
    with pytest.raises(InvalidRanking, match="too late"):
        undo(ranking, reviewer)
    Project.objects.update(sees_others=Project.Sees.LEADS)
    assert undo(ranking, reviewer).pk == slot.pk


@pytest.mark.django_db(transaction=True)
def test_many_concurrent_undos_undo_once(slot, reviewer):
    ranking = submit(slot, reviewer).ranking
    done = in_threads(*[lambda: undo(ranking, reviewer)] * 4)
    assert sum(isinstance(item, Slot) for item in done) == 1
    assert sum(isinstance(entry, InvalidRanking) for entry in done) == 3


@pytest.mark.django_db(transaction=True)
def test_two_tabs_undo_two_rankings_concurrently(reviewer):
    project = Project.objects.get()
    for _ in range(12):
        make_task(project)
    for _ in range(4):
        sent = [
            submit(slots.claim(project=project, reviewer=reviewer), reviewer).ranking
            for _ in range(2)
        ]
        slots.claim(project=project, reviewer=reviewer)
        done = in_threads(*[lambda ranking=ranking: undo(ranking, reviewer) for ranking in sent])
        assert all(isinstance(item, Slot) for item in done), done
        leases = Slot.objects.filter(reviewer=reviewer, leased_until__isnull=False)
        assert sorted(lease.ahead for lease in leases) == [False, True]
