"""Disputed tasks, largest disagreement first, and what leads decide about them.

A decision has an outcome, an order like any ranking, and a cause: why reviewers disagreed. Deciding
again replaces the decision; the audit trail keeps what was said before.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from random import Random
from typing import Any

from django.db import transaction
from django.utils import timezone

from accounts.models import User, audit
from labeling.core.text import storable
from labeling.models import Adjudication, Project, Task, TaskResponse
from labeling.quality.measures import Dispute, quality_of
from labeling.queue.slots import lock_slots
from labeling.rankings import overlap
from labeling.statistics.agreement import Tiers

LONGEST_NOTE = 5000
Cause = Adjudication.Cause


class CannotDecide(ValueError):  # noqa: N818 - it reads as what it is
    """`errors` maps a field to a sentence for the lead. Nothing was written."""

    def __init__(self, errors: dict[str, str]):
        super().__init__(" ".join(errors.values()))
        self.errors = errors


def open_disputes(project: Project) -> list[Dispute]:
    """Return the undecided disputes among the tasks ranked last, largest distance first.

    labeling.statistics.disputes says what a dispute is. Two queries when the figures of the project
    are cached, three more otherwise.
    """
    return list(quality_of(project).disputes)


def distance(rankings: Sequence[Tiers]) -> float:
    """Mean over pairs of responses and of rankings, 0 to 1. Nothing compared twice is 0.

    Plain Python: for the few responses of a task it is ten times as quick as arrays.
    """
    placed = [{i: place for place, tier in enumerate(tiers) for i in tier} for tiers in rankings]
    apart = compared = 0
    for one, two in combinations(placed, 2):
        for a, b in combinations(one.keys() & two.keys(), 2):
            apart += abs(_sign(one[a] - one[b]) - _sign(two[a] - two[b]))
            compared += 1
    return apart / (2 * compared) if compared else 0.0


def _sign(number: int) -> int:
    return (number > 0) - (number < 0)


def next_after(disputes: Sequence[Dispute], task_id: int) -> Dispute | None:
    """Return the one that follows in the list; the first for a task that is not in it."""
    indexes = {dispute.task_id: index for index, dispute in enumerate(disputes)}
    index = indexes.get(task_id, -1) + 1
    return disputes[index] if index < len(disputes) else None


def order_for(task_id: int, lead: User, response_ids: Sequence[int]) -> list[int]:
    """The order in which the page of a dispute shows the responses to a lead; always the same."""
    order = list(response_ids)
    Random(f"{task_id}:{lead.pk}").shuffle(order)
    return order


# --- deciding ------------------------------------------------------------------------------------


@transaction.atomic
def decide(
    *,
    task: Task,
    by: User,
    tiers: Tiers,
    cause: str,
    cut: int | None = None,
    note: str = "",
    seen: str = "",
    shown_order: Sequence[int] = (),
) -> Adjudication:
    """Write the outcome and its cause, and ask no further rankings of the task.

    `shown_order` is the order of the responses on the lead's page: the letters in the note follow it.
    `seen` is the `mark` of the decision that the lead saw, empty for none. Raises CannotDecide,
    also when someone else has decided since.
    """
    lock_slots(task)
    before = Adjudication.objects.filter(task=task).select_related("by").first()
    if errors := _problems(task, tiers, cut, cause, note) or _taken(before, seen):
        raise CannotDecide(errors)
    decided = before or Adjudication(task=task)
    earlier = _content(before) | {"by": before.by.username} if before else {}
    decided.tiers, decided.cut = [list(tier) for tier in tiers], cut
    decided.cause, decided.note, decided.by = cause, storable(note), by
    decided.shown_order = list(shown_order)
    decided.guideline_version = task.project.current_version
    decided.created_at = timezone.now()
    decided.save()
    audit(by, "dispute decided", task, **_content(decided), before=earlier)
    overlap.settle(task)
    return decided


def mark(decision: Adjudication | None) -> str:
    """Tells one state of a decision from another, so that nobody overwrites what they never saw."""
    return decision.created_at.isoformat() if decision else ""


def _content(decision: Adjudication) -> dict[str, Any]:
    return {
        name: getattr(decision, name) for name in ("tiers", "cut", "cause", "note", "shown_order")
    }


def _taken(before: Adjudication | None, seen: str) -> dict[str, str]:
    if before is None or mark(before) == seen:
        return {}
    return {
        "__all__": "Another lead has decided this since you opened it. Open it again to see the "
        "outcome, and change it if you do not agree."
    }


def _problems(task: Task, tiers: Tiers, cut: int | None, cause: str, note: str) -> dict[str, str]:
    if Task.objects.filter(pk=task.pk, out_of_use=True).exists():
        return {"__all__": "This task is withdrawn. Restore it to decide its outcome."}
    errors = {}
    placed = [response for tier in tiers for response in tier]
    places = TaskResponse.objects.filter(task=task, withdrawn=False)
    own = places.values_list("response_id", flat=True)
    if sorted(placed) != sorted(own) or not all(tiers):
        errors["tiers"] = "Give every response a rank; equal ranks are a tie."
    elif not task.project.allow_ties and len(tiers) < len(placed):
        errors["tiers"] = "This project allows no ties: give every response a rank of its own."
    if cut is not None and not 0 <= cut <= len(tiers):
        errors["cut"] = f"The line counts the tiers above it, 0 to {len(tiers)}."
    if cause not in Cause.values:
        errors["cause"] = "Say why reviewers disagreed; the causes are counted."
    if len(note) > LONGEST_NOTE:
        errors["note"] = f"A note has at most {LONGEST_NOTE:,} characters."
    return errors


# --- what they tell ------------------------------------------------------------------------------


@dataclass(frozen=True)
class CauseCount:
    cause: str
    label: str
    count: int
    share: float


def causes(project: Project) -> list[CauseCount]:
    """How often each cause was given, the most frequent first. One query over the decisions."""
    decided = Adjudication.objects.filter(task__project=project, task__out_of_use=False)
    given = decided.values_list("cause", flat=True)
    counts = Counter(given)
    total = sum(counts.values())
    return [
        CauseCount(cause, Cause(cause).label, count, count / total)
        for cause, count in counts.most_common()
    ]


def guideline_gaps(project: Project, limit: int = 5) -> list[Adjudication]:
    """The newest decisions that blame the guideline, with what their leads noted."""
    blamed = Adjudication.objects.filter(
        task__project=project, task__out_of_use=False, cause=Cause.GUIDELINE
    )
    return list(blamed.select_related("guideline_version").order_by("-created_at")[:limit])
