"""Tests that withdrawn data is unused everywhere, and can be restored."""

import pytest

from accounts.models import AuditEntry
from labeling.disputes import adjudication, relabeling
from labeling.gold import courses, making, shares
from labeling.importing import findings
from labeling.models import Gold, Project, Ranking, Slot, Task
from labeling.projects import staffing
from labeling.quality import window
from labeling.quality.measures import quality_of
from labeling.queue import slots
from labeling.queue.tasks import NewTask, add_task, release_held
from labeling.queue.withdrawals import PARKED, without
from labeling.rankings import overlap, recording, undo
from labeling.rankings import skip as skipping
from labeling.rankings.content import Content
from labeling.rankings.recording import InvalidRanking
from labeling.removal import withdrawing
from labeling.reviewing import progress
from tests.labeling.gold.gold_world import make_gold
from tests.labeling.world import ids, key, make_member, make_project, make_task, one_each

pytestmark = pytest.mark.django_db


def submit(slot, reviewer, tiers=None, **content):
    return recording.submit(
        slot_id=slot.pk,
        reviewer=reviewer,
        idempotency_key=key(),
        content=Content(tiers or one_each(slot.task), **content),
    )


def ranked(project, task, *, reverse=False):
    """Add a ranking of the task by a new member."""
    member = make_member(project)
    slot = slots.claim(project=project, reviewer=member)
    assert slot.task_id == task.pk
    tiers = one_each(task)
    return submit(slot, member, tiers[::-1] if reverse else tiers).ranking


def contents_of(task):
    return {"task": task, "prompt": task.prompt}


@pytest.mark.parametrize("kind", ["task", "prompt"])
def test_withdrawn_content_is_offered_to_nobody_until_it_is_restored(
    kind, project, task, reviewer, lead
):
    content = contents_of(task)[kind]
    assert withdrawing.withdraw(content=content, by=lead, reason="Spam.")
    assert slots.claim(project=project, reviewer=reviewer) is None
    assert progress.of_reviewer(project, reviewer).waiting == 0
    assert progress.of_project(project).tasks == progress.of_project(project).slots == 0
    content.refresh_from_db()
    assert (content.withdrawn_by, content.withdrawn_reason) == (lead, "Spam.")
    assert not withdrawing.withdraw(content=content, by=lead)
    assert withdrawing.restore(content=content, by=lead)
    assert slots.claim(project=project, reviewer=reviewer).task_id == task.pk
    assert progress.of_project(project).slots == 2
    assert not withdrawing.restore(content=content, by=lead)
    actions = list(AuditEntry.objects.order_by("id").values_list("action", "user"))
    assert actions[-2:] == [(f"{kind} withdrawn", lead.pk), (f"{kind} restored", lead.pk)]


def test_a_task_withdrawn_on_its_own_stays_inactive_when_its_prompt_is_restored(
    project, task, lead
):
    other = add_task(project=project, prompt=task.prompt, responses=list(task.responses.all())[:2])[
        0
    ]
    withdrawing.withdraw(content=task, by=lead)
    withdrawing.withdraw(content=task.prompt, by=lead)
    withdrawing.restore(content=task.prompt, by=lead)
    state = dict(Task.objects.values_list("pk", "inactive"))
    assert state == {task.pk: True, other.pk: False}
    assert not Slot.objects.filter(task=other, priority__gte=PARKED).exists()


def test_a_reservation_ends_but_a_ranking_sent_afterwards_is_stored(project, task, reviewer, lead):
    slot = slots.claim(project=project, reviewer=reviewer)
    slots.save_draft(slot_id=slot.pk, reviewer=reviewer, draft={"fields": {}})
    withdrawing.withdraw(content=task.prompt, by=lead)
    assert slots.claim(project=project, reviewer=reviewer) is None, "also not by its draft"
    assert not slots.renew(slot_id=slot.pk, reviewer=reviewer)
    assert slots.save_draft(slot_id=slot.pk, reviewer=reviewer, draft={"fields": {"a": []}})
    submission = submit(slot, reviewer, rationale="Typed for ten minutes.")
    assert (submission.extra, submission.duplicate) == (False, False)
    assert Ranking.objects.get().rationale == "Typed for ten minutes."
    assert progress.by_reviewer(project) == []
    withdrawing.restore(content=task.prompt, by=lead)
    assert progress.by_reviewer(project)[0].rankings == 1
    slot.refresh_from_db()
    assert slot.ranking_id == submission.ranking.pk and slot.priority == task.priority


