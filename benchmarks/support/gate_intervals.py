"""Coverage of the intervals that the page of an evaluation shows and that are valid if read once.

Each case simulates evaluations with a known value, and counts how often the 95% interval contains it.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from finetune.evaluation.llm_judge import agreement_of, calibrated
from finetune.statistics.divergence import divergence
from finetune.statistics.length_control import length_controlled
from finetune.statistics.means import mean_difference
from finetune.statistics.regression import regression_result
from finetune.statistics.reviewer_effects import general_rate
from finetune.statistics.win_rate import win_rate

PROMPTS = 200
BOUND = "bound of a regression set"
RATE = 0.58
ALPHA = 0.04
"""Error rate of the first evaluation of a candidate, for the bound of a regression set."""

Ends = tuple[float, float]
Simulated = Callable[[np.random.Generator, int], tuple[float, Ends]]
"""(rng, seed) → the true value and the interval of one evaluation"""


def of_win_rate(rng: np.random.Generator, seed: int) -> tuple[float, Ends]:
    """Simulate two correlated verdicts per prompt, with 30% ties."""
    chance = rng.beta(2 * RATE, 2 * (1 - RATE), PROMPTS)
    verdicts = (rng.random((PROMPTS, 2)) < chance[:, None]).astype(float)
    verdicts[rng.random(verdicts.shape) < 0.3] = 0.5
    rows = [(n, value) for n in range(PROMPTS) for value in verdicts[n]]
    low, high = win_rate(rows, seed=seed)["interval"]
    return 0.7 * RATE + 0.3 * 0.5, (low, high)


def at_equal_length(rng: np.random.Generator, seed: int) -> tuple[float, Ends]:
    """Simulate a candidate that writes more, and reviewers who prefer longer answers."""
    theta, slope = 0.3, 0.8
    baseline = rng.integers(100, 600, PROMPTS)
    candidate = (baseline * np.exp(rng.normal(0.2, 0.4, PROMPTS))).astype(int)
    x = np.log((candidate + 1) / (baseline + 1))
    won = rng.random(PROMPTS) < 1 / (1 + np.exp(-theta - slope * x))
    result = length_controlled(
        [(float(w), int(c), int(b)) for w, c, b in zip(won, candidate, baseline, strict=True)]
    )
    assert result is not None
    return 1 / (1 + np.exp(-theta)), result.interval


def reviewers_in_general(rng: np.random.Generator, seed: int) -> tuple[float, Ends]:
    """Simulate six reviewers with win rates of their own, each on 40 other prompts."""
    rates = np.clip(rng.normal(RATE, 0.1, 6), 0, 1)
    rows = [
        (reviewer, 40 * reviewer + n, float(rng.random() < rate))
        for reviewer, rate in enumerate(rates)
        for n in range(40)
    ]
    result = general_rate(rows)
    assert result is not None
    return RATE, result.interval


def agreement_of_judge(rng: np.random.Generator, seed: int) -> tuple[float, Ends]:
    """Simulate a judge that agrees on 75% of pairs, with up to three pairs per prompt."""
    agreement = agreement_of(_counts(rng), seed)["interval"]
    return 0.75, (agreement[0], agreement[1])


def calibrated_rate(rng: np.random.Generator, seed: int) -> tuple[float, Ends]:
    """Estimate the win rate of the reviewers from the verdicts of this judge."""
    judged = 0.5 + (2 * 0.75 - 1) * (RATE - 0.5)
    verdicts = [(str(n), float(rng.random() < judged)) for n in range(PROMPTS)]
    result = calibrated(verdicts, _counts(rng), seed, replicates=1000)
    assert result is not None
    return RATE, (result["interval"][0], result["interval"][1])


def _counts(rng: np.random.Generator) -> dict[str, list[int]]:
    counts = {}
    for n in range(100):
        pairs = int(rng.integers(1, 4))
        agree = int((rng.random(pairs) < 0.75).sum())
        counts[str(n)] = [agree, pairs - agree, 0]
    return counts


def kl_per_token(rng: np.random.Generator, seed: int) -> tuple[float, Ends]:
    return 0.02, _divergence(rng, seed, "per_token")


def kl_per_answer(rng: np.random.Generator, seed: int) -> tuple[float, Ends]:
    return 2.0, _divergence(rng, seed, "per_answer")


def _divergence(rng: np.random.Generator, seed: int, name: str) -> Ends:
    """Simulate log-ratios of answers of 20 to 180 tokens, with a mean of 0.02 nats per token."""
    tokens = rng.integers(20, 181, PROMPTS)
    ratios = rng.normal(0.02 * tokens, 0.2 * np.sqrt(tokens))
    rows = [
        {"prompt_id": n, "candidate_tokens": int(t), "candidate_log_ratio": float(r)}
        for n, (t, r) in enumerate(zip(tokens, ratios, strict=True))
    ]
    result: Any = divergence(rows, seed)
    low, high = result[name]["interval"]
    return low, high


def difference_in_length(rng: np.random.Generator, seed: int) -> tuple[float, Ends]:
    """Simulate the difference in tokens, which is shown in the report of the run."""
    ours, theirs = rng.gamma(4, 25, PROMPTS), rng.gamma(4, 20, PROMPTS)
    rows = list(zip(range(PROMPTS), ours, theirs, strict=True))
    low, high = mean_difference(rows, seed=seed)["interval"]
    return 20.0, (low, high)


def regression_bound(rng: np.random.Generator, seed: int) -> tuple[float, Ends]:
    """Simulate a regression set of 60 prompts with many ties. Its bound has one side, and 96%."""
    loses, wins = rng.beta(1, 9, 60), rng.beta(1, 9, 60)
    drawn = rng.random(60)
    values = np.where(drawn < loses, 0.0, np.where(drawn > 1 - wins, 1.0, 0.5))
    truth = float((0.5 + (wins - loses) / 2).mean())
    return truth, (regression_result(values, alpha=ALPHA, margin=0.1).low, 1.0)


INTERVALS: dict[str, Simulated] = {
    "win rate": of_win_rate,
    "win rate at equal length": at_equal_length,
    "reviewers in general": reviewers_in_general,
    "agreement of a judge": agreement_of_judge,
    "calibrated win rate": calibrated_rate,
    "KL per token": kl_per_token,
    "KL per answer": kl_per_answer,
    "difference in length": difference_in_length,
    BOUND: regression_bound,
}


def measure_interval(name: str, evaluations: int, seed: int) -> dict[str, Any]:
    """Return the share of simulated evaluations whose interval contains the true value."""
    covered = 0
    for number in range(evaluations):
        rng = np.random.default_rng([seed, list(INTERVALS).index(name), number])
        truth, (low, high) = INTERVALS[name](rng, number)
        covered += bool(low <= truth <= high)
    return {
        "case": f"interval: {name}",
        "true_win_rate": None,
        "evaluations": evaluations,
        "alpha": ALPHA if name == BOUND else 0.05,
        "false_better": None,
        "median_verdicts": None,
        "p90_verdicts": None,
        "judge": None,
        "coverage": round(covered / evaluations, 4),
    }
