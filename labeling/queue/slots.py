"""Who gets which task next. A slot is free, leased or filled; only these functions move it.

Order: higher priority first, then `position`. The slots of a task stand side by side, so tasks are
finished one after the other instead of all being begun: a ranking counts for agreement only once
its task has the others. A slot that comes back goes to the back of its priority. What a claim costs
does not depend on how much there is; labeling.queue.claims says why.

A reviewer holds at most two slots of a project: the one in front of them, and the next one, leased
ahead so that it can be shown without waiting. Whatever ends the first makes the second current at
the next claim. A slot with the priority OFF_QUEUE is never claimed; lease_new_slot gives it out.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from typing import Any

from django.db import IntegrityError, connection, models, transaction
from django.db.models import F, Q, Value
from django.db.models.functions import Now
from django.utils import timezone

from accounts.models import User
from database.lookups import AnyOf
from labeling.models import Project, Prompt, QueueCursor, Ranking, Response, Skip, Slot, Task
from labeling.queue.claims import LEASE, claimed
from labeling.queue.out_of_use import PARKED, follow_withdrawals, lock_additions, parked

RESCAN_AFTER = timedelta(minutes=1)
OFF_QUEUE = 10
"""The priority of slots that nobody claims, one more than the highest that is claimed."""

EXPIRED_AT_ONCE = 1000
TASKS_AT_ONCE = 5000


class NextPosition(models.Func):
    template = "nextval('labeling_queue_position')"
    output_field = models.BigIntegerField()


# --- adding tasks --------------------------------------------------------------------------------


@dataclass(frozen=True)
class NewTask:
    prompt_id: int
    response_ids: Sequence[int]
    priority: int = 5
    rankings_wanted: int | None = None
    kind: str = Task.Kind.RANKING
    held: bool = False
    """It gets no slots, so nobody gets it, until release_held."""
    file_import_id: int | None = None
    external_id: str = ""

    def problem(self) -> str | None:
        count = len(self.response_ids)
        if len(set(self.response_ids)) != count:
            return "A task cannot hold the same response twice."
        if not 2 <= count <= 9:
            return f"A task ranks 2 to 9 responses; this one has {count}."
        if not 0 <= self.priority <= 9:
            return f"A priority goes from 0 to 9; this is {self.priority}."
        if self.rankings_wanted is not None and not 1 <= self.rankings_wanted <= 9:
            return f"A task wants 1 to 9 rankings; this one wants {self.rankings_wanted}."
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
    """The task and whether it is new: the same kind of work on the same responses exists once.

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
    """Id and newness of every task, in order, with their slots. 100,000 take some ten seconds.

    A held task gets its slots when it is released; a gold task one at a time, by lease_new_slot.
    Adding to one project happens one transaction after the other. Raises ValueError.
    """
    lock_additions(project.pk)
    source, added = iter(tasks), []
    while batch := list(islice(source, TASKS_AT_ONCE)):
        added += _add_batch(project, batch)
    return added


def _add_batch(project: Project, batch: list[NewTask]) -> list[tuple[int, bool]]:
    if problem := next((problem for task in batch if (problem := task.problem())), None):
        raise ValueError(problem)
    identities = [Task.identity_of(task.kind, task.response_ids) for task in batch]
    known = dict(
        Task.objects.filter(AnyOf("identity", identities), project=project).values_list(
            "identity", "pk"
        )
    )
    fresh = {
        identity: task
        for identity, task in zip(identities, batch, strict=True)
        if identity not in known
    }
    ids = dict(zip(fresh, reserve_ids("labeling_task", len(fresh)), strict=True))
    _write_tasks(project, fresh, ids)
    follow_withdrawals({task.prompt_id for task in fresh.values()}, list(ids.values()))
    seen: set[str] = set(known)
    added = []
    for identity in identities:
        added.append((known.get(identity) or ids[identity], identity not in seen))
        seen.add(identity)
    return added


