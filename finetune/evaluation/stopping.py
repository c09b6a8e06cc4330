"""Blind comparisons stop when the answer of their evaluation is clear."""

from django.db import transaction
from django.utils import timezone

from finetune.models import Evaluation
from labeling.models import Slot
from labeling.queue.slots import OFF_QUEUE
from labeling.queue.tasks import take_off_queue


def stop_decided() -> list[int]:
    """Stop the comparisons of each evaluation that people have decided; return the evaluations' ids.

    The evidence is valid at any time, so stopping does not change its error rate. Takes a query, and
    about four for each evaluation with open comparisons.
    """
    return [
        evaluation.pk for evaluation in unfinished() if evaluation.is_decided() and stop(evaluation)
    ]


def unfinished() -> list[Evaluation]:
    """Return the evaluations with comparisons that reviewers can still get."""
    waiting = Slot.objects.filter(ranking=None, priority__lt=OFF_QUEUE, task__kind="comparison")
    evaluations = Evaluation.objects.filter(stopped_at=None, items__task__in=waiting.values("task"))
    return list(evaluations.select_related("project").distinct())


@transaction.atomic
def stop(evaluation: Evaluation) -> bool:
    """Take the open comparisons of the evaluation off the queue, unless they have been stopped before.

    Nobody gets another one. Reviewers who are working on one can still submit it, and it counts.
    """
    stopped = Evaluation.objects.filter(pk=evaluation.pk, stopped_at=None)
    if not stopped.update(stopped_at=timezone.now()):
        return False
    tasks = evaluation.items.exclude(task=None).values_list("task_id", flat=True)
    take_off_queue(task_ids=list(tasks))
    return True
