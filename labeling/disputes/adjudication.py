"""Disputed tasks and leads' decisions about them.

A decision consists of an outcome, which is an order like any ranking, and the cause of the
disagreement. A later decision replaces an earlier one; the audit trail keeps both.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from django.db import transaction
from django.utils import timezone

from accounts.models import User, audit
from labeling.core.text import storable
from labeling.models import Adjudication, Project, Task, TaskResponse
from labeling.quality.measures import Disagreement, quality_of
from labeling.queue.slots import lock_slots
from labeling.rankings import overlap
from labeling.statistics.agreement import Tiers

MAX_NOTE_LENGTH = 5000
Cause = Adjudication.Cause


class CannotDecide(ValueError):  # noqa: N818 - reads better without Error
    """Raised if a decision is refused, before anything is written.

    `errors` maps each invalid field to a message for the lead.
    """

    def __init__(self, errors: dict[str, str]):
        super().__init__(" ".join(errors.values()))
        self.errors = errors


def open_disputes(project: Project) -> list[Disagreement]:
    """Return the undecided disputes among the most recently ranked tasks, largest distance first.

    labeling.statistics.disputes defines what a dispute is. Costs two queries if the project's figures are
    cached, otherwise five.
    """
    return list(quality_of(project).disputes)


def next_after(disputes: Sequence[Disagreement], task_id: int) -> Disagreement | None:
    """Return the next dispute in the list, or the first if this task is not in the list.

    Return None after the last dispute.
    """
    indexes = {dispute.task_id: index for index, dispute in enumerate(disputes)}
    index = indexes.get(task_id, -1) + 1
    return disputes[index] if index < len(disputes) else None


def order_for(task_id: int, lead: User, response_ids: Sequence[int]) -> list[int]:
    """Return the order in which the page of a dispute shows the responses. It is fixed for each lead."""
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
    seen_mark: str = "",
    shown_order: Sequence[int] = (),
) -> Adjudication:
    """Store the outcome and the cause, and stop requesting rankings of the task.

    `shown_order` is the order of the responses on the lead's page, to which the letters in the note
    refer. `seen_mark` is the `mark` of the decision that the lead saw, or empty if there was none.
    Raises CannotDecide, for example if someone else has decided in the meantime.
    """
    lock_slots(task)
    before = Adjudication.objects.filter(task=task).select_related("by").first()
    if errors := _problems(task, tiers, cut, cause, note) or _conflict(before, seen_mark):
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
    overlap.remove_unused_slots(task)
    return decided


def mark(decision: Adjudication | None) -> str:
    """Return a text that identifies this decision, so that no lead overwrites one they have not seen."""
    return decision.created_at.isoformat() if decision else ""


def _content(decision: Adjudication) -> dict[str, Any]:
    return {
        name: getattr(decision, name) for name in ("tiers", "cut", "cause", "note", "shown_order")
    }


def _conflict(before: Adjudication | None, seen_mark: str) -> dict[str, str]:
    if before is None or mark(before) == seen_mark:
        return {}
    return {
        "__all__": "Another lead has decided this task since you opened it. Reload the page to see the "
        "outcome, and change it if you disagree."
    }


def _problems(task: Task, tiers: Tiers, cut: int | None, cause: str, note: str) -> dict[str, str]:
    if Task.objects.filter(pk=task.pk, inactive=True).exists():
        return {"__all__": "This task is withdrawn. Restore it to decide its outcome."}
    errors = {}
    ranked = [response for tier in tiers for response in tier]
    places = TaskResponse.objects.filter(task=task, withdrawn=False)
    own = places.values_list("response_id", flat=True)
    if sorted(ranked) != sorted(own) or not all(tiers):
        errors["tiers"] = "Give every response a rank. Equal ranks are a tie."
    elif not task.project.allow_ties and len(tiers) < len(ranked):
        errors["tiers"] = "This project does not allow ties. Give every response a different rank."
    if cut is not None and not 0 <= cut <= len(tiers):
        errors["cut"] = f"The number of tiers above the line must be from 0 to {len(tiers)}."
    if cause not in Cause.values:
        errors["cause"] = "Choose why reviewers disagreed."
    if len(note) > MAX_NOTE_LENGTH:
        errors["note"] = f"The note may have at most {MAX_NOTE_LENGTH:,} characters."
    return errors


# --- causes --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CauseCount:
    cause: str
    label: str
    count: int
    share: float


def causes(project: Project) -> list[CauseCount]:
    """Return how often leads gave each cause, most frequent first. Costs one query."""
    decided = Adjudication.objects.filter(task__project=project, task__inactive=False)
    cause_values = decided.values_list("cause", flat=True)
    counts = Counter(cause_values)
    total = sum(counts.values())
    return [
        CauseCount(cause, Cause(cause).label, count, count / total)
        for cause, count in counts.most_common()
    ]


def guideline_gaps(project: Project, limit: int = 5) -> list[Adjudication]:
    """Return the newest decisions whose cause is the guideline, with their notes."""
    blamed = Adjudication.objects.filter(
        task__project=project, task__inactive=False, cause=Cause.GUIDELINE
    )
    return list(blamed.select_related("guideline_version").order_by("-created_at")[:limit])
