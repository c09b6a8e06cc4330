"""Tasks whose answer is known. What is known is a list of constraints on a ranking, in JSON:

    {"kind": "above", "a": 1, "b": 2}        response 1 beats response 2; a tie breaks it
    {"kind": "tie_allowed", "a": 1, "b": 2}  a tie of the two is as good
    {"kind": "unacceptable", "a": 3}         response 3 lies below the line

A gold task is a task of its own kind beside the one it was made from. It has no slots until it is
given out (labeling.reviewing.assignment), and its rankings measure reviewers: they are not training data.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from string import ascii_uppercase
from typing import Any

from django.contrib.postgres.aggregates import ArrayAgg
from django.db import transaction
from django.db.models import Exists, F, OuterRef, Subquery
from django.utils import timezone
from django.utils.translation import gettext as _

from accounts.models import User, audit
from labeling.core.text import storable
from labeling.models import Gold, Project, Prompt, Ranking, Response, Skip, Task, TaskResponse
from labeling.queue.tasks import add_task, take_off_queue

KEYS = {
    "above": ("kind", "a", "b"),
    "tie_allowed": ("kind", "a", "b"),
    "unacceptable": ("kind", "a"),
}
LONGEST_EXPLANATION = 10_000

Constraint = Mapping[str, Any]
Letters = Mapping[int, str]


class GoldError(ValueError):
    """A sentence for the lead. Nothing was written."""


# --- what constraints say ------------------------------------------------------------------------


def problem(constraints: Any, letters: Letters) -> str | None:
    """What is wrong with constraints on these responses, in a sentence; None when they hold."""
    if not isinstance(constraints, list) or not constraints:
        return (
            "Say at least one thing about the answer: what is above what, or what is unacceptable."
        )
    for number, one in enumerate(constraints, start=1):
        if sentence := _shape_problem(one, letters):
            return f"Constraint {number}: {sentence}"
    said = [_identity(one) for one in constraints]
    if len(set(said)) < len(said):
        return "The same constraint is there twice."
    if all(one["kind"] == "tie_allowed" for one in constraints):
        return "Allowed ties alone break nothing: say what is above what, or what is unacceptable."
    if circle := _circle([(one["a"], one["b"]) for one in constraints if one["kind"] == "above"]):
        return f"No ranking can do this: {' above '.join(letters[i] for i in circle)}."
    return None


def _shape_problem(one: Any, letters: Letters) -> str | None:
    if not isinstance(one, dict) or one.get("kind") not in KEYS:
        return f"it must be an object whose kind is one of {', '.join(KEYS)}."
    if set(one) != set(KEYS[one["kind"]]):
        wanted = ", ".join(KEYS[one["kind"]])
        return f"{one['kind']} has exactly {wanted}; got {', '.join(map(str, one))}."
    for name in KEYS[one["kind"]][1:]:
        response = one[name]
        if isinstance(response, bool) or not isinstance(response, int) or response not in letters:
            return f"there is no response {response!r} in this task."
    if one["kind"] != "unacceptable" and one["a"] == one["b"]:
        return "it takes two different responses."
    return None


def _identity(one: Constraint) -> tuple[Any, ...]:
    if one["kind"] == "tie_allowed":
        return ("tie_allowed", *sorted((one["a"], one["b"])))
    return (one["kind"], one["a"], one.get("b"))


def _circle(above: Sequence[tuple[int, int]]) -> list[int] | None:
    """Responses each above the next, the first again at the end; None when there is no circle."""
    below: dict[int, list[int]] = {}
    for better, worse in above:
        below.setdefault(better, []).append(worse)

    def walk(path: list[int]) -> list[int] | None:
        for worse in below.get(path[-1], []):
            if worse in path:
                return [*path[path.index(worse) :], worse]
            if found := walk([*path, worse]):
                return found
        return None

    return next((found for start in below if (found := walk([start]))), None)


def sentences(constraints: Sequence[Constraint], letters: Letters) -> list[str]:
    """What the constraints say, each in a sentence."""
    return [_rule(one, letters) for one in constraints]


def _rule(one: Constraint, letters: Letters) -> str:
    named = {name: letters.get(one[name], "?") for name in ("a", "b") if name in one}
    if one["kind"] == "above":
        return _("%(a)s belongs above %(b)s.") % named
    if one["kind"] == "tie_allowed":
        return _("%(a)s and %(b)s may share a place.") % named
    return _("%(a)s is unacceptable.") % named


def constraints_from(tiers: Sequence[Sequence[int]], cut: int | None) -> list[dict[str, Any]]:
    """What a ranking says, as constraints: a start for the lead. Each tier is above the next."""
    found: list[dict[str, Any]] = []
    for upper, lower in pairwise(tiers):
        found += [{"kind": "above", "a": a, "b": b} for a in upper for b in lower]
    for tier in tiers:
        found += [
            {"kind": "tie_allowed", "a": a, "b": b}
            for n, a in enumerate(tier)
            for b in tier[n + 1 :]
        ]
    below = tiers[cut:] if cut is not None else []
    return found + [{"kind": "unacceptable", "a": a} for tier in below for a in tier]


# --- what a ranking did --------------------------------------------------------------------------


@dataclass(frozen=True)
class GoldResult:
    """`broken` holds a sentence for each constraint that the ranking does not meet."""

    right: bool
    broken: list[str]


def check(ranking: Ranking, gold: Gold, letters: Letters | None = None) -> GoldResult:
    """Whether the ranking meets the constraints. No query; letters default to those it was shown."""
    lines = _lines(ranking, gold.constraints, letters or letters_of(ranking.shown_order))
    broken = [sentence for sentence, met in lines if not met]
    return GoldResult(not broken, broken)


def letters_of(response_ids: Collection[int]) -> dict[int, str]:
    return dict(zip(response_ids, ascii_uppercase, strict=False))


def meets(
    tiers: Sequence[Sequence[int]], cut: int | None, constraints: Sequence[Constraint]
) -> bool:
    """What `check` says, without the sentences: for thousands of rankings."""
    places = _places(tiers)
    return not any(_fault(one, places, cut, constraints) for one in constraints)


def _places(tiers: Sequence[Sequence[int]]) -> dict[int, int]:
    return {response: place for place, tier in enumerate(tiers) for response in tier}


def _fault(
    one: Constraint, places: Mapping[int, int], cut: int | None, constraints: Sequence[Constraint]
) -> str | None:
    """Why a ranking does not meet a constraint: missing, acceptable, below or tied."""
    if one["kind"] == "tie_allowed":
        return None
    if one["a"] not in places or one.get("b", one["a"]) not in places:
        return "missing"
    if one["kind"] == "unacceptable":
        return "acceptable" if cut is None or places[one["a"]] < cut else None
    if places[one["a"]] == places[one["b"]]:
        return None if _may_tie(one, constraints) else "tied"
    return "below" if places[one["a"]] > places[one["b"]] else None


def _may_tie(one: Constraint, constraints: Sequence[Constraint]) -> bool:
    return any(
        other["kind"] == "tie_allowed" and {other["a"], other["b"]} == {one["a"], one["b"]}
        for other in constraints
    )


def _lines(
    ranking: Ranking, constraints: Sequence[Constraint], letters: Letters
) -> list[tuple[str, bool]]:
    """A sentence for each constraint, and whether the ranking meets it; if not, it says how."""
    places = _places(ranking.tiers)
    lines = []
    for one in constraints:
        fault = _fault(one, places, ranking.cut, constraints)
        lines.append((_said(one, fault, places, letters), fault is None))
    return lines


def _said(one: Constraint, fault: str | None, places: Mapping[int, int], letters: Letters) -> str:
    ids = {name: one[name] for name in ("a", "b") if name in one}
    named = {name: letters.get(pk, "?") for name, pk in ids.items()}
    if fault == "missing":
        missing = next(named[name] for name, pk in ids.items() if pk not in places)
        return f"{_rule(one, letters)} " + _("%(a)s has no place.") % {"a": missing}
    if fault == "acceptable":
        return _("%(a)s is unacceptable, and is not below the line.") % named
    if fault == "below":
        return _("%(a)s belongs above %(b)s, and is below it.") % named
    if fault == "tied":
        return _("%(a)s belongs above %(b)s, and they share a place.") % named
    return _rule(one, letters)


@dataclass(frozen=True)
class Feedback:
    """What a reviewer in training is told about what they sent.

    `lines` has a sentence for each thing that is known, and whether their ranking says the same.
    """

    lines: list[tuple[str, bool]]
    explanation: str

    @property
    def right(self) -> bool:
        return all(met for _sentence, met in self.lines)


def feedback(ranking: Ranking) -> Feedback | None:
    """After a training task; None for any other. A query for gold alone."""
    if ranking.task.kind != Task.Kind.GOLD:
        return None
    gold = Gold.objects.filter(task=ranking.task_id, purpose=Gold.Purpose.TRAINING).first()
    if gold is None:
        return None
    lines = _lines(ranking, gold.constraints, letters_of(ranking.shown_order))
    return Feedback(lines, gold.explanation)


# --- those that come before real work ------------------------------------------------------------


@dataclass(frozen=True)
class Course:
    """Gold that everybody goes through in order, and how far a reviewer has come with it."""

    done: int
    total: int
    next: Gold | None


def course(*, project: Project, reviewer: User, purpose: str) -> Course:
    """Skipped is done. A query, by the project's gold for this purpose."""
    here = {"task": OuterRef("task"), "reviewer": reviewer}
    found = list(
        Gold.objects.filter(
            project=project,
            purpose=purpose,
            retired_at=None,
            task__held=False,
            task__out_of_use=False,
        )
        .annotate(
            done=Exists(Ranking.objects.filter(superseded_at=None, **here))
            | Exists(Skip.objects.filter(**here))
        )
        .order_by("pk")
    )
    left = [one for one in found if not one.done]
    return Course(len(found) - len(left), len(found), next(iter(left), None))


