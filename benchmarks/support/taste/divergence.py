"""Figures of two arms at equal divergence from the base model.

A method has a parameter, such as β, that trades the score of the answers against their divergence. So
two methods are compared by their curves. For each seed, an arm has a point for each value of the
parameter: the square root of its KL divergence and its gain over the base model. The base model itself
is the point (0, 0). The curve is linear between the points, because the gain of a policy is about
proportional to √KL if the change is small (Gao, Schulman & Hilton 2023, arXiv:2210.10760).
"""

from collections.abc import Callable, Sequence
from math import sqrt
from statistics import mean
from typing import Any

import numpy as np

from benchmarks.support.taste.figures import interval, wins

Point = tuple[float, float]
"""√KL, and the gain at this divergence."""


def curve_gap(first: Sequence[Point], second: Sequence[Point], steps: int = 50) -> float:
    """Return the mean gap of two curves from the base model to the end of the shorter one."""
    grid = np.linspace(0, min(max(x for x, _ in points) for points in (first, second)), steps + 1)
    gaps = _heights(first, grid) - _heights(second, grid)
    return float(np.trapezoid(gaps, dx=1 / steps))


def _heights(points: Sequence[Point], grid: np.ndarray) -> np.ndarray:
    x, y = np.array(sorted([(0.0, 0.0), *points])).T
    return np.interp(grid, x, y)


def equal_divergence_case(
    name: str, first: dict[int, list[dict[str, Any]]], second: dict[int, list[dict[str, Any]]]
) -> dict[str, Any]:
    """Return the comparison of two groups of arms, whose rows are given by seed.

    `…_gap` is the mean gap of the curves. `…_chosen` compares the arms with the β that was best on one
    half of the held-out prompts, on the other half, for both halves. `…_tuned` compares them with the β
    that was best on the other seeds.
    """
    seeds = sorted(first.keys() & second.keys())
    pairs = [(first[seed], second[seed]) for seed in seeds]
    rates = [_gap(ours, theirs, lambda row: win_rate(row) - 0.5) for ours, theirs in pairs]
    scores = [_gap(ours, theirs, gain) for ours, theirs in pairs]
    chosen = [wins(chosen_scores(ours), chosen_scores(theirs)) for ours, theirs in pairs]
    tuned = [[tuned_row(side, seed, seeds) for side in (first, second)] for seed in seeds]
    gaps = [win_rate(ours) - win_rate(theirs) for ours, theirs in tuned]
    direct = [wins(ours["scores"], theirs["scores"]) for ours, theirs in tuned]
    ends = [min(max(map(root_kl, side)) for side in pair) ** 2 for pair in pairs]
    return {
        "comparison": name,
        "seeds": len(pairs),
        "win_rate_gap": round(mean(rates), 4),
        "win_rate_gap_interval": interval(rates),
        "score_gap": round(mean(scores), 3),
        "score_gap_interval": interval(scores),
        "up_to_kl": round(mean(ends), 3),
        "win_rate_chosen": round(mean(chosen), 4),
        "win_rate_chosen_interval": interval(chosen),
        "win_rate_tuned": round(mean(direct), 4),
        "win_rate_tuned_interval": interval(direct),
        "win_rate_gap_tuned": round(mean(gaps), 4),
        "win_rate_gap_tuned_interval": interval(gaps),
        "arms_tuned": [[row["arm"] for row in rows] for rows in tuned],
    }


def _gap(
    ours: Sequence[dict[str, Any]],
    theirs: Sequence[dict[str, Any]],
    figure: Callable[[dict[str, Any]], float],
) -> float:
    first, second = ([(root_kl(row), figure(row)) for row in rows] for rows in (ours, theirs))
    return curve_gap(first, second)


def chosen_scores(rows: Sequence[dict[str, Any]]) -> list[float]:
    """Return the scores of all answers, each with the β that is best on the other half of prompts."""
    half = len(rows[0]["scores"]) // 2
    halves = (slice(None, half), slice(half, None))
    best = [max(rows, key=lambda row: win_rate(row, other)) for other in reversed(halves)]
    return [score for row, part in zip(best, halves, strict=True) for score in row["scores"][part]]


def tuned_row(
    rows: dict[int, list[dict[str, Any]]], seed: int, seeds: Sequence[int]
) -> dict[str, Any]:
    """Return the row of a seed with the arm whose mean win rate is best on the other seeds."""

    def elsewhere(row: dict[str, Any]) -> float:
        others = [other for s in seeds if s != seed for other in rows[s]]
        return mean(win_rate(other) for other in others if other["arm"] == row["arm"])

    return max(rows[seed], key=elsewhere) if len(seeds) > 1 else rows[seed][0]


def root_kl(row: dict[str, Any]) -> float:
    return sqrt(max(row["kl"], 0.0))


def win_rate(row: dict[str, Any], part: slice = slice(None)) -> float:
    return wins(row["scores"][part], row["base_scores"][part])


def gain(row: dict[str, Any]) -> float:
    return mean(row["scores"]) - mean(row["base_scores"])
