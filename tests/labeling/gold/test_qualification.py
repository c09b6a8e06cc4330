import pytest

from accounts.models import AuditEntry
from labeling.gold import qualification
from labeling.gold.qualification import QualificationError, attempt_of
from labeling.guidelines import versions
from labeling.models import Qualification, Ranking
from labeling.queue import slots
from labeling.rankings import recording, undo
from labeling.rankings.content import Content
from labeling.rankings.recording import InvalidRanking
from labeling.rankings.revision_window import revisable_until
from labeling.reviewing import assignment
from tests.labeling.gold.gold_world import answer, make_gold, work
from tests.labeling.world import in_threads, key, make_member, make_project, make_task, one_each

pytestmark = pytest.mark.django_db


@pytest.fixture
def project():
    """Set up three qualification tasks, of which two must be right."""
    project = make_project(qualification_percent=60)
    for _ in range(3):
        make_gold(project, "qualification")
    make_task(project)
    return project


def next_kind(project, reviewer):
    slot = assignment.current(project=project, reviewer=reviewer)
    return slot and slot.task.kind


def publish(project, *, requalify=False):
    draft = versions.create_draft(project=project, by=None, text="New.", criteria=[])
    draft.requalify = requalify
    draft.save(update_fields=["requalify"])
    versions.publish(version=draft, by=None)
    project.refresh_from_db()


def fail(project, reviewer):
    work(project, reviewer, 3, right=False)
    assert next_kind(project, reviewer) is None


def test_the_qualification_comes_before_real_tasks(project, reviewer):
    had = work(project, reviewer, 3)
    assert [slot.task.gold.purpose for slot in had] == ["qualification"] * 3
    assert next_kind(project, reviewer) == "ranking"
    attempt = attempt_of(project=project, reviewer=reviewer)
    assert (attempt.state, attempt.right, attempt.asked) == ("passed", 3, 3)
    assert attempt.version == project.current_version and attempt.ended_at
    assert AuditEntry.objects.filter(action="qualification passed").exists()


@pytest.mark.parametrize(("wrong", "state"), [(1, "passed"), (2, "failed")])
def test_the_pass_mark_is_the_projects(project, reviewer, wrong, state):
    work(project, reviewer, wrong, right=False)
    work(project, reviewer, 3 - wrong)
    assert next_kind(project, reviewer) == ("ranking" if state == "passed" else None)
    assert attempt_of(project=project, reviewer=reviewer).state == state
    assert qualification.needed(project) == 2


def test_a_skipped_task_is_not_right(project, reviewer):
    work(project, reviewer, 1)
    for _ in range(2):
        slot = assignment.current(project=project, reviewer=reviewer)
        slots.skip(slot_id=slot.pk, reviewer=reviewer, reason="unclear")
    assert next_kind(project, reviewer) is None
    attempt = attempt_of(project=project, reviewer=reviewer)
    assert (attempt.state, attempt.right, attempt.asked) == ("failed", 1, 3)


def test_unqualified_reviewers_cannot_rank_real_tasks(project, reviewer):
    [real] = project.tasks.filter(kind="ranking", slots__priority__lt=10).distinct()
    fail(project, reviewer)
    assert assignment.ahead(project=project, reviewer=reviewer) is None
    with pytest.raises(InvalidRanking, match="not assigned to you"):
        answer(real.slots.first(), reviewer)
    assert not real.rankings.exists()


def test_a_lead_can_allow_another_attempt(project, reviewer):
    lead = make_member(project, "lead")
    with pytest.raises(QualificationError, match="has no failed attempt"):
        qualification.allow_again(project=project, reviewer=reviewer, by=lead)
    fail(project, reviewer)
    before = list(Ranking.objects.filter(reviewer=reviewer))
    qualification.allow_again(project=project, reviewer=reviewer, by=lead)
    stage = assignment.stage(project=project, reviewer=reviewer)
    assert (stage.number, stage.course.total, stage.failed) == (1, 3, False)
    assert len(work(project, reviewer, 3)) == 3
    assert next_kind(project, reviewer) == "ranking"
    assert {item.pk for item in before} < set(Ranking.objects.values_list("pk", flat=True))
    states = Qualification.objects.order_by("pk").values_list("state", "right")
    assert list(states) == [("failed", 0), ("passed", 3)]
    with pytest.raises(QualificationError):
        qualification.allow_again(project=project, reviewer=reviewer, by=lead)


