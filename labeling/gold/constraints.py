"""The known answers of gold tasks. An answer is a list of constraints on the ranking, in JSON:

    {"kind": "above", "a": 1, "b": 2}        response 1 is ranked above response 2, without a tie
    {"kind": "tie_allowed", "a": 1, "b": 2}  both responses may also be tied
    {"kind": "unacceptable", "a": 3}         response 3 is below the line

A gold task is a copy of the task from which it was made, with the kind "gold". Its slots are created
when it is given to a reviewer (labeling.reviewing.assignment). Its rankings measure reviewers and are
not training data.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from string import ascii_uppercase
from typing import Any

from django.utils.translation import gettext as _

from labeling.models import Gold, Ranking, Task

KEYS = {
    "above": ("kind", "a", "b"),
    "tie_allowed": ("kind", "a", "b"),
    "unacceptable": ("kind", "a"),
}

Constraint = Mapping[str, Any]
Letters = Mapping[int, str]


# --- constraints ----------------------------------------------------------------------------------


def problem(constraints: Any, letters: Letters) -> str | None:
    """Return a sentence that says why the constraints on these responses are invalid, or None."""
    if not isinstance(constraints, list) or not constraints:
        return "Add at least one constraint: a response above another, or an unacceptable response."
    for number, constraint in enumerate(constraints, start=1):
        if sentence := _shape_problem(constraint, letters):
            return f"Constraint {number}: {sentence}"
    identities = [_identity(constraint) for constraint in constraints]
    if len(set(identities)) < len(identities):
        return "Two constraints are the same. Remove one."
    if all(constraint["kind"] == "tie_allowed" for constraint in constraints):
        return (
            "With allowed ties only, every ranking is right. Add a response above another, or an "
            "unacceptable response."
        )
    if cycle := _cycle(
        [
            (constraint["a"], constraint["b"])
            for constraint in constraints
            if constraint["kind"] == "above"
        ]
    ):
        return f"No ranking can meet this: {' above '.join(letters[i] for i in cycle)}."
    return None


def _shape_problem(constraint: Any, letters: Letters) -> str | None:
    if not isinstance(constraint, dict) or constraint.get("kind") not in KEYS:
        return f"it must be an object whose kind is one of {', '.join(KEYS)}."
    if set(constraint) != set(KEYS[constraint["kind"]]):
        keys = ", ".join(KEYS[constraint["kind"]])
        return f"{constraint['kind']} has exactly {keys}; got {', '.join(map(str, constraint))}."
    for name in KEYS[constraint["kind"]][1:]:
        response = constraint[name]
        if isinstance(response, bool) or not isinstance(response, int) or response not in letters:
            return f"this task has no response {response!r}."
    if constraint["kind"] != "unacceptable" and constraint["a"] == constraint["b"]:
        return "it needs two different responses."
    return None


def _identity(constraint: Constraint) -> tuple[Any, ...]:
    if constraint["kind"] == "tie_allowed":
        return ("tie_allowed", *sorted((constraint["a"], constraint["b"])))
    return (constraint["kind"], constraint["a"], constraint.get("b"))


def _cycle(above: Sequence[tuple[int, int]]) -> list[int] | None:
    """Return a cycle in which each response is above the next, or None. It ends with the first one."""
    below: dict[int, list[int]] = {}
    for better, worse in above:
        below.setdefault(better, []).append(worse)

    def walk(path: list[int]) -> list[int] | None:
        for worse in below.get(path[-1], []):
            if worse in path:
                return [*path[path.index(worse) :], worse]
            if cycle := walk([*path, worse]):
                return cycle
        return None

    return next((cycle for start in below if (cycle := walk([start]))), None)


def sentences(constraints: Sequence[Constraint], letters: Letters) -> list[str]:
    """Return a sentence that describes each constraint, with the responses' letters."""
    return [_rule(constraint, letters) for constraint in constraints]


def _rule(constraint: Constraint, letters: Letters) -> str:
    named = {name: letters.get(constraint[name], "?") for name in ("a", "b") if name in constraint}
    if constraint["kind"] == "above":
        return _("%(a)s belongs above %(b)s.") % named
    if constraint["kind"] == "tie_allowed":
        return _("%(a)s and %(b)s may tie.") % named
    return _("%(a)s is unacceptable.") % named


def constraints_from(tiers: Sequence[Sequence[int]], cut: int | None) -> list[dict[str, Any]]:
    """Return constraints that this ranking meets, as a first draft for the lead."""
    constraints: list[dict[str, Any]] = []
    for upper, lower in pairwise(tiers):
        constraints += [{"kind": "above", "a": a, "b": b} for a in upper for b in lower]
    for tier in tiers:
        constraints += [
            {"kind": "tie_allowed", "a": a, "b": b}
            for n, a in enumerate(tier)
            for b in tier[n + 1 :]
        ]
    below = tiers[cut:] if cut is not None else []
    return constraints + [{"kind": "unacceptable", "a": a} for tier in below for a in tier]


