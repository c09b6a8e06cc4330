"""What more rankings would be worth: accuracy over nested subsets, and where that curve leads.

The curve is an inverse power law of the number n of rankings, acc(n) = a - b · n^-c, which fits how
classifiers learn from labels (Figueroa et al. 2012, "Predicting sample size required for
classification performance", BMC Medical Informatics 12:8) and how networks do (Hestness et al. 2017,
arXiv:1712.00409; Viering & Loog 2021, arXiv:2103.10948, on where it fails). Four or five points do
not pin down three numbers, so no single fit is believed: all curves on a grid are weighed by how
well they explain the points (a Bayesian fit under flat priors), and intervals are theirs.

Models are trained from scratch on each subset, with the settings of the run. Scores of heads on the frozen
backbone would be cheaper, and wrong: a backbone tuned on all rankings has seen what the subset is
supposed to lack, and one that was not tuned learns another curve. Measured once, with a tiny Llama
from an eighth to all of 480 prompts: trained anew 74.9 to 79.7 %; heads on the tuned backbone 81.2
to 79.9 %, as if rankings were worth nothing; on the untuned 81.6 to 82.9 %. Since training anew
nearly doubles the cost of a run, it is off unless asked for.

Pure numpy; reward/training/parts.py trains.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from labeling.statistics.intervals import resamples
from recipes.preferences.groups import Group, strict_wins
from reward.evaluation.report import (
    FEW_PROMPTS,
    Scored,
    Tally,
    highest_accuracy,
    order_tally,
    reviewer_agreement,
    share,
)

POINTS_AT_LEAST = 4
SMALLEST = 8
"""Prompts of the smallest subset: what a few prompts teach is luck."""
FARTHEST = 8
"""Times as many rankings as there are: no curve is followed further."""
AHEAD = (2, 4)
ONE_POINT = 0.01
UNLIKELY = 0.2
DRAWS = 4000
STEEPEST, FLATTEST = 1.5, 0.1
TYPICAL_GAIN = 0.1
NOISES = (0.001, 0.003, 0.006, 0.012, 0.025, 0.05)
"""Standard deviations, from one training to the next, of the accuracy with all rankings."""


@dataclass(frozen=True)
class Point:
    """How a model trained on so many rankings does on the held-out prompts, in one order for all."""

    rankings: int
    prompts: int
    tallies: Sequence[Tally]


def halvings(prompts: int, times: int) -> list[int]:
    """Sizes of the subsets, in prompts, the smallest first; too small ones are not worth training."""
    sizes = [prompts // 2**time for time in range(times, 0, -1)]
    return [size for size in sizes if size >= SMALLEST]


def subsets(prompts: int, times: int, seed: int) -> list[list[int]]:
    """Places of the prompts of each subset, the smallest first; none where no forecast could come of it.

    Every subset is the beginning of one order of the prompts, so each holds the smaller ones.
    """
    sizes = halvings(prompts, times)
    if len(sizes) + 1 < POINTS_AT_LEAST:
        return []
    order = np.random.default_rng(seed).permutation(prompts)
    return [sorted(order[:size].tolist()) for size in sizes]


def point(train: Sequence[Group], scored: Sequence[Scored]) -> Point:
    rankings = sum(len(group.rankings) for group in train)
    return Point(rankings, len(train), [order_tally(s.group, s.scores) for s in scored])


def learning_curve(
    points: Sequence[Point], *, at_most: float = 1.0, seed: int = 0
) -> dict[str, Any]:
    """The measured points, and what follows from them; the last is of all rankings.

    `at_most` is an accuracy that no model can exceed (see `highest_accuracy`).
    """
    measured = [
        {"rankings": p.rankings, "prompts": p.prompts, "accuracy": share(p.tallies, seed)}
        for p in points
    ]
    found: dict[str, Any] = {"points": measured, "forecast": [], "one_point": None}
    reason = why_not(points)
    if reason:
        return {**found, "reason": reason}
    curves = Curves.of(points, at_most=at_most, seed=seed)
    return {
        **found,
        "band": curves.band(),
        "forecast": [curves.forecast(times) for times in AHEAD],
        "one_point": curves.one_point(),
        "at_most": at_most,
        "reason": None,
    }


def why_not(points: Sequence[Point]) -> str | None:
    if reason := _too_few_held_out(sum(tally.evidence > 0 for tally in points[-1].tallies)):
        return reason
    if len(points) < POINTS_AT_LEAST:
        return (
            f"A forecast needs {POINTS_AT_LEAST} sizes, the smallest of {SMALLEST} prompts or more: "
            f"{SMALLEST * 2 ** (POINTS_AT_LEAST - 1)} prompts to train on. There are "
            f"{points[-1].prompts}."
        )
    return None


def why_not_measured(held_out: Sequence[Group]) -> str | None:
    return _too_few_held_out(sum(bool(strict_wins(group).any()) for group in held_out))


def _too_few_held_out(prompts: int) -> str | None:
    if prompts >= FEW_PROMPTS:
        return None
    return (
        f"A learning curve needs {FEW_PROMPTS} held-out prompts with strictly ordered responses to "
        f"be measured on; there are {prompts}."
    )


def at_most(held_out: Sequence[Group]) -> float:
    """The most that any model can reach, where two reviewers' agreement says so; else 1."""
    interval = reviewer_agreement(held_out)["interval"]
    return highest_accuracy(interval[1]) if interval else 1.0