def test_a_late_answer_of_the_previous_attempt_is_kept(project, reviewer):
    work(project, reviewer, 2, right=False)
    slot = assignment.current(project=project, reviewer=reviewer)
    publish(project, requalify=True)
    qualification.ensure(project=project, reviewer=reviewer)
    assert answer(slot, reviewer)


def test_a_guideline_version_can_require_a_new_qualification(project, reviewer):
    work(project, reviewer, 3)
    publish(project)
    assert next_kind(project, reviewer) == "ranking"
    slots.release(
        slot_id=assignment.current(project=project, reviewer=reviewer).pk, reviewer=reviewer
    )
    publish(project, requalify=True)
    assert next_kind(project, reviewer) == "gold"
    assert len(work(project, reviewer, 3)) == 3
    assert next_kind(project, reviewer) == "ranking"
    attempts = Qualification.objects.order_by("pk").values_list("state", "version__number")
    assert list(attempts) == [("passed", 1), ("passed", 3)]


def test_a_reviewer_can_finish_the_open_task_when_the_qualification_expires(project, reviewer):
    work(project, reviewer, 3)
    slot = assignment.current(project=project, reviewer=reviewer)
    publish(project, requalify=True)
    assert assignment.current(project=project, reviewer=reviewer).pk == slot.pk
    assert assignment.ahead(project=project, reviewer=reviewer) is None
    assert answer(slot, reviewer)
    assert next_kind(project, reviewer) == "gold"


def test_a_new_version_restarts_a_running_attempt(project, reviewer):
    work(project, reviewer, 2)
    publish(project, requalify=True)
    assert len(work(project, reviewer, 4)) == 4  # all three again, and then real work
    assert attempt_of(project=project, reviewer=reviewer).state == "passed"


def test_nothing_is_assigned_without_qualification_tasks():
    project = make_project(qualification_percent=60)
    make_task(project)
    reviewer = make_member(project)
    assert next_kind(project, reviewer) is None
    stage = assignment.stage(project=project, reviewer=reviewer)
    assert (stage.failed, stage.course.total) == (False, 0)
    make_gold(project, "qualification")
    assert next_kind(project, reviewer) == "gold"


def test_a_pass_mark_of_zero_disables_the_qualification():
    project = make_project()
    make_gold(project, "qualification")
    make_task(project)
    assert next_kind(project, make_member(project)) == "ranking"


def test_training_comes_before_the_qualification(project, reviewer):
    make_gold(project, "training")
    purposes = [slot.task.gold.purpose for slot in work(project, reviewer, 4)]
    assert purposes == ["training", *["qualification"] * 3]


@pytest.mark.django_db(transaction=True)
def test_two_tabs_begin_and_end_one_attempt(project, reviewer):
    ask = [lambda: assignment.current(project=project, reviewer=reviewer)] * 4
    for _ in range(3):
        result = in_threads(*ask)
        assert len({slot.pk for slot in result}) == 1
        answer(result[0], reviewer)
    assert len({slot.pk for slot in in_threads(*ask)}) == 1
    assert [item.state for item in Qualification.objects.all()] == ["passed"]


@pytest.mark.parametrize("purpose", ["training", "qualification"])
def test_an_answer_that_was_shown_or_counted_cannot_be_undone(purpose):
    project = make_project(qualification_percent=50)
    item, reviewer = make_gold(project, purpose), make_member(project)
    ranking = answer(slots.lease_new_slot(task=item.task, reviewer=reviewer), reviewer, right=False)
    assert revisable_until(ranking) is None and not undo.can_undo(ranking)
    better = {"content": Content(one_each(item.task)), "idempotency_key": key()}
    with pytest.raises(InvalidRanking):
        recording.revise(ranking=ranking, reviewer=reviewer, **better)
    assert Ranking.objects.count() == 1
