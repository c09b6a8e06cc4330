"""The most probable order of a task's responses, with its probability.

labeling.statistics.reliability gives a posterior for each pair of responses. The weight of an order,
which may contain ties, is the product of its pairs' posteriors, to the power 2/K. The power is needed
because a ranking of K responses consists of K−1 decisions, not of K(K−1)/2 independent judgments of
pairs. For two responses, the result is the posterior of the pair.

The sum over all orders is exact. It is computed by removing the top tier recursively, in 3^K steps. Nine
responses have 7,087,261 orders, but need only 19,683 steps.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from labeling.statistics.pairs import Judgment, Pairs, Tiers, expand
from labeling.statistics.reliability import Reliabilities, log_confusion, log_truth, posterior

MAX_RESPONSES = 9
MAX_BATCH_NUMBERS = 4_000_000


@dataclass(frozen=True)
class Posterior:
    """The posterior of a task's order. All axes are `responses`, the ids in ascending order.

    `above[i, j]` is the probability that i is better than j, and `tied[i, j]` that both are equally
    good, so above[i, j] + tied[i, j] + above[j, i] = 1. `best[i]` is the probability that no response
    is better than i. `tiers` is the most probable order, and `probability` its probability.
    """

    responses: tuple[int, ...]
    above: np.ndarray
    tied: np.ndarray
    best: np.ndarray
    tiers: tuple[tuple[int, ...], ...]
    probability: float

    @property
    def best_probability(self) -> float:
        return float(self.best.max())

    @property
    def least_certain(self) -> float:
        """Return the probability of the most probable side of the least certain pair."""
        i, j = np.triu_indices(len(self.responses), k=1)
        likeliest = np.maximum(np.maximum(self.above, self.above.T), self.tied)
        return float(likeliest[i, j].min())

    def is_clear(self, certainty: float) -> bool:
        return self.best_probability >= certainty and self.least_certain >= certainty


def posterior_of_pairs(
    rankings: Iterable[tuple[Hashable, Tiers]], reliabilities: Reliabilities
) -> Posterior | None:
    """Return the posterior for one task, or None if no ranking compares two responses.

    `rankings` are (reviewer, tiers). Unknown reviewers are treated as typical. Four responses take less
    than a millisecond.
    """
    judgments = [Judgment(None, reviewer, tiers) for reviewer, tiers in rankings]
    return consensus(judgments, reliabilities).get(None)


def consensus(
    judgments: Iterable[Judgment], reliabilities: Reliabilities
) -> dict[Hashable, Posterior]:
    """Return the posterior for each task. Tasks without any comparison are left out."""
    return consensus_of_pairs(expand(judgments), reliabilities)


def consensus_of_pairs(pairs: Pairs, reliabilities: Reliabilities) -> dict[Hashable, Posterior]:
    if not len(pairs):
        return {}
    pair_posterior = _pair_posterior(pairs, reliabilities)
    posteriors: dict[Hashable, Posterior] = {}
    for responses, rows in _by_size(pairs):
        names, logs = _tables(pairs, pair_posterior, responses, rows, reliabilities.tied)
        for start in range(0, len(names), _tasks_at_once(responses.shape[1])):
            part = slice(start, start + _tasks_at_once(responses.shape[1]))
            posteriors.update(_orders(names[part], responses[part], logs[part]))
    return posteriors


def _pair_posterior(pairs: Pairs, reliabilities: Reliabilities) -> np.ndarray:
    """Return the probabilities of >, = and < for each pair.  → (P, 3)"""
    people = [reliabilities[reviewer] for reviewer in pairs.reviewers]
    confusion = np.array(
        [[p.right, p.tie, max(0.0, 1 - p.right - p.tie), p.tie_of_tie] for p in people]
    )
    side = 1 - pairs.outcome.astype(np.int64)
    return posterior(
        pairs.pair, pairs.reviewer, side, log_confusion(confusion), log_truth(reliabilities.tied)
    )


def _by_size(pairs: Pairs) -> Iterable[tuple[np.ndarray, list[tuple[int, np.ndarray]]]]:
    """Yield, for each number of responses K, the response ids (n, K) and each task with its pairs."""
    order = np.argsort(pairs.task, kind="stable")
    starts = np.flatnonzero(np.diff(pairs.task[order], prepend=-1))
    sizes: dict[int, list[tuple[np.ndarray, tuple[int, np.ndarray]]]] = defaultdict(list)
    for rows in np.split(order, starts[1:]):
        ids = np.unique(np.r_[pairs.first[rows], pairs.second[rows]])
        if len(ids) > MAX_RESPONSES:
            raise ValueError(f"A task has at most {MAX_RESPONSES} responses; got {len(ids)}.")
        sizes[len(ids)].append((ids, (int(pairs.task[rows[0]]), rows)))
    for tasks in sizes.values():
        yield np.array([ids for ids, _ in tasks]), [row for _, row in tasks]


def _tables(
    pairs: Pairs,
    pair_posterior: np.ndarray,
    responses: np.ndarray,
    rows: Sequence[tuple[int, np.ndarray]],
    tied: float,
) -> tuple[list[Hashable], np.ndarray]:
    """Return the tasks, and weighted logs of P(i above j) and P(i tied with j).  → (n, 2, K, K)"""
    size = responses.shape[1]
    unknown = np.exp(log_truth(tied))
    logs = np.empty((len(rows), 2, size, size))
    logs[:, 0], logs[:, 1] = unknown[0], unknown[1]
    for number, (_, at) in enumerate(rows):
        i = np.searchsorted(responses[number], pairs.first[at])
        j = np.searchsorted(responses[number], pairs.second[at])
        logs[number, 0, i, j] = pair_posterior[at, 0]
        logs[number, 0, j, i] = pair_posterior[at, 2]
        logs[number, 1, i, j] = logs[number, 1, j, i] = pair_posterior[at, 1]
    names = [pairs.tasks[task] for task, _ in rows]
    return names, np.log(np.clip(logs, 1e-12, 1)) * (2 / size)


# --- summing over all orders ---------------------------------------------------------------------


@dataclass(frozen=True)
class _Steps:
    """All S ways to remove the top tier from a set of responses, grouped by set. Sets are bit masks."""

    beats: np.ndarray  # (S, K·K) 1 where the tier beats the rest
    ties: np.ndarray  # (S, K·K) 1 above the diagonal within the tier
    rest: np.ndarray  # (S,) the remaining set
    tier: np.ndarray  # (S,)
    begin: np.ndarray  # (2^K + 1,) index of the first step of each set


@lru_cache(maxsize=MAX_RESPONSES)
def _steps(size: int) -> _Steps:
    masks = np.arange(2**size)
    bits = (masks[:, None] >> np.arange(size)) & 1  # (2^K, K)
    tiers = [masks[1:][(masks[1:] & ~whole) == 0] for whole in masks]
    tier = np.concatenate(tiers)
    rest = np.repeat(masks, [len(tier_masks) for tier_masks in tiers]) & ~tier
    within = bits[tier][:, :, None] * bits[tier][:, None, :] * np.triu(np.ones((size, size)), 1)
    beats = bits[tier][:, :, None] * bits[rest][:, None, :]
    return _Steps(
        beats.reshape(-1, size * size).astype(np.float32),
        within.reshape(-1, size * size).astype(np.float32),
        rest,
        tier,
        np.cumsum([0, *(len(tier_masks) for tier_masks in tiers)]),
    )


def _tasks_at_once(size: int) -> int:
    return max(1, MAX_BATCH_NUMBERS // 3**size)


def _orders(
    names: Sequence[Hashable], responses: np.ndarray, logs: np.ndarray
) -> Iterable[tuple[Hashable, Posterior]]:
    size = responses.shape[1]
    steps = _steps(size)
    flat = logs.reshape(len(logs), 2, size * size)
    gain = flat[:, 0] @ steps.beats.T + flat[:, 1] @ steps.ties.T  # (n, S)
    mass, best = _mass(np.exp(gain), steps, size)
    above = (mass @ steps.beats).reshape(-1, size, size)
    tied = (mass @ steps.ties).reshape(-1, size, size)
    tied = tied + tied.transpose(0, 2, 1)
    for number, (tiers, likeliest) in enumerate(_likeliest(gain, steps, size)):
        ids = responses[number]
        total = best["log_total"][number]
        yield (
            names[number],
            Posterior(
                responses=tuple(int(i) for i in ids),
                above=above[number],
                tied=tied[number],
                best=best["top"][number],
                tiers=tuple(tuple(int(ids[i]) for i in tier) for tier in tiers),
                probability=float(np.exp(likeliest - total)),
            ),
        )


def _mass(weight: np.ndarray, steps: _Steps, size: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the share of the total weight in orders that use each step, (n, S), and two sums.

    The sum `top` is the share of orders in which each response is in the top tier, and `log_total` is
    the log of the total weight.
    """
    count, full = len(weight), 2**size - 1
    below = np.ones((count, full + 1))  # total weight of the orders of each set
    for whole in range(1, full + 1):
        at = slice(steps.begin[whole], steps.begin[whole + 1])
        below[:, whole] = (weight[:, at] * below[:, steps.rest[at]]).sum(axis=1)
    total = below[:, full]
    before = np.zeros(
        (count, full + 1)
    )  # total weight of the orders of the responses above each set
    before[:, full] = 1 / total
    mass = np.empty_like(weight)
    for whole in range(full, 0, -1):
        at = slice(steps.begin[whole], steps.begin[whole + 1])
        passed = before[:, whole, None] * weight[:, at]
        before[:, steps.rest[at]] += passed
        mass[:, at] = passed * below[:, steps.rest[at]]
    at = slice(steps.begin[full], steps.begin[full + 1])
    holds = (steps.tier[at][:, None] >> np.arange(size)) & 1
    return mass, {"top": mass[:, at] @ holds, "log_total": np.log(total)}


def _likeliest(
    gain: np.ndarray, steps: _Steps, size: int
) -> Iterable[tuple[list[list[int]], float]]:
    """Yield the order with the highest weight, as tiers of indexes, and the log of its weight."""
    full = 2**size - 1
    value = np.zeros((len(gain), full + 1))
    chosen = np.zeros((len(gain), full + 1), dtype=np.int64)
    for whole in range(1, full + 1):
        at = slice(steps.begin[whole], steps.begin[whole + 1])
        reached = gain[:, at] + value[:, steps.rest[at]]
        step = reached.argmax(axis=1)
        chosen[:, whole] = steps.begin[whole] + step
        value[:, whole] = reached[np.arange(len(gain)), step]
    for number in range(len(gain)):
        tiers, remaining = [], full
        while remaining:
            step = chosen[number, remaining]
            tiers.append([i for i in range(size) if steps.tier[step] >> i & 1])
            remaining = int(steps.rest[step])
        yield tiers, float(value[number, full])
