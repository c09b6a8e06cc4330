"""Rankings come in here, from the page, from files and from simulations; nothing else writes them.

A ranking is never lost and never doubled. The key that comes with it makes a second click, a
reload and a retry the same ranking. One that arrives after its slot went to someone else takes
another free slot of the task, and failing that is kept as an extra.
"""

import math
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from django.contrib.postgres.expressions import ArraySubquery
from django.db import transaction
from django.db.models import OuterRef, Q
from django.utils import timezone

from accounts.models import User
from labeling import overlap
from labeling.display import shown_order_for
from labeling.models import Criterion, GuidelineVersion, Project, Ranking, Slot, Task, TaskResponse
from labeling.queue import NextPosition
from labeling.text import storable

FLAGS = {
    "unsafe": "Unsafe",
    "off-task": "Not about the prompt",
    "identity": "Says which model it is",
    "broken": "Broken output",
}
LONGEST_RATIONALE = 20_000
LONGEST_ACTIVE_SECONDS = 24 * 3600.0
STRONGEST = 3
NAMESPACE = uuid.UUID("0c1f6c84-9d4e-4a4b-8b0e-5a2f0d9f7e11")

_RESPONSE_IDS = ArraySubquery(
    TaskResponse.objects.filter(task=OuterRef("task")).order_by("position").values("response_id")
)

Errors = dict[str, str]


class InvalidRanking(ValueError):  # noqa: N818 - it reads as what it is
    """`errors` maps a field to a sentence for the one who ranked. Nothing was written."""

    def __init__(self, errors: Errors):
        super().__init__(" ".join(errors.values()))
        self.errors = errors


@dataclass(frozen=True)
class Submission:
    ranking: Ranking
    duplicate: bool
    """It had been submitted before; nothing was written."""
    extra: bool
    """The task had all the rankings it wanted by then; this one is kept beside them."""


@dataclass(frozen=True)
class Content:
    """What a reviewer says about a task. See Ranking for the meaning of each."""

    tiers: Sequence[Sequence[int]]
    cut: int | None = None
    strength: float | None = None
    ratings: Mapping[Any, Mapping[str, int]] = field(default_factory=dict)
    flags: Mapping[Any, Sequence[str]] = field(default_factory=dict)
    rationale: str = ""
    active_seconds: float = 0.0

    def columns(self) -> dict[str, Any]:
        """The values as they are stored: keys of JSON as text, only what PostgreSQL can keep."""
        return {
            **asdict(self),
            "tiers": [list(tier) for tier in self.tiers],
            "ratings": {str(key): dict(rated) for key, rated in self.ratings.items() if rated},
            "flags": {str(key): sorted(set(named)) for key, named in self.flags.items() if named},
            "rationale": storable(self.rationale),
            "active_seconds": _sane_seconds(self.active_seconds),
        }


def _sane_seconds(seconds: float) -> float:
    """A wrong clock is no reason to refuse a ranking."""
    return min(max(seconds, 0.0), LONGEST_ACTIVE_SECONDS) if math.isfinite(seconds) else 0.0


# --- what is refused -----------------------------------------------------------------------------


def problems(
    content: Content,
    response_ids: Collection[int],
    scales: Mapping[str, int],
    *,
    partial: bool = False,
) -> Errors:
    """What is wrong with a ranking of these responses, by field. `scales`: criterion → highest."""
    found = {
        "tiers": _tiers_problem(content.tiers, set(response_ids), partial),
        "cut": _cut_problem(content),
        "strength": _strength_problem(content, len(response_ids)),
        "ratings": _ratings_problem(content.ratings, {str(i) for i in response_ids}, scales),
        "flags": _flags_problem(content.flags, {str(i) for i in response_ids}),
        "rationale": _rationale_problem(content.rationale),
    }
    return {name: problem for name, problem in found.items() if problem}


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _tiers_problem(tiers: Any, responses: set[int], partial: bool) -> str | None:
    if not isinstance(tiers, Sequence) or not all(isinstance(t, list | tuple) for t in tiers):
        return "Tiers are a list of lists of response ids, best first."
    placed = [response for tier in tiers for response in tier]
    if not all(map(_whole, placed)):
        return "Tiers hold response ids, which are whole numbers."
    if any(not tier for tier in tiers):
        return "A tier without a response says nothing; leave it out."
    if strangers := sorted(set(placed) - responses):
        return f"These are no responses of this task: {', '.join(map(str, strangers))}."
    if len(placed) != len(set(placed)):
        return "Each response has one place; one was placed twice."
    if missing := len(responses) - len(placed):
        if not partial:
            return f"Give every response a place: {missing} of {len(responses)} have none yet."
        if len(placed) < 2:
            return "A ranking compares at least two responses."
    return None