def test_an_unfinished_draft_comes_back_with_the_task(project, task, reviewer, lead):
    slot = slots.claim(project=project, reviewer=reviewer)
    slots.save_draft(slot_id=slot.pk, reviewer=reviewer, draft={"fields": {"rationale": ["Hm"]}})
    withdrawing.withdraw(content=task, by=lead)
    withdrawing.restore(content=task, by=lead)
    again = slots.claim(project=project, reviewer=reviewer)
    assert (again.pk, again.draft) == (slot.pk, {"fields": {"rationale": ["Hm"]}})


def test_someone_who_never_had_a_withdrawn_task_cannot_rank_it(project, task, reviewer, lead):
    slot = task.slots.first()
    withdrawing.withdraw(content=task, by=lead)
    with pytest.raises(InvalidRanking):
        submit(slot, reviewer)
    assert not Ranking.objects.exists()


def test_a_task_continues_without_a_withdrawn_response(project, task, reviewer, lead):
    before = ranked(project, task)
    slot = slots.claim(project=project, reviewer=reviewer)
    a, b, c = ids(task)
    withdrawing.withdraw(content=task.responses.get(pk=b), by=lead)
    slot = slots.claim(project=project, reviewer=reviewer)
    assert sorted(slot.shown_order) == [a, c]
    submit(slot, reviewer, [[c], [a]])
    before.refresh_from_db()
    assert before.tiers == [[a], [b], [c]], "rankings are kept as they were made"
    assert [row.tiers for row in window.load(project).rows] == [[[a], [c]], [[c], [a]]]
    [disagreement] = quality_of(project).disagreements
    assert disagreement.distance == 1
    adjudication.decide(task=task, by=lead, tiers=[[a], [c]], cause="close")
    withdrawing.restore(content=task.responses.get(pk=b), by=lead)
    assert window.load(project).rows[0].tiers == [[a], [b], [c]]


def test_a_new_lease_shows_the_remaining_responses(project, task, reviewer, lead):
    a, b, c = ids(task)
    withdrawing.withdraw(content=task.responses.get(pk=a), by=lead)
    assert sorted(slots.claim(project=project, reviewer=reviewer).shown_order) == [b, c]


def test_a_task_with_one_response_left_is_inactive(project, reviewer, lead):
    task = make_task(project, responses=2)
    slot = slots.claim(project=project, reviewer=reviewer)
    a, b = ids(task)
    withdrawing.withdraw(content=task.responses.get(pk=b), by=lead)
    assert slots.claim(project=project, reviewer=reviewer) is None
    assert submit(slot, reviewer, [[b], [a]]).ranking.tiers == [[b], [a]], "as it was typed"


def test_a_disagreement_about_a_withdrawn_response_does_not_count(project, task, lead):
    a, b, c = ids(task)
    for tiers in ([[a], [b], [c]], [[c], [a], [b]]):
        member = make_member(project)
        submit(slots.claim(project=project, reviewer=member), member, tiers)
    assert len(quality_of(project).disagreements) == 1
    withdrawing.withdraw(content=task.responses.get(pk=c), by=lead)
    assert quality_of(project).disagreements == []


def test_a_withdrawn_task_is_in_no_list_and_no_figure(project, task, lead):
    first = ranked(project, task)
    ranked(project, task, reverse=True)
    assert len(adjudication.open_disputes(project)) == 1
    withdrawing.withdraw(content=task, by=lead)
    assert adjudication.open_disputes(project) == []
    assert window.load(project).rows == []
    assert overlap.savings(project).tasks == 0
    assert relabeling.candidates(project, first.guideline_version) == {}
    with pytest.raises(adjudication.CannotDecide):
        adjudication.decide(task=task, by=lead, tiers=one_each(task), cause="close")


def test_a_ranking_of_a_withdrawn_task_is_neither_revised_nor_undone(project, task, lead):
    ranking = ranked(project, task)
    assert undo.can_undo(ranking)
    withdrawing.withdraw(content=task, by=lead)
    ranking = Ranking.objects.get()
    assert not undo.can_undo(ranking)
    with pytest.raises(InvalidRanking, match="withdrawn"):
        recording.revise(
            ranking=ranking,
            reviewer=ranking.reviewer,
            idempotency_key=key(),
            content=Content(one_each(task)[::-1]),
        )
    assert Ranking.objects.count() == 1


