"""The benefit of each signal in the labels, on simulated judgments with known true scores.

True scores are linear in the features, and reviewers add noise. A linear model of the same features
stands for the backbone, so that a fit takes milliseconds and only the labels differ. Judgments pass
through the recipe's own evidence and losses. For each signal, runs with and without it are compared
seed by seed.

    python -m benchmarks.labels            40 seeds
    python -m benchmarks.labels --quick    6 seeds, a few seconds

Progress on stderr; the last line of stdout is one JSON object. `gain` is the mean difference from
the run without the signal, with a 95% interval over the seeds.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch

from benchmarks.support.accelerator import commit, cpu_name
from benchmarks.support.label_world import (
    MEASURED,
    RIDGE,
    SLIPS,
    Judge,
    World,
    fit,
    graded_pair,
    judge_groups,
    make_world,
    one_of_two,
    order,
    perceived,
    seeing_ties,
    slipping,
    two_of_a_crowd,
    weighed_crowd,
    with_a_line,
    with_constant,
)
from labeling.statistics.intervals import Z95
from recipes.preferences.groups import Group, Judgment
from reward.evaluation.label_mistakes import folds_of, label_mistakes
from reward.evaluation.report import Scored
from reward.settings import RewardConfig

# --- figures on prompts without judgments ---------------------------------------------------------


def true_order(theta: np.ndarray, fresh: World) -> float:
    """Return the share of pairs of one prompt that the model orders correctly."""
    scores = with_constant(fresh.features) @ theta
    i, j = np.triu_indices(scores.shape[1], 1)
    predicted, true = scores[:, i] - scores[:, j], fresh.truth[:, i] - fresh.truth[:, j]
    return float(((predicted > 0) == (true > 0)).mean())


def probability_error(theta: np.ndarray, fresh: World) -> float:
    """Return the mean error of σ(r_i - r_j) as the probability of preferring i. Lower is better."""
    scores = with_constant(fresh.features) @ theta
    i, j = np.triu_indices(scores.shape[1], 1)
    predicted, true = scores[:, i] - scores[:, j], fresh.truth[:, i] - fresh.truth[:, j]
    return float(np.abs(_sigmoid(predicted) - _sigmoid(true)).mean())


def surprise(theta: np.ndarray, fresh: World) -> float:
    """Return the log loss on new judgments, one in SLIPS of them reversed. Lower is better."""
    scores = with_constant(fresh.features) @ theta
    i, j = np.triu_indices(scores.shape[1], 1)
    margin = (scores[:, i] - scores[:, j]) * np.sign(fresh.truth[:, i] - fresh.truth[:, j])
    slips = 1 / SLIPS
    return float(((1 - slips) * np.logaddexp(0, -margin) + slips * np.logaddexp(0, margin)).mean())


def acceptable_auc(theta: np.ndarray, fresh: World) -> float:
    """Return the probability that an acceptable response outscores an unacceptable one."""
    scores = (with_constant(fresh.features) @ theta).ravel()
    good = fresh.truth.ravel() > 0
    ranks = np.argsort(np.argsort(scores)) + 1
    above = ranks[good].sum() - good.sum() * (good.sum() + 1) / 2
    return float(above / (good.sum() * (~good).sum()))


def zero_is_the_line(theta: np.ndarray, fresh: World) -> float:
    """Return the share of responses whose score has the correct sign."""
    scores = with_constant(fresh.features) @ theta
    return float(((scores > 0) == (fresh.truth > 0)).mean())


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


# --- comparisons ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Arm:
    """A setting of the recipe and the judgments it is trained on."""

    name: str
    judge: Judge
    settings: dict[str, Any]
    weigh: Callable[[Sequence[Group]], list[Group]] = list


@dataclass(frozen=True)
class Comparison:
    """Arms to compare; the first one ignores the signal. `world` is (prompts, K, prompt spread)."""

    signal: str
    world: tuple[int, int, float]
    arms: list[Arm]
    figures: list[Callable[[np.ndarray, World], float]]
    ridge: float = RIDGE


COMPARISONS = [
    Comparison(
        "strength",
        (150, 2, 0.0),
        [
            Arm("ignore", graded_pair, {}),
            Arm("margin", graded_pair, {"strength": "margin", "strength_scale": 0.5}),
            Arm("soft", graded_pair, {"strength": "soft"}),
        ],
        [true_order, probability_error],
    ),
    Comparison(
        "reviewer_weights",
        (150, 4, 0.0),
        [
            Arm("ignore", one_of_two(True), {"reviewer_weights": "ignore"}),
            Arm("within", one_of_two(True), {"reviewer_weights": "within"}),
            Arm("full", one_of_two(True), {"reviewer_weights": "full"}),
        ],
        [true_order],
    ),
    Comparison(
        "weigh_reviewers",
        (150, 4, 0.0),
        [
            Arm("off", two_of_a_crowd, {}),
            Arm("within", two_of_a_crowd, {"reviewer_weights": "within"}, weighed_crowd),
            Arm("full", two_of_a_crowd, {"reviewer_weights": "full"}, weighed_crowd),
        ],
        [true_order],
    ),
    Comparison(
        "label_smoothing",
        (60, 2, 0.0),
        [Arm("0", slipping, {}), Arm("0.2", slipping, {"label_smoothing": 0.2})],
        [true_order, surprise],
        ridge=0.0005,  # overfits, which label smoothing should reduce
    ),
    Comparison(
        "cut_weight",
        (150, 4, 0.7),
        [Arm("0", with_a_line, {}), Arm("0.5", with_a_line, {"cut_weight": 0.5})],
        [true_order, acceptable_auc, zero_is_the_line],
    ),
    Comparison(
        "ties",
        (200, 2, 0.0),
        [
            Arm("half", seeing_ties, {}),
            Arm("davidson", seeing_ties, {"ties": "davidson"}),
            Arm("rao_kupper", seeing_ties, {"ties": "rao_kupper"}),
        ],
        [true_order, probability_error],
    ),
]


def measure(comparison: Comparison, seeds: Iterable[int]) -> list[dict[str, Any]]:
    """Return a case for each arm except the first and each figure."""
    results = [run_seed(comparison, seed) for seed in seeds]
    first, *others = comparison.arms
    return [
        case(comparison.signal, arm.name, figure.__name__, [
            (values[first.name, figure.__name__], values[arm.name, figure.__name__])
            for values in results
        ])
        for arm in others
        for figure in comparison.figures
    ]  # fmt: skip


def run_seed(comparison: Comparison, seed: int) -> dict[tuple[str, str], float]:
    """Return the value of each (arm, figure). All arms see the same judgments."""
    prompts, k, spread = comparison.world
    train = make_world(np.random.default_rng([seed, 1]), prompts, k, prompt_spread=spread)
    fresh = make_world(np.random.default_rng([seed, 2]), 2000, k, prompt_spread=spread)
    values = {}
    for arm in comparison.arms:
        config = RewardConfig.from_dict({"base_model": "none", **arm.settings})
        groups = arm.weigh(judge_groups(train, arm.judge, np.random.default_rng([seed, 3])))
        theta = fit(train, groups, config, comparison.ridge)
        for figure in comparison.figures:
            values[arm.name, figure.__name__] = figure(theta, fresh)
    return values


def case(signal: str, arm: str, figure: str, pairs: list[tuple[float, float]]) -> dict[str, Any]:
    without, using = np.array(pairs).T
    gains = using - without
    half = Z95 * gains.std(ddof=1) / np.sqrt(len(gains))
    return {
        "signal": signal,
        "setting": arm,
        "figure": figure,
        "without": round(float(without.mean()), 4),
        "with": round(float(using.mean()), 4),
        "gain": round(float(gains.mean()), 4),
        "interval": [round(float(gains.mean() + side * half), 4) for side in (-1, 1)],
        "seeds": len(gains),
    }


# --- likely mistakes ------------------------------------------------------------------------------


FLIPPED = 0.1
MISTAKES = [
    (300, 2, 0.0, 1),
    (300, 2, 0.3, 1),
    (1000, 2, 1.0, 1),
    (300, 4, 0.0, 1),
    (300, 4, 1.0, 1),
    (100, 4, 1.0, 1),
    (300, 2, 0.3, 3),
    (300, 4, 1.0, 3),
]
"""Prompts, K, the reviewers' noise before rankings are flipped, and reviewers per prompt."""


