"""Tests of database constraints and triggers."""

from datetime import timedelta

import pytest
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from labeling.guidelines import versions as guidelines
from labeling.models import (
    MAX_RATIONALE_LENGTH,
    Criterion,
    GuidelineVersion,
    Project,
    Prompt,
    Ranking,
    Response,
    Slot,
    Task,
    TaskResponse,
)
from labeling.queue.tasks import NewTask, add_tasks
from labeling.rankings import recording
from labeling.rankings.content import Content
from tests.labeling.world import ids, key, make_member, make_project, make_task, one_each

pytestmark = pytest.mark.django_db


def refused(match: str = "violates"):
    return pytest.raises(IntegrityError, match=match)


def check_now() -> None:
    """Check deferred constraints now, because a test never commits."""
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")


def make_ranking(task: Task, reviewer=None) -> Ranking:
    reviewer = reviewer or make_member(task.project)
    return recording.record(
        task=task, reviewer=reviewer, source="simulation", content=Content(one_each(task))
    )[0]


def test_a_published_guideline_version_cannot_be_changed_or_deleted():
    version = make_project().current_version
    versions = GuidelineVersion.objects.filter(pk=version.pk)
    for change in (
        lambda: versions.update(text="Be unkind."),
        lambda: versions.update(state="draft", published_at=None),
        lambda: versions.update(change_note="Nothing."),
        lambda: GuidelineVersion.objects.filter(pk=version.pk)._raw_delete("default"),
    ):
        with refused("published"), transaction.atomic():
            change()
    version.refresh_from_db()
    assert version.text == "Be kind."


def test_the_criteria_of_a_published_version_cannot_be_changed():
    version = make_project().current_version
    criterion = version.criteria.get()
    for change in (
        lambda: Criterion.objects.filter(pk=criterion.pk).update(scale=7),
        lambda: criterion.delete(),
        lambda: Criterion.objects.create(version=version, name="wit", meaning="Is funny."),
    ):
        with refused("published"), transaction.atomic():
            change()


def test_a_draft_can_be_changed():
    project = make_project(published=False)
    draft = guidelines.create_draft(project=project, by=None, text="a", criteria=[])
    assert GuidelineVersion.objects.filter(pk=draft.pk).update(text="b") == 1


def test_a_guideline_has_one_draft():
    draft = guidelines.create_draft(
        project=make_project(published=False), by=None, text="a", criteria=[]
    )
    with refused("guideline_one_draft"), transaction.atomic():
        GuidelineVersion.objects.create(guideline=draft.guideline, number=9, text="b")


@pytest.mark.parametrize("count", [0, 1])
def test_a_task_of_fewer_than_two_responses_is_refused(count):
    project = make_project()
    prompt = Prompt.objects.create(project=project, messages=[{"role": "user", "content": "?"}])
    with refused("2 to 9"), transaction.atomic():
        task = Task.objects.create(project=project, prompt=prompt, identity="x", rankings_wanted=1)
        for n in range(count):
            answer = Response.objects.create(prompt=prompt, text=str(n), model_name="m")
            TaskResponse.objects.create(task=task, response=answer, position=n)
        check_now()


def test_a_task_cannot_lose_responses_until_one_is_left():
    task = make_task(make_project(), responses=2)
    with refused("2 to 9"), transaction.atomic():
        task.places.first().delete()
        check_now()


def test_a_task_has_only_responses_of_its_prompt():
    project = make_project()
    task, other = make_task(project), make_task(project)
    with refused("another prompt"), transaction.atomic():
        add_tasks(
            project=project,
            tasks=[NewTask(task.prompt_id, [ids(task)[0], ids(other)[0]])],
        )
        check_now()


def test_the_responses_of_a_ranked_task_are_frozen():
    task = make_task(make_project(), responses=3)
    make_ranking(task)
    with refused("cannot be changed"), transaction.atomic():
        task.places.first().delete()


