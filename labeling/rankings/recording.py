"""Write rankings from the review page, from files and from simulations.

All rankings are created here, except those that an import copies in bulk. Usually, `fill_leased` in
`labeling/queue/filling.py` inserts the row, in the statement that fills the slot. A ranking is never lost or
duplicated: because of its idempotency key, a second click, a reload and a retry return the same ranking.
If someone else has claimed the slot in the meantime, the ranking fills another free slot of the task.
If there is none, it is kept as an extra ranking.
"""

import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.db import transaction
from django.db.models import Q
from django.utils.translation import gettext as _

from accounts.models import User
from database import clock
from labeling.models import (
    Criterion,
    GuidelineVersion,
    Project,
    Ranking,
    Slot,
    Task,
    TaskResponse,
)
from labeling.queue import answering, filling
from labeling.queue.answering import SlotToAnswer
from labeling.queue.display_order import shown_order_for
from labeling.queue.slots import append_slot, fill, lock_slots, replace_ranking
from labeling.queue.withdrawals import responses_to_rank
from labeling.rankings import overlap
from labeling.rankings.content import (
    ANYTHING,
    Content,
    Errors,
    Policy,
    problems,
)
from labeling.rankings.revision_window import revisable_until
from webhooks.events import announce
from webhooks.models import Event

NAMESPACE = uuid.UUID("0c1f6c84-9d4e-4a4b-8b0e-5a2f0d9f7e11")


class InvalidRanking(ValueError):  # noqa: N818 - reads better without Error
    """Raised for an invalid ranking, before anything is written.

    `errors` maps each invalid field to a message for the reviewer.
    """

    def __init__(self, errors: Errors):
        super().__init__(" ".join(errors.values()))
        self.errors = errors


@dataclass(frozen=True)
class Submission:
    ranking: Ranking
    duplicate: bool
    """Whether the ranking had been submitted before, so that nothing was written."""
    extra: bool
    """Whether the task already had all its rankings, so that this one is kept in addition."""


# --- writing -------------------------------------------------------------------------------------


def submit(
    *,
    slot_id: int,
    reviewer: User,
    content: Content,
    idempotency_key: uuid.UUID,
    guideline_version: int | None = None,
    loaded_slot: SlotToAnswer | None = None,
) -> Submission:
    """Fill the slot with a ranking. Submitting the same key or the same content again changes nothing.

    `guideline_version` is the id of the version shown to the reviewer, by default the current one.
    `loaded_slot` is the result of `answering.slot_to_answer`; passing it saves a query. If the reviewer
    has already ranked the task (in a second tab) with different content, the new ranking supersedes the
    first one if that one can still be revised. Raises InvalidRanking.
    """
    loaded = loaded_slot or answering.any_slot(slot_id)
    if loaded is None:
        raise InvalidRanking({"slot": _("This task no longer exists.")})
    answer = _Answer(
        loaded.slot, loaded.response_ids, reviewer, content, idempotency_key, guideline_version
    )
    return _submit_fast(answer) or _submit_locked(answer)


@dataclass(frozen=True)
class _Answer:
    slot: Slot
    response_ids: list[int]
    reviewer: User
    content: Content
    key: uuid.UUID
    guideline_version: int | None

    def ranking(self, *, extra: bool) -> Ranking:
        """Return the ranking, unsaved. Raises InvalidRanking."""
        project = self.slot.task.project
        return _checked(
            self.slot.task,
            self.reviewer,
            self.content,
            response_ids=self.response_ids,
            version=version_shown(project, self.guideline_version),
            policy=Policy.of(project),
            idempotency_key=self.key,
            shown_order=_shown_order(self.slot, self.reviewer, self.response_ids),
            source=Ranking.Source.REVIEW,
            extra=extra,
        )


def _submit_fast(answer: _Answer) -> Submission | None:
    """Submit the answer in one statement, or return None if that is not possible.

    It is possible if the reviewer holds the slot and the ranking cannot change the number of slots.
    """
    if overlap.is_adaptive(answer.slot.task):
        return None
    try:
        ranking = answer.ranking(extra=False)
    except InvalidRanking:
        return None  # the ranking may be a duplicate, which is not an error
    if not filling.fill_leased(answer.slot, ranking):
        return None
    return _first_of_task(ranking)


@transaction.atomic
def _submit_locked(answer: _Answer) -> Submission:
    task, reviewer = answer.slot.task, answer.reviewer
    slots = lock_slots(task)
    if earlier := _earlier(task, reviewer, answer.key):
        version = answer.guideline_version
        return _resubmit(earlier, task, reviewer, answer.key, answer.content, version)
    slot = _slot_to_fill(slots, reviewer, answer.slot.pk, task.project)
    ranking = answer.ranking(extra=slot is None)
    ranking.save(force_insert=True)
    if slot is not None:
        fill(slot, ranking)
    overlap.after_ranking(task)
    _announce(ranking)
    return _first_of_task(ranking)


