"""Gold in a project, as small as a test needs."""

from typing import Any

from accounts.models import User
from labeling.gold import making
from labeling.models import Gold, Project, Ranking, Slot
from labeling.rankings import recording
from labeling.rankings.content import Content
from labeling.reviewing import assignment
from tests.labeling.world import ids, key, make_task


def make_gold(
    project: Project, purpose: str = Gold.Purpose.CHECK, explanation: str = "", **fields: Any
) -> Gold:
    """Create a gold question of a new task: the first response must be above the second."""
    task = make_task(project, **fields)
    first, second, *_ = ids(task)
    return making.make(
        task=task,
        constraints=[{"kind": "above", "a": first, "b": second}],
        purpose=purpose,
        explanation=explanation,
    )


def answer(slot: Slot, reviewer: User, *, right: bool = True) -> Ranking:
    """Rank in the task's own order, which is right, or in reverse."""
    order = ids(slot.task) if right else ids(slot.task)[::-1]
    return recording.submit(
        slot_id=slot.pk,
        reviewer=reviewer,
        idempotency_key=key(),
        content=Content([[i] for i in order]),
    ).ranking


def work(project: Project, reviewer: User, tasks: int, *, right: bool = True) -> list[Slot]:
    """Answer and return up to `tasks` slots of a reviewer, one after the other."""
    had = []
    for _ in range(tasks):
        slot = assignment.current(project=project, reviewer=reviewer)
        if slot is None:
            break
        answer(slot, reviewer, right=right)
        had.append(slot)
    return had
