"""Errors and cost of the evidence of evaluations, on simulated evaluations with a known win rate.

Each simulated evaluation collects verdicts prompt by prompt, up to --prompts. Its evidence is read
after every prompt, and it ends with the first claim of "better", as if somebody who wants that result
were watching. The claims are those of finetune/statistics/evidence.py. A case with the reader `interval`
reads a 95% interval instead, and is a negative control, like the cases whose name begins with "wrong".
In the cases with a `judge`, people judge one of BLOCK prompts, and the judge is a control variate.

    python -m benchmarks.gate            20,000 evaluations of each case, about half an hour
    python -m benchmarks.gate --quick    1,000 evaluations, at most 1,000 prompts
    python -m benchmarks.gate --only "with a judge" --prompts 1000

Progress on stderr; the last line of stdout is one JSON object. `false_better` is the share of
evaluations of equal models that ever claim "better", and `promised` is its upper bound. For other
models, `better` is the share that claims it. `median_verdicts` and `p90_verdicts` are the verdicts after
which half and nine tenths of all evaluations have claimed "better"; null if fewer do. `coverage` is the
share of evaluations whose confidence sequence contained the true win rate after every prompt.
`saved` is the share of the median that the judge saves, compared with the same verdicts without it.
`agreement` is the share of prompts on which the judge and the reviewer have the same preference.
The cases whose name begins with "interval" measure the coverage of the other intervals on the page of an
evaluation, which are valid if they are read once (benchmarks/support/gate_intervals.py).
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from benchmarks.support.accelerator import commit, cpu_name
from benchmarks.support.gate_intervals import INTERVALS, measure_interval
from finetune.statistics.evidence import (
    ORDER_BLOCK,
    log_capital,
    log_capital_of_counts,
    share_of_alpha,
)
from labeling.statistics.intervals import Z95

MEASURED = ("benchmarks/gate.py", "benchmarks/support/gate_intervals.py", "finetune/statistics")
EVALUATIONS, PROMPTS = 20_000, 2_000
MOST_INTERVALS = 2_000
"""Evaluations of a case about an interval that is read once; bootstrapping takes long."""
BATCH = 500
"""Evaluations that are simulated together, to limit the memory."""
ALPHA = 0.05
ATTEMPTS = 5
TIES = 0.3
CROWD = 4
SPREAD = 0.15
"""Difference of the win rate from its mean on prompts of which the judge is certain, and on others."""
AGREEMENT = 2.0
"""Sum of the parameters of the Beta distribution of a prompt's win rate: two reviewers of one prompt
correlate with 1 / (1 + AGREEMENT)."""
FIRST_BIAS = 0.7
"""Probability of preferring the answer that is shown first, for reviewers with a position bias."""
BLOCK = 8
"""Prompts per block if a judge is a control variate. People judge one of them."""
GRADED = 2.15
"""Like AGREEMENT, for graded judges. A judge that knows each prompt's win rate then agrees with 75% of
verdicts, if the mean win rate is 58%."""
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


def by_certainty(
    rng: np.random.Generator, evaluations: int, prompts: int, rate: float
) -> np.ndarray:
    """Return verdicts in random order, on prompts of two kinds.

    On half of the prompts the judge is certain, and the candidate is better by SPREAD. On the others
    it is worse by as much.
    """
    certain = rng.random((evaluations, prompts)) < 0.5
    return _by_kind(rng, certain, rate)


def in_order_of_judge(
    rng: np.random.Generator, evaluations: int, prompts: int, rate: float
) -> np.ndarray:
    """Return the same verdicts if people get all certain prompts first. Negative control."""
    certain = -np.sort(-(rng.random((evaluations, prompts)) < 0.5).astype(int), axis=1)
    return _by_kind(rng, certain.astype(bool), rate)


def _by_kind(rng: np.random.Generator, certain: np.ndarray, rate: float) -> np.ndarray:
    chance = rate + np.where(certain, SPREAD, -SPREAD)
    return (rng.random(certain.shape) < chance).astype(float)


# --- judges ---------------------------------------------------------------------------------------

Judged = Callable[[np.random.Generator, np.ndarray, np.ndarray], np.ndarray]
"""(rng, chances of the prompts, verdicts of reviewers) → values of the judge, in the same shape"""


def graded(rng: np.random.Generator, chance: np.ndarray, verdict: np.ndarray) -> np.ndarray:
    """Return the chance that the candidate wins on this prompt, as a good reward model would."""
    return chance


def binary(rng: np.random.Generator, chance: np.ndarray, verdict: np.ndarray) -> np.ndarray:
    """Return the verdict of the reviewer in 75% of cases, and otherwise the opposite verdict."""
    return np.where(rng.random(verdict.shape) < 0.75, verdict, 1 - verdict)


def favours_candidate(
    rng: np.random.Generator, chance: np.ndarray, verdict: np.ndarray
) -> np.ndarray:
    """Return 1 in nine of ten cases, and otherwise the verdict of the reviewer."""
    return np.where(rng.random(verdict.shape) < 0.9, 1.0, verdict)


def graded_biased(rng: np.random.Generator, chance: np.ndarray, verdict: np.ndarray) -> np.ndarray:
    """Return the chance that the candidate wins, raised by 30 points."""
    return np.minimum(chance + 0.3, 1.0)


def useless(rng: np.random.Generator, chance: np.ndarray, verdict: np.ndarray) -> np.ndarray:
    """Return values that do not depend on the answers."""
    return rng.random(chance.shape)


def opposed(rng: np.random.Generator, chance: np.ndarray, verdict: np.ndarray) -> np.ndarray:
    """Return the chance that the candidate loses."""
    return 1 - chance


JUDGES: dict[str, Judged] = {
    "graded, agrees in 75%": graded,
    "binary, agrees in 75%": binary,
    "binary, favours the candidate in nine of ten": favours_candidate,
    "graded, 30 points too high": graded_biased,
    "useless": useless,
    "opposed": opposed,
}


@dataclass(frozen=True)
class JudgedUnits:
    """Verdicts of people, (evaluations, prompts), the excess of the judge's values, and agreement."""

    units: np.ndarray
    excess: np.ndarray
    agreement: float