def reserve_ids(table: str, count: int) -> list[int]:
    """Ids for rows that are about to be copied in. One query."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT nextval(pg_get_serial_sequence(%s, 'id')) FROM generate_series(1, %s)",
            [table, count],
        )
        return [row[0] for row in cursor.fetchall()]


def _write_tasks(project: Project, fresh: dict[str, NewTask], ids: dict[str, int]) -> None:
    now = timezone.now()
    tasks, places, slots = [], [], []
    for identity, task in fresh.items():
        pk, wanted = ids[identity], task.rankings_wanted or project.rankings_per_task
        tasks.append(
            (
                pk, project.pk, task.prompt_id, task.kind, task.priority, wanted, task.held,
                identity, now, task.file_import_id, task.external_id,
            )
        )  # fmt: skip
        places += [(pk, response, place) for place, response in enumerate(task.response_ids)]
        if not task.held and task.kind != Task.Kind.GOLD:
            slots += [(pk, number, project.pk, task.priority) for number in range(1, wanted + 1)]
    copy_rows(
        "labeling_task (id, project_id, prompt_id, kind, priority, rankings_wanted, held, identity,"
        " created_at, file_import_id, external_id)",
        tasks,
    )
    copy_rows("labeling_taskresponse (task_id, response_id, position)", places)
    copy_rows("labeling_slot (task_id, number, project_id, priority)", slots)


def copy_rows(target: str, rows: Iterable[Sequence[Any]]) -> None:
    """COPY rows into `table (columns)`; the names come from code, never from input."""
    with (
        connection.cursor() as cursor,
        connection.wrap_database_errors,
        cursor.copy(f"COPY {target} FROM STDIN") as copy,
    ):
        for row in rows:
            copy.write_row(row)


@transaction.atomic
def set_priority(*, task: Task, priority: int) -> None:
    """Move a task's open slots to the back of another priority.

    Slots before the task, as a submit locks them: the other way round the two could wait in a ring.
    """
    task.slots.filter(ranking=None, priority__lt=OFF_QUEUE).update(
        priority=priority, position=NextPosition()
    )
    Task.objects.filter(pk=task.pk).update(priority=priority)


def park(*, task: Task) -> int:
    """Take its open slots off the queue; their holders may still fill them. Returns how many."""
    return task.slots.filter(ranking=None, priority__lt=PARKED).update(priority=OFF_QUEUE)


_RELEASE_HELD = """
WITH released AS (
    UPDATE labeling_task SET held = false
    WHERE project_id = %s AND held AND id = ANY(%s) RETURNING *
), slots AS (
    INSERT INTO labeling_slot (task_id, number, project_id, priority)
    SELECT released.id, there.highest + missing.n, released.project_id,
        released.priority + CASE WHEN released.out_of_use THEN %s ELSE 0 END
    FROM released
    CROSS JOIN LATERAL (
        SELECT count(*) AS count, coalesce(max(number), 0) AS highest
        FROM labeling_slot WHERE task_id = released.id
    ) there
    CROSS JOIN LATERAL generate_series(1, released.rankings_wanted - there.count) missing(n)
    WHERE released.kind <> 'gold'
    ORDER BY released.id, missing.n
)
SELECT count(*) FROM released
"""


def release_held(*, project: Project, task_ids: Iterable[int]) -> int:
    """Give held tasks the slots they want, at the back of their priority; how many were held.

    One statement. What is not held, or belongs to another project, stays as it is.
    """
    with connection.cursor() as cursor:
        cursor.execute(_RELEASE_HELD, [project.pk, list(task_ids), PARKED])
        return int(cursor.fetchone()[0])


@transaction.atomic
def add_slot(*, task: Task) -> Slot:
    """One more free slot for a task that wants one more ranking. Two queries and a lock.

    It lies one priority above the task's, as a task that was begun is finished before others are.
    Raises ValueError for a task that wants nine already.
    """
    locked = Task.objects.select_for_update(no_key=True).get(pk=task.pk)
    if locked.rankings_wanted >= 9:
        raise ValueError(f"{task} wants 9 rankings already; there are never more.")
    Task.objects.filter(pk=task.pk).update(
        rankings_wanted=F("rankings_wanted") + 1, stopped_below=None
    )
    return _append_slot(locked, priority=min(locked.priority + 1, 9))


def _append_slot(task: Task, *, priority: int, **columns: Any) -> Slot:
    """The caller holds the lock on the task's row, which makes the number the next one."""
    highest = task.slots.aggregate(number=models.Max("number"))["number"]
    return Slot.objects.create(
        task=task,
        number=(highest or 0) + 1,
        project_id=task.project_id,
        position=NextPosition(),
        priority=parked(task, priority),
        **columns,
    )


# --- giving slots out ----------------------------------------------------------------------------


def claim(*, project: Project, reviewer: User) -> Slot | None:
    """The reviewer's current lease in the project, renewed; else the one leased ahead, which then
    becomes current; else a new one; else None.

    One statement whose cost does not grow with tasks, rankings or the reviewer's history. When it
    finds nothing, expired leases are freed and, at most once a minute, everything is read again.
    """
    return _claim_or_uncover(project, reviewer, ahead=False)


