"""The order of waiting tasks by expected information, and the random stream.

The random stream is a share of the prompts whose tasks are never ordered. These prompts are chosen by
their text alone. The other tasks exchange their positions (labeling.queue.arrangement), so the tasks
of the stream keep theirs. Snapshots choose their held-out prompts by the same rule. So if a snapshot
has the seed of the stream and at most its share, no held-out prompt was chosen by a model.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any

import numpy as np
from django.db import connection, transaction
from django.db.models import Count, Q
from django.db.models.functions import Now

from accounts.models import User, audit
from labeling.models import Project, Task, TaskResponse
from labeling.queue import arrangement
from labeling.queue.arrangement import Waiting
from reward.models import (
    OrderedTask,
    QueueOrder,
    RandomStream,
    ResponseScore,
    RewardModel,
    Snapshot,
)
from reward.ordering import selection
from reward.ordering.selection import Tasks
from reward.preferences.filters import share_of
from runs.kinds import CannotRun

SHARE, SEED = 0.2, 0
MAX_TASKS = 50_000
"""The maximum number of tasks that are ordered, from the front of the queue.

The tasks after these keep their positions.
"""
GREEDY = 1000
RANKING_BATCH_SIZE = 2000


class CannotOrder(Exception):  # noqa: N818
    """A refusal to order the queue. The text contains the reason and a remedy."""


# --- the random stream ---------------------------------------------------------------------------


def stream_of(project: Project) -> RandomStream | None:
    return RandomStream.objects.filter(project=project).first()


def check_inputs(project: Project, inputs: Mapping[str, Any]) -> None:
    """Raise CannotRun if the inputs have a share that differs from the project's random stream."""
    if not inputs.get("order"):
        return
    try:
        checked_share(stream_of(project), inputs.get("random_share"))
    except CannotOrder as error:
        raise CannotRun(str(error)) from None


def checked_share(stream: RandomStream | None, share: float | None) -> float:
    """Return the share of the random stream, which is SHARE if neither argument sets it.

    Raises CannotOrder if `share` is out of range or differs from the existing stream.
    """
    if stream and share is not None and abs(share - stream.share) > 1e-9:
        raise CannotOrder(
            f"The random stream of {stream.project} has been {stream.percent} of its prompts since "
            f"{stream.created_at:%d %b %Y} and cannot change, as it would then include tasks chosen by "
            "a model. Leave the share empty."
        )
    share = stream.share if stream else (SHARE if share is None else share)
    if not 0 < share <= 0.9:
        raise CannotOrder(
            "The random stream must be more than 0 and at most 0.9 of the prompts. Unbiased measurements "
            "need it."
        )
    return share


def in_stream(stream: RandomStream, prompt_hash: str) -> bool:
    return share_of(stream.seed, prompt_hash) < stream.share


def has_random_test_set(snapshot: Snapshot, stream: RandomStream) -> bool:
    """Return whether all held-out prompts of the snapshot are in the random stream."""
    filter = snapshot.filter
    return filter["seed"] == stream.seed and filter["test_fraction"] <= stream.share


# --- the order -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class ScoredResponse:
    """The features, (D,), and the score of a response."""

    features: np.ndarray
    score: float


@transaction.atomic
def put_in_order(*, model: RewardModel, by: User | None, share: float | None = None) -> QueueOrder:
    """Order the waiting tasks by the model's scores and the rankings so far, and return the order.

    The new order replaces the current one. For 50,000 tasks this takes half a minute, and slots are
    locked only during the last second. Raises CannotOrder.
    """
    project = model.project
    _lock_order(project)
    stream = stream_of(project)
    share = checked_share(stream, share)
    if stream is None:
        stream = RandomStream.objects.create(project=project, share=share, seed=SEED)
    waiting = arrangement.waiting(project=project, most=MAX_TASKS)
    outside_stream = [task for task in waiting if not in_stream(stream, task.prompt_hash)]
    responses = scored_responses(model, [task.task_id for task in outside_stream])
    usable = [task for task in outside_stream if task.task_id in responses]
    if not usable:
        raise CannotOrder(_nothing_to_order(project, model, waiting, outside_stream))
    ordered = best_first(model, usable, responses)
    counts = {
        "waiting": len(waiting),
        "random_stream": len(waiting) - len(outside_stream),
        "unscored": len(outside_stream) - len(usable),
        "ordered": len(usable),
    }
    return _write_order(model, ordered, counts, by)


