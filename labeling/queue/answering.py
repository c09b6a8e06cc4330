"""The slot that a reviewer answers, with everything that a submitted ranking is checked against."""

from dataclasses import dataclass

from psycopg.types.numeric import Int8

from accounts.models import User
from database.statements import columns, fetch, from_columns
from labeling.models import Project, Slot, Task
from labeling.queue.withdrawals import RESPONSES_TO_RANK, response_ids_to_rank

_SLOT = f"""
SELECT {RESPONSES_TO_RANK}, {columns(Slot, "slot")}, {columns(Task, "labeling_task")}
FROM labeling_slot slot JOIN labeling_task ON labeling_task.id = slot.task_id
WHERE slot.id = %(slot)s AND slot.project_id = %(project)s
  AND (slot.reviewer_id = %(reviewer)s OR %(reviewer)s = ANY(slot.past_reviewers))
"""  # noqa: S608 - made of constants


@dataclass(frozen=True)
class SlotToAnswer:
    """A slot, with its task and project loaded, and the responses to rank in the task's order."""

    slot: Slot
    response_ids: list[int]


def slot_to_answer(project: Project, slot_id: int, reviewer: User) -> SlotToAnswer | None:
    """Return the slot that the reviewer answers, or None if it was never leased to this reviewer.

    The query checks the reviewer, because an invalid answer is shown again with its task: a reviewer
    could otherwise see tasks that were not assigned to them, including gold. Costs one query.
    """
    rows = fetch(
        _SLOT,
        {"slot": Int8(slot_id), "project": Int8(project.pk), "reviewer": Int8(reviewer.pk)},
    )
    if not rows:
        return None
    [[response_ids, *values]] = rows
    width = len(Slot._meta.concrete_fields)
    slot = from_columns(Slot, values[:width])
    slot.task, slot.project = from_columns(Task, values[width:]), project
    slot.task.project = project
    return SlotToAnswer(slot, response_ids)


def any_slot(slot_id: int) -> SlotToAnswer | None:
    """Return the slot with this id in any project, or None if it does not exist. Costs one query."""
    slots = Slot.objects.select_related("task__project__current_version")
    slot = slots.annotate(response_ids=response_ids_to_rank()).filter(pk=slot_id).first()
    return None if slot is None else SlotToAnswer(slot, slot.response_ids)