def _announce(ranking: Ranking) -> None:
    """Announce a submitted ranking to webhooks; `fill_leased` does it in its own statement."""
    data = {"ranking": ranking.pk, "task": ranking.task_id}
    announce(
        project=ranking.task.project_id,
        event=Event.RANKING_SUBMITTED,
        subject=ranking.pk,
        data=data,
    )


def _first_of_task(ranking: Ranking) -> Submission:
    return Submission(ranking, duplicate=False, extra=ranking.extra)


@transaction.atomic
def revise(
    *,
    ranking: Ranking,
    reviewer: User,
    content: Content,
    idempotency_key: uuid.UUID,
    guideline_version: int | None = None,
) -> Submission:
    """Supersede the reviewer's own ranking within the project's revision window.

    The old ranking is kept. Raises InvalidRanking if the revision is invalid or too late.
    """
    if ranking.reviewer_id != reviewer.pk:
        raise InvalidRanking({"ranking": _("Only the reviewer who made a ranking can change it.")})
    lock_slots(ranking.task)
    earlier = _earlier(ranking.task, reviewer, idempotency_key)
    if earlier is None:
        raise InvalidRanking({"ranking": _("This ranking no longer exists.")})
    return _resubmit(earlier, ranking.task, reviewer, idempotency_key, content, guideline_version)


@transaction.atomic
def record(
    *,
    task: Task,
    reviewer: User,
    source: str,
    content: Content,
    shown_order: Sequence[int] = (),
    idempotency_key: uuid.UUID | None = None,
    partial: bool = False,
    scales: Mapping[str, int] | None = None,
) -> tuple[Ranking, bool]:
    """Store an imported or simulated ranking; return it, and whether it is new.

    The ranking fills the reviewer's own slot or a free one. If every slot is taken, one is added. An
    imported ranking has no guideline version; a simulated one has the current version. Ratings are
    checked against `scales` if given, otherwise against the guideline's criteria. Raises InvalidRanking.
    """
    key = idempotency_key or key_of(task.pk, reviewer.pk, source)
    slots = lock_slots(task)
    if earlier := _earlier(task, reviewer, key):
        if earlier.idempotency_key != key or earlier.task_id != task.pk:
            raise InvalidRanking({"reviewer": f"{reviewer} has ranked {task} already."})
        return earlier, False
    imported = source == Ranking.Source.IMPORT
    ranking = _write(
        task,
        reviewer,
        content,
        response_ids=_all_responses(task) if imported else responses_to_rank(task),
        version=None if imported else current_version(task.project),
        idempotency_key=key,
        shown_order=list(shown_order),
        source=source,
        partial=partial,
        scales=scales,
    )
    own = [slot for slot in slots if _holds(slot, reviewer)]
    free = [slot for slot in slots if slot.reviewer_id is None]
    slot = next(iter(own + free), None)
    if slot is None:
        number = max((slot.number for slot in slots), default=0) + 1
        slot = append_slot(task, number=number, priority=task.priority)
    fill(slot, ranking)
    overlap.after_ranking(task)
    return ranking, True


def key_of(*parts: object) -> uuid.UUID:
    """Return an idempotency key that depends only on these parts."""
    return uuid.uuid5(NAMESPACE, "\x1f".join(map(str, parts)))


def version_shown(project: Project, version_id: int | None) -> GuidelineVersion:
    """Return the project's published guideline version with this id, by default the current one.

    Raises InvalidRanking if no version is published. Costs no query for the current version.
    """
    current = project.current_version or current_version(project)
    if version_id in (None, current.pk):
        return current
    published = GuidelineVersion.objects.filter(
        pk=version_id, guideline__project=project, state=GuidelineVersion.State.PUBLISHED
    )
    return published.first() or current


def current_version(project: Project) -> GuidelineVersion:
    """Read the project's current guideline version from the database.

    Raises InvalidRanking if no version is published.
    """
    pointer = Project.objects.filter(pk=project.pk).values("current_version")
    version = GuidelineVersion.objects.filter(pk__in=pointer).first()
    if version is None:
        raise InvalidRanking(
            {
                "guideline": _(
                    "This project has no published guideline yet. Ask a lead to publish one."
                )
            }
        )
    return version


def _earlier(task: Task, reviewer: User, key: uuid.UUID) -> Ranking | None:
    """Return the ranking with this key, otherwise the reviewer's current ranking of the task, or None."""
    own = Q(task=task, reviewer=reviewer, superseded_at=None)
    rankings = list(Ranking.objects.filter(Q(idempotency_key=key) | own))
    return next((r for r in rankings if r.idempotency_key == key), next(iter(rankings), None))