def simulate_mistakes(
    prompts: int, k: int, noise: float, seed: int, reviewers: int = 1, folds: int = 5
) -> dict[str, int]:
    """Reverse one ranking in ten, and count those that a model without that prompt detects."""
    rng = np.random.default_rng([seed, prompts, k])
    world, flipped = make_world(rng, prompts, k), rng.random((prompts, reviewers)) < FLIPPED

    def judge(prompt: int, truth: np.ndarray, rng: np.random.Generator) -> list[Judgment]:
        orders = [order(perceived(truth, rng, noise)) for _ in range(reviewers)]
        return [
            Judgment(str(n), tiers[::-1] if flipped[prompt, n] else tiers)
            for n, tiers in enumerate(orders)
        ]

    groups = judge_groups(world, judge, rng)
    fold = folds_of(groups, folds, seed)
    parts = [scored_without(world, groups, fold != number) for number in range(folds)]
    rows = label_mistakes(parts, checked="all", most=prompts * reviewers)["rows"]
    listed = [(int(row["group_id"]), int(row["reviewer"])) for row in rows]
    return {
        "listed": len(listed),
        "flipped_listed": sum(bool(flipped[each]) for each in listed),
        "upside_down": sum(
            against(groups[prompt].rankings[n], world.truth[prompt]) for prompt, n in listed
        ),
        "flipped": int(flipped.sum()),
    }


