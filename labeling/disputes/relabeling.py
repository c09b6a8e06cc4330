"""Have a sample of tasks ranked again after a guideline change, and compare both versions.

The tasks are copied, so that reviewers rank the copies under the current guideline like any other task.
The copies have a kind of their own, because they only measure the change. A snapshot includes their
rankings only on request.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from django.db import transaction

from accounts.models import User, audit
from labeling.models import (
    GuidelineVersion,
    Project,
    Ranking,
    RelabelledTask,
    RelabelSample,
    Task,
    TaskResponse,
)
from labeling.queue.tasks import NewTask, add_tasks
from labeling.statistics.agreement import Agreement, Tiers, pairwise_agreement, strict_counts
from labeling.statistics.reviewer_pairs import mean_distance

MAX_RANKINGS = 200_000
MAX_TASKS = 2000
PRIORITY = 7
RESAMPLES = 1000


class CannotRelabel(ValueError):  # noqa: N818 - reads better without Error
    """Raised if a sample cannot be drawn, before anything is written. The message says what to do."""


# --- drawing -------------------------------------------------------------------------------------


def versions_to_compare(
    project: Project, before: int | None = None, after: int | None = None
) -> tuple[GuidelineVersion, GuidelineVersion]:
    """Return the versions with these numbers, by default the previous and the current version.

    New rankings are made under the current version, so `after` can only be its number. Raises
    CannotRelabel if there is no such version.
    """
    current = project.current_version
    if current is None:
        raise CannotRelabel("This project has no published guideline. Publish one first.")
    if after is not None and after != current.number:
        raise CannotRelabel(
            f"New rankings are made under version {current.number}, the current guideline. To compare "
            f"with version {after}, publish it again as a new version."
        )
    published = GuidelineVersion.objects.filter(
        guideline__project=project, state=GuidelineVersion.State.PUBLISHED
    ).exclude(pk=current.pk)
    matching = published.filter(number=before) if before is not None else published
    earlier = matching.order_by("-number").first()
    if earlier is None:
        version = "earlier version" if before is None else f"published version {before}"
        raise CannotRelabel(f"The guideline has no {version} to compare with.")
    return earlier, current


def candidates(project: Project, before: GuidelineVersion) -> dict[int, int]:
    """Return the tasks with two or more current rankings under a version, with the number of rankings.

    Tasks that have already been copied are left out. Costs two queries over the newest 200,000 rankings
    under the version.
    """
    newest = Ranking.objects.filter(
        guideline_version=before,
        superseded_at=None,
        task__project=project,
        task__kind=Task.Kind.RANKING,
        task__inactive=False,
    ).order_by("-id")
    counts: dict[int, int] = defaultdict(int)
    for task in newest.values_list("task", flat=True)[:MAX_RANKINGS]:
        counts[task] += 1
    copied = RelabelledTask.objects.filter(sample__project=project)
    copied_ids = set(copied.values_list("original", flat=True))
    return {task: n for task, n in sorted(counts.items()) if n > 1 and task not in copied_ids}


@transaction.atomic
def draw(
    *,
    project: Project,
    size: int,
    by: User | None,
    before: int | None = None,
    after: int | None = None,
    seed: int = 0,
) -> RelabelSample:
    """Copy a random sample of the tasks ranked under `before`, and put the copies first in the queue.

    A copy needs as many rankings as its original has. Raises CannotRelabel if there is nothing to copy.
    """
    if not 1 <= size <= MAX_TASKS:
        raise CannotRelabel(f"A sample has 1 to {MAX_TASKS:,} tasks, not {size:,}.")
    earlier, current = versions_to_compare(project, before, after)
    counts = candidates(project, earlier)
    if not counts:
        raise CannotRelabel(
            "There is nothing to compare: every task with two or more rankings under version "
            f"{earlier.number} has already been ranked again, or there are no such tasks."
        )
    chosen = sorted(random.Random(seed).sample(sorted(counts), min(size, len(counts))))
    sample = RelabelSample.objects.create(
        project=project, before=earlier, after=current, seed=seed, created_by=by
    )
    _copy(sample, chosen, counts)
    audit(by, "sample relabelled", project, sample=sample.pk, tasks=len(chosen), seed=seed)
    return sample


def _copy(sample: RelabelSample, originals: Sequence[int], counts: dict[int, int]) -> None:
    responses: dict[int, list[int]] = defaultdict(list)
    places = TaskResponse.objects.filter(task__in=originals).order_by("task", "position")
    for task, response in places.values_list("task", "response"):
        responses[task].append(response)
    prompts = dict(Task.objects.filter(pk__in=originals).values_list("pk", "prompt"))
    new = [
        NewTask(
            prompts[task],
            responses[task],
            priority=PRIORITY,
            rankings_wanted=min(9, counts[task]),
            kind=Task.Kind.RELABEL,
        )
        for task in originals
    ]
    added = add_tasks(project=sample.project, tasks=new)
    RelabelledTask.objects.bulk_create(
        RelabelledTask(sample=sample, original_id=original, copy_id=copy)
        for original, (copy, _) in zip(originals, added, strict=True)
    )


# --- comparing -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Interval:
    """A mean over tasks with its 95% bootstrap interval. All are None if nothing was compared."""

    value: float | None
    low: float | None
    high: float | None
    tasks: int


@dataclass(frozen=True)
class Comparison:
    """The comparison of two guideline versions over the tasks that have two rankings under each."""

    tasks: int
    finished: int
    requested: int
    completed: int
    before: Agreement
    after: Agreement
    gain: Interval
    """The change in pairwise agreement from before to after, averaged over tasks, from −1 to 1."""
    consensus_shift: Interval
    """The distance of the consensus before and after, from 0 for the same to 1 for the reverse order."""
    distance_before: Interval
    """The distance between two reviewers' rankings before, to compare with the consensus shift."""
    self_consistency: Interval
    """The distance between one reviewer's rankings before and after."""


