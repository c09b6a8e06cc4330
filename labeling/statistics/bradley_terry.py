"""Ratings of models from pairwise comparisons: the Bradley–Terry model with ties.

See Davidson, "On Extending the Bradley-Terry Model to Accommodate Ties in Paired Comparison Experiments"
(JASA 65, 1970). With strengths θ and a propensity to tie ν,

    P(i beats j) ∝ e^θi     P(j beats i) ∝ e^θj     P(tie) ∝ ν · e^((θi + θj)/2)

The model is an exponential family in θ and log ν, so Newton's method converges to the only maximum. A
normal prior with standard deviation 10 on θ keeps the estimate finite for a model that never lost;
otherwise its effect is negligible. Intervals are bootstrapped over whole clusters, which are prompts.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from labeling.statistics.bootstrap import Bootstrap

RESAMPLES = 300
MAX_MODELS = 40
PRECISION = 0.01
TIES_PRECISION = 0.01
MAX_STEPS = 60
MAX_STEP = 2.0
ELO = 400 / np.log(10)
MIDDLE = 1000.0


@dataclass(frozen=True)
class Standing:
    """A model's position on the leaderboard.

    `rating` is on the Elo scale: the mean of a group is 1000, and a difference of 400 points means odds
    of ten to one. `score` is the share of comparisons won; a tie counts half.
    """

    name: str
    rating: float
    low: float
    high: float
    score: float
    comparisons: int
    wins: int
    ties: int
    group: int
    note: str = ""


@dataclass(frozen=True)
class Leaderboard:
    """The standings of all models.

    `rates[i][j]` is the score of standings[i] against standings[j], or None if they were never compared.
    `reason` says why there are no standings, or what is missing from them.
    """

    standings: Sequence[Standing]
    rates: Sequence[Sequence[float | None]]
    met: Sequence[Sequence[int]]
    groups: int
    left_out: int
    reason: str = ""


ALONE = "Each task has responses of one model only, so no two models were compared."
APART = (
    "The models form {groups} groups without a task in common. Ratings compare models within a "
    "group only. A task with responses of both would connect them."
)
NEVER_LOST = "Won every comparison. The rating is a lower bound, and the upper end is uncertain."
NEVER_WON = "Lost every comparison. The rating is an upper bound, and the lower end is uncertain."


def leaderboard(
    first: Sequence[str],
    second: Sequence[str],
    outcome: np.ndarray,
    cluster: np.ndarray,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Leaderboard:
    """Return the leaderboard for N comparisons of two models.

    `outcome` is +1 if the first model won, 0 for a tie, and −1 if it lost. `cluster` is the number of
    each comparison's prompt, counted from 0. Only the MAX_MODELS models with the most comparisons are
    rated.
    """
    different = np.array([a != b for a, b in zip(first, second, strict=True)], dtype=bool)
    names, i, j, left_out = _most_compared(
        np.asarray(first, dtype=object)[different], np.asarray(second, dtype=object)[different]
    )
    if not names:
        return Leaderboard([], [], [], 0, 0, ALONE)
    keep = (i >= 0) & (j >= 0)
    i, j = i[keep], j[keep]
    outcome, cluster = outcome[different][keep], cluster[different][keep]
    size = len(names)
    sums = _counts(i, j, outcome, cluster, size)
    total = sums.sum(axis=0, keepdims=True).reshape(1, 2, size, size)
    group = _groups(total[0].sum(axis=0))
    strength = _centred(fit(total)[0], group)[0]
    draws = Bootstrap(len(sums), resamples=resamples, seed=seed)
    resampled = fit(draws.totals(sums).reshape(-1, 2, size, size), start=strength)[0]
    low, high = np.quantile(_centred(resampled, group), [0.025, 0.975], axis=0)
    return _board(names, strength, low, high, total[0], group, left_out)


def _most_compared(
    first: np.ndarray, second: np.ndarray
) -> tuple[list[str], np.ndarray, np.ndarray, int]:
    """Return the names of the models to rate, both sides as indexes, and how many models are left out.

    The index of a model that is left out is −1.
    """
    if not len(first):
        return [], np.zeros(0, dtype=int), np.zeros(0, dtype=int), 0
    names, index, count = np.unique(
        np.r_[first, second].astype(str), return_inverse=True, return_counts=True
    )
    most_compared = np.argsort(-count, kind="stable")[:MAX_MODELS]
    new_index = np.full(len(names), -1)
    new_index[most_compared] = np.arange(len(most_compared))
    sides = new_index[index]
    left_out = len(names) - len(most_compared)
    return (
        [str(names[n]) for n in most_compared],
        sides[: len(first)],
        sides[len(first) :],
        left_out,
    )


def _counts(
    i: np.ndarray, j: np.ndarray, outcome: np.ndarray, cluster: np.ndarray, size: int
) -> np.ndarray:
    """Return each cluster's wins of i over j, [0, i, j], and ties, [1, i, j].  → (C, 2·size·size)"""
    _, row = np.unique(cluster, return_inverse=True)
    width, count = 2 * size * size, int(row.max(initial=-1)) + 1
    winner, loser = np.where(outcome >= 0, i, j), np.where(outcome >= 0, j, i)
    tied = outcome == 0
    cells = np.r_[
        (row * width + winner * size + loser)[~tied],
        (row * width + size * size + i * size + j)[tied],
        (row * width + size * size + j * size + i)[tied],
    ]
    return np.bincount(cells, minlength=count * width).reshape(count, width).astype(float)