def judged_units(
    rng: np.random.Generator, evaluations: int, prompts: int, rate: float, judge: Judged
) -> JudgedUnits:
    """Return one verdict per prompt, and the excess over the other prompts of its block."""
    chance = rng.beta(GRADED * rate, GRADED * (1 - rate), (evaluations, prompts, BLOCK))
    verdicts = (rng.random(chance.shape) < chance).astype(float)
    values = judge(rng, chance, verdicts)
    units, own = verdicts[..., 0], values[..., 0]
    agreement = float(((own > 0.5) == (units > 0.5)).mean())
    return JudgedUnits(units, own - values[..., 1:].mean(axis=-1), agreement)


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


def read_evidence(
    units: np.ndarray, rate: float, alpha: float, excess: np.ndarray | None = None
) -> Reading:
    """Return what the evidence says if it is read after every prompt.

    Without ties and without a judge, the capital depends only on the number of wins, so the claims are
    read from `least_wins`, which is many times faster.
    """
    if excess is None and np.isin(units, (0.0, 1.0)).all():
        return _read_wins(units.astype(np.int16), rate, alpha)
    threshold = math.log(2 / alpha)
    better = log_capital(units, 0.5, excess) >= threshold
    below = better if rate == 0.5 else log_capital(units, rate, excess) >= threshold
    opposite = None if excess is None else -excess
    above = log_capital(1 - units, 1 - rate, opposite) >= threshold
    return Reading(first_true(better), np.all(~(below | above), axis=1))


def _read_wins(units: np.ndarray, rate: float, alpha: float) -> Reading:
    prompts = units.shape[1]
    wins = units.cumsum(axis=1, dtype=np.int16)
    losses = np.arange(1, prompts + 1, dtype=np.int16) - wins
    better = wins >= least_wins(prompts, 0.5, alpha)
    below = better if rate == 0.5 else wins >= least_wins(prompts, rate, alpha)
    above = losses >= least_wins(prompts, 1 - rate, alpha)
    return Reading(first_true(better), np.all(~(below | above), axis=1))


@cache
def least_wins(prompts: int, m: float, alpha: float) -> np.ndarray:
    """Return the least number of wins that refutes μ ≤ m after each number of prompts, (prompts,).

    Where all wins together do not, it is one more than the number of prompts.
    """
    values, least = np.array([0.0, 1.0]), np.zeros(prompts, dtype=np.int16)
    first = 1
    for n in range(1, prompts + 1):
        if log_capital_of_counts(values, np.array([n - first, first]), m) < math.log(2 / alpha):
            first += 1  # one win more is enough, because a win never lowers the capital
        least[n - 1] = first
    return least


