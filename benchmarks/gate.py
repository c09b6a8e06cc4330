"""Errors and cost of the evidence of evaluations, on simulated evaluations with a known win rate.

Each simulated evaluation collects verdicts prompt by prompt, up to --prompts. Its evidence is read
after every prompt, and it ends with the first claim of "better", as if somebody who wants that result
were watching. The claims are those of finetune/evidence.py. A case with the reader `interval`
reads a 95% interval instead, and is a negative control, like the cases whose name begins with "wrong".

    python -m benchmarks.gate            20,000 evaluations of each case, a few minutes
    python -m benchmarks.gate --quick    1,000 evaluations, at most 1,000 prompts

Progress on stderr; the last line of stdout is one JSON object. `false_better` is the share of
evaluations of equal models that ever claim "better", and `promised` is its upper bound. For other
models, `better` is the share that claims it. `median_verdicts` and `p90_verdicts` are the verdicts after
which half and nine tenths of all evaluations have claimed "better"; null if fewer do. `coverage` is the
share of evaluations whose confidence sequence contained the true win rate after every prompt.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.support.accelerator import commit, cpu_name
from finetune.evidence import log_capital, share_of_alpha
from labeling.statistics.intervals import Z95

MEASURED = ("benchmarks/gate.py", "finetune/evidence.py")
EVALUATIONS, PROMPTS = 20_000, 2_000
BATCH = 500
"""Evaluations that are simulated together, to limit the memory."""
ALPHA = 0.05
ATTEMPTS = 5
TIES = 0.3
CROWD = 4
AGREEMENT = 2.0
"""Sum of the parameters of the Beta distribution of a prompt's win rate: two reviewers of one prompt
correlate with 1 / (1 + AGREEMENT)."""
FIRST_BIAS = 0.7
"""Probability of preferring the answer that is shown first, for reviewers with a position bias."""
LOOK = 10
"""The control with a fixed interval is read after every tenth prompt, and from the thirtieth."""

Simulate = Callable[[np.random.Generator, int, int, float], np.ndarray]
"""(rng, evaluations, prompts, true win rate) → units (evaluations, prompts)"""


# --- verdicts ------------------------------------------------------------------------------------


def single(rng: np.random.Generator, evaluations: int, prompts: int, rate: float) -> np.ndarray:
    """Return one verdict per prompt, without ties."""
    return (rng.random((evaluations, prompts)) < rate).astype(float)


def tied(rng: np.random.Generator, evaluations: int, prompts: int, rate: float) -> np.ndarray:
    """Return one verdict per prompt; TIES of them are ties, and the mean is the win rate."""
    drawn = rng.random((evaluations, prompts))
    win = rate - TIES / 2
    return np.where(drawn < win, 1.0, np.where(drawn < win + TIES, 0.5, 0.0))


def biased(rng: np.random.Generator, evaluations: int, prompts: int, rate: float) -> np.ndarray:
    """Return verdicts of reviewers who prefer the first answer, with random positions.

    A reviewer compares with probability ½, and otherwise chooses by position.
    """
    first = rng.random((evaluations, prompts)) < 0.5  # is the candidate's answer first?
    return _by_position(rng, first, rate)


def unbalanced(rng: np.random.Generator, evaluations: int, prompts: int, rate: float) -> np.ndarray:
    """Return the same verdicts if the candidate's answer is always first. Negative control."""
    return _by_position(rng, np.ones((evaluations, prompts), dtype=bool), rate)


def _by_position(rng: np.random.Generator, first: np.ndarray, rate: float) -> np.ndarray:
    compares = rng.random(first.shape) < 0.5
    by_content = rng.random(first.shape) < 0.5 + 2 * (rate - 0.5)  # so that the mean is the rate
    by_position = rng.random(first.shape) < np.where(first, FIRST_BIAS, 1 - FIRST_BIAS)
    return np.where(compares, by_content, by_position).astype(float)


def crowd(rng: np.random.Generator, evaluations: int, prompts: int, rate: float) -> np.ndarray:
    """Return the mean of CROWD correlated verdicts per prompt."""
    return _verdicts_of_crowd(rng, evaluations, prompts, rate).mean(axis=-1)


def everything(rng: np.random.Generator, evaluations: int, prompts: int, rate: float) -> np.ndarray:
    """Return the mean of CROWD correlated verdicts with ties and position bias, in random positions."""
    verdicts = _verdicts_of_crowd(rng, evaluations, prompts, rate)
    first = rng.random(verdicts.shape) < 0.5
    by_position = rng.random(verdicts.shape) < np.where(first, FIRST_BIAS, 1 - FIRST_BIAS)
    verdicts = np.where(rng.random(verdicts.shape) < 0.5, verdicts, by_position)
    return np.where(rng.random(verdicts.shape) < TIES, 0.5, verdicts).mean(axis=-1)


