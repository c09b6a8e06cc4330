"""Reviewers whose faults are known, for statistics that are to find them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from accounts.models import User
from labeling.models import Project, Ranking
from labeling.rankings import recording
from labeling.rankings.content import Content
from labeling.statistics.pairs import Judgment
from tests.labeling.world import ids, make_member, make_task

HONEST, SPAMMER, REVERSED = "honest", "spammer", "reversed"
LEVEL = 0.15  # closer than this is called a tie


@dataclass
class Simulated:
    judgments: list[Judgment] = field(default_factory=list)
    shown: list[list[int]] = field(default_factory=list)
    truth: dict[int, np.ndarray] = field(default_factory=dict)
    quality: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """Share of pairs that each reviewer had right, a tie counting half. (reviewers,)"""

    def order_of(self, task: int) -> list[list[int]]:
        return [[response_id(task, int(i))] for i in np.argsort(-self.truth[task])]


def response_id(task: int, index: int) -> int:
    return 10 * task + index


def simulate(
    seed: int,
    *,
    kinds: Sequence[str],
    tasks: int,
    overlap: int = 2,
    responses: int = 4,
    displayed: float = 0.0,
) -> Simulated:
    """Thurstone's: a response's worth plus noise, whose size is the reviewer's own. With chance
    `displayed` a reviewer gives back the order shown, so that the earlier of two is preferred in
    0.5 + displayed/2 of the pairs.
    """
    rng = np.random.default_rng(seed)
    people = len(kinds)
    noise = rng.uniform(0.1, 2.0, people)
    right, judged = np.zeros(people), np.zeros(people)
    result = Simulated()
    for task in range(tasks):
        worth = rng.normal(size=responses)
        result.truth[task] = worth
        for person in rng.choice(people, overlap, replace=False):
            shown = rng.permutation(responses)
            impression = _seen(rng, worth, noise[person], kinds[person])
            if rng.random() < displayed:
                impression = -np.argsort(shown).astype(float)
            right[person] += _right(impression, worth)
            judged[person] += responses * (responses - 1) / 2
            result.judgments.append(Judgment(task, int(person), _tiers(impression, task)))
            result.shown.append([response_id(task, int(i)) for i in shown])
    result.quality = right / np.maximum(judged, 1)
    return result


def _seen(rng: np.random.Generator, worth: np.ndarray, noise: float, kind: str) -> np.ndarray:
    if kind == SPAMMER:
        return rng.normal(size=len(worth))
    impression = worth + noise * rng.normal(size=len(worth))
    return -impression if kind == REVERSED else impression


def _tiers(seen: np.ndarray, task: int) -> list[list[int]]:
    tiers: list[list[int]] = []
    lowest = np.inf
    for index in np.argsort(-seen):
        if lowest - seen[index] >= LEVEL:
            tiers.append([])
            lowest = seen[index]
        tiers[-1].append(response_id(task, int(index)))
    return tiers


def _right(seen: np.ndarray, worth: np.ndarray) -> float:
    position = {i: n for n, tier in enumerate(_tiers(seen, 0)) for i in tier}
    first, second = np.triu_indices(len(worth), k=1)
    signs = np.sign(
        [position[int(b)] - position[int(a)] for a, b in zip(first, second, strict=True)]
    )
    return float((0.5 + 0.5 * signs * np.sign(worth[first] - worth[second])).sum())


def store(
    made: Simulated, project: Project, *, source: str = Ranking.Source.REVIEW, **fields: object
) -> dict[int, User]:
    """Into the database, a task for each. → the people by their number"""
    tasks: dict[object, list[int]] = {}
    people: dict[int, User] = {}
    for judgment, shown in zip(made.judgments, made.shown, strict=True):
        task_number, person = int(judgment.task), int(judgment.reviewer)  # type: ignore[call-overload]
        if task_number not in tasks:
            task = make_task(project, len(shown))
            tasks[task_number] = [task, ids(task)]  # type: ignore[list-item]
        task, stored = tasks[task_number]  # type: ignore[misc]
        if person not in people:
            people[person] = make_member(project)
        recording.record(
            task=task,
            reviewer=people[person],
            source=source,
            shown_order=[stored[i % 10] for i in shown],
            content=Content([[stored[i % 10] for i in tier] for tier in judgment.tiers], **fields),
        )
    return people
