"""What each use of the labels is worth, on simulated judgments whose truth is known.

A linear score of known weights stands for the reviewers' taste, and noise for their slips; a linear
model of the same features stands for the backbone, so that a fit takes milliseconds and the labels
are all that differs. Judgments go through the recipe's own evidence and losses. For each signal a
run that uses it is compared, seed by seed, with one that leaves it aside.

    python -m benchmarks.labels            40 seeds
    python -m benchmarks.labels --quick    6 seeds, a few seconds

Progress on stderr; the last line of stdout is one JSON object. `gain` is the mean difference to the
run without the signal, with a 95 % interval over the seeds.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import torch

from benchmarks.accelerator import commit, cpu_name
from labeling.statistics.intervals import Z95
from labeling.statistics.pairs import Judgment as Statement
from labeling.statistics.reliability import fit as fit_reliabilities
from recipes.layout.collate import Batch
from recipes.layout.collate import evidence as batch_of
from recipes.preferences.evidence import evidence, relative_to
from recipes.preferences.groups import Group, Judgment
from recipes.preferences.objective import Objective
from recipes.preferences.tokens import TokenGroup
from reward.evaluation.label_mistakes import folds_of, label_mistakes
from reward.evaluation.report import Scored
from reward.preferences.reviewer_weights import Weights
from reward.settings import RewardConfig

MEASURED = (
    "benchmarks/labels.py",
    "labeling/statistics",
    "recipes/preferences/groups.py",
    "reward/settings.py",
    "reward/preferences/reviewer_weights.py",
    "reward/training",
)
FEATURES = 24
RIDGE = 0.02
"""Stands for stopping early: a fit that follows every slip would make all labels look alike."""


@dataclass(frozen=True)
class World:
    """Prompts with responses whose true scores are known. X (G, K, D) · truth (G, K)"""

    features: np.ndarray
    truth: np.ndarray


def make_world(
    rng: np.random.Generator, prompts: int, k: int, *, prompt_spread: float = 0.0
) -> World:
    """`prompt_spread` is how much the prompts' own features move all their responses' scores."""
    own = rng.normal(size=(prompts, k, FEATURES))
    own[..., FEATURES // 2 :] *= 0.5
    shared = rng.normal(size=(prompts, 1, FEATURES)) * prompt_spread
    features = own + shared
    weights = np.linspace(1.0, -1.0, FEATURES) * 0.6
    return World(features, features @ weights)


Judge = Callable[[int, np.ndarray, np.random.Generator], list[Judgment]]
"""(prompt, true scores (K,), rng) → what its reviewers say"""


def judged(world: World, judge: Judge, rng: np.random.Generator) -> list[Group]:
    k = world.truth.shape[1]
    return [
        Group(str(g), [], list(range(k)), [""] * k, judge(g, truth, rng))
        for g, truth in enumerate(world.truth)
    ]


# --- reviewers ------------------------------------------------------------------------------------


def perceived(truth: np.ndarray, rng: np.random.Generator, noise: float = 1.0) -> np.ndarray:
    """Gumbel errors make the order a draw from Bradley-Terry (Plackett-Luce) of truth / noise."""
    return truth + noise * rng.gumbel(size=len(truth))


def order(seen: np.ndarray) -> list[list[int]]:
    return [[int(i)] for i in np.argsort(-seen)]


def graded_pair(_: int, truth: np.ndarray, rng: np.random.Generator) -> list[Judgment]:
    """Slightly, clearly or much better, by how large the difference seemed."""
    seen = perceived(truth, rng)
    gap = abs(seen[0] - seen[1])
    return [Judgment("r", order(seen), strength=1.0 + (gap > 1.0) + (gap > 2.5))]


CAREFUL, CARELESS = 0.7, 8.0


def one_of_two(weigh: bool) -> Judge:
    """Each prompt has one reviewer: careful, or so careless as to teach little."""

    def judge(prompt: int, truth: np.ndarray, rng: np.random.Generator) -> list[Judgment]:
        careful = prompt % 3 == 0
        seen = perceived(truth, rng, CAREFUL if careful else CARELESS)
        weight = (CARELESS if careful else CAREFUL) / CARELESS if weigh else 1.0
        return [Judgment("r", order(seen), weight=weight)]

    return judge


CROWD = (0.5, 0.7, 1.0, 1.5, 4.0, 8.0)
"""The noise of six reviewers, two of whom teach little."""


def weighed_crowd(groups: Sequence[Group]) -> list[Group]:
    """Weights as a snapshot makes them, from nothing but how the reviewers agree."""
    said = [
        Statement(group.group_id, ranking.reviewer, ranking.tiers)
        for group in groups
        for ranking in group.rankings
    ]
    weight = Weights(fit_reliabilities(said))
    return [
        replace(group, rankings=[replace(r, weight=weight(r.reviewer)) for r in group.rankings])
        for group in groups
    ]


def two_of_a_crowd(_: int, truth: np.ndarray, rng: np.random.Generator) -> list[Judgment]:
    pair = rng.choice(len(CROWD), size=2, replace=False).tolist()
    return [Judgment(f"r{n}", order(perceived(truth, rng, CROWD[n]))) for n in pair]


SLIPS = 5


def slipping(_: int, truth: np.ndarray, rng: np.random.Generator) -> list[Judgment]:
    """Sure of the order, but one judgment in five is entered the wrong way round."""
    seen = order(truth)
    return [Judgment("r", seen[::-1] if rng.random() < 1 / SLIPS else seen)]


def with_a_line(_: int, truth: np.ndarray, rng: np.random.Generator) -> list[Judgment]:
    seen = perceived(truth, rng) - np.euler_gamma
    return [Judgment("r", order(seen), cut=int((seen > 0).sum()))]


def seeing_ties(_: int, truth: np.ndarray, rng: np.random.Generator) -> list[Judgment]:
    """Differences under a threshold are a tie."""
    seen = perceived(truth, rng)
    tied = abs(seen[0] - seen[1]) < 1.5
    return [Judgment("r", [[0, 1]] if tied else order(seen))]


# --- fitting --------------------------------------------------------------------------------------


def fit(
    world: World, groups: Sequence[Group], config: RewardConfig, ridge: float = RIDGE
) -> np.ndarray:
    """The weights of the linear model, and its constant last.  → (D + 1,)"""
    batch = as_batch(groups, config)
    objective = Objective.of(config, groups)
    features = torch.from_numpy(with_constant(world.features)).float()  # (G, K, D + 1)
    theta = torch.zeros(features.shape[-1], requires_grad=True)
    solver = torch.optim.LBFGS([theta], max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        solver.zero_grad()
        loss = objective.losses((features @ theta)[..., None], batch).mean() + ridge * (
            theta @ theta
        )
        loss.backward()
        return loss

    solver.step(closure)
    return theta.detach().numpy()


def as_batch(groups: Sequence[Group], config: RewardConfig) -> Batch:
    found = [evidence(group, config) for group in groups]
    mean = relative_to([float(e.signals["weight"]) for e in found if "weight" in e.signals])
    for each in found:
        if "weight" in each.signals:
            each.signals["weight"] = each.signals["weight"] / mean
    nothing = np.zeros(0, dtype=np.int32)
    rows = [
        TokenGroup(nothing, [nothing] * len(group.responses), each.wins, each.signals)
        for group, each in zip(groups, found, strict=True)
    ]
    return batch_of(rows)


def with_constant(features: np.ndarray) -> np.ndarray:
    return np.concatenate([features, np.ones((*features.shape[:-1], 1))], axis=-1)


# --- figures, on prompts that nobody judged -------------------------------------------------------


def true_order(theta: np.ndarray, fresh: World) -> float:
    """Share of pairs of one prompt that the model orders as the truth does."""
    found = with_constant(fresh.features) @ theta
    i, j = np.triu_indices(found.shape[1], 1)
    ours, true = found[:, i] - found[:, j], fresh.truth[:, i] - fresh.truth[:, j]
    return float(((ours > 0) == (true > 0)).mean())


def probability_error(theta: np.ndarray, fresh: World) -> float:
    """Mean distance of σ(r_i - r_j) from the probability that a reviewer prefers i. Less is better."""
    found = with_constant(fresh.features) @ theta
    i, j = np.triu_indices(found.shape[1], 1)
    ours, true = found[:, i] - found[:, j], fresh.truth[:, i] - fresh.truth[:, j]
    return float(np.abs(_sigmoid(ours) - _sigmoid(true)).mean())


def surprise(theta: np.ndarray, fresh: World) -> float:
    """Log loss on fresh judgments of which one in SLIPS is the wrong way round. Less is better."""
    found = with_constant(fresh.features) @ theta
    i, j = np.triu_indices(found.shape[1], 1)
    ours = (found[:, i] - found[:, j]) * np.sign(fresh.truth[:, i] - fresh.truth[:, j])
    slips = 1 / SLIPS
    return float(((1 - slips) * np.logaddexp(0, -ours) + slips * np.logaddexp(0, ours)).mean())


def acceptable_auc(theta: np.ndarray, fresh: World) -> float:
    """How often a truly acceptable response outscores an unacceptable one of any prompt."""
    scores = (with_constant(fresh.features) @ theta).ravel()
    good = fresh.truth.ravel() > 0
    ranks = np.argsort(np.argsort(scores)) + 1
    above = ranks[good].sum() - good.sum() * (good.sum() + 1) / 2
    return float(above / (good.sum() * (~good).sum()))


def zero_is_the_line(theta: np.ndarray, fresh: World) -> float:
    """Share of responses on the right side of 0."""
    scores = with_constant(fresh.features) @ theta
    return float(((scores > 0) == (fresh.truth > 0)).mean())


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


# --- comparisons ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Arm:
    """A setting of the recipe, over judgments of its own."""

    name: str
    judge: Judge
    settings: dict[str, Any]
    weigh: Callable[[Sequence[Group]], list[Group]] = list


@dataclass(frozen=True)
class Comparison:
    """The first arm leaves the signal aside. `world` gives (prompts, K, prompt spread)."""

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
        ridge=0.0005,  # trained too long on too little, which smoothing is a remedy for
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
    """One case for each arm but the first, and each figure."""
    found = [run_seed(comparison, seed) for seed in seeds]
    first, *others = comparison.arms
    return [
        case(comparison.signal, arm.name, figure.__name__, [
            (values[first.name, figure.__name__], values[arm.name, figure.__name__])
            for values in found
        ])
        for arm in others
        for figure in comparison.figures
    ]  # fmt: skip


def run_seed(comparison: Comparison, seed: int) -> dict[tuple[str, str], float]:
    """(arm, figure) → value. All arms see the same judgments."""
    prompts, k, spread = comparison.world
    train = make_world(np.random.default_rng([seed, 1]), prompts, k, prompt_spread=spread)
    fresh = make_world(np.random.default_rng([seed, 2]), 2000, k, prompt_spread=spread)
    values = {}
    for arm in comparison.arms:
        config = RewardConfig.from_dict({"base_model": "none", **arm.settings})
        groups = arm.weigh(judged(train, arm.judge, np.random.default_rng([seed, 3])))
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
"""Prompts, K, the honest noise of reviewers whose rankings are flipped afterwards, and reviewers a prompt."""


def simulate_mistakes(
    prompts: int, k: int, noise: float, seed: int, reviewers: int = 1, folds: int = 5
) -> dict[str, int]:
    """One ranking in ten is turned upside down; a linear model that has not seen it looks for it."""
    rng = np.random.default_rng([seed, prompts, k])
    world, flipped = make_world(rng, prompts, k), rng.random((prompts, reviewers)) < FLIPPED

    def judge(prompt: int, truth: np.ndarray, rng: np.random.Generator) -> list[Judgment]:
        said = [order(perceived(truth, rng, noise)) for _ in range(reviewers)]
        return [
            Judgment(str(n), each[::-1] if flipped[prompt, n] else each)
            for n, each in enumerate(said)
        ]

    groups = judged(world, judge, rng)
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


def scored_without(world: World, groups: Sequence[Group], seen: np.ndarray) -> list[Scored]:
    """The prompts that are not `seen`, scored by a model of those that are."""
    some = World(world.features[seen], world.truth[seen])
    config = RewardConfig.from_dict({"base_model": "none"})
    theta = fit(some, [groups[place] for place in np.flatnonzero(seen).tolist()], config)
    said = with_constant(world.features) @ theta
    places = np.flatnonzero(~seen).tolist()
    return [Scored(groups[place], said[place], np.ones(len(said[place]))) for place in places]


def against(ranking: Judgment, truth: np.ndarray) -> bool:
    """Whether a ranking orders most of its pairs against the true scores."""
    order_of = [tier[0] for tier in ranking.tiers]
    gaps = [truth[a] - truth[b] for a, b in combinations(order_of, 2)]
    return bool(sum(gap < 0 for gap in gaps) > len(gaps) / 2)


def mistakes_case(
    prompts: int, k: int, noise: float, reviewers: int, seeds: Iterable[int]
) -> dict[str, Any]:
    """`precision` counts rankings that were flipped; `wrong`, those that contradict the true order."""
    found = [simulate_mistakes(prompts, k, noise, seed, reviewers) for seed in seeds]
    total = {name: sum(each[name] for each in found) for name in found[0]}
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
        "seeds": len(found),
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="6 seeds")
    parser.add_argument("--seeds", type=int, help="simulations of each comparison (default 40)")
    parser.add_argument("--signal", action="append", help="only this one; may be repeated")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    seeds = range(options.seeds or (6 if options.quick else 40))
    measured, cases = commit(*MEASURED), []
    for comparison in COMPARISONS:
        if options.signal and comparison.signal not in options.signal:
            continue
        for found in measure(comparison, seeds):
            cases.append(found)
            say(found)
    for world in MISTAKES if not options.signal or "label_mistakes" in options.signal else []:
        cases.append(mistakes_case(*world, seeds))
        print(cases[-1], file=sys.stderr, flush=True)
    hardware = {"cpu": cpu_name(), "threads": 1}
    print(json.dumps({"name": "labels", "commit": measured, "hardware": hardware, "cases": cases}))
    return 0


def say(found: dict[str, Any]) -> None:
    low, high = found["interval"]
    print(
        f"{found['signal']}={found['setting']}: {found['figure']} {found['without']:.3f} → "
        f"{found['with']:.3f} ({low:+.3f} to {high:+.3f})",
        file=sys.stderr,
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
