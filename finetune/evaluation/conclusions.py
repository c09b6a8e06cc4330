"""What the verdicts of an evaluation prove so far, as sentences and charts for its page."""

import math
from dataclasses import dataclass

import numpy as np

from finetune.models import Evaluation
from finetune.statistics.evidence import (
    EXPECTED_GAINS,
    Conclusion,
    Evidence,
    Forecast,
    forecast,
    share_of_alpha,
)
from formatting.numbers import percent, percent_range

MOST_POINTS = 150
WIDTH, HEIGHT, LEFT, TOP = 480, 150, 40, 8
SPARE = 1.0
"""Powers of ten of evidence that the chart shows above the threshold, and below 1."""


@dataclass(frozen=True)
class Line:
    """A horizontal line of a chart, with its label."""

    y: str
    label: str


@dataclass(frozen=True)
class Curves:
    """The geometry of two charts over the number of prompts: win rate, and evidence.

    `band` is the polygon of the confidence sequence, and the others are polylines.
    """

    band: str
    mean: str
    rates: list[Line]
    better: str
    worse: str
    powers: list[Line]
    threshold: Line
    prompts: int
    left: int = LEFT
    right: int = LEFT + WIDTH
    top: int = TOP
    bottom: int = TOP + HEIGHT
    width: int = LEFT + WIDTH + 8
    height: int = TOP + HEIGHT + 24


@dataclass(frozen=True)
class Standing:
    """The conclusion from one source of verdicts."""

    source: str
    conclusion: Conclusion
    sentence: str
    prompts: int
    mean: str
    interval: str
    level: str
    curves: Curves | None


def standing(source: str, evaluation: Evaluation, evidence: Evidence) -> Standing:
    return Standing(
        source=source,
        conclusion=evidence.conclusion,
        sentence=sentence(evaluation, evidence),
        prompts=len(evidence.units),
        mean=percent(evidence.mean),
        interval=percent_range(evidence.interval),
        level=percent(1 - evidence.alpha),
        curves=curves(evidence),
    )


def sentence(evaluation: Evaluation, evidence: Evidence) -> str:
    """Return the conclusion as a sentence about the two models."""
    candidate, baseline, prompts = evaluation.candidate, evaluation.baseline, len(evidence.units)
    points = f"{100 * evidence.margin:.0f} points"
    if not prompts and evaluation.report.get("comparisons") == 0:
        return (
            "Undecided: the two models gave equal or empty answers to all prompts, which are ties."
        )
    if not prompts:
        return "Undecided: no prompt has all its verdicts yet."
    after = f"proven after {evidence.decided_after} of {prompts} prompts"
    return {
        Conclusion.BETTER: f"{candidate} is better than {baseline}, {after}.",
        Conclusion.WORSE: f"{candidate} is worse than {baseline}, {after}.",
        Conclusion.NOT_WORSE: f"{candidate} is not worse than {baseline} by more than {points}, "
        f"{after}. Whether it is better is undecided.",
        Conclusion.UNDECIDED: f"Undecided after {prompts} prompts: neither model is proven better.",
    }[evidence.conclusion]


def forecasts(evaluation: Evaluation) -> list[Forecast]:
    """Return the forecasts for this attempt, or for a first one if it has no verdicts yet.

    Takes up to a second for each new error rate, and no time for one that was used before.
    """
    if evaluation.alpha is None:
        return []
    alpha = evaluation.own_alpha or share_of_alpha(evaluation.alpha, 1)
    return [forecast(gain, alpha) for gain in EXPECTED_GAINS]


def curves(evidence: Evidence) -> Curves | None:
    """Return the charts of at most MOST_POINTS prompts; None for fewer than two prompts."""
    prompts = len(evidence.units)
    if prompts < 2:
        return None
    index = np.unique(np.linspace(0, prompts - 1, MOST_POINTS).astype(int))
    x = LEFT + WIDTH * index / (prompts - 1)
    mean = evidence.units.cumsum()[index] / (index + 1)
    low, high = _rate_y(evidence.low[index]), _rate_y(evidence.high[index])
    threshold = evidence.threshold / math.log(10)
    top, bottom = threshold + SPARE, -SPARE

    def power_y(power: np.ndarray) -> np.ndarray:
        return TOP + HEIGHT * (top - np.clip(power, bottom, top)) / (top - bottom)

    return Curves(
        band=f"{_points(x, high)} {_points(x[::-1], low[::-1])}",
        mean=_points(x, _rate_y(mean)),
        rates=[_line(_rate_y(np.array(rate)), percent(rate, 0)) for rate in (0.0, 0.5, 1.0)],
        better=_points(x, power_y(evidence.log_better[index] / math.log(10))),
        worse=_points(x, power_y(evidence.log_worse[index] / math.log(10))),
        powers=[_line(power_y(np.array(0.0)), "1")],
        threshold=_line(power_y(np.array(threshold)), f"{2 / evidence.alpha:,.0f}"),
        prompts=prompts,
    )


def _rate_y(rate: np.ndarray) -> np.ndarray:
    return TOP + HEIGHT * (1 - rate)


def _line(y: np.ndarray, label: str) -> Line:
    return Line(f"{float(y):.1f}", label)


def _points(x: np.ndarray, y: np.ndarray) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
