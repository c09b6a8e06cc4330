"""Waiting tasks in the order of what ranking them would teach, and the stream that stays random.

A share of the prompts, by their text alone, is never put in order: the random stream. The other
tasks exchange places among themselves (labeling.queue.arrangement), so the stream's tasks come up where
and as often as they would have. A snapshot holds out by the same rule: with the stream's seed, and a
share held out that is no larger, every held-out prompt is one that no model chose.
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
MOST_TASKS = 50_000
"""How many tasks are put in order at a time: the first of the queue. The others keep their places."""
GREEDY = 1000
RANKED_AT_ONCE = 2000


class CannotOrder(Exception):  # noqa: N818
    """The queue stays as it is; the text says why and what to do."""


# --- the random stream ---------------------------------------------------------------------------


def stream_of(project: Project) -> RandomStream | None:
    return RandomStream.objects.filter(project=project).first()


def check_inputs(project: Project, inputs: Mapping[str, Any]) -> None:
    """Raises CannotRun for a stream other than the project's own."""
    if not inputs.get("order"):
        return
    try:
        checked_share(stream_of(project), inputs.get("random_share"))
    except CannotOrder as error:
        raise CannotRun(str(error)) from None


def checked_share(stream: RandomStream | None, share: float | None) -> float:
    """What a new order keeps random. None: the project's own share, or a fifth."""
    if stream and share is not None and abs(share - stream.share) > 1e-9:
        raise CannotOrder(
            f"The random stream of {stream.project} is {stream.percent} of its prompts since "
            f"{stream.created_at:%d %b %Y}, and cannot change: tasks that a model chose would come "
            "into it. Leave the share empty."
        )
    share = stream.share if stream else (SHARE if share is None else share)
    if not 0 < share <= 0.9:
        raise CannotOrder(
            "The random stream is more than 0 and at most 0.9 of the prompts: without one nothing "
            "could be measured without bias."
        )
    return share


def in_stream(stream: RandomStream, prompt_hash: str) -> bool:
    return share_of(stream.seed, prompt_hash) < stream.share


def holds_out_random(snapshot: Snapshot, stream: RandomStream) -> bool:
    """Whether every prompt it holds out lies in the stream, whatever the prompts are."""
    chosen = snapshot.filter
    return chosen["seed"] == stream.seed and chosen["test_fraction"] <= stream.share


# --- the order -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Known:
    """Of one response: its features (D,) and its score."""

    features: np.ndarray
    score: float


@transaction.atomic
def put_in_order(*, model: RewardModel, by: User | None, share: float | None = None) -> QueueOrder:
    """Reads the waiting tasks, what was ranked and the model's scores; writes the order, audited.

    The order in force is taken back. Costs what selection.in_order does, half a minute for 50,000
    tasks; slots are locked at the very end only, for a second. Raises CannotOrder.
    """
    project = model.project
    _one_after_the_other(project)
    stream = stream_of(project)
    share = checked_share(stream, share)
    if stream is None:
        stream = RandomStream.objects.create(project=project, share=share, seed=SEED)
    found = arrangement.waiting(project=project, most=MOST_TASKS)
    ours = [task for task in found if not in_stream(stream, task.prompt_hash)]
    known = known_responses(model, [task.task_id for task in ours])
    usable = [task for task in ours if task.task_id in known]
    if not usable:
        raise CannotOrder(_nothing(project, model, found, ours))
    places = best_first(model, usable, known)
    counts = {
        "waiting": len(found),
        "random_stream": len(found) - len(ours),
        "unscored": len(ours) - len(usable),
        "ordered": len(usable),
    }
    return _written(model, places, counts, by)