# --- checking rankings ----------------------------------------------------------------------------


@dataclass(frozen=True)
class GoldResult:
    """The result of a check. `broken` contains a sentence for each constraint that is not met."""

    right: bool
    broken: list[str]


def check(ranking: Ranking, gold: Gold, letters: Letters | None = None) -> GoldResult:
    """Check a ranking against the constraints. `letters` defaults to those that the reviewer saw."""
    lines = _lines(ranking, gold.constraints, letters or letters_of(ranking.shown_order))
    broken = [sentence for sentence, met in lines if not met]
    return GoldResult(not broken, broken)


def letters_of(response_ids: Collection[int]) -> dict[int, str]:
    return dict(zip(response_ids, ascii_uppercase, strict=False))


def meets(
    tiers: Sequence[Sequence[int]], cut: int | None, constraints: Sequence[Constraint]
) -> bool:
    """Return whether the ranking meets the constraints. For many rankings, this is faster than `check`."""
    places = _places(tiers)
    return not any(_fault(constraint, places, cut, constraints) for constraint in constraints)


def _places(tiers: Sequence[Sequence[int]]) -> dict[int, int]:
    return {response: rank for rank, tier in enumerate(tiers) for response in tier}


def _fault(
    constraint: Constraint,
    places: Mapping[int, int],
    cut: int | None,
    constraints: Sequence[Constraint],
) -> str | None:
    """Return why a constraint is not met (`missing`, `acceptable`, `below` or `tied`), or None."""
    if constraint["kind"] == "tie_allowed":
        return None
    if constraint["a"] not in places or constraint.get("b", constraint["a"]) not in places:
        return "missing"
    if constraint["kind"] == "unacceptable":
        return "acceptable" if cut is None or places[constraint["a"]] < cut else None
    if places[constraint["a"]] == places[constraint["b"]]:
        return None if _may_tie(constraint, constraints) else "tied"
    return "below" if places[constraint["a"]] > places[constraint["b"]] else None


def _may_tie(constraint: Constraint, constraints: Sequence[Constraint]) -> bool:
    return any(
        other["kind"] == "tie_allowed"
        and {other["a"], other["b"]} == {constraint["a"], constraint["b"]}
        for other in constraints
    )


def _lines(
    ranking: Ranking, constraints: Sequence[Constraint], letters: Letters
) -> list[tuple[str, bool]]:
    """Return a sentence for each constraint, and whether the ranking meets the constraint.

    If it does not, the sentence says why.
    """
    places = _places(ranking.tiers)
    lines = []
    for constraint in constraints:
        fault = _fault(constraint, places, ranking.cut, constraints)
        lines.append((_sentence(constraint, fault, places, letters), fault is None))
    return lines


def _sentence(
    constraint: Constraint, fault: str | None, places: Mapping[int, int], letters: Letters
) -> str:
    ids = {name: constraint[name] for name in ("a", "b") if name in constraint}
    named = {name: letters.get(pk, "?") for name, pk in ids.items()}
    if fault == "missing":
        missing = next(named[name] for name, pk in ids.items() if pk not in places)
        return f"{_rule(constraint, letters)} " + _("%(a)s was not ranked.") % {"a": missing}
    if fault == "acceptable":
        return _("%(a)s is unacceptable but not below the line.") % named
    if fault == "below":
        return _("%(a)s belongs above %(b)s but is below it.") % named
    if fault == "tied":
        return _("%(a)s belongs above %(b)s but shares its rank.") % named
    return _rule(constraint, letters)


@dataclass(frozen=True)
class Feedback:
    """Feedback on a reviewer's ranking in training.

    `lines` contains a sentence for each constraint, and whether the ranking meets the constraint.
    """

    lines: list[tuple[str, bool]]
    explanation: str

    @property
    def right(self) -> bool:
        return all(met for _sentence, met in self.lines)


def feedback(ranking: Ranking) -> Feedback | None:
    """Return the feedback on a ranking, or None if its task is not a training task.

    Costs one query for a gold task, otherwise none.
    """
    if ranking.task.kind != Task.Kind.GOLD:
        return None
    gold = Gold.objects.filter(task=ranking.task_id, purpose=Gold.Purpose.TRAINING).first()
    if gold is None:
        return None
    lines = _lines(ranking, gold.constraints, letters_of(ranking.shown_order))
    return Feedback(lines, gold.explanation)