def separate(rng: np.random.Generator, evaluations: int, prompts: int, rate: float) -> np.ndarray:
    """Return the same verdicts, each counted as a unit of its own. Negative control."""
    verdicts = _verdicts_of_crowd(rng, evaluations, prompts // CROWD, rate)
    return verdicts.reshape(evaluations, -1)


def _verdicts_of_crowd(
    rng: np.random.Generator, evaluations: int, prompts: int, rate: float
) -> np.ndarray:
    chance = rng.beta(AGREEMENT * rate, AGREEMENT * (1 - rate), (evaluations, prompts, 1))
    return (rng.random((evaluations, prompts, CROWD)) < chance).astype(float)


# --- readers -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reading:
    """The prompt of the first claim of "better", from 1 (0: none), and whether the true win rate was
    always inside; (evaluations,) each.
    """

    better_after: np.ndarray
    covered: np.ndarray


def first_true(claims: np.ndarray) -> np.ndarray:
    """Return the number of the first true column of each row, from 1, or 0."""
    return np.where(claims.any(axis=1), claims.argmax(axis=1) + 1, 0)


def read_evidence(units: np.ndarray, rate: float, alpha: float) -> Reading:
    """Return what the evidence says if it is read after every prompt."""
    threshold = math.log(2 / alpha)
    better = log_capital(units, 0.5) >= threshold
    below = better if rate == 0.5 else log_capital(units, rate) >= threshold
    above = log_capital(1 - units, 1 - rate) >= threshold
    return Reading(first_true(better), np.all(~(below | above), axis=1))


def read_interval(units: np.ndarray, rate: float, alpha: float) -> Reading:
    """Return the same for a 95% interval after every tenth prompt. Negative control."""
    looks = np.arange(3 * LOOK, units.shape[1] + 1, LOOK)
    mean = units.cumsum(axis=1)[:, looks - 1] / looks
    center = (mean + Z95**2 / (2 * looks)) / (1 + Z95**2 / looks)
    half = Z95 / (1 + Z95**2 / looks) * np.sqrt(mean * (1 - mean) / looks + Z95**2 / (4 * looks**2))
    first = first_true(center - half > 0.5)
    inside = (center - half <= rate) & (rate <= center + half)
    return Reading(np.where(first, looks[first - 1], 0), np.all(inside, axis=1))


# --- cases ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A kind of evaluation. `attempts` repeated evaluations of a pair share α."""

    name: str
    simulate: Simulate
    rate: float = 0.5
    attempts: int = 1
    verdicts_per_prompt: int = 1
    reader: str = "evidence"


CASES = [
    Case("single", single),
    Case("ties", tied),
    Case("position bias, random positions", biased),
    Case("four correlated reviewers", crowd, verdicts_per_prompt=CROWD),
    Case("repeated until better", single, attempts=ATTEMPTS),
    Case("all of these", everything, attempts=ATTEMPTS, verdicts_per_prompt=CROWD),
    Case("wrong: 95% interval read after every tenth", single, reader="interval"),
    Case("wrong: candidate always first", unbalanced),
    Case("wrong: correlated verdicts as separate units", separate),
    *(Case("single", single, rate) for rate in (0.55, 0.58, 0.62, 0.70)),
    Case("ties", tied, 0.58),
    Case("position bias, random positions", biased, 0.58),
    Case("four correlated reviewers", crowd, 0.58, verdicts_per_prompt=CROWD),
]


def measure(case: Case, evaluations: int, prompts: int, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng([seed, CASES.index(case)])
    readings = [
        attempt_until_better(case, rng, min(BATCH, evaluations - start), prompts)
        for start in range(0, evaluations, BATCH)
    ]
    after = np.concatenate([reading.better_after for reading in readings])
    covered = np.concatenate([reading.covered for reading in readings])
    shares = [share_of_alpha(ALPHA, n + 1) for n in range(case.attempts)]
    equal = case.rate == 0.5
    return {
        "case": case.name,
        "true_win_rate": case.rate,
        "evaluations": evaluations,
        "alpha": ALPHA,
        "attempts": case.attempts,
        "prompts": prompts,
        "promised": round(sum(shares) / 2, 5) if equal else None,
        "false_better": round(float((after > 0).mean()), 5) if equal else None,
        "better": None if equal else round(float((after > 0).mean()), 4),
        "median_verdicts": quantile(after * case.verdicts_per_prompt, 0.5),
        "p90_verdicts": quantile(after * case.verdicts_per_prompt, 0.9),
        "judge": None,
        "coverage": round(float(covered.mean()), 4),
    }


def attempt_until_better(
    case: Case, rng: np.random.Generator, evaluations: int, prompts: int
) -> Reading:
    """Return the first claim in any attempt. An attempt has its own verdicts and share of α."""
    read = read_evidence if case.reader == "evidence" else read_interval
    after = np.zeros(evaluations, dtype=int)
    covered = np.ones(evaluations, dtype=bool)
    for number in range(case.attempts):
        units = case.simulate(rng, evaluations, prompts, case.rate)
        reading = read(units, case.rate, share_of_alpha(ALPHA, number + 1))
        later = np.where(reading.better_after, reading.better_after + number * prompts, 0)
        after = np.where(after, after, later)
        covered &= reading.covered
    return Reading(after, covered)


def quantile(after: np.ndarray, share: float) -> int | None:
    """Return the number after which this share of all evaluations has claimed, or None."""
    claimed = np.sort(after[after > 0])
    needed = math.ceil(share * len(after))
    return int(claimed[needed - 1]) if needed <= len(claimed) else None


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="1,000 evaluations of 1,000 prompts")
    parser.add_argument("--evaluations", type=int, help=f"of each case (default {EVALUATIONS:,})")
    parser.add_argument("--prompts", type=int, help=f"of an evaluation (default {PROMPTS:,})")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    evaluations = options.evaluations or (1_000 if options.quick else EVALUATIONS)
    prompts = options.prompts or (1_000 if options.quick else PROMPTS)
    measured, cases = commit(*MEASURED), []
    for case in CASES:
        cases.append(measure(case, evaluations, prompts, options.seed))
        print(cases[-1], file=sys.stderr, flush=True)
    hardware = {"cpu": cpu_name(), "threads": 1}
    print(json.dumps({"name": "gate", "commit": measured, "hardware": hardware, "cases": cases}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
