"""The learning curve: the accuracy for nested subsets of the rankings, and a forecast. Pure numpy.

The curve is an inverse power law of the number n of rankings, acc(n) = a - b · n^-c, which describes
classifiers trained on labels (Figueroa et al. 2012, "Predicting sample size required for
classification performance", BMC Medical Informatics 12:8) and neural networks (Hestness et al. 2017,
arXiv:1712.00409). Viering & Loog 2021, arXiv:2103.10948, describe its exceptions. Four or five points
do not determine three parameters. So instead of a single fit, all curves on a grid are weighted by the
likelihood of the points. This is a Bayesian fit with flat priors, which also gives the intervals.

For each subset, a model is trained from scratch with the settings of the run. It would be cheaper to
train only heads on a frozen backbone, but the result would be wrong: a backbone that was tuned on all
rankings has seen those outside the subset, and an untuned backbone has a different curve. In a
measurement with a tiny Llama, from an eighth to all of 480 prompts, training from scratch gave 74.9 to
79.7 %. Heads on the tuned backbone gave 81.2 to 79.9 %, as if more rankings were useless, and heads on
the untuned backbone gave 81.6 to 82.9 %. Training from scratch nearly doubles the time of a run, so
the curve is off by default.

reward/training/parts.py trains the models.
"""

from collections.abc import Sequence
from dataclasses import dataclass

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
from reward.evaluation.schema import (
    BandPoint,
    CurvePoint,
    Estimate,
    Forecast,
    LearningCurve,
    OnePoint,
)

POINTS_AT_LEAST = 4
SMALLEST = 8
"""The minimum number of prompts in a subset. With fewer, the result is mostly chance."""
FARTHEST = 8
"""The limit of the forecast, as a multiple of the number of rankings."""
AHEAD = (2, 4)
ONE_POINT = 0.01
UNLIKELY = 0.2
DRAWS = 4000
STEEPEST, FLATTEST = 1.5, 0.1
TYPICAL_GAIN = 0.1
NOISES = (0.001, 0.003, 0.006, 0.012, 0.025, 0.05)
"""Possible standard deviations of the accuracy between trainings on all rankings."""


@dataclass(frozen=True)
class Point:
    """The result of a model that was trained on a subset.

    It has a tally for each held-out prompt, in the same order for all points.
    """

    rankings: int
    prompts: int
    tallies: Sequence[Tally]