def scored_without(world: World, groups: Sequence[Group], trained: np.ndarray) -> list[Scored]:
    """Return the groups outside the `trained` ones, scored by a model trained on those."""
    some = World(world.features[trained], world.truth[trained])
    config = RewardConfig.from_dict({"base_model": "none"})
    theta = fit(some, [groups[index] for index in np.flatnonzero(trained).tolist()], config)
    scores = with_constant(world.features) @ theta
    others = np.flatnonzero(~trained).tolist()
    return [Scored(groups[index], scores[index], np.ones(len(scores[index]))) for index in others]


def against(ranking: Judgment, truth: np.ndarray) -> bool:
    """Return whether a ranking contradicts the true scores in most of its pairs."""
    order_of = [tier[0] for tier in ranking.tiers]
    gaps = [truth[a] - truth[b] for a, b in combinations(order_of, 2)]
    return bool(sum(gap < 0 for gap in gaps) > len(gaps) / 2)


def mistakes_case(
    prompts: int, k: int, noise: float, reviewers: int, seeds: Iterable[int]
) -> dict[str, Any]:
    """Return the figures of detected mistakes.

    `precision` is the share of listed rankings that were flipped; `wrong` is the share
    of those that contradict the true order.
    """
    results = [simulate_mistakes(prompts, k, noise, seed, reviewers) for seed in seeds]
    total = {name: sum(result[name] for result in results) for name in results[0]}
    listed = max(1, total["listed"])
    return {
        "signal": "label_mistakes",
        "prompts": prompts,
        "k": k,
        "noise": noise,
        "reviewers": reviewers,
        "flipped": FLIPPED,
        "listed": total["listed"],
        "precision": round(total["flipped_listed"] / listed, 3),
        "recall": round(total["flipped_listed"] / total["flipped"], 3),
        "wrong": round(total["upside_down"] / listed, 3),
        "seeds": len(results),
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="6 seeds")
    parser.add_argument("--seeds", type=int, help="simulations of each comparison (default 40)")
    parser.add_argument("--signal", action="append", help="only this signal; may be repeated")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    seeds = range(options.seeds or (6 if options.quick else 40))
    measured, cases = commit(*MEASURED), []
    for comparison in COMPARISONS:
        if options.signal and comparison.signal not in options.signal:
            continue
        for case_ in measure(comparison, seeds):
            cases.append(case_)
            say(case_)
    for world in MISTAKES if not options.signal or "label_mistakes" in options.signal else []:
        cases.append(mistakes_case(*world, seeds))
        print(cases[-1], file=sys.stderr, flush=True)
    hardware = {"cpu": cpu_name(), "threads": 1}
    print(json.dumps({"name": "labels", "commit": measured, "hardware": hardware, "cases": cases}))
    return 0


def say(row: dict[str, Any]) -> None:
    low, high = row["interval"]
    print(
        f"{row['signal']}={row['setting']}: {row['figure']} {row['without']:.3f} → "
        f"{row['with']:.3f} ({low:+.3f} to {high:+.3f})",
        file=sys.stderr,
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
