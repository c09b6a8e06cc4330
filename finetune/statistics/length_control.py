"""The win rate that remains if both answers have the same length. Pure numpy.

Reviewers and judges often prefer the longer answer. A model can then win by writing more. As in
length-controlled AlpacaEval (Dubois et al. 2024, arXiv 2404.04475), the verdicts are explained by the
lengths:

    P(candidate wins) = σ(θ + β·x),    x = log((candidate's length + 1) / (baseline's length + 1))

σ(θ) is the length-controlled win rate. There is one verdict per prompt: the mean of its verdicts, so
ties count ½. θ has the weak prior of half a win and half a loss at x = 0. β has the prior N(0, 3²), so
lengths may decide nearly everything. If the candidate's answers are longer on all prompts alike, no
data separates θ from β, and this prior makes the interval wide: such a win may come from length alone.

The interval is that of a sandwich estimate, H⁻¹ (G + Λ) H⁻¹, with the Hessian H, the sum G of the
squared gradients and the prior precision Λ. It is valid if it is read once.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

SLOPE_SD = 3.0
Z95 = 1.959964
STEPS, MOST_CHANGE = 50, 2.0


@dataclass(frozen=True)
class LengthControlled:
    """The length-controlled win rate with its 95% interval, and the slope β.

    `longer` says whether the candidate's answers are longer on average.
    """

    rate: float
    interval: tuple[float, float]
    slope: float
    longer: bool
    prompts: int

    @property
    def may_explain_a_win(self) -> bool:
        """Return whether a win may come from length alone.

        It may if the interval contains one half and the candidate writes more. If it writes less, only a
        rate of at most one half is a sign: that short answers win by being short is less likely.
        """
        return self.interval[0] <= 0.5 and (self.longer or self.rate <= 0.5)

    @property
    def rate_at_double_length(self) -> float:
        """Return the win rate of an equally good answer that is twice as long."""
        return float(_sigmoid(np.array(self.slope * np.log(2))))


def length_controlled(rows: Sequence[tuple[float, int, int]]) -> LengthControlled | None:
    """Return the length-controlled win rate, or None without rows.

    Each row is a prompt: its mean verdict in [0, 1], and the lengths of the answers of the candidate
    and of the baseline.
    """
    if not rows:
        return None
    values, candidate, baseline = np.array(rows, dtype=float).T
    x = np.log((candidate + 1) / (baseline + 1))
    design = np.column_stack([np.ones(len(x) + 2), np.append(x, [0.0, 0.0])])  # (N + 2, 2)
    outcomes = np.append(values, [1.0, 0.0])
    weights = np.append(np.ones(len(x)), [0.5, 0.5])
    prior = np.diag([0.0, SLOPE_SD**-2])
    coefficients = np.zeros(2)
    for _ in range(STEPS):
        chance = _sigmoid(design @ coefficients)
        gradient = design.T @ (weights * (outcomes - chance)) - prior @ coefficients
        hessian = (design.T * (weights * chance * (1 - chance))) @ design + prior
        change = np.linalg.solve(hessian, gradient)
        coefficients = coefficients + np.clip(change, -MOST_CHANGE, MOST_CHANGE)
        if np.abs(change).max() < 1e-9:
            break
    squares = (design.T * (weights * (outcomes - chance) ** 2)) @ design
    inverse = np.linalg.inv(hessian)
    deviation = float(np.sqrt((inverse @ (squares + prior) @ inverse)[0, 0]))
    theta = float(coefficients[0])
    low, rate, high = _sigmoid(theta + Z95 * deviation * np.array([-1.0, 0.0, 1.0]))
    return LengthControlled(
        rate=float(rate),
        interval=(float(low), float(high)),
        slope=float(coefficients[1]),
        longer=bool(x.mean() > 0),
        prompts=len(rows),
    )


Item = tuple[int, int, float | None, int, int]
"""A prompt, the number of its sample, the judge's verdict, and the lengths of both answers."""


def controlled_by_source(
    verdicts: Iterable[tuple[int, float]], items: Sequence[Item]
) -> tuple[LengthControlled | None, LengthControlled | None]:
    """Return the length-controlled win rates of people and of the judge.

    `verdicts` are people's, as (prompt, verdict). People compare the first answers to a prompt.
    """
    first = {prompt: lengths for prompt, sample, _, *lengths in items if sample == 0}
    people: dict[int, list[float]] = {}
    for prompt, value in verdicts:
        people.setdefault(prompt, []).append(value)
    judge: dict[int, list[tuple[float, int, int]]] = {}
    for prompt, _, verdict, candidate, baseline in items:
        if verdict is not None:
            judge.setdefault(prompt, []).append((verdict, candidate, baseline))
    of_people = [
        (sum(values) / len(values), first[prompt][0], first[prompt][1])
        for prompt, values in people.items()
        if prompt in first
    ]
    of_judge = [
        (sum(row[0] for row in rows) / len(rows), sum(row[1] for row in rows),
         sum(row[2] for row in rows))
        for rows in judge.values()
    ]  # fmt: skip
    return length_controlled(of_people), length_controlled(of_judge)


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return 0.5 + 0.5 * np.tanh(values / 2)