def _cut_problem(content: Content) -> str | None:
    if content.cut is None or (_whole(content.cut) and 0 <= content.cut <= len(content.tiers)):
        return None
    return f"The line counts the tiers above it, 0 to {len(content.tiers)}; got {content.cut}."


def _strength_problem(content: Content, responses: int) -> str | None:
    strength = content.strength
    if strength is None:
        return None
    if responses != 2 or len(content.tiers) != 2:
        return "Only one response that beats one other has a strength."
    if isinstance(strength, bool) or not isinstance(strength, int | float):
        return "A strength is a number."
    return None if 1 <= strength <= STRONGEST else f"A strength goes from 1 to {STRONGEST}."


def _ratings_problem(ratings: Any, responses: set[str], scales: Mapping[str, int]) -> str | None:
    if not isinstance(ratings, Mapping):
        return "Ratings are given by response."
    for response, rated in ratings.items():
        if str(response) not in responses or not isinstance(rated, Mapping):
            return f"There is no response {response} in this task to rate."
        for name, rating in rated.items():
            if name not in scales:
                return f"The guideline has no criterion {name!r} to rate."
            if not _whole(rating) or not 1 <= rating <= scales[name]:
                return f"A rating of {name} goes from 1 to {scales[name]}; got {rating!r}."
    return None


def _flags_problem(flags: Any, responses: set[str]) -> str | None:
    if not isinstance(flags, Mapping):
        return "Flags are given by response."
    for response, named in flags.items():
        if str(response) not in responses or isinstance(named, str):
            return f"There is no response {response} in this task to flag."
        if unknown := [name for name in named if name not in FLAGS]:
            return f"There is no flag {unknown[0]!r}; there are {', '.join(FLAGS)}."
    return None


def _rationale_problem(rationale: object) -> str | None:
    if not isinstance(rationale, str):
        return "A rationale is text."
    if len(rationale) > LONGEST_RATIONALE:
        return f"A rationale has at most {LONGEST_RATIONALE:,} characters."
    return None


# --- writing -------------------------------------------------------------------------------------


@transaction.atomic
def submit(
    *,
    slot_id: int,
    reviewer: User,
    idempotency_key: uuid.UUID,
    tiers: Sequence[Sequence[int]],
    cut: int | None = None,
    strength: float | None = None,
    ratings: Mapping[Any, Mapping[str, int]] | None = None,
    flags: Mapping[Any, Sequence[str]] | None = None,
    rationale: str = "",
    active_seconds: float = 0.0,
) -> Submission:
    """Fill the slot. The same key again, or the same answer again, changes nothing.

    A different answer to a task the reviewer has ranked already (a second tab) supersedes the
    first. Late answers: see the module. Raises InvalidRanking.
    """
    content = Content(tiers, cut, strength, ratings or {}, flags or {}, rationale, active_seconds)
    slot = (
        Slot.objects.select_related("task__project__current_version")
        .annotate(response_ids=_RESPONSE_IDS)
        .filter(pk=slot_id)
        .first()
    )
    if slot is None:
        raise InvalidRanking({"slot": "This task is no longer there."})
    slots = _lock_slots(slot.task)
    if earlier := _earlier(slot.task, reviewer, idempotency_key):
        return _again(earlier, slot.task, reviewer, idempotency_key, content)
    held = _slot_to_fill(slots, reviewer, slot_id, slot.task.project)
    ranking = _write(
        slot.task,
        reviewer,
        content,
        response_ids=slot.response_ids,
        version=slot.task.project.current_version or current_version(slot.task.project),
        idempotency_key=idempotency_key,
        shown_order=_shown_order(slot, reviewer, slot.response_ids),
        source=Ranking.Source.REVIEW,
        extra=held is None,
    )
    if held is not None:
        _fill(held, ranking)
    overlap.after_ranking(slot.task)
    return Submission(ranking, duplicate=False, extra=held is None)