def halvings(prompts: int, times: int) -> list[int]:
    """Return the numbers of prompts in the subsets, the smallest first, without those below SMALLEST."""
    sizes = [prompts // 2**time for time in range(times, 0, -1)]
    return [size for size in sizes if size >= SMALLEST]


def subsets(prompts: int, times: int, seed: int) -> list[list[int]]:
    """Return the indices of the prompts of each subset, the smallest subset first.

    Each subset is the beginning of the same random order of the prompts, so it contains the smaller
    subsets. The result is [] if there are too few prompts for a forecast.
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
) -> LearningCurve:
    """Return the measured points and the forecast. The last point is the one for all rankings.

    `at_most` is an accuracy that no model can exceed (see `highest_accuracy`).
    """
    measured: list[CurvePoint] = [
        {"rankings": p.rankings, "prompts": p.prompts, "accuracy": share(p.tallies, seed)}
        for p in points
    ]
    if reason := why_no_forecast(points):
        return {"points": measured, "forecast": [], "one_point": None, "reason": reason}
    curves = Curves.of(points, at_most=at_most, seed=seed)
    return {
        "points": measured,
        "band": curves.band(),
        "forecast": [curves.forecast(times) for times in AHEAD],
        "one_point": curves.one_point(),
        "at_most": at_most,
        "reason": None,
    }


def why_no_forecast(points: Sequence[Point]) -> str | None:
    """Return the reason not to extrapolate these points, or None."""
    if reason := _too_few_held_out(sum(tally.evidence > 0 for tally in points[-1].tallies)):
        return reason
    if len(points) < POINTS_AT_LEAST:
        return (
            f"A forecast needs {POINTS_AT_LEAST} subsets, the smallest with {SMALLEST} prompts or more: "
            f"{SMALLEST * 2 ** (POINTS_AT_LEAST - 1)} prompts to train on. There are "
            f"{points[-1].prompts}."
        )
    return None


def why_not_measured(held_out: Sequence[Group]) -> str | None:
    """Return the reason not to train on subsets, or None."""
    return _too_few_held_out(sum(bool(strict_wins(group).any()) for group in held_out))


def _too_few_held_out(prompts: int) -> str | None:
    if prompts >= FEW_PROMPTS:
        return None
    return (
        f"A learning curve needs {FEW_PROMPTS} held-out prompts with strictly ordered responses; there "
        f"are {prompts}."
    )


def at_most(held_out: Sequence[Group]) -> float:
    """Return the highest accuracy that any model can reach, by the agreement of the reviewers.

    It is 1 if the agreement is unknown.
    """
    interval = reviewer_agreement(held_out)["interval"]
    return highest_accuracy(interval[1]) if interval else 1.0


# --- the fit --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Curves:
    """Posterior draws of curves acc = now + gain · (1 - (n / all)^-exponent). The arrays are (DRAWS,).

    This is a - b·n^-c with c the exponent, b = gain · all^c and a = now + gain. `all` is the number of
    rankings in the data.
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
        values, covariance = accuracies(points, seed)
        everything = points[-1].rankings
        ratios = np.array([p.rankings / everything for p in points])  # (S,)
        spread = float(np.sqrt(covariance[-1, -1])) + 0.01
        now = np.linspace(values[-1] - 4 * spread, values[-1] + 4 * spread, 33)
        gain = np.concatenate([np.linspace(0.0, 0.09, 19), np.linspace(0.1, 0.5, 21)])
        exponent = np.linspace(FLATTEST, STEEPEST, 15)
        grid = np.meshgrid(now, gain, exponent, indexing="ij")
        n, g, c = (axis.ravel() for axis in grid)
        # The steps between the gains of the grid are not equal. Large gains are unlikely a priori.
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
        """Return the expected accuracy if there were `times` as many rankings."""
        return self.now + self.gain * (1 - times**-self.exponent)

    def band(self, steps: int = 25) -> list[BandPoint]:
        """Return points of the curve from the smallest subset to the farthest forecast, for the plot."""
        times = np.geomspace(self.smallest / self.rankings, max(AHEAD), steps)
        return [{"rankings": round(t * self.rankings), **_estimate(self.at(t))} for t in times]

    def forecast(self, times: int) -> Forecast:
        """Return the expected accuracy on many held-out prompts with `times` as many rankings.

        `gain` is the difference from the accuracy of this training on the same prompts. Its interval
        is narrower, because most of the error from the choice of held-out prompts is in both.
        """
        later = self.at(times) + self.noise / np.sqrt(times) * self.shocks[0]
        estimate = _estimate(later)
        low, high = estimate["interval"]
        return {
            "times": times,
            "rankings": times * self.rankings,
            "value": estimate["value"],
            "interval": [max(0.0, low), min(1.0, high)],
            "gain": _estimate(later - self.now - self.noise * self.shocks[1]),
        }

    def one_point(self) -> OnePoint:
        """Return how many more rankings would add a point to the expected accuracy."""
        remainder = np.clip(1 - ONE_POINT / np.maximum(self.gain, 1e-12), 0.0, None)
        with np.errstate(divide="ignore", over="ignore"):
            times = np.where(remainder > 0, remainder ** (-1 / self.exponent), np.inf)
        more = np.where(times <= FARTHEST, (times - 1) * self.rankings, np.inf)
        low, value, high = (
            float(np.quantile(more, q, method="nearest")) for q in (0.025, 0.5, 0.975)
        )
        ends = [round(end) if np.isfinite(end) else None for end in (low, high)]
        chance = float(np.isfinite(more).mean())
        if np.isfinite(value):
            return {"rankings": round(value), "interval": ends, "chance": chance, "reason": None}
        conclusion = (
            f"Even {FARTHEST} times as many rankings are not expected to add a point"
            if chance < UNLIKELY
            else f"These subsets do not show whether {FARTHEST} times as many rankings add a point"
        )
        reason = f"{conclusion}: the probability is {chance:.0%}."
        return {"rankings": None, "interval": ends, "chance": chance, "reason": reason}


def accuracies(points: Sequence[Point], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the accuracies, (S,), and their covariance over the choice of held-out prompts, (S, S).

    All points are measured on the same prompts, so they have most of their error in common.
    """
    agreeing = np.array([[tally.agreeing for tally in p.tallies] for p in points])  # (S, T)
    evidence = np.array([[tally.evidence for tally in p.tallies] for p in points])
    replicates = []
    for drawn in resamples(agreeing.shape[1], seed):  # (n, T)
        totals = drawn @ evidence.T
        has_evidence = totals.min(axis=1) > 0
        replicates.append((drawn @ agreeing.T)[has_evidence] / totals[has_evidence])
    covariance = np.cov(np.concatenate(replicates).T)
    return agreeing.sum(axis=1) / evidence.sum(axis=1), covariance


def _likelihood(
    misses: np.ndarray, covariance: np.ndarray, noise: float, ratios: np.ndarray
) -> np.ndarray:
    """Return the log density of the errors, (M, S) → (M,).

    The variance is larger for points with fewer rankings.
    """
    total = covariance + np.diag(noise**2 / ratios)
    _, log_determinant = np.linalg.slogdet(total)
    squared = np.einsum("ms,st,mt->m", misses, np.linalg.inv(total), misses)
    return -0.5 * (squared + log_determinant)


def _estimate(values: np.ndarray) -> Estimate:
    low, middle, high = np.quantile(values, [0.025, 0.5, 0.975])
    return {"value": float(middle), "interval": [float(low), float(high)]}