def copies_of(tasks: Collection[int]) -> dict[int, int]:
    """The gold in use that was made of each of these tasks, by the task's id. One query."""
    sets = (
        TaskResponse.objects.order_by()
        .values("task")
        .annotate(ids=ArrayAgg("response", order_by="response"))
    )
    copies = (
        Gold.objects.filter(retired_at=None)
        .annotate(
            original=F("task__prompt__tasks"),
            own=Subquery(sets.filter(task=OuterRef("task")).values("ids")),
            same=Subquery(sets.filter(task=OuterRef("task__prompt__tasks")).values("ids")),
        )
        .filter(own=F("same"), original__in=tasks)
        .exclude(original=F("task"))
    )
    return dict(copies.values_list("original", "pk"))


# --- making it -----------------------------------------------------------------------------------


@transaction.atomic
def make(
    *,
    task: Task,
    constraints: Any,
    purpose: str = Gold.Purpose.CHECK,
    explanation: str = "",
    by: User | None = None,
) -> Gold:
    """Gold from a task: a copy that measures reviewers. Made again, a retired one comes back.

    The task keeps its rankings and is not given to more reviewers, because anyone who saw the copy would recognise it.
    Raises GoldError.
    """
    if task.kind == Task.Kind.GOLD:
        raise GoldError("This task is gold already. Change or retire that.")
    if task.out_of_use or task.places.filter(withdrawn=True).exists():
        raise GoldError("Part of this task is withdrawn. Restore it before you make it gold.")
    places = task.places.select_related("response").order_by("position")
    responses = [place.response for place in places]
    gold = add(
        project=task.project,
        prompt=task.prompt,
        responses=responses,
        constraints=constraints,
        purpose=purpose,
        explanation=explanation,
        by=by,
    )
    take_off_queue(task=task)
    return gold