def _lock_order(project: Project) -> None:
    """Lock the project, so that its tasks are not ordered by someone else at the same time.

    Nothing else uses this lock.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_advisory_xact_lock(hashtextextended('reward.ordering.queue', %s))",
            [project.pk],
        )


def _write_order(
    model: RewardModel,
    ordered: list[tuple[Waiting, float]],
    counts: dict[str, int],
    by: User | None,
) -> QueueOrder:
    """Replace the current order, and return the new one.

    For tasks that are in the current order, the positions before that order stay on record.
    """
    project = model.project
    earlier = QueueOrder.objects.filter(project=project, undone_at=None).first()
    noted = dict(earlier.tasks.values_list("task_id", "was")) if earlier else {}
    replaced = bool(earlier and _mark_undone(earlier))
    order = QueueOrder.objects.create(
        project=project, reward_model=model, created_by=by, counts=counts
    )
    rows = (
        OrderedTask(
            order=order,
            task_id=task.task_id,
            was=noted.get(task.task_id, task.position),
            place=number,
            gain=gain,
        )
        for number, (task, gain) in enumerate(ordered, 1)
    )
    OrderedTask.objects.bulk_create(rows, batch_size=2000)
    if earlier and replaced:
        _restore_positions(earlier)
    arrangement.rearrange(project=project, task_ids=[task.task_id for task, _ in ordered])
    audit(by, "queue put in order", project, order=order.pk, model=model.pk, **counts)
    return order


def _mark_undone(order: QueueOrder) -> bool:
    """Mark the order as undone. Return False if it already was."""
    return bool(QueueOrder.objects.filter(pk=order.pk, undone_at=None).update(undone_at=Now()))


def _restore_positions(order: QueueOrder) -> None:
    tasks = order.tasks.order_by("was", "task_id").values_list("task_id", flat=True)
    arrangement.rearrange(project=order.project, task_ids=list(tasks))


def _nothing_to_order(
    project: Project,
    model: RewardModel,
    waiting: Sequence[Waiting],
    outside_stream: Sequence[Waiting],
) -> str:
    if not waiting:
        return f"{project} has no waiting tasks that nobody has started, so nothing can be ordered."
    if not outside_stream:
        return f"All {len(waiting)} waiting tasks of {project} are in its random stream."
    return (
        f"{model} has scored none of the {len(outside_stream)} waiting tasks with features. Score them "
        "first, with features kept."
    )


@transaction.atomic
def undo(*, project: Project, by: User | None) -> QueueOrder | None:
    """Undo the current order and return it, or None if there is none.

    Tasks that are still waiting return to their earlier positions.
    """
    order = QueueOrder.objects.filter(project=project, undone_at=None).first()
    if order is None or not _mark_undone(order):
        return None
    _restore_positions(order)
    audit(by, "queue order undone", project, order=order.pk)
    return order


def best_first(
    model: RewardModel, waiting: Sequence[Waiting], responses: Mapping[int, list[ScoredResponse]]
) -> list[tuple[Waiting, float]]:
    """Return the tasks in the new order, each with its expected information in nats.

    Tasks with a higher priority always come first.
    """
    all_tasks = _tasks(responses[task.task_id] for task in waiting)
    precision = selection.prior(all_tasks)
    for ranked, times in _ranked(model):
        precision = precision + selection.information(ranked, times)
    ordered, start = [], 0
    for _, band in groupby(waiting, key=lambda task: task.priority):
        count = len(list(band))
        part = np.arange(start, start + count)
        order = selection.in_order(all_tasks.some(part), precision, most=GREEDY)
        precision = order.precision
        ordered += [
            (waiting[start + int(index)], float(gain))
            for index, gain in zip(order.chosen, order.gains, strict=True)
        ]
        start += count
    return ordered


def _tasks(responses: Any) -> Tasks:
    rows = list(responses)
    return Tasks.of(
        [np.stack([response.features for response in row]) for row in rows],
        [np.array([response.score for response in row]) for row in rows],
    )


def _ranked(model: RewardModel) -> Iterator[tuple[Tasks, np.ndarray]]:
    """Yield the tasks that have rankings in batches, with the number of rankings of each task."""
    counts = (
        Task.objects.filter(project=model.project_id, kind=Task.Kind.RANKING, inactive=False)
        .annotate(times=Count("rankings", filter=Q(rankings__superseded_at=None)))
        .filter(times__gt=0)
        .order_by("pk")
        .values_list("pk", "times")
        .iterator(chunk_size=RANKING_BATCH_SIZE)
    )
    while batch := dict(islice(counts, RANKING_BATCH_SIZE)):
        responses = scored_responses(model, list(batch))
        if responses:
            yield _tasks(responses.values()), np.array([batch[pk] for pk in responses], dtype=float)


def scored_responses(
    model: RewardModel, task_ids: Sequence[int]
) -> dict[int, list[ScoredResponse]]:
    """Return the responses of each task, in order.

    Tasks with a response that has no score or no features are left out.
    """
    by_task: dict[int, list[ScoredResponse] | None] = {}
    for start in range(0, len(task_ids), RANKING_BATCH_SIZE):
        part = task_ids[start : start + RANKING_BATCH_SIZE]
        response_ids: dict[int, list[int]] = {pk: [] for pk in part}
        in_use = TaskResponse.objects.filter(task_id__in=part, withdrawn=False)
        rows = in_use.order_by("task_id", "position")
        for task_id, response_id in rows.values_list("task_id", "response_id"):
            response_ids[task_id].append(response_id)
        scored = _scored(model, {pk for ids in response_ids.values() for pk in ids})
        for task_id, ids in response_ids.items():
            complete = ids and scored.keys() >= set(ids)
            by_task[task_id] = [scored[pk] for pk in ids] if complete else None
    return {task_id: responses for task_id, responses in by_task.items() if responses}


def _scored(model: RewardModel, response_ids: set[int]) -> dict[int, ScoredResponse]:
    rows = ResponseScore.objects.filter(
        reward_model=model, response__in=response_ids, features__isnull=False
    ).values_list("response_id", "score", "features")
    return {
        pk: ScoredResponse(np.frombuffer(bytes(features), "<f4").astype(float), score)
        for pk, score, features in rows
        if score is not None and features is not None
    }
