"""After a guideline changed: a sample of its tasks is ranked again, and the two are compared.

The sample's tasks are copied, so that the same and other reviewers rank them as any task, under the
guideline in force. The copies are tasks of their own kind: they measure, and enter a snapshot only
when it is asked for.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from django.db import transaction

from accounts.models import User, audit
from labeling.disputes.adjudication import distance
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

RANKINGS_LOOKED_AT = 200_000
TASKS_AT_MOST = 2000
PRIORITY = 7
RESAMPLES = 1000


class CannotRelabel(ValueError):  # noqa: N818 - it reads as what it is
    """The text says what is missing and what to do. Nothing was written."""


# --- drawing -------------------------------------------------------------------------------------


def versions_to_compare(
    project: Project, before: int | None = None, after: int | None = None
) -> tuple[GuidelineVersion, GuidelineVersion]:
    """The versions with these numbers; by default the one in force and the one before it.

    Raises CannotRelabel. New rankings are made under the guideline in force, so `after` is that one.
    """
    current = project.current_version
    if current is None:
        raise CannotRelabel("This project has no published guideline. Publish one first.")
    if after is not None and after != current.number:
        raise CannotRelabel(
            f"Tasks are ranked under the guideline in force, version {current.number}; to compare "
            f"with version {after}, publish it again as a new version."
        )
    published = GuidelineVersion.objects.filter(
        guideline__project=project, state=GuidelineVersion.State.PUBLISHED
    ).exclude(pk=current.pk)
    found = published.filter(number=before) if before is not None else published
    earlier = found.order_by("-number").first()
    if earlier is None:
        wanted = "an earlier version" if before is None else f"a published version {before}"
        raise CannotRelabel(f"The guideline has no {wanted.split(' ', 1)[1]} to compare with.")
    return earlier, current


def candidates(project: Project, before: GuidelineVersion) -> dict[int, int]:
    """Tasks with two current rankings or more under that version → how many they have.

    Two queries over the newest 200,000 rankings under it. What was copied once is left out.
    """
    newest = Ranking.objects.filter(
        guideline_version=before,
        superseded_at=None,
        task__project=project,
        task__kind=Task.Kind.RANKING,
        task__out_of_use=False,
    ).order_by("-id")
    counts: dict[int, int] = defaultdict(int)
    for task in newest.values_list("task", flat=True)[:RANKINGS_LOOKED_AT]:
        counts[task] += 1
    copied = RelabelledTask.objects.filter(sample__project=project)
    known = set(copied.values_list("original", flat=True))
    return {task: n for task, n in sorted(counts.items()) if n > 1 and task not in known}


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
    """Copy a random sample of the tasks ranked under `before`, and give the copies out first.

    A copy wants as many rankings as its original has. Raises CannotRelabel.
    """
    if not 1 <= size <= TASKS_AT_MOST:
        raise CannotRelabel(f"A sample has 1 to {TASKS_AT_MOST:,} tasks; this one {size:,}.")
    earlier, current = versions_to_compare(project, before, after)
    counts = candidates(project, earlier)
    if not counts:
        raise CannotRelabel(
            f"No task has two rankings under version {earlier.number} that was not ranked again "
            "already, so there is nothing to compare."
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
    """A mean with its 95 % bootstrap interval over tasks; None says that nothing was compared."""

    value: float | None
    low: float | None
    high: float | None
    tasks: int


@dataclass(frozen=True)
class Comparison:
    """What a sample says. Every figure is over the tasks that have two rankings on both sides."""

    tasks: int
    finished: int
    wanted: int
    made: int
    before: Agreement
    after: Agreement
    gained: Interval
    """The difference in pairwise agreement, after less before, averaged over tasks: −1 to 1."""
    moved: Interval
    """How far the consensus moved, 0 for the same order and 1 for the reverse."""
    by_chance: Interval
    """How far two reviewers under the version before are apart: what moves without a change."""
    same_person: Interval
    """Return the self-consistency of reviewers who ranked both."""


@dataclass(frozen=True)
class _Both:
    """The rankings of one task under both versions, by reviewer."""

    prompt: int
    before: dict[int, Tiers]
    after: dict[int, Tiers]


def comparison(sample: RelabelSample) -> Comparison:
    """Four queries, bounded by the sample; the bootstrap of 2,000 tasks takes a second."""
    in_use = sample.tasks.filter(original__out_of_use=False, copy__out_of_use=False)
    pairs = list(in_use.order_by("id").values_list("original", "copy", "original__prompt"))
    before = _rankings([original for original, *_ in pairs], sample.before)
    after = _rankings([copy for _, copy, _ in pairs], sample.after)
    wanted = Task.objects.filter(pk__in=[copy for _, copy, _ in pairs])
    both = [_Both(prompt, before[old], after[new]) for old, new, prompt in pairs]
    ready = [one for one in both if len(one.before) > 1 and len(one.after) > 1]
    prompts = [one.prompt for one in ready]
    return Comparison(
        tasks=len(pairs),
        finished=len(ready),
        wanted=sum(wanted.values_list("rankings_wanted", flat=True)),
        made=sum(len(one.after) for one in both),
        before=pairwise_agreement([list(one.before.values()) for one in ready], clusters=prompts),
        after=pairwise_agreement([list(one.after.values()) for one in ready], clusters=prompts),
        gained=_mean(ready, _gain),
        moved=_mean(ready, _move),
        by_chance=_mean(ready, lambda one: distance(list(one.before.values()))),
        same_person=_mean(both, _same_person),
    )


def _rankings(tasks: Sequence[int], version: GuidelineVersion) -> dict[int, dict[int, Tiers]]:
    current = Ranking.objects.filter(task__in=tasks, guideline_version=version, superseded_at=None)
    found: dict[int, dict[int, Tiers]] = defaultdict(dict)
    for task, reviewer, tiers in current.values_list("task", "reviewer", "tiers"):
        found[task][reviewer] = tiers
    return found


def _gain(one: _Both) -> float | None:
    shares = [_agreed(list(said.values())) for said in (one.before, one.after)]
    return None if None in shares else float(shares[1]) - float(shares[0])  # type: ignore[arg-type]


def _agreed(rankings: Sequence[Tiers]) -> float | None:
    """Return the pairwise agreement on one task; None where no two rankings order a pair."""
    same, both = map(
        sum, zip(*(strict_counts(a, b) for a, b in combinations(rankings, 2)), strict=True)
    )
    return same / both if both else None


def _move(one: _Both) -> float | None:
    before, after = (consensus(list(said.values())) for said in (one.before, one.after))
    shared = sorted(before.keys() & after.keys())
    apart = [abs(before[pair] - after[pair]) / 2 for pair in shared]
    return float(np.mean(apart)) if apart else None


def consensus(rankings: Sequence[Tiers]) -> dict[tuple[int, int], int]:
    """What most say of each pair (the smaller id first): 1 it is better, −1 worse, 0 neither."""
    sums: dict[tuple[int, int], int] = defaultdict(int)
    for tiers in rankings:
        place = {response: at for at, tied in enumerate(tiers) for response in tied}
        for a, b in combinations(sorted(place), 2):
            sums[a, b] += int(np.sign(place[b] - place[a]))
    return {pair: int(np.sign(total)) for pair, total in sums.items()}


def _same_person(one: _Both) -> float | None:
    apart = [distance([one.before[who], one.after[who]]) for who in one.before if who in one.after]
    return float(np.mean(apart)) if apart else None


def _mean(tasks: Sequence[_Both], measure: Callable[[_Both], float | None]) -> Interval:
    values = np.array([value for one in tasks if (value := measure(one)) is not None])
    if not len(values):
        return Interval(None, None, None, 0)
    if len(values) == 1:
        return Interval(float(values[0]), None, None, 1)
    drawn = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.quantile(values[drawn].mean(axis=1), [0.025, 0.975])
    return Interval(float(values.mean()), float(low), float(high), len(values))