@transaction.atomic
def revise(
    *,
    ranking: Ranking,
    reviewer: User,
    idempotency_key: uuid.UUID,
    tiers: Sequence[Sequence[int]],
    cut: int | None = None,
    strength: float | None = None,
    ratings: Mapping[Any, Mapping[str, int]] | None = None,
    flags: Mapping[Any, Sequence[str]] | None = None,
    rationale: str = "",
    active_seconds: float = 0.0,
) -> Submission:
    """Supersede one's own ranking under today's guideline; the old one stays. InvalidRanking."""
    content = Content(tiers, cut, strength, ratings or {}, flags or {}, rationale, active_seconds)
    if ranking.reviewer_id != reviewer.pk:
        raise InvalidRanking({"ranking": "Only the reviewer who made a ranking can change it."})
    _lock_slots(ranking.task)
    earlier = _earlier(ranking.task, reviewer, idempotency_key)
    if earlier is None:
        raise InvalidRanking({"ranking": "This ranking is no longer there."})
    return _again(earlier, ranking.task, reviewer, idempotency_key, content)


@transaction.atomic
def record(
    *,
    task: Task,
    reviewer: User,
    source: str,
    tiers: Sequence[Sequence[int]],
    cut: int | None = None,
    strength: float | None = None,
    ratings: Mapping[Any, Mapping[str, int]] | None = None,
    flags: Mapping[Any, Sequence[str]] | None = None,
    rationale: str = "",
    active_seconds: float = 0.0,
    shown_order: Sequence[int] = (),
    idempotency_key: uuid.UUID | None = None,
    partial: bool = False,
    scales: Mapping[str, int] | None = None,
) -> tuple[Ranking, bool]:
    """A ranking made elsewhere or by a program, and whether it is new. Raises InvalidRanking.

    `scales` says what ratings are checked against, in place of the guideline's criteria. It takes the reviewer's own or a free slot, and adds one when every slot is taken. An import
    names no guideline version; a simulation was made under the current one.
    """
    content = Content(tiers, cut, strength, ratings or {}, flags or {}, rationale, active_seconds)
    key = idempotency_key or key_of(task.pk, reviewer.pk, source)
    slots = _lock_slots(task)
    if earlier := _earlier(task, reviewer, key):
        if earlier.idempotency_key != key or earlier.task_id != task.pk:
            raise InvalidRanking({"reviewer": f"{reviewer} has ranked {task} already."})
        return earlier, False
    imported = source == Ranking.Source.IMPORT
    ranking = _write(
        task,
        reviewer,
        content,
        response_ids=_response_ids(task),
        version=None if imported else current_version(task.project),
        idempotency_key=key,
        shown_order=list(shown_order),
        source=source,
        partial=partial,
        scales=scales,
    )
    free = [slot for slot in slots if slot.reviewer_id is None]
    held = [slot for slot in slots if _holds(slot, reviewer)]
    _fill(next(iter(held + free), None) or _another_slot(task, slots), ranking)
    overlap.after_ranking(task)
    return ranking, True


def key_of(*parts: object) -> uuid.UUID:
    """The same key for the same parts, so that doing it again does nothing."""
    return uuid.uuid5(NAMESPACE, "\x1f".join(map(str, parts)))


def current_version(project: Project) -> GuidelineVersion:
    """As the database has it now. Raises InvalidRanking while no guideline is published."""
    pointer = Project.objects.filter(pk=project.pk).values("current_version")
    version = GuidelineVersion.objects.filter(pk__in=pointer).first()
    if version is None:
        raise InvalidRanking(
            {"guideline": "This project has no published guideline yet. Ask a lead to publish one."}
        )
    return version


def _lock_slots(task: Task) -> list[Slot]:
    """All of them, in one order, so that whatever happens to a task happens one at a time."""
    return list(Slot.objects.filter(task=task).order_by("number").select_for_update())