def claim_ahead(*, project: Project, reviewer: User) -> Slot | None:
    """The slot leased as the reviewer's next, renewed; else a new lease of it; else None.

    Always None without a current lease. Nobody has seen it: `shown_at` stays empty until
    mark_shown. It is of another task than the current one. The cost is a claim's.
    """
    return _claim_or_uncover(project, reviewer, ahead=True)


def advance(*, project: Project, reviewer: User, shown: int) -> tuple[Slot | None, Slot | None]:
    """The current lease and the one leased ahead, for a page that shows the slot `shown`.

    claim, mark_shown of that slot if it is the current one by now, and claim_ahead: in one
    statement where the reviewer holds a lease of either kind, as after each submit.
    """
    slots = claimed(project, reviewer, ahead=True, promote=True, shown=shown)
    current = slots.get(False) or claim(project=project, reviewer=reviewer)
    if current is None:
        return None, None
    return current, slots.get(True) or claim_ahead(project=project, reviewer=reviewer)


@transaction.atomic
def lease_new_slot(*, task: Task, reviewer: User, ahead: bool = False) -> Slot:
    """A slot of its own for a task that is given out by other rules than the queue's: gold.

    It is off the queue: when the lease ends, nobody claims it, and the next call may take it. When
    the reviewer holds another lease (of this task, or for the same use), that one is returned.
    Four queries and a lock. Raises ValueError for a task they have ranked, or that is withdrawn.
    """
    locked = Task.objects.select_for_update(no_key=True).get(pk=task.pk)
    if locked.out_of_use:
        raise ValueError(f"{task} is withdrawn.")
    uses = Q(project=locked.project_id, ahead=ahead) | Q(task=locked)
    leases = Slot.objects.filter(uses, reviewer=reviewer, leased_until__isnull=False)
    if held := leases.order_by("ahead").first():
        return held
    if locked.rankings.filter(reviewer=reviewer, superseded_at=None).exists():
        raise ValueError(f"{reviewer} has ranked {task} already.")
    free = locked.slots.filter(reviewer=None, priority=OFF_QUEUE)
    slot = free.filter(draft_by=reviewer).first() or free.filter(draft_by=None).first()
    slot = slot or _append_slot(locked, priority=OFF_QUEUE)
    values = {"id": slot.pk, "reviewer": reviewer.pk, "ahead": ahead}
    try:
        with transaction.atomic():
            [leased] = Slot.objects.raw(LEASE, values)
    except IntegrityError:
        return leases.order_by("ahead").get()
    return leased


def _claim_or_uncover(project: Project, reviewer: User, *, ahead: bool) -> Slot | None:
    slots = claimed(project, reviewer, ahead=ahead)
    if ahead not in slots and (slots or not ahead) and _uncover(project, reviewer):
        slots = claimed(project, reviewer, ahead=ahead)
    if not slots and not ahead:
        return _leased_by_another_tab(project, reviewer)
    return slots.get(ahead) if False in slots else None


def _leased_by_another_tab(project: Project, reviewer: User) -> Slot | None:
    """Two tabs ask at once, and one slot is left: it was locked, so the slower tab skipped it."""
    leases = Slot.objects.filter(project=project, reviewer=reviewer, leased_until__isnull=False)
    return leases.filter(ahead=False).first()


def _uncover(project: Project, reviewer: User) -> bool:
    """Free what expired and, when it is time, forget the cursors; whether anything changed."""
    freed = release_expired(project=project)
    reset = QueueCursor.objects.filter(
        project=project,
        reviewer=reviewer,
        position__gt=0,
        rescanned_at__lt=Now() - RESCAN_AFTER,
    ).update(position=0, rescanned_at=Now())
    return bool(freed or reset)


# --- what a lease can do -------------------------------------------------------------------------


def _leased(slot_id: int, reviewer: User, project: Project | None = None) -> models.QuerySet[Slot]:
    return _of(project).filter(pk=slot_id, reviewer=reviewer, leased_until__isnull=False)


def _of(project: Project | None) -> models.QuerySet[Slot]:
    """Return the project's slots; without one, all.

    A page names the project it checked access to: a lease in another project, which its reviewer
    may have left, must not be reached through it.
    """
    return Slot.objects.filter(project=project) if project else Slot.objects.all()


