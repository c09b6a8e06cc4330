"""Simulated prompts and reviewers with known true scores, and a linear model fitted to their judgments.

True scores are linear in the features, and reviewers add noise. The linear model of the same features
stands for the backbone, so that a fit takes milliseconds and only the labels differ.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from labeling.statistics.pairs import Judgment as Statement
from labeling.statistics.reliability import fit as fit_reliabilities
from recipes.layout.collate import Batch
from recipes.layout.collate import loss_tensors as batch_of
from recipes.preferences.groups import Group, Judgment
from recipes.preferences.loss_inputs import loss_inputs, relative_to
from recipes.preferences.objective import Objective
from recipes.preferences.tokens import TokenGroup
from reward.preferences.reviewer_weights import Weights
from reward.settings import RewardConfig

MEASURED = (
    "benchmarks/labels.py",
    "benchmarks/support/label_world.py",
    "labeling/statistics",
    "recipes/preferences/groups.py",
    "reward/settings.py",
    "reward/preferences/reviewer_weights.py",
    "reward/training",
)
"""Files and folders that affect the figures."""
FEATURES = 24
RIDGE = 0.02
"""Stands for early stopping. Without it, fits to wrong labels would hide the signals' differences."""


@dataclass(frozen=True)
class World:
    """Prompts with features (G, K, D) and true scores (G, K) of their responses."""

    features: np.ndarray
    truth: np.ndarray


def make_world(
    rng: np.random.Generator, prompts: int, k: int, *, prompt_spread: float = 0.0
) -> World:
    """Return a world. `prompt_spread` scales a shift common to all responses of a prompt."""
    own = rng.normal(size=(prompts, k, FEATURES))
    own[..., FEATURES // 2 :] *= 0.5
    shared = rng.normal(size=(prompts, 1, FEATURES)) * prompt_spread
    features = own + shared
    weights = np.linspace(1.0, -1.0, FEATURES) * 0.6
    return World(features, features @ weights)


Judge = Callable[[int, np.ndarray, np.random.Generator], list[Judgment]]
"""(prompt, true scores (K,), rng) → the judgments of its reviewers"""


def judge_groups(world: World, judge: Judge, rng: np.random.Generator) -> list[Group]:
    k = world.truth.shape[1]
    return [
        Group(str(g), [], list(range(k)), [""] * k, judge(g, truth, rng))
        for g, truth in enumerate(world.truth)
    ]


# --- reviewers ------------------------------------------------------------------------------------


def perceived(truth: np.ndarray, rng: np.random.Generator, noise: float = 1.0) -> np.ndarray:
    """Return scores with Gumbel noise, so that their order follows Plackett-Luce of truth / noise."""
    return truth + noise * rng.gumbel(size=len(truth))


def order(scores: np.ndarray) -> list[list[int]]:
    return [[int(i)] for i in np.argsort(-scores)]


def graded_pair(_: int, truth: np.ndarray, rng: np.random.Generator) -> list[Judgment]:
    """Return a judgment whose strength grows with the perceived difference."""
    scores = perceived(truth, rng)
    gap = abs(scores[0] - scores[1])
    return [Judgment("r", order(scores), strength=1.0 + (gap > 1.0) + (gap > 2.5))]


CAREFUL, CARELESS = 0.7, 8.0


def one_of_two(weigh: bool) -> Judge:
    """Return a judge with one careful or very careless reviewer per prompt."""

    def judge(prompt: int, truth: np.ndarray, rng: np.random.Generator) -> list[Judgment]:
        careful = prompt % 3 == 0
        scores = perceived(truth, rng, CAREFUL if careful else CARELESS)
        weight = (CARELESS if careful else CAREFUL) / CARELESS if weigh else 1.0
        return [Judgment("r", order(scores), weight=weight)]

    return judge


CROWD = (0.5, 0.7, 1.0, 1.5, 4.0, 8.0)
"""The noise of six reviewers; the last two are nearly random."""


def weighed_crowd(groups: Sequence[Group]) -> list[Group]:
    """Add weights as a snapshot does, computed only from the reviewers' agreement."""
    statements = [
        Statement(group.group_id, ranking.reviewer, ranking.tiers)
        for group in groups
        for ranking in group.rankings
    ]
    weight = Weights(fit_reliabilities(statements))
    return [
        replace(group, rankings=[replace(r, weight=weight(r.reviewer)) for r in group.rankings])
        for group in groups
    ]


def two_of_a_crowd(_: int, truth: np.ndarray, rng: np.random.Generator) -> list[Judgment]:
    pair = rng.choice(len(CROWD), size=2, replace=False).tolist()
    return [Judgment(f"r{n}", order(perceived(truth, rng, CROWD[n]))) for n in pair]


SLIPS = 5


def slipping(_: int, truth: np.ndarray, rng: np.random.Generator) -> list[Judgment]:
    """Return the true order, reversed in one judgment of five."""
    tiers = order(truth)
    return [Judgment("r", tiers[::-1] if rng.random() < 1 / SLIPS else tiers)]


def with_a_line(_: int, truth: np.ndarray, rng: np.random.Generator) -> list[Judgment]:
    scores = perceived(truth, rng) - np.euler_gamma
    return [Judgment("r", order(scores), cut=int((scores > 0).sum()))]


def seeing_ties(_: int, truth: np.ndarray, rng: np.random.Generator) -> list[Judgment]:
    """Return a judgment that ties small differences."""
    scores = perceived(truth, rng)
    tied = abs(scores[0] - scores[1]) < 1.5
    return [Judgment("r", [[0, 1]] if tied else order(scores))]


# --- fitting --------------------------------------------------------------------------------------


def fit(
    world: World, groups: Sequence[Group], config: RewardConfig, ridge: float = RIDGE
) -> np.ndarray:
    """Return the weights (D + 1,) of the linear model, its constant last."""
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
    all_inputs = [loss_inputs(group, config) for group in groups]
    mean = relative_to(
        [float(inputs.signals["weight"]) for inputs in all_inputs if "weight" in inputs.signals]
    )
    for each in all_inputs:
        if "weight" in each.signals:
            each.signals["weight"] = each.signals["weight"] / mean
    nothing = np.zeros(0, dtype=np.int32)
    rows = [
        TokenGroup(nothing, [nothing] * len(group.responses), each.wins, each.signals)
        for group, each in zip(groups, all_inputs, strict=True)
    ]
    return batch_of(rows)


def with_constant(features: np.ndarray) -> np.ndarray:
    return np.concatenate([features, np.ones((*features.shape[:-1], 1))], axis=-1)