# --- the fit --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Curves:
    """Draws from all curves acc = now + gain · (1 - (n / all)^-exponent), as likely as the points say.

    That is a - b·n^-c with c the exponent, b = gain · all^c and a = now + gain. `all` is the number
    of rankings that there are; all arrays (DRAWS,).
    """

    rankings: int
    smallest: int
    now: np.ndarray
    gain: np.ndarray
    exponent: np.ndarray
    noise: np.ndarray
    shocks: np.ndarray  # (2, DRAWS) standard normal

    @classmethod
    def of(cls, points: Sequence[Point], *, at_most: float = 1.0, seed: int = 0) -> "Curves":
        values, covariance = measured(points, seed)
        everything = points[-1].rankings
        ratios = np.array([p.rankings / everything for p in points])  # (S,)
        spread = float(np.sqrt(covariance[-1, -1])) + 0.01
        now = np.linspace(values[-1] - 4 * spread, values[-1] + 4 * spread, 33)
        gain = np.concatenate([np.linspace(0.0, 0.09, 19), np.linspace(0.1, 0.5, 21)])
        exponent = np.linspace(FLATTEST, STEEPEST, 15)
        grid = np.meshgrid(now, gain, exponent, indexing="ij")
        n, g, c = (axis.ravel() for axis in grid)
        # The steps of the grid of gains are unequal; a large gain to come is unlikely beforehand.
        prior = np.log(np.where(g < 0.095, 1.0, 4.0)) - g / TYPICAL_GAIN
        possible = (n + g <= max(at_most, values[-1])) & (n <= 1)
        n, g, c, prior = n[possible], g[possible], c[possible], prior[possible]
        misses = values - (n[:, None] + g[:, None] * (1 - ratios ** -c[:, None]))  # (M, S)
        weights = np.stack([_likelihood(misses, covariance, s, ratios) for s in NOISES]) + prior
        weights = np.exp(weights - weights.max()).ravel()
        rng = np.random.default_rng(seed)
        drawn = rng.choice(len(weights), size=DRAWS, p=weights / weights.sum())
        at, noise = drawn % len(n), np.array(NOISES)[drawn // len(n)]
        shocks = rng.normal(size=(2, DRAWS))
        return cls(everything, points[0].rankings, n[at], g[at], c[at], noise, shocks)

    def at(self, times: float) -> np.ndarray:
        """The accuracy to expect with `times` as many rankings."""
        return self.now + self.gain * (1 - times**-self.exponent)

    def band(self, steps: int = 25) -> list[dict[str, Any]]:
        """From the smallest subset to the farthest forecast, for the plot."""
        times = np.geomspace(self.smallest / self.rankings, max(AHEAD), steps)
        return [{"rankings": round(t * self.rankings), **_figure(self.at(t))} for t in times]

    def forecast(self, times: int) -> dict[str, Any]:
        """What a training on `times` as many would be measured at, on many held-out prompts.

        `gain` is how much more that is than what this training would be measured at there: most of
        the error of the few held-out prompts is in both.
        """
        later = self.at(times) + self.noise / np.sqrt(times) * self.shocks[0]
        found = _figure(later)
        found["interval"] = [max(0.0, found["interval"][0]), min(1.0, found["interval"][1])]
        gain = _figure(later - self.now - self.noise * self.shocks[1])
        return {"times": times, "rankings": times * self.rankings, **found, "gain": gain}

    def one_point(self) -> dict[str, Any]:
        """How many more rankings would add a point to the expected accuracy."""
        left = np.clip(1 - ONE_POINT / np.maximum(self.gain, 1e-12), 0.0, None)
        with np.errstate(divide="ignore", over="ignore"):
            times = np.where(left > 0, left ** (-1 / self.exponent), np.inf)
        more = np.where(times <= FARTHEST, (times - 1) * self.rankings, np.inf)
        low, value, high = (
            float(np.quantile(more, q, method="nearest")) for q in (0.025, 0.5, 0.975)
        )
        ends = [round(end) if np.isfinite(end) else None for end in (low, high)]
        chance = float(np.isfinite(more).mean())
        if np.isfinite(value):
            return {"rankings": round(value), "interval": ends, "chance": chance, "reason": None}
        said = (
            f"Even {FARTHEST} times as many rankings are not expected to add a point"
            if chance < UNLIKELY
            else f"These subsets cannot tell whether {FARTHEST} times as many rankings add a point"
        )
        reason = f"{said}: the chance is {chance:.0%}."
        return {"rankings": None, "interval": ends, "chance": chance, "reason": reason}


def measured(points: Sequence[Point], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Accuracies, and their covariance over the choice of held-out prompts.  → (S,), (S, S)

    All points are measured on the same prompts, so most of their error is common to all.
    """
    agreeing = np.array([[tally.agreeing for tally in p.tallies] for p in points])  # (S, T)
    evidence = np.array([[tally.evidence for tally in p.tallies] for p in points])
    replicates = []
    for drawn in resamples(agreeing.shape[1], seed):  # (n, T)
        totals = drawn @ evidence.T
        seen = totals.min(axis=1) > 0
        replicates.append((drawn @ agreeing.T)[seen] / totals[seen])
    covariance = np.cov(np.concatenate(replicates).T)
    return agreeing.sum(axis=1) / evidence.sum(axis=1), covariance


def _likelihood(
    misses: np.ndarray, covariance: np.ndarray, noise: float, ratios: np.ndarray
) -> np.ndarray:
    """Log density of the points' errors. A training on fewer rankings varies more.  (M, S) → (M,)"""
    total = covariance + np.diag(noise**2 / ratios)
    _, log_determinant = np.linalg.slogdet(total)
    squared = np.einsum("ms,st,mt->m", misses, np.linalg.inv(total), misses)
    return -0.5 * (squared + log_determinant)


def _figure(values: np.ndarray) -> dict[str, Any]:
    low, middle, high = np.quantile(values, [0.025, 0.5, 0.975])
    return {"value": float(middle), "interval": [float(low), float(high)]}