def _lease_end() -> models.Subquery:
    minutes = Project.objects.filter(pk=models.OuterRef("project_id")).annotate(
        until=models.ExpressionWrapper(
            Now() + Value(timedelta(minutes=1)) * F("lease_minutes"),
            output_field=models.DateTimeField(),
        )
    )
    return models.Subquery(minutes.values("until"))


def mark_shown(*, slot_id: int, reviewer: User) -> bool:
    """Note when the reviewer first saw it; a slot leased ahead was not seen before this."""
    return bool(_leased(slot_id, reviewer).filter(shown_at=None).update(shown_at=Now()))


def renew(*, slot_id: int, reviewer: User, project: Project | None = None) -> bool:
    """Hold it, and the one leased ahead, for another lease; False when it is someone else's."""
    if not _leased(slot_id, reviewer, project).update(leased_until=_lease_end()):
        return False
    same = Slot.objects.filter(pk=slot_id).values("project")
    Slot.objects.filter(project__in=same, reviewer=reviewer, ahead=True).update(
        leased_until=_lease_end()
    )
    return True


def save_draft(
    *, slot_id: int, reviewer: User, draft: dict[str, Any], project: Project | None = None
) -> bool:
    """Keep the unfinished answer and renew the lease; False when the slot is someone else's.

    A draft outlives its lease as long as nobody else takes the slot.
    """
    kept = {"draft": draft, "draft_by": reviewer, "leased_until": _lease_end()}
    if _leased(slot_id, reviewer, project).update(**kept):
        return True
    lapsed = _of(project).filter(pk=slot_id, reviewer=None, draft_by=reviewer)
    return bool(lapsed.update(draft=draft))


def why_lost(*, slot_id: int, reviewer: User) -> str:
    """Return why the reviewer holds the slot no longer: ranked, skipped or expired.

    They may have ranked or skipped its task in another tab. Two queries.
    """
    own = {"reviewer": reviewer, "task__slots": slot_id}
    if Ranking.objects.filter(superseded_at=None, **own).exists():
        return "ranked"
    if Slot.objects.filter(pk=slot_id, task__out_of_use=True).exists():
        return "withdrawn"
    return "skipped" if Skip.objects.filter(**own).exists() else "expired"


_EMPTY: dict[str, Any] = {
    "reviewer": None,
    "leased_until": None,
    "ahead": False,
    "shown_order": None,
    "shown_at": None,
    "draft": None,
    "draft_by": None,
}


def release(*, slot_id: int, reviewer: User) -> bool:
    """Give it back, to the back of the queue, and drop the draft."""
    return bool(_leased(slot_id, reviewer).update(**_EMPTY, position=NextPosition()))


@transaction.atomic
def skip(
    *,
    slot_id: int,
    reviewer: User,
    reason: str,
    note: str = "",
    project: Project | None = None,
) -> bool:
    """Give it back and never be offered the task again. Raises ValueError for an unknown reason."""
    if reason not in Skip.Reason.values:
        raise ValueError(f"A reason to skip is one of {', '.join(Skip.Reason.values)}.")
    slot = _leased(slot_id, reviewer, project).select_for_update().first()
    if slot is None:
        return False
    Skip.objects.get_or_create(
        task_id=slot.task_id,
        reviewer=reviewer,
        defaults={
            "reason": reason,
            "note": note[:500],
            "shown_order": slot.shown_order or [],
            "draft": slot.draft if slot.draft_by_id == reviewer.pk else None,
        },
    )
    return release(slot_id=slot_id, reviewer=reviewer)


def release_expired(*, project: Project | None = None) -> int:
    """Free the leases that ran out, and say how many. Unfinished drafts stay with the slot."""
    expired = Slot.objects.filter(leased_until__lt=Now())
    if project is not None:
        expired = expired.filter(project=project)
    freed = 0
    while batch := _free_batch(expired):
        freed += batch
        if batch < EXPIRED_AT_ONCE:
            break
    return freed


@transaction.atomic
def _free_batch(expired: models.QuerySet[Slot]) -> int:
    locked = expired.order_by("leased_until").select_for_update(skip_locked=True)
    ids = list(locked.values_list("pk", flat=True)[:EXPIRED_AT_ONCE])
    if not ids:
        return 0
    nobody = {
        "reviewer": None, "leased_until": None, "ahead": False, "position": NextPosition(),
    }  # fmt: skip
    slots = Slot.objects.filter(pk__in=ids)
    kept = slots.filter(~Q(draft_by=None)).update(**nobody)
    return kept + slots.filter(draft_by=None, reviewer__isnull=False).update(**{**_EMPTY, **nobody})