def test_undo_brings_a_task_back_without_a_response_withdrawn_since(project, task, lead):
    ranking = ranked(project, task)
    a, b, c = ids(task)
    withdrawing.withdraw(content=task.responses.get(pk=a), by=lead)
    slot = undo.undo(
        ranking=Ranking.objects.get(pk=ranking.pk), reviewer=ranking.reviewer, draft={}
    )
    assert sorted(slot.shown_order) == [b, c]


def test_a_skip_of_a_withdrawn_task_is_not_undone(project, task, reviewer, lead):
    slot = slots.claim(project=project, reviewer=reviewer)
    slots.skip(slot_id=slot.pk, reviewer=reviewer, reason="unclear")
    skip = skipping.newest(project, reviewer)
    withdrawing.withdraw(content=task, by=lead)
    assert skipping.newest(project, reviewer) is None
    with pytest.raises(InvalidRanking):
        skipping.undo(skip_id=skip.pk, project=project, reviewer=reviewer)


def test_the_empty_queue_does_not_count_withdrawn_tasks(project, reviewer, lead):
    held = make_task(project, held=True)
    assert staffing.nothing_left(project, reviewer).held == 1
    withdrawing.withdraw(content=held, by=lead)
    assert staffing.nothing_left(project, reviewer).held == 0


def test_gold_is_inactive_without_one_of_its_responses(project, reviewer, lead):
    gold = make_gold(project, purpose=Gold.Purpose.TRAINING)
    ask = {"project": project, "reviewer": reviewer, "purpose": Gold.Purpose.TRAINING}
    assert courses.course(**ask).total == 1
    response = gold.task.responses.first()
    withdrawing.withdraw(content=response, by=lead)
    assert courses.course(**ask).total == 0
    with pytest.raises(ValueError, match="withdrawn"):
        slots.lease_new_slot(task=gold.task, reviewer=reviewer)
    assert list(shares._answers(project)) == []
    withdrawing.restore(content=response, by=lead)
    assert courses.course(**ask).total == 1


def test_gold_is_not_made_of_withdrawn_tasks(project, task, lead):
    withdrawing.withdraw(content=task.responses.first(), by=lead)
    with pytest.raises(making.GoldError, match="withdrawn"):
        making.make(task=task, constraints=[], by=lead)
    assert not Gold.objects.exists()


def test_tasks_added_to_a_withdrawn_prompt_are_inactive(project, task, reviewer, lead):
    withdrawing.withdraw(content=task.prompt, by=lead)
    [(added, new)] = findings.add_tasks(
        project=project, tasks=[NewTask(task.prompt_id, ids(task)[:2])]
    )
    assert new and Task.objects.get(pk=added).inactive
    assert slots.claim(project=project, reviewer=reviewer) is None


def test_a_slot_added_or_released_while_withdrawn_waits_too(project, task, reviewer, lead):
    held = make_task(project, held=True)
    for item in (task, held):
        withdrawing.withdraw(content=item, by=lead)
    slots.add_slot(task=task)
    release_held(project=project, task_ids=[held.pk])
    assert slots.claim(project=project, reviewer=reviewer) is None
    for item in (task, held):
        withdrawing.restore(content=item, by=lead)
    assert sorted(Slot.objects.values_list("priority", flat=True)) == [5, 5, 5, 5, 6]


def test_a_late_ranking_adds_and_removes_no_slots_of_a_withdrawn_task(lead):
    project = make_project(rankings_per_task=1, overlap=Project.Overlap.SEQUENTIAL)
    task, reviewer = make_task(project), make_member(project)
    slot = slots.claim(project=project, reviewer=reviewer)
    withdrawing.withdraw(content=task, by=None)
    submit(slot, reviewer)
    assert task.slots.count() == 1


def test_the_effect_counts_tasks_rankings_and_reservations(project, task, reviewer, lead):
    ranked(project, task)
    slots.claim(project=project, reviewer=reviewer)
    response = task.responses.first()
    effect = withdrawing.effect_of(response)
    assert (effect.tasks, effect.smaller) == (0, 1)
    assert (effect.rankings, effect.reservations) == (1, 1)
    assert withdrawing.effect_of(task.prompt).tasks == 1


@pytest.mark.parametrize(
    ("tiers", "cut", "gone", "left"),
    [
        ([[1], [2], [3]], 2, {2}, ([[1], [3]], 1)),
        ([[1, 2], [3]], 1, {2}, ([[1], [3]], 1)),
        ([[1], [2]], None, {1, 2}, ([], None)),
        ([[1], [2]], 0, {1}, ([[2]], 0)),
    ],
)
def test_withdrawing_a_response_does_not_move_the_line(tiers, cut, gone, left):
    assert without(tiers, cut, gone) == left