def _earlier(task: Task, reviewer: User, key: uuid.UUID) -> Ranking | None:
    """What this key wrote, else the reviewer's current ranking of the task."""
    own = Q(task=task, reviewer=reviewer, superseded_at=None)
    found = list(Ranking.objects.filter(Q(idempotency_key=key) | own))
    return next((r for r in found if r.idempotency_key == key), next(iter(found), None))


def _again(
    earlier: Ranking, task: Task, reviewer: User, key: uuid.UUID, content: Content
) -> Submission:
    if earlier.idempotency_key == key:
        if (earlier.reviewer_id, earlier.task_id) != (reviewer.pk, task.pk):
            sentence = "This form was sent before, for another task or by someone else."
            raise InvalidRanking({"idempotency_key": sentence})
        return Submission(earlier, duplicate=True, extra=earlier.extra)
    columns = content.columns() | {"active_seconds": earlier.active_seconds}
    if all(getattr(earlier, name) == value for name, value in columns.items()):
        return Submission(earlier, duplicate=True, extra=earlier.extra)
    return _supersede(earlier, key, content, task)


def _supersede(old: Ranking, key: uuid.UUID, content: Content, task: Task) -> Submission:
    Ranking.objects.filter(pk=old.pk).update(superseded_at=timezone.now())
    ranking = _write(
        task,
        old.reviewer,
        content,
        response_ids=_response_ids(task),
        version=current_version(task.project),
        idempotency_key=key,
        shown_order=old.shown_order,
        source=Ranking.Source.REVIEW,
        extra=old.extra,
        supersedes=old,
    )
    Slot.objects.filter(ranking=old).update(ranking=ranking)
    overlap.after_ranking(task)
    return Submission(ranking, duplicate=False, extra=ranking.extra)


def _holds(slot: Slot, reviewer: User) -> bool:
    return slot.reviewer_id == reviewer.pk and slot.ranking_id is None


def _slot_to_fill(slots: list[Slot], reviewer: User, slot_id: int, project: Project) -> Slot | None:
    """The one they hold, else the one they had, else any free one of the task.

    Raises InvalidRanking for someone who neither holds a slot nor belongs to the project.
    """
    if held := next((slot for slot in slots if _holds(slot, reviewer)), None):
        return held
    if not Project.objects.visible_to(reviewer).filter(pk=project.pk).exists():
        raise InvalidRanking({"slot": "You do not belong to this project any more."})
    free = [slot for slot in slots if slot.reviewer_id is None]
    return next((slot for slot in free if slot.pk == slot_id), next(iter(free), None))


def _shown_order(slot: Slot, reviewer: User, response_ids: Collection[int]) -> list[int]:
    """What the form of this slot showed, whoever has the slot by now."""
    if slot.reviewer_id == reviewer.pk and slot.shown_order:
        return slot.shown_order
    return shown_order_for(slot.task_id, slot.number, response_ids)


def _response_ids(task: Task) -> list[int]:
    places = TaskResponse.objects.filter(task=task).order_by("position")
    return list(places.values_list("response_id", flat=True))


def _write(
    task: Task,
    reviewer: User,
    content: Content,
    *,
    response_ids: Collection[int],
    version: GuidelineVersion | None,
    partial: bool = False,
    scales: Mapping[str, int] | None = None,
    **columns: Any,
) -> Ranking:
    if scales is None:
        rated = Criterion.objects.filter(version=version) if content.ratings and version else ()
        scales = {criterion.name: criterion.scale for criterion in rated}
    if errors := problems(content, response_ids, scales, partial=partial):
        raise InvalidRanking(errors)
    return Ranking.objects.create(
        task=task,
        reviewer=reviewer,
        guideline_version=version,
        **content.columns(),
        **columns,
    )


def _fill(slot: Slot, ranking: Ranking) -> None:
    Slot.objects.filter(pk=slot.pk).update(
        reviewer=ranking.reviewer_id,
        leased_until=None,
        ranking=ranking,
        ahead=False,
        shown_order=ranking.shown_order,
        draft=None,
        draft_by=None,
    )


def _another_slot(task: Task, slots: list[Slot]) -> Slot:
    return Slot.objects.create(
        task=task,
        number=max((slot.number for slot in slots), default=0) + 1,
        project_id=task.project_id,
        priority=task.priority,
        position=NextPosition(),
    )