def _resubmit(
    earlier: Ranking,
    task: Task,
    reviewer: User,
    key: uuid.UUID,
    content: Content,
    guideline_version: int | None,
) -> Submission:
    if earlier.idempotency_key == key:
        if (earlier.reviewer_id, earlier.task_id) != (reviewer.pk, task.pk):
            sentence = _("This form was sent before, for another task or by someone else.")
            raise InvalidRanking({"idempotency_key": sentence})
        return Submission(earlier, duplicate=True, extra=earlier.extra)
    columns = content.columns() | {"active_seconds": earlier.active_seconds}
    if all(getattr(earlier, name) == value for name, value in columns.items()):
        return Submission(earlier, duplicate=True, extra=earlier.extra)
    if task.inactive:
        raise InvalidRanking(
            {"ranking": _("A lead has withdrawn this task. Your ranking is kept.")}
        )
    if (until := revisable_until(earlier)) is None or until < clock.now():
        raise InvalidRanking(
            {"ranking": _("You have ranked this task, and it can no longer be revised.")}
        )
    project = Project.objects.select_related("current_version").get(pk=task.project_id)
    return _supersede(earlier, key, content, task, version_shown(project, guideline_version))


def _supersede(
    old: Ranking, key: uuid.UUID, content: Content, task: Task, version: GuidelineVersion
) -> Submission:
    Ranking.objects.filter(pk=old.pk).update(superseded_at=clock.now())
    ranking = _write(
        task,
        old.reviewer,
        content,
        response_ids=responses_to_rank(task),
        version=version,
        policy=Policy.of(task.project),
        idempotency_key=key,
        shown_order=old.shown_order,
        source=Ranking.Source.REVIEW,
        extra=old.extra,
        supersedes=old,
    )
    replace_ranking(old=old, new=ranking)
    overlap.after_ranking(task)
    _announce(ranking)
    return Submission(ranking, duplicate=False, extra=ranking.extra)


def _holds(slot: Slot, reviewer: User) -> bool:
    return slot.reviewer_id == reviewer.pk and slot.ranking_id is None


def _slot_to_fill(slots: list[Slot], reviewer: User, slot_id: int, project: Project) -> Slot | None:
    """Return the reviewer's leased slot, or a free slot, or None. The slot with this id is preferred.

    Raises InvalidRanking for a reviewer who has left the project or never held a slot of the task.
    """
    if held := next((slot for slot in slots if _holds(slot, reviewer)), None):
        return held
    if not Project.objects.visible_to(reviewer).filter(pk=project.pk).exists():
        raise InvalidRanking({"slot": _("You are no longer a member of this project.")})
    if not any(reviewer.pk in (slot.past_reviewers or ()) for slot in slots):
        raise InvalidRanking(
            {"slot": _("This task is not assigned to you. Continue with the next one.")}
        )
    free = [slot for slot in slots if slot.reviewer_id is None]
    return next((slot for slot in free if slot.pk == slot_id), next(iter(free), None))


def _shown_order(slot: Slot, reviewer: User, response_ids: Collection[int]) -> list[int]:
    """Return the order in which the form showed the responses, even if someone else has the slot now."""
    if slot.reviewer_id == reviewer.pk and slot.shown_order:
        return slot.shown_order
    return shown_order_for(slot.task_id, slot.number, response_ids)


def _all_responses(task: Task) -> list[int]:
    """Return the ids of all responses of the task, including withdrawn ones, in the task's order."""
    places = TaskResponse.objects.filter(task=task).order_by("position")
    return list(places.values_list("response_id", flat=True))


def _write(task: Task, reviewer: User, content: Content, **columns: Any) -> Ranking:
    ranking = _checked(task, reviewer, content, **columns)
    ranking.save(force_insert=True)
    return ranking


def _checked(
    task: Task,
    reviewer: User,
    content: Content,
    *,
    response_ids: Collection[int],
    version: GuidelineVersion | None,
    partial: bool = False,
    scales: Mapping[str, int] | None = None,
    policy: Policy = ANYTHING,
    **columns: Any,
) -> Ranking:
    if scales is None:
        rated = Criterion.objects.filter(version=version) if content.ratings and version else ()
        scales = {criterion.name: criterion.scale for criterion in rated}
    if errors := problems(content, response_ids, scales, partial=partial, policy=policy):
        raise InvalidRanking(errors)
    return Ranking(
        task=task,
        reviewer=reviewer,
        guideline_version=version,
        **content.columns(),
        **columns,
    )
