"""Make gold from tasks or responses, change it and retire it."""

from collections.abc import Sequence
from typing import Any

from django.db import transaction
from django.utils import timezone

from accounts.models import User, audit
from labeling.core.text import storable
from labeling.gold.constraints import Letters, letters_of, problem
from labeling.models import Gold, Project, Prompt, Response, Task
from labeling.queue.tasks import add_task, take_off_queue

MAX_EXPLANATION_LENGTH = 10_000


class GoldError(ValueError):
    """Raised if gold is refused, before anything is written. The message is written for the lead."""


@transaction.atomic
def make(
    *,
    task: Task,
    constraints: Any,
    purpose: str = Gold.Purpose.CHECK,
    explanation: str = "",
    by: User | None = None,
) -> Gold:
    """Create gold from a task, or put its retired gold back into use.

    The task keeps its rankings but is no longer given to reviewers, because anyone who saw the copy would
    recognise the original. Raises GoldError.
    """
    if task.kind == Task.Kind.GOLD:
        raise GoldError("This task is already gold. Change or retire it.")
    if task.inactive or task.places.filter(withdrawn=True).exists():
        raise GoldError("Part of this task is withdrawn. Restore it before you make it gold.")
    places = task.places.select_related("response").order_by("position")
    responses = [task_response.response for task_response in places]
    gold = add(
        project=task.project,
        prompt=task.prompt,
        responses=responses,
        constraints=constraints,
        purpose=purpose,
        explanation=explanation,
        by=by,
    )
    take_off_queue(task_ids=[task.pk])
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
    """Create gold directly from responses, without an original task. Raises GoldError."""
    letters = letters_of([response.pk for response in responses])
    columns = _columns(constraints, letters, purpose, explanation)
    try:
        copy, _new = add_task(
            project=project, prompt=prompt, responses=responses, kind=Task.Kind.GOLD
        )
    except ValueError as error:
        raise GoldError(str(error)) from None
    if Gold.objects.filter(task=copy, retired_at=None).exists():
        raise GoldError("These responses already have gold. Change or retire it.")
    columns |= {"created_by": by, "retired_at": None, "project": project}
    gold, _new = Gold.objects.update_or_create(task=copy, defaults=columns)
    audit(by, "gold made", gold, purpose=purpose)
    return gold


@transaction.atomic
def describe(
    *, task: Task, constraints: Any, purpose: str = Gold.Purpose.CHECK, explanation: str = ""
) -> tuple[Gold, bool]:
    """Return the gold of a gold task, and whether it was created. Raises GoldError."""
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
        raise GoldError(f"The purpose of gold must be one of {', '.join(Gold.Purpose.values)}.")
    if len(explanation) > MAX_EXPLANATION_LENGTH:
        raise GoldError(f"An explanation has at most {MAX_EXPLANATION_LENGTH:,} characters.")
    return {"constraints": constraints, "purpose": purpose, "explanation": storable(explanation)}


@transaction.atomic
def change(
    *, gold: Gold, constraints: Any, purpose: str, explanation: str, by: User | None
) -> None:
    """Change gold. Its existing rankings are then checked against the new answer. Raises GoldError."""
    columns = _columns(constraints, letters_of(_ids(gold.task)), purpose, explanation)
    Gold.objects.filter(pk=gold.pk).update(**columns)
    audit(by, "gold changed", gold, purpose=purpose)


def retire(*, gold: Gold, by: User | None) -> bool:
    """Take the gold out of use. Return False if it was already retired."""
    now = timezone.now()
    if not Gold.objects.filter(pk=gold.pk, retired_at=None).update(retired_at=now):
        return False
    audit(by, "gold retired", gold)
    return True