def test_a_reviewer_cannot_have_two_slots_of_a_task():
    project = make_project(rankings_per_task=2)
    task, reviewer = make_task(project), make_member(project)
    until = timezone.now() + timedelta(minutes=1)
    first, second = task.slots.order_by("number")
    Slot.objects.filter(pk=first.pk).update(reviewer=reviewer, leased_until=until)
    with refused(), transaction.atomic():
        Slot.objects.filter(pk=second.pk).update(reviewer=reviewer, leased_until=until)


def test_a_reviewer_cannot_hold_two_leases_in_a_project():
    project = make_project(rankings_per_task=1)
    reviewer, until = make_member(project), timezone.now()
    first, second = (make_task(project).slots.get() for _ in range(2))
    Slot.objects.filter(pk=first.pk).update(reviewer=reviewer, leased_until=until)
    with refused("slot_one_lease"), transaction.atomic():
        Slot.objects.filter(pk=second.pk).update(reviewer=reviewer, leased_until=until)


@pytest.mark.parametrize(
    "half", [{"leased_until": timezone.now()}, {"reviewer": True}, {"ranking": True}]
)
def test_a_slot_is_free_leased_or_filled(half):
    task = make_task(make_project(rankings_per_task=2))
    ranking = make_ranking(task)
    if "reviewer" in half:
        half = {"reviewer": make_member(task.project)}
    if "ranking" in half:
        task.slots.filter(ranking=ranking).update(ranking=None, reviewer=None)
        half = {"ranking": ranking, "reviewer": ranking.reviewer, "leased_until": timezone.now()}
    with refused("slot_free_leased_or_filled"), transaction.atomic():
        task.slots.filter(ranking=None, reviewer=None).update(**half)


def test_a_slot_is_filled_only_by_a_ranking_of_its_own_task_and_reviewer():
    project = make_project(rankings_per_task=1)
    ranking, other = make_ranking(make_task(project)), make_task(project)
    Slot.objects.filter(ranking=ranking).update(ranking=None, reviewer=None)
    with refused("another task or reviewer"), transaction.atomic():
        other.slots.update(ranking=ranking, reviewer=ranking.reviewer)


def test_a_submitted_ranking_is_frozen():
    ranking = make_ranking(make_task(make_project()))
    same = Ranking.objects.filter(pk=ranking.pk)
    for change in (
        lambda: same.update(tiers=[]),
        lambda: same.update(rationale="?"),
        lambda: same.update(reviewer=make_member(ranking.task.project)),
        lambda: same._raw_delete("default"),
    ):
        with refused("submitted"), transaction.atomic():
            change()
    same.update(superseded_at=timezone.now())
    with refused("submitted"), transaction.atomic():
        same.update(superseded_at=None)


def test_rationales_and_required_lengths_are_limited():
    project = make_project()
    with refused("ranking_rationale"), transaction.atomic():
        Ranking.objects.create(
            task=make_task(project),
            reviewer=make_member(project),
            tiers=[],
            rationale="x" * (MAX_RATIONALE_LENGTH + 1),
        )
    with refused("project_min_rationale"), transaction.atomic():
        Project.objects.update(min_rationale=MAX_RATIONALE_LENGTH + 1)


def test_a_reviewer_has_one_current_ranking_of_a_task():
    task = make_task(make_project())
    ranking = make_ranking(task)
    with refused("ranking_current_once"), transaction.atomic():
        Ranking.objects.create(task=task, reviewer=ranking.reviewer, tiers=one_each(task))
    with refused("idempotency_key"), transaction.atomic():
        Ranking.objects.create(
            task=make_task(task.project),
            reviewer=ranking.reviewer,
            tiers=[],
            idempotency_key=ranking.idempotency_key,
        )


def test_an_unknown_key_is_not_mistaken_for_another():
    task = make_task(make_project(rankings_per_task=2))
    first = make_ranking(task)
    second = recording.record(
        task=task,
        reviewer=make_member(task.project),
        source="simulation",
        content=Content(one_each(task)),
        idempotency_key=key(),
    )[0]
    assert first.pk != second.pk