@transaction.atomic
def add(
    *,
    project: Project,
    prompt: Prompt,
    responses: Sequence[Response],
    constraints: Any,
    purpose: str = Gold.Purpose.CHECK,
    explanation: str = "",
    by: User | None = None,
) -> Gold:
    """Gold of responses that need be in no task yet. Raises GoldError."""
    letters = letters_of([response.pk for response in responses])
    columns = _columns(constraints, letters, purpose, explanation)
    try:
        copy, _new = add_task(
            project=project, prompt=prompt, responses=responses, kind=Task.Kind.GOLD
        )
    except ValueError as error:
        raise GoldError(str(error)) from None
    if Gold.objects.filter(task=copy, retired_at=None).exists():
        raise GoldError("There is gold of these responses already. Change or retire that.")
    columns |= {"created_by": by, "retired_at": None, "project": project}
    gold, _new = Gold.objects.update_or_create(task=copy, defaults=columns)
    audit(by, "gold made", gold, purpose=purpose)
    return gold


@transaction.atomic
def describe(
    *, task: Task, constraints: Any, purpose: str = Gold.Purpose.CHECK, explanation: str = ""
) -> tuple[Gold, bool]:
    """What is known of a task that is of the kind gold, and whether that is new. Raises GoldError."""
    letters = letters_of(_ids(task))
    columns = _columns(constraints, letters, purpose, explanation)
    return Gold.objects.get_or_create(
        task=task, defaults={**columns, "project_id": task.project_id}
    )


def _ids(task: Task) -> list[int]:
    return list(task.places.order_by("position").values_list("response_id", flat=True))


def _columns(constraints: Any, letters: Letters, purpose: str, explanation: str) -> dict[str, Any]:
    if sentence := problem(constraints, letters):
        raise GoldError(sentence)
    if purpose not in Gold.Purpose.values:
        raise GoldError(f"Gold is for one of {', '.join(Gold.Purpose.values)}.")
    if len(explanation) > LONGEST_EXPLANATION:
        raise GoldError(f"An explanation has at most {LONGEST_EXPLANATION:,} characters.")
    return {"constraints": constraints, "purpose": purpose, "explanation": storable(explanation)}


@transaction.atomic
def change(
    *, gold: Gold, constraints: Any, purpose: str, explanation: str, by: User | None
) -> None:
    """Rankings made before are measured by the new constraints too. Raises GoldError."""
    columns = _columns(constraints, letters_of(_ids(gold.task)), purpose, explanation)
    Gold.objects.filter(pk=gold.pk).update(**columns)
    audit(by, "gold changed", gold, purpose=purpose)


def retire(*, gold: Gold, by: User | None) -> bool:
    """Stop giving it out and measuring by it; return False when it was retired before."""
    now = timezone.now()
    if not Gold.objects.filter(pk=gold.pk, retired_at=None).update(retired_at=now):
        return False
    audit(by, "gold retired", gold)
    return True