@dataclass(frozen=True)
class _TaskPair:
    """The rankings of one task before and after, keyed by reviewer."""

    prompt: int
    before: dict[int, Tiers]
    after: dict[int, Tiers]


def comparison(sample: RelabelSample) -> Comparison:
    """Compare both guideline versions on the tasks of a sample.

    Costs four queries. For 2,000 tasks, the bootstrap takes a second.
    """
    in_use = sample.tasks.filter(original__inactive=False, copy__inactive=False)
    pairs = list(in_use.order_by("id").values_list("original", "copy", "original__prompt"))
    before = _rankings([original for original, *_ in pairs], sample.before)
    after = _rankings([copy for _, copy, _ in pairs], sample.after)
    copies = Task.objects.filter(pk__in=[copy for _, copy, _ in pairs])
    pairs_of_tasks = [_TaskPair(prompt, before[old], after[new]) for old, new, prompt in pairs]
    ready = [task for task in pairs_of_tasks if len(task.before) > 1 and len(task.after) > 1]
    prompts = [task.prompt for task in ready]
    return Comparison(
        tasks=len(pairs),
        finished=len(ready),
        requested=sum(copies.values_list("rankings_wanted", flat=True)),
        completed=sum(len(task.after) for task in pairs_of_tasks),
        before=pairwise_agreement([list(task.before.values()) for task in ready], clusters=prompts),
        after=pairwise_agreement([list(task.after.values()) for task in ready], clusters=prompts),
        gain=_mean(ready, _gain),
        consensus_shift=_mean(ready, _consensus_shift),
        distance_before=_mean(ready, lambda task: mean_distance(list(task.before.values()))),
        self_consistency=_mean(pairs_of_tasks, _self_consistency),
    )


def _rankings(tasks: Sequence[int], version: GuidelineVersion) -> dict[int, dict[int, Tiers]]:
    current = Ranking.objects.filter(task__in=tasks, guideline_version=version, superseded_at=None)
    by_task: dict[int, dict[int, Tiers]] = defaultdict(dict)
    for task, reviewer, tiers in current.values_list("task", "reviewer", "tiers"):
        by_task[task][reviewer] = tiers
    return by_task


def _gain(task: _TaskPair) -> float | None:
    shares = [_agreed(list(rankings.values())) for rankings in (task.before, task.after)]
    return None if None in shares else float(shares[1]) - float(shares[0])  # type: ignore[arg-type]


def _agreed(rankings: Sequence[Tiers]) -> float | None:
    """Return the pairwise agreement on one task, or None if no two rankings order the same pair."""
    same, compared = map(
        sum, zip(*(strict_counts(a, b) for a, b in combinations(rankings, 2)), strict=True)
    )
    return same / compared if compared else None


def _consensus_shift(task: _TaskPair) -> float | None:
    before, after = (consensus(list(rankings.values())) for rankings in (task.before, task.after))
    shared = sorted(before.keys() & after.keys())
    distances = [abs(before[pair] - after[pair]) / 2 for pair in shared]
    return float(np.mean(distances)) if distances else None


def consensus(rankings: Sequence[Tiers]) -> dict[tuple[int, int], int]:
    """Return the majority's judgment of each pair, whose smaller id is first.

    The judgment is 1 if the first is better, −1 if it is worse, and 0 if there is no majority.
    """
    sums: dict[tuple[int, int], int] = defaultdict(int)
    for tiers in rankings:
        rank = {response: index for index, tied in enumerate(tiers) for response in tied}
        for a, b in combinations(sorted(rank), 2):
            sums[a, b] += int(np.sign(rank[b] - rank[a]))
    return {pair: int(np.sign(total)) for pair, total in sums.items()}


def _self_consistency(task: _TaskPair) -> float | None:
    distances = [
        mean_distance([task.before[reviewer], task.after[reviewer]])
        for reviewer in task.before
        if reviewer in task.after
    ]
    return float(np.mean(distances)) if distances else None


def _mean(tasks: Sequence[_TaskPair], measure: Callable[[_TaskPair], float | None]) -> Interval:
    values = np.array([value for task in tasks if (value := measure(task)) is not None])
    if not len(values):
        return Interval(None, None, None, 0)
    if len(values) == 1:
        return Interval(float(values[0]), None, None, 1)
    drawn = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.quantile(values[drawn].mean(axis=1), [0.025, 0.975])
    return Interval(float(values.mean()), float(low), float(high), len(values))
