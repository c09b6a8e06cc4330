"""The result of a regression set: is a candidate worse than its baseline on fixed prompts? Pure numpy.

The value of a prompt is 1 if the candidate's answer is better, ½ if both are equally good, and 0 if it is
worse. Several answers to a prompt are averaged. The prompts are chosen, not drawn, so only the answers
are random. The claim is about the mean μ of the prompts' expected values: the candidate is *not worse*
if μ > ½ - margin, and *worse* if μ < ½.

Each claim is a bet, as in `evidence.py`. Against μ ≤ m, the capital after all N prompts is

    W(m) = Σ_c w_c Π_i (1 + c·(xᵢ - m)/m)

with the stakes c of `STAKES`, each with the same weight. The answers to different prompts are
independent, so the expected value of a product is the product of the factors 1 + c·(μᵢ - m)/m. By the
inequality of the arithmetic and the geometric mean, this is at most (1 + c·(μ - m)/m)^N, which is at
most 1 if μ ≤ m. By Markov's inequality, W(m) reaches 1/α with a probability of at most α. The result is
read once, after all prompts, and holds for any number of prompts.

The test takes no part of the error rate of the claim "better". A promotion needs both claims, so a false
promotion needs a false "better" (an intersection-union test, Berger 1982).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from finetune.statistics.evidence import Conclusion, bisected

STAKES = np.array([0.15, 0.3, 0.6, 0.95])
"""The large stakes are for sets with many ties, and the small ones for sets with few."""
MOST_PROMPTS = 10_000


@dataclass(frozen=True)
class RegressionResult:
    """The result of a regression set.

    `low` is the lower bound of the mean value, with a confidence of 1 - α. `won`, `tied` and `lost` count
    prompts.
    """

    prompts: int
    won: int
    tied: int
    lost: int
    mean: float
    low: float
    alpha: float
    margin: float
    conclusion: Conclusion


def regression_result(values: np.ndarray, *, alpha: float, margin: float) -> RegressionResult:
    """Return the result of the values of the prompts, (N,), in [0, 1].

    Raises ValueError without prompts, or for a value outside [0, 1].
    """
    if not len(values):
        raise ValueError("A regression set has at least one prompt.")
    if values.min() < 0 or values.max() > 1:
        raise ValueError("The value of a prompt is between 0 and 1.")
    threshold = -math.log(alpha)
    conclusion = Conclusion.UNDECIDED
    if log_capital(1 - values, 0.5) >= threshold:
        conclusion = Conclusion.WORSE
    elif log_capital(values, 0.5 - margin) >= threshold:
        conclusion = Conclusion.NOT_WORSE
    return RegressionResult(
        prompts=len(values),
        won=int((values > 0.5).sum()),
        tied=int((values == 0.5).sum()),
        lost=int((values < 0.5).sum()),
        mean=float(values.mean()),
        low=bisected(partial(log_capital, values), 0.0, threshold),
        alpha=alpha,
        margin=margin,
        conclusion=conclusion,
    )


def values_of(prompts: Sequence[int], verdicts: Iterable[tuple[int, float | None]]) -> np.ndarray:
    """Return the value of each prompt, (N,), from (prompt, verdict) rows.

    A prompt without a verdict, or with an answer without one, counts as lost as far as it has none.
    """
    by_prompt: dict[int, list[float]] = {prompt: [] for prompt in prompts}
    for prompt, verdict in verdicts:
        by_prompt[prompt].append(0.0 if verdict is None else verdict)
    return np.array([sum(own) / len(own) if own else 0.0 for own in by_prompt.values()])


def log_capital(values: np.ndarray, m: float) -> float:
    """Return log W(m) after all values, (N,)."""
    growth = np.log1p(STAKES[:, None] * (values - m) / m).sum(axis=1)
    return float(np.logaddexp.reduce(growth) - math.log(len(STAKES)))


def prompts_needed(alpha: float, margin: float) -> int:
    """Return the smallest number of prompts with which a model that ties on all of them passes."""
    m, growth = 0.5 - margin, 0.0
    for count in range(1, MOST_PROMPTS):
        factors = np.log1p(STAKES * (0.5 - m) / m)
        growth = float(np.logaddexp.reduce(count * factors) - math.log(len(STAKES)))
        if growth >= -math.log(alpha):
            return count
    return MOST_PROMPTS
