"""The win rate over reviewers in general, with an interval, from the verdicts of a few. Pure numpy.

Reviewers differ in taste. Each has a win rate of its own, of which only the reviewers who took part are
known. With R reviewers, the mean m of their win rates and the standard deviation s between them, the 95%
interval is m ± t·s / √R, with the quantile t of Student's distribution with R - 1 degrees of freedom. All
reviewers have the same weight, because reviewers in general are not those who gave the most verdicts.

Several reviewers who judged the same prompts share the luck of these prompts. The variance of the mean
over prompts is therefore added if prompts have several verdicts.

Unlike the evidence in `finetune/statistics/evidence.py`, this interval is valid if it is read once. A promotion needs
both, so reading it often does not raise the error rate of the evidence.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

import numpy as np

T95 = (
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281,
    2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860,
    2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423,
)  # fmt: skip
"""The quantile of a two-sided 95% interval, for 1 to 30 degrees of freedom."""
Z95 = 1.959964


@dataclass(frozen=True)
class GeneralRate:
    """The mean win rate of reviewers in general, with its 95% interval."""

    reviewers: int
    mean: float
    interval: tuple[float, float]


def general_rate(verdicts: Iterable[tuple[Hashable, Hashable, float]]) -> GeneralRate | None:
    """Return the win rate over reviewers in general, or None for fewer than two reviewers.

    `verdicts` holds (reviewer, prompt, verdict).
    """
    by_reviewer: dict[Hashable, list[float]] = defaultdict(list)
    by_prompt: dict[Hashable, list[float]] = defaultdict(list)
    for reviewer, prompt, verdict in verdicts:
        by_reviewer[reviewer].append(verdict)
        by_prompt[prompt].append(verdict)
    reviewers, prompts = len(by_reviewer), len(by_prompt)
    if reviewers < 2:
        return None
    rates = np.array([np.mean(values) for values in by_reviewer.values()])
    variance = t95(reviewers - 1) ** 2 * rates.var(ddof=1) / reviewers
    shared = any(len(values) > 1 for values in by_prompt.values())
    if shared and prompts > 1:
        means = np.array([np.mean(values) for values in by_prompt.values()])
        variance += Z95**2 * means.var(ddof=1) / prompts
    mean, half = float(rates.mean()), float(np.sqrt(variance))
    return GeneralRate(reviewers, mean, (max(0.0, mean - half), min(1.0, mean + half)))


def t95(freedom: int) -> float:
    """Return the quantile for these degrees of freedom. Above 30, the error is below 0.0001.

    The series is that of Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.5.
    """
    if freedom <= len(T95):
        return T95[freedom - 1]
    z = Z95
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