def read_blocks(units: np.ndarray, rate: float, alpha: float) -> Reading:
    """Return what the evidence says if the judge orders the prompts of blocks of ORDER_BLOCK.

    A block counts once it is complete, and its prompts then count in random order.
    """
    reading = read_evidence(units, rate, alpha)
    ends = -(-reading.better_after // ORDER_BLOCK) * ORDER_BLOCK
    return Reading(np.minimum(ends, units.shape[1]), reading.covered)


def read_interval(units: np.ndarray, rate: float, alpha: float) -> Reading:
    """Return the same for a 95% interval after every tenth prompt. Negative control."""
    looks = np.arange(3 * LOOK, units.shape[1] + 1, LOOK)
    mean = units.cumsum(axis=1)[:, looks - 1] / looks
    center = (mean + Z95**2 / (2 * looks)) / (1 + Z95**2 / looks)
    half = Z95 / (1 + Z95**2 / looks) * np.sqrt(mean * (1 - mean) / looks + Z95**2 / (4 * looks**2))
    first = first_true(center - half > 0.5)
    inside = (center - half <= rate) & (rate <= center + half)
    return Reading(np.where(first, looks[first - 1], 0), np.all(inside, axis=1))


READERS = {"evidence": read_evidence, "blocks": read_blocks, "interval": read_interval}


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
    judge: str | None = None


CASES = [
    Case("single", single),
    Case("ties", tied),
    Case("position bias, random positions", biased),
    Case("four correlated reviewers", crowd, verdicts_per_prompt=CROWD),
    Case("repeated until better", single, attempts=ATTEMPTS),
    Case("all of these", everything, attempts=ATTEMPTS, verdicts_per_prompt=CROWD),
    Case("ordered by the judge in blocks", by_certainty, reader="blocks"),
    Case("wrong: ordered by the judge", in_order_of_judge),
    Case("wrong: 95% interval read after every tenth", single, reader="interval"),
    Case("wrong: candidate always first", unbalanced),
    Case("wrong: correlated verdicts as separate units", separate),
    *(Case("single", single, rate) for rate in (0.55, 0.58, 0.62, 0.70)),
    Case("ties", tied, 0.58),
    Case("position bias, random positions", biased, 0.58),
    Case("four correlated reviewers", crowd, 0.58, verdicts_per_prompt=CROWD),
    Case("ordered by the judge in blocks", by_certainty, 0.58, reader="blocks"),
    *(Case("with a judge", single, rate, judge=judge) for rate in (0.5, 0.58) for judge in JUDGES),
]


def measure(case: Case, evaluations: int, prompts: int, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng([seed, CASES.index(case)])
    sizes = [min(BATCH, evaluations - start) for start in range(0, evaluations, BATCH)]
    if case.judge:
        return measure_judged(case, case.judge, rng, sizes, prompts)
    readings = [attempt_until_better(case, rng, size, prompts) for size in sizes]
    return figures(case, readings, prompts)


def figures(case: Case, readings: Sequence[Reading], prompts: int) -> dict[str, Any]:
    after = np.concatenate([reading.better_after for reading in readings])
    covered = np.concatenate([reading.covered for reading in readings])
    evaluations = len(after)
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
        "judge": case.judge,
        "coverage": round(float(covered.mean()), 4),
    }


def measure_judged(
    case: Case, judge: str, rng: np.random.Generator, sizes: Sequence[int], prompts: int
) -> dict[str, Any]:
    """Return the figures of evaluations with a judge as control variate, and the verdicts it saves."""
    share, readings, plain, agreement = share_of_alpha(ALPHA, 1), [], [], []
    for size in sizes:
        drawn = judged_units(rng, size, prompts, case.rate, JUDGES[judge])
        readings.append(read_evidence(drawn.units, case.rate, share, drawn.excess))
        plain.append(read_evidence(drawn.units, case.rate, share).better_after)
        agreement.append(drawn.agreement)
    result = figures(case, readings, prompts)
    without = quantile(np.concatenate(plain), 0.5)
    median = result["median_verdicts"]
    return {
        **result,
        "agreement": round(float(np.mean(agreement)), 3),
        "saved": None if median is None or without is None else round(1 - median / without, 3),
    }


def attempt_until_better(
    case: Case, rng: np.random.Generator, evaluations: int, prompts: int
) -> Reading:
    """Return the first claim in any attempt. An attempt has its own verdicts and share of α."""
    read = READERS[case.reader]
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
    parser.add_argument("--only", default="", help="only cases whose name or judge contains this")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    evaluations = options.evaluations or (1_000 if options.quick else EVALUATIONS)
    prompts = options.prompts or (1_000 if options.quick else PROMPTS)
    measured, cases = commit(*MEASURED), []
    for case in CASES:
        if options.only not in f"{case.name} {case.judge or ''}":
            continue
        cases.append(measure(case, evaluations, prompts, options.seed))
        print(cases[-1], file=sys.stderr, flush=True)
    for name in INTERVALS:
        if options.only in f"interval: {name}":
            cases.append(measure_interval(name, min(evaluations, MOST_INTERVALS), options.seed))
            print(cases[-1], file=sys.stderr, flush=True)
    hardware = {"cpu": cpu_name(), "threads": 1}
    print(json.dumps({"name": "gate", "commit": measured, "hardware": hardware, "cases": cases}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
