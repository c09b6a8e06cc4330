"""Create tasks with their slots, hold tasks back, release them and change their priority."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from django.db import connection, transaction
from django.utils import timezone

from database.copying import copy_rows, reserve_ids
from database.lookups import AnyOf
from labeling.models import Project, Prompt, Response, Slot, Task
from labeling.queue.slots import OFF_QUEUE, NextPosition
from labeling.queue.withdrawals import PARKED, follow_withdrawals, lock_additions

BATCH_SIZE = 5000


@dataclass(frozen=True)
class NewTask:
    """A task to create. If `rankings_wanted` is None, the project's setting applies."""

    prompt_id: int
    response_ids: Sequence[int]
    priority: int = 5
    rankings_wanted: int | None = None
    kind: str = Task.Kind.RANKING
    held: bool = False
    """Create no slots until `release_held` is called, so that no reviewer gets the task."""
    file_import_id: int | None = None
    external_id: str = ""

    def problem(self) -> str | None:
        """Return why the task cannot be ranked, as a sentence, or None."""
        count = len(self.response_ids)
        if len(set(self.response_ids)) != count:
            return "A task cannot hold the same response twice."
        if not 2 <= count <= 9:
            return f"A task ranks 2 to 9 responses; this one has {count}."
        if not 0 <= self.priority <= 9:
            return f"A priority goes from 0 to 9; this is {self.priority}."
        if self.rankings_wanted is not None and not 1 <= self.rankings_wanted <= 9:
            return f"A task needs 1 to 9 rankings; this one asks for {self.rankings_wanted}."
        return None


def add_task(
    *,
    project: Project,
    prompt: Prompt,
    responses: Sequence[Response],
    priority: int = 5,
    rankings_wanted: int | None = None,
    kind: str = Task.Kind.RANKING,
    held: bool = False,
) -> tuple[Task, bool]:
    """Return the task of this kind with these responses, and whether this call created it.

    Raises ValueError for a task that cannot be ranked.
    """
    if any(response.prompt_id != prompt.pk for response in responses):
        raise ValueError("A task ranks responses to its own prompt only.")
    ids = [response.pk for response in responses]
    new = NewTask(prompt.pk, ids, priority, rankings_wanted, kind, held)
    [(task_id, created)] = add_tasks(project=project, tasks=[new])
    return Task.objects.get(pk=task_id), created


@transaction.atomic
def add_tasks(*, project: Project, tasks: Iterable[NewTask]) -> list[tuple[int, bool]]:
    """Create tasks and their slots; return the id of each task and whether it was created.

    A held task gets its slots when it is released. A gold task gets them one by one from
    `lease_new_slot`. Concurrent calls for one project run one after the other. Creating 100,000 tasks
    takes about ten seconds. Raises ValueError for a task that cannot be ranked.
    """
    lock_additions(project.pk)
    source, added = iter(tasks), []
    while batch := list(islice(source, BATCH_SIZE)):
        added += _add_batch(project, batch)
    return added


def _add_batch(project: Project, batch: list[NewTask]) -> list[tuple[int, bool]]:
    if problem := next((problem for task in batch if (problem := task.problem())), None):
        raise ValueError(problem)
    identities = [Task.identity_of(task.kind, task.response_ids) for task in batch]
    existing_ids = dict(
        Task.objects.filter(AnyOf("identity", identities), project=project).values_list(
            "identity", "pk"
        )
    )
    new_tasks = {
        identity: task
        for identity, task in zip(identities, batch, strict=True)
        if identity not in existing_ids
    }
    new_ids = dict(zip(new_tasks, reserve_ids("labeling_task", len(new_tasks)), strict=True))
    _write_tasks(project, new_tasks, new_ids)
    follow_withdrawals({task.prompt_id for task in new_tasks.values()}, list(new_ids.values()))
    earlier: set[str] = set(existing_ids)
    added = []
    for identity in identities:
        added.append((existing_ids.get(identity) or new_ids[identity], identity not in earlier))
        earlier.add(identity)
    return added


def _write_tasks(project: Project, new_tasks: dict[str, NewTask], ids: dict[str, int]) -> None:
    now = timezone.now()
    tasks, places, slots = [], [], []
    for identity, task in new_tasks.items():
        pk, rankings = ids[identity], task.rankings_wanted or project.rankings_per_task
        tasks.append(
            (
                pk, project.pk, task.prompt_id, task.kind, task.priority, rankings, task.held,
                identity, now, task.file_import_id, task.external_id,
            )
        )  # fmt: skip
        places += [(pk, response, index) for index, response in enumerate(task.response_ids)]
        if not task.held and task.kind != Task.Kind.GOLD:
            slots += [(pk, number, project.pk, task.priority) for number in range(1, rankings + 1)]
    copy_rows(
        "labeling_task (id, project_id, prompt_id, kind, priority, rankings_wanted, held, identity,"
        " created_at, file_import_id, external_id)",
        tasks,
    )
    copy_rows("labeling_taskresponse (task_id, response_id, position)", places)
    copy_rows("labeling_slot (task_id, number, project_id, priority)", slots)


@transaction.atomic
def set_priority(*, task: Task, priority: int) -> None:
    """Move the open slots of a task to the back of another priority.

    The slots are updated before the task, because a submission locks them in the same order. The reverse
    order could deadlock.
    """
    task.slots.filter(ranking=None, priority__lt=OFF_QUEUE).update(
        priority=priority, position=NextPosition()
    )
    Task.objects.filter(pk=task.pk).update(priority=priority)


def take_off_queue(*, task_ids: Collection[int]) -> int:
    """Take the open slots of tasks off the queue; return their number.

    Reviewers who hold one of these slots may still fill it.
    """
    open_slots = Slot.objects.filter(task__in=task_ids, ranking=None, priority__lt=OFF_QUEUE)
    return open_slots.update(priority=OFF_QUEUE)


_RELEASE_HELD = """
WITH released AS (
    UPDATE labeling_task SET held = false
    WHERE project_id = %s AND held AND id = ANY(%s) RETURNING *
), slots AS (
    INSERT INTO labeling_slot (task_id, number, project_id, priority)
    SELECT released.id, existing.highest + missing.n, released.project_id,
        released.priority + CASE WHEN released.inactive THEN %s ELSE 0 END
    FROM released
    CROSS JOIN LATERAL (
        SELECT count(*) AS count, coalesce(max(number), 0) AS highest
        FROM labeling_slot WHERE task_id = released.id
    ) existing
    CROSS JOIN LATERAL generate_series(1, released.rankings_wanted - existing.count) missing(n)
    WHERE released.kind <> 'gold'
    ORDER BY released.id, missing.n
)
SELECT count(*) FROM released
"""


def release_held(*, project: Project, task_ids: Iterable[int]) -> int:
    """Create the slots of held tasks, at the back of their priority; return the number of tasks.

    Tasks of other projects and tasks that are not held are ignored.
    """
    with connection.cursor() as cursor:
        cursor.execute(_RELEASE_HELD, [project.pk, list(task_ids), PARKED])
        return int(cursor.fetchone()[0])
