import pytest
from django.utils import timezone

from labeling.models import Project, Ranking, Slot
from labeling.queue import answering, filling, slots
from labeling.rankings import recording
from labeling.rankings.content import Content
from tests.labeling.world import ids, key, make_member, make_project, make_task, one_each

pytestmark = pytest.mark.django_db


@pytest.fixture
def project():
    return make_project(rankings_per_task=1)


@pytest.fixture
def slot(project, reviewer):
    make_task(project, responses=3)
    return slots.claim(project=project, reviewer=reviewer)


def unsaved(slot, reviewer):
    return Ranking(
        task=slot.task, reviewer=reviewer, tiers=one_each(slot.task), shown_order=slot.shown_order,
        guideline_version=slot.project.current_version, idempotency_key=key(),
    )  # fmt: skip


def test_reading_a_slot_and_filling_it_costs_a_query_each(
    slot, reviewer, django_assert_num_queries
):
    task, places = slot.task, ids(slot.task)
    project = Project.objects.select_related("current_version").get()
    with django_assert_num_queries(1):
        result = answering.slot_to_answer(project, slot.pk, reviewer)
        found_slot = result.slot
        assert (found_slot, found_slot.task, found_slot.project) == (slot, task, project)
        assert result.response_ids == places
    content = {"idempotency_key": key(), "content": Content(one_each(slot.task))}
    with django_assert_num_queries(3):  # a savepoint around it, inside a test's transaction
        submission = recording.submit(
            slot_id=slot.pk, reviewer=reviewer, loaded_slot=result, **content
        )
    assert (submission.duplicate, submission.extra) == (False, False)
    stored = Ranking.objects.get()
    for field in Ranking._meta.concrete_fields:
        assert getattr(stored, field.attname) == getattr(submission.ranking, field.attname), field


def test_a_slot_of_another_project_is_not_there(slot, reviewer):
    assert answering.slot_to_answer(make_project(), slot.pk, reviewer) is None


def test_a_slot_is_there_for_its_reviewer_and_earlier_reviewers_only(slot, project, reviewer):
    other = make_member(project)
    assert answering.slot_to_answer(project, slot.pk, other) is None
    slots.release(slot_id=slot.pk, reviewer=reviewer)
    assert answering.slot_to_answer(project, slot.pk, other) is None
    assert answering.slot_to_answer(project, slot.pk, reviewer).slot == slot


def test_the_fast_path_leaves_the_slot_filled(slot, reviewer):
    slots.save_draft(slot_id=slot.pk, reviewer=reviewer, draft={"tiers": []})
    ranking = unsaved(slot, reviewer)
    assert filling.fill_leased(slot, ranking)
    slot.refresh_from_db()
    assert (slot.ranking, slot.reviewer, slot.leased_until) == (ranking, reviewer, None)
    assert (slot.ahead, slot.draft, slot.draft_by) == (False, None, None)
    assert slot.shown_order == ranking.shown_order


@pytest.mark.parametrize("now", ["free", "someone else's", "filled", "gone"])
def test_the_fast_path_writes_nothing_if_the_lease_is_lost(slot, project, reviewer, now):
    ranking = unsaved(slot, reviewer)
    if now == "filled":
        assert filling.fill_leased(slot, unsaved(slot, reviewer))
    elif now == "gone":
        Slot.objects.all().delete()
    else:
        slots.release(slot_id=slot.pk, reviewer=reviewer)
        if now == "someone else's":
            assert slots.claim(project=project, reviewer=make_member(project)) == slot
    before = list(Slot.objects.values()), Ranking.objects.count()
    assert not filling.fill_leased(slot, ranking)
    assert (list(Slot.objects.values()), Ranking.objects.count()) == before


def test_the_fast_path_writes_nothing_for_a_ranked_task_or_a_used_key(slot, reviewer):
    other = make_task(slot.project, responses=3)
    ranking = unsaved(slot, reviewer)
    Ranking.objects.create(
        task=slot.task, reviewer=reviewer, tiers=ranking.tiers, idempotency_key=key()
    )
    assert not filling.fill_leased(slot, ranking)
    Ranking.objects.update(superseded_at=timezone.now())
    Ranking.objects.create(
        task=other, reviewer=reviewer, tiers=[ids(other)], idempotency_key=ranking.idempotency_key
    )
    assert not filling.fill_leased(slot, ranking)
    assert Ranking.objects.count() == 2
    assert Slot.objects.get(pk=slot.pk).ranking is None


def test_sequential_overlap_locks_the_slots_of_the_task(slot, reviewer):
    Project.objects.update(overlap=Project.Overlap.SEQUENTIAL, rankings_at_most=3)
    slot = Slot.objects.select_related("task__project").get(pk=slot.pk)
    content = {"idempotency_key": key(), "content": Content(one_each(slot.task))}
    recording.submit(slot_id=slot.pk, reviewer=reviewer, **content)
    assert Slot.objects.filter(task=slot.task).count() == 2
