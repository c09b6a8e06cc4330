"""The arrays of a group that its loss reads, computed from its judgments. Pure numpy.

Every group has `wins`, (K, K). Depending on the settings, it also has some of these `signals`:

weight   ()         weight of the group; 1 on average over the training data
ties     (K, K)     ties as a separate outcome, half on each side
graded   (K, K)     the part of the wins from graded judgments
margins  (K, K)     the gap in score that the strength of the graded judgments requires
above    (K,)       total weight of the reviewers who found a response acceptable
below    (K,)       total weight of the reviewers who found it unacceptable
criteria (C, K, K)  wins by the ratings of each criterion
draws    (N,)       weight of the group for each of several heads; 1 on average
items    ()         number of tokens or responses of the group, if the loss of a step is a mean over
                    these; by default it is a mean over groups

The methods in finetune/methods add their own: `best`, `desirable`, `undesirable` and `reference`.

Legend: K responses, C criteria, N heads.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

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
class LossInputs:
    """The arrays that the loss of one group reads."""

    wins: np.ndarray  # (K, K) float32
    signals: Signals


def plain_loss_inputs(group: Group) -> LossInputs:
    """Return the wins from the order alone. A tie is half a win for each response."""
    return LossInputs(wins(group).astype(np.float32), {})


Objection = Callable[[Group, LossInputs], str | None]
"""A function of a group with its readable responses, and its loss inputs.

It returns the reason to leave out the group, as a clause, or None.
"""


def why_no_comparison(group: Group, inputs: LossInputs) -> str | None:
    """Return the reason why a group compares no responses, as a clause, or None if it does."""
    if inputs.wins.any() or np.any(inputs.signals.get("ties", 0)):
        return None
    if len(group.responses) < 2:
        return "fewer than two readable responses"
    if wins(unweighted(group)).any():
        return "all its rankings weigh nothing"
    return "no two responses compared"


class Compared(Protocol):
    """The wins and the signals of a group."""

    @property
    def wins(self) -> np.ndarray: ...
    @property
    def signals(self) -> Signals: ...


def compared(group: Compared) -> list[bool]:
    """Return for each response whether it was compared, or put above or below the line."""
    evidence = group.wins + group.wins.T
    if "ties" in group.signals:
        evidence = evidence + group.signals["ties"]
    amounts = np.abs(evidence).sum(axis=1)
    for name in ("above", "below"):
        amounts = amounts + group.signals.get(name, 0)
    return [bool(amount) for amount in amounts]


def loss_inputs(
    group: Group, config: ObjectiveSettings, criteria: Sequence[str] = ()
) -> LossInputs:
    """Return the wins and signals for the given settings.

    `weight` is not yet divided by the mean over all groups.
    """
    if config.reviewer_weights == "ignore":
        group = unweighted(group)
    matrix = _wins(group, config)
    signals: Signals = {}
    if config.ties != "half":
        signals["ties"] = wins(group) - strict_wins(group)
    if config.strength == "margin":
        signals["graded"] = _smoothing(config)[0] * strict_wins(_graded(group))
        signals["margins"] = config.strength_scale * strengths(group)
    if config.cut_weight:
        signals["above"], signals["below"] = line(group)
    if config.reviewer_weights == "full":
        signals["weight"] = np.array(mean_weight(group))
    if criteria:
        signals["criteria"] = np.stack([wins(by_criterion(group, name)) for name in criteria])
    if config.heads > 1:
        signals["draws"] = bootstrap(group.group_id, config.heads, config.seed)
    return LossInputs(matrix.astype(np.float32), _as_float32(signals))


def _wins(group: Group, config: ObjectiveSettings) -> np.ndarray:
    """Return the wins with label smoothing. They include ties if a tie counts as half a win."""
    count = wins if config.ties == "half" else strict_wins
    matrix = count(group)
    if config.strength == "soft":
        matrix = _softened(group, config.strength_scale) + count(_ungraded(group))
    own, opposite = _smoothing(config)
    return own * matrix + opposite * matrix.T if opposite else matrix


def _smoothing(config: ObjectiveSettings) -> tuple[float, float]:
    """Return the weights of a win for the winner and for the loser, which add up to 1.

    With ε the share of wrong judgments, they are

        conservative   1 - ε and ε (Mitchell 2023)
        robust         (1 - ε) / (1 - 2ε) and -ε / (1 - 2ε) (Chowdhury et al. 2024,
                       arXiv:2403.00409, equation 12)
    """
    epsilon = config.label_smoothing
    scale = 1 - 2 * epsilon if config.smoothing == "robust" else 1.0
    opposite = -epsilon / scale if config.smoothing == "robust" else epsilon
    return (1 - epsilon) / scale, opposite


def _softened(group: Group, scale: float) -> np.ndarray:
    """Return graded wins as soft labels, (K, K).

    A graded win counts σ(scale · strength) as a win and the rest as a loss. The loss of such a pair
    has its minimum where the gap in score is scale · strength.
    """
    matrix = np.zeros((len(group.response_ids),) * 2)
    for ranking in _graded(group).rankings:
        confidence = 1 / (1 + np.exp(-scale * (ranking.strength or 0.0)))
        won = strict_wins(replace(group, rankings=[ranking]))  # (K, K)
        matrix += confidence * won + (1 - confidence) * won.T
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
    """Return the mean weight of the group's comparisons, or 0 if it has none.

    The losses are divided by the wins of the group, so that the size of a group does not matter.
    This division also cancels the weights of unreliable reviewers. The mean weight restores them.
    """
    comparisons = wins(unweighted(group)).sum()
    return float(wins(group).sum() / comparisons) if comparisons else 0.0


def relative_to(weights: Sequence[float]) -> float:
    """Return the number by which the weights must be divided, so that their mean is 1."""
    return float(np.mean(weights)) if len(weights) else 1.0


def tie_share(groups: Iterable[Group]) -> float:
    """Return the weight of all ties divided by the weight of all comparisons, or 0 without any."""
    counts = [(float(strict_wins(group).sum()), float(wins(group).sum())) for group in groups]
    strict, everything = map(sum, zip(*counts, strict=True)) if counts else (0.0, 0.0)
    return 1 - strict / everything if everything else 0.0


def bootstrap(group_id: str, heads: int, seed: int) -> np.ndarray:
    """Return the weights of a group in the Bayesian bootstrap (Rubin 1981), one per head, (N,).

    The weights have an exponential distribution. They depend only on the prompt and the seed, so they
    are the same in a resumed run and with data in another order. The heads share a backbone, as in
    Osband et al. 2016, arXiv:1602.04621.
    """
    digest = hashlib.sha256(f"{seed} {group_id}".encode()).digest()
    return np.random.default_rng(list(digest)).exponential(size=heads)


def _as_float32(signals: Signals) -> Signals:
    return {name: values.astype(np.float32) for name, values in signals.items()}
