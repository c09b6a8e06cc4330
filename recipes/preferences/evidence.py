"""From a group's judgments to the numbers that its loss reads. Pure numpy.

`wins` every group has. The rest, `signals`, are there only if the settings ask for them:

weight   ()      how much the group counts; the training data's mean is 1
ties     (K, K)  ties, half on each side, where they are an outcome of their own
graded   (K, K)  the part of the wins that came with a strength …
margins  (K, K)  … and the gap in score that it asks for
above    (K,)    the weight of reviewers who found a response acceptable …
below    (K,)    … and who did not
criteria (C, K, K)  wins by the ratings of each criterion
draws    (N,)    how much the group counts for each of several heads; 1 in the mean
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from recipes.preferences.groups import (
    Group,
    Judgment,
    by_criterion,
    line,
    strengths,
    strict_wins,
    wins,
)
from recipes.training_settings import ObjectiveSettings

Signals = dict[str, np.ndarray]


@dataclass(frozen=True)
class Evidence:
    wins: np.ndarray  # (K, K) float32
    signals: Signals


def plain_evidence(group: Group) -> Evidence:
    """The order alone, a tie being half a win each way."""
    return Evidence(wins(group).astype(np.float32), {})


def evidence(group: Group, config: ObjectiveSettings, criteria: Sequence[str] = ()) -> Evidence:
    """What the settings make of a group's judgments. `weight` is not yet relative to the others'."""
    if config.reviewer_weights == "ignore":
        group = unweighted(group)
    matrix = _wins(group, config)
    signals: Signals = {}
    if config.ties != "half":
        signals["ties"] = wins(group) - strict_wins(group)
    if config.strength == "margin":
        signals["graded"] = (1 - config.label_smoothing) * strict_wins(_graded(group))
        signals["margins"] = config.strength_scale * strengths(group)
    if config.cut_weight:
        signals["above"], signals["below"] = line(group)
    if config.reviewer_weights == "full":
        signals["weight"] = np.array(mean_weight(group))
    if criteria:
        signals["criteria"] = np.stack([wins(by_criterion(group, name)) for name in criteria])
    if config.heads > 1:
        signals["draws"] = bootstrap(group.group_id, config.heads, config.seed)
    return Evidence(matrix.astype(np.float32), _as_float32(signals))


def _wins(group: Group, config: ObjectiveSettings) -> np.ndarray:
    """Ties in it only if they are half a win; smoothing gives ε of each win to the other side."""
    count = wins if config.ties == "half" else strict_wins
    matrix = count(group)
    if config.strength == "soft":
        matrix = _softened(group, config.strength_scale) + count(_ungraded(group))
    epsilon = config.label_smoothing
    return (1 - epsilon) * matrix + epsilon * matrix.T if epsilon else matrix


def _softened(group: Group, scale: float) -> np.ndarray:
    """A graded win counts σ(scale · strength) for its side, and the rest for the other.

    The loss of such a pair is least where the gap in score is scale · strength.
    """
    matrix = np.zeros((len(group.response_ids),) * 2)
    for ranking in _graded(group).rankings:
        sure = 1 / (1 + np.exp(-scale * (ranking.strength or 0.0)))
        won = strict_wins(replace(group, rankings=[ranking]))
        matrix += sure * won + (1 - sure) * won.T
    return matrix


def _graded(group: Group) -> Group:
    return replace(group, rankings=[r for r in group.rankings if r.strength is not None])


def _ungraded(group: Group) -> Group:
    return replace(group, rankings=[r for r in group.rankings if r.strength is None])


def unweighted(group: Group) -> Group:
    return replace(group, rankings=[_unweighted(ranking) for ranking in group.rankings])


def _unweighted(ranking: Judgment) -> Judgment:
    return replace(ranking, weight=1.0)


def mean_weight(group: Group) -> float:
    """Of the group's comparisons; 0 where there is none.

    The losses divide by the evidence of a group, so that its size does not matter; this gives back
    what the division takes from groups whose reviewers are doubted.
    """
    comparisons = wins(unweighted(group)).sum()
    return float(wins(group).sum() / comparisons) if comparisons else 0.0


def relative_to(weights: Sequence[float]) -> float:
    """What a weight is divided by, so that doubting everybody alike changes nothing."""
    return float(np.mean(weights)) if len(weights) else 1.0


def tie_share(groups: Iterable[Group]) -> float:
    """Ties among all comparisons of the groups, by weight; 0 without any."""
    counts = [(float(strict_wins(group).sum()), float(wins(group).sum())) for group in groups]
    strict, everything = map(sum, zip(*counts, strict=True)) if counts else (0.0, 0.0)
    return 1 - strict / everything if everything else 0.0


def bootstrap(group_id: str, heads: int, seed: int) -> np.ndarray:
    """Weights of the Bayesian bootstrap (Rubin 1981): exponential, one for each head.  → (N,)

    They follow from the prompt and the seed alone, so that neither the order of the data nor a
    resumed run changes them. Heads on a shared backbone as in Osband et al. 2016, arXiv:1602.04621.
    """
    digest = hashlib.sha256(f"{seed} {group_id}".encode()).digest()
    return np.random.default_rng(list(digest)).exponential(size=heads)


def _as_float32(signals: Signals) -> Signals:
    return {name: values.astype(np.float32) for name, values in signals.items()}