def fit(counts: np.ndarray, *, start: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return θ and log ν for each table of wins and ties.  (B, 2, M, M) → (B, M), (B,)"""
    wins, ties = counts[:, 0], counts[:, 1]
    batch, size = wins.shape[:2]
    compared = wins + wins.transpose(0, 2, 1) + ties
    scored = (wins + ties / 2).sum(axis=2)
    tied = ties.sum(axis=(1, 2)) / 2
    strength = np.zeros((batch, size)) if start is None else np.tile(start, (batch, 1))
    propensity = np.zeros(batch)
    for _ in range(MAX_STEPS):
        step = _newton(strength, propensity, compared, scored, tied)
        length = np.abs(step).max(axis=1, keepdims=True)
        step *= np.minimum(1.0, MAX_STEP / np.maximum(length, 1e-12))
        strength, propensity = strength + step[:, :-1], propensity + step[:, -1]
        if length.max() < 1e-8:
            break
    return strength, propensity


def _newton(
    strength: np.ndarray,
    propensity: np.ndarray,
    compared: np.ndarray,
    scored: np.ndarray,
    tied: np.ndarray,
) -> np.ndarray:
    size = strength.shape[1]
    win, tie = chances(strength, propensity)
    expected = win + tie / 2
    spread = compared * (win + tie / 4 - expected**2)
    information = np.zeros((len(compared), size + 1, size + 1))
    information[:, :size, :size] = -spread
    at = np.arange(size)
    information[:, at, at] = spread.sum(axis=2) + PRECISION
    across = (compared * (tie / 2 - expected * tie)).sum(axis=2)
    information[:, :size, size] = information[:, size, :size] = across
    information[:, size, size] = (compared * tie * (1 - tie)).sum(axis=(1, 2)) / 2 + TIES_PRECISION
    slope = np.empty((len(compared), size + 1))
    slope[:, :size] = scored - (compared * expected).sum(axis=2) - PRECISION * strength
    slope[:, size] = tied - (compared * tie).sum(axis=(1, 2)) / 2 - TIES_PRECISION * propensity
    return np.linalg.solve(information, slope[:, :, None])[:, :, 0]


def chances(strength: np.ndarray, propensity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return P(i beats j) and P(tie). The diagonals are meaningless.  (B, M), (B,) → two (B, M, M)"""
    ahead = (strength[:, :, None] - strength[:, None, :]) / 2
    up, down, level = np.exp(ahead), np.exp(-ahead), np.exp(propensity)[:, None, None]
    total = up + down + level
    return up / total, level / total


def _groups(compared: np.ndarray) -> np.ndarray:
    """Return the number of each model's connected component, counted from 0.  → (M,)"""
    reach = (compared + compared.T > 0) | np.eye(len(compared), dtype=bool)
    for _ in range(len(compared).bit_length()):
        reach = (reach.astype(float) @ reach) > 0
    _, group = np.unique(reach.argmax(axis=1), return_inverse=True)
    return group


def _centred(strength: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Return the strengths, shifted so that each group has mean 0.  (B, M) → (B, M)"""
    centred = strength.copy()
    for number in np.unique(group):
        part = group == number
        centred[:, part] -= centred[:, part].mean(axis=1, keepdims=True)
    return centred


def _board(
    names: Sequence[str],
    strength: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    counts: np.ndarray,
    group: np.ndarray,
    left_out: int,
) -> Leaderboard:
    wins, ties = counts
    compared = wins + wins.T + ties
    points = wins + ties / 2
    groups = int(group.max()) + 1
    order = np.lexsort((-strength, group))
    standings = [
        Standing(
            name=names[i],
            rating=float(MIDDLE + ELO * strength[i]),
            low=float(MIDDLE + ELO * min(low[i], strength[i])),
            high=float(MIDDLE + ELO * max(high[i], strength[i])),
            score=float(points[i].sum() / compared[i].sum()),
            comparisons=int(compared[i].sum()),
            wins=int(wins[i].sum()),
            ties=int(ties[i].sum()),
            group=int(group[i]),
            note=_note(points[i].sum(), compared[i].sum()),
        )
        for i in order
    ]
    return Leaderboard(
        standings=standings,
        rates=[
            [float(points[i, j] / compared[i, j]) if compared[i, j] else None for j in order]
            for i in order
        ],
        met=[[int(compared[i, j]) for j in order] for i in order],
        groups=groups,
        left_out=left_out,
        reason=APART.format(groups=groups) if groups > 1 else "",
    )


def _note(points: float, compared: float) -> str:
    return NEVER_LOST if points == compared else NEVER_WON if points == 0 else ""


def as_json(board: Leaderboard) -> dict[str, Any]:
    rows: Iterable[Standing] = board.standings
    return {
        "models": [
            {
                "model": standing.name,
                "rating": standing.rating,
                "interval": [standing.low, standing.high],
                "score": standing.score,
                "comparisons": standing.comparisons,
                "wins": standing.wins,
                "ties": standing.ties,
                "group": standing.group + 1,
                "note": standing.note,
            }
            for standing in rows
        ],
        "left_out": board.left_out,
        "reason": board.reason,
    }