def _one_after_the_other(project: Project) -> None:
    """Two orders of a project are made in turn; nobody else waits."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_advisory_xact_lock(hashtextextended('reward.ordering.queue', %s))",
            [project.pk],
        )


def _written(
    model: RewardModel, places: list[tuple[Waiting, float]], counts: dict[str, int], by: User | None
) -> QueueOrder:
    """The new order in place of the one in force, of which the first places are taken over."""
    project = model.project
    earlier = QueueOrder.objects.filter(project=project, undone_at=None).first()
    stood = dict(earlier.tasks.values_list("task_id", "was")) if earlier else {}
    replaced = bool(earlier and _ended(earlier))
    order = QueueOrder.objects.create(
        project=project, reward_model=model, created_by=by, counts=counts
    )
    rows = (
        OrderedTask(
            order=order,
            task_id=task.task_id,
            was=stood.get(task.task_id, task.position),
            place=number,
            gain=gain,
        )
        for number, (task, gain) in enumerate(places, 1)
    )
    OrderedTask.objects.bulk_create(rows, batch_size=2000)
    if earlier and replaced:
        _stand_as_before(earlier)
    arrangement.rearrange(project=project, task_ids=[task.task_id for task, _ in places])
    audit(by, "queue put in order", project, order=order.pk, model=model.pk, **counts)
    return order


def _ended(order: QueueOrder) -> bool:
    """False when someone else has taken it back."""
    return bool(QueueOrder.objects.filter(pk=order.pk, undone_at=None).update(undone_at=Now()))


def _stand_as_before(order: QueueOrder) -> None:
    tasks = order.tasks.order_by("was", "task_id").values_list("task_id", flat=True)
    arrangement.rearrange(project=order.project, task_ids=list(tasks))


def _nothing(
    project: Project, model: RewardModel, found: Sequence[Waiting], ours: Sequence[Waiting]
) -> str:
    if not found:
        return f"No task of {project} waits that nobody has begun, so there is nothing to order."
    if not ours:
        return f"All {len(found)} waiting tasks of {project} lie in its random stream."
    return (
        f"{model} has scored none of the {len(ours)} waiting tasks with features. Score them first, "
        "and keep features."
    )


@transaction.atomic
def put_back(*, project: Project, by: User | None) -> QueueOrder | None:
    """Let what still waits stand as it stood before the order in force; that order, None without one."""
    order = QueueOrder.objects.filter(project=project, undone_at=None).first()
    if order is None or not _ended(order):
        return None
    _stand_as_before(order)
    audit(by, "queue order taken back", project, order=order.pk)
    return order


def best_first(
    model: RewardModel, waiting: Sequence[Waiting], known: Mapping[int, list[Known]]
) -> list[tuple[Waiting, float]]:
    """With what each would teach. Priorities are kept: the higher ones come first, whatever they teach."""
    everything = _tasks(known[task.task_id] for task in waiting)
    precision = selection.prior(everything)
    for ranked, times in _ranked(model):
        precision = precision + selection.information(ranked, times)
    places, start = [], 0
    for _, band in groupby(waiting, key=lambda task: task.priority):
        count = len(list(band))
        part = np.arange(start, start + count)
        order = selection.in_order(everything.some(part), precision, most=GREEDY)
        precision = order.known
        places += [
            (waiting[start + int(place)], float(gain))
            for place, gain in zip(order.chosen, order.gains, strict=True)
        ]
        start += count
    return places


def _tasks(responses: Any) -> Tasks:
    rows = list(responses)
    return Tasks.of(
        [np.stack([one.features for one in row]) for row in rows],
        [np.array([one.score for one in row]) for row in rows],
    )


def _ranked(model: RewardModel) -> Iterator[tuple[Tasks, np.ndarray]]:
    """What is known already: the project's ranked tasks, and how often each was ranked."""
    counted = (
        Task.objects.filter(project=model.project_id, kind=Task.Kind.RANKING, out_of_use=False)
        .annotate(times=Count("rankings", filter=Q(rankings__superseded_at=None)))
        .filter(times__gt=0)
        .order_by("pk")
        .values_list("pk", "times")
        .iterator(chunk_size=RANKED_AT_ONCE)
    )
    while batch := dict(islice(counted, RANKED_AT_ONCE)):
        known = known_responses(model, list(batch))
        if known:
            yield _tasks(known.values()), np.array([batch[pk] for pk in known], dtype=float)


def known_responses(model: RewardModel, task_ids: Sequence[int]) -> dict[int, list[Known]]:
    """Of the tasks whose every response has a score and features, in the order asked for."""
    found: dict[int, list[Known] | None] = {}
    for start in range(0, len(task_ids), RANKED_AT_ONCE):
        part = task_ids[start : start + RANKED_AT_ONCE]
        places: dict[int, list[int]] = {pk: [] for pk in part}
        left = TaskResponse.objects.filter(task_id__in=part, withdrawn=False)
        rows = left.order_by("task_id", "position")
        for task_id, response_id in rows.values_list("task_id", "response_id"):
            places[task_id].append(response_id)
        said = _said(model, {pk for ids in places.values() for pk in ids})
        for task_id, ids in places.items():
            found[task_id] = [said[pk] for pk in ids] if ids and said.keys() >= set(ids) else None
    return {task_id: known for task_id, known in found.items() if known}


def _said(model: RewardModel, response_ids: set[int]) -> dict[int, Known]:
    rows = ResponseScore.objects.filter(
        reward_model=model, response__in=response_ids, features__isnull=False
    ).values_list("response_id", "score", "features")
    return {
        pk: Known(np.frombuffer(bytes(features), "<f4").astype(float), score)
        for pk, score, features in rows
        if score is not None and features is not None
    }
