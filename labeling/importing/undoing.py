"""Undo an import by deleting the rows it added, provided that nobody has used them."""

from collections.abc import Callable

from django.db import connection, transaction
from django.db.models import F, Q, QuerySet
from django.db.models.functions import Now

from accounts.models import audit
from labeling.models import (
    Adjudication,
    FileImport,
    Finding,
    Gold,
    Prompt,
    Ranking,
    RelabelledTask,
    Response,
    Skip,
    Slot,
    Task,
    TaskResponse,
)
from labeling.queue import slots
from labeling.removal.erasing import unfrozen

USES: list[Callable[[FileImport], str]] = []
"""Checks that higher packages register. Each returns why an import cannot be undone, or ""."""


class CannotUndo(Exception):  # noqa: N818 - reads better without Error
    """Raised if an import cannot be undone, before anything is changed. The message says why."""


def obstacle(file_import: FileImport) -> str:
    """Return why an import cannot be undone, or ""."""
    tasks = Task.objects.filter(file_import=file_import)
    others = Ranking.objects.filter(task__in=tasks).exclude(file_import=file_import)
    if count := others.count():
        return (
            f"Its tasks have {count:,} ranking(s) that were not part of the import, so it can no longer "
            "be undone. Withdraw prompts or tasks instead."
        )
    if Slot.objects.filter(task__in=tasks, leased_until__gt=Now(), ahead=False).exists():
        return "A reviewer has one of its tasks open. Try again when they have finished or left."
    decided = Q(adjudication__isnull=False) | Q(relabelled__isnull=False)
    if tasks.filter(decided).exists() or _sampled(tasks).exists():
        return "A lead has decided some of its tasks or had them ranked again, so it can no longer be undone."
    return next((sentence for use in USES if (sentence := use(file_import))), "")


def undo(file_import: FileImport) -> None:
    """Delete the tasks, rankings, responses and prompts of an import, and mark it as undone.

    Prompts and responses that are now also used elsewhere are kept. Raises CannotUndo.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        for lock in ("labeling.import", "labeling.add_tasks"):
            cursor.execute(
                "SELECT pg_advisory_xact_lock(hashtextextended(%s, %s))",
                [lock, file_import.project_id],
            )
        tasks = Task.objects.filter(file_import=file_import)
        # Lock slots before tasks, as a submission does; the reverse order could deadlock.
        list(Slot.objects.filter(task__in=tasks).select_for_update().values_list("pk", flat=True))
        if sentence := obstacle(file_import):
            raise CannotUndo(sentence)
        own_row = FileImport.objects.filter(
            pk=file_import.pk, token=file_import.token, state=FileImport.State.UNDOING
        )
        if not own_row.update(
            state=FileImport.State.UNDONE, heartbeat_at=None, finished_at=Now(), problem=""
        ):
            return
        counts = _delete(file_import, tasks)
        audit(None, "import undone", file_import.project, file=str(file_import), **counts)


def undo_now(file_import: FileImport) -> None:
    """Undo an import in this process instead of a worker, for the command. Raises CannotUndo."""
    with transaction.atomic():
        rows = FileImport.objects.filter(pk=file_import.pk, state=FileImport.State.IMPORTED)
        if not rows.update(state=FileImport.State.UNDOING, token=F("token") + 1):
            state = FileImport.objects.get(pk=file_import.pk).get_state_display()
            raise CannotUndo(f"Import {file_import.pk} cannot be undone: {state.lower()}.")
        file_import.refresh_from_db()
        undo(file_import)


def _sampled(tasks: QuerySet[Task]) -> QuerySet[RelabelledTask]:
    return RelabelledTask.objects.filter(original__in=tasks)


def _delete(file_import: FileImport, tasks: QuerySet[Task]) -> dict[str, int]:
    """Delete the import's rows, in an order that respects foreign keys, and return their numbers."""
    rankings = Ranking.objects.filter(file_import=file_import)
    with unfrozen():
        slots.remove_imported(tasks=tasks, rankings=rankings)
        counts = {"rankings": rankings.delete()[0]}
        for model in (Gold, Skip, Adjudication, TaskResponse):
            model._default_manager.filter(task__in=tasks).delete()
        counts["tasks"] = tasks.delete()[0]
        responses = Response.objects.filter(file_import=file_import, places=None)
        Finding.objects.filter(response__in=responses).delete()
        counts["responses"] = responses.delete()[0]
        prompts = Prompt.objects.filter(file_import=file_import, responses=None, tasks=None)
        counts["prompts"] = prompts.delete()[0]
    return counts
