"""Rankings that were probably entered wrongly, for a lead to look at. Pure numpy.

A mistake is a ranking that says the reverse of what its reviewer meant or should have meant: tiers
upside down, the wrong prompt in mind, a slip of the hand. As in confident learning (Northcutt et al.
2021, arXiv:1911.00068) each ranking is judged by a model that did not train on its prompt, and the
share of mistakes is estimated with them. The worst mistakes of the *model* are another list
(mistakes.py): held-out pairs, most of which are the model's own fault.

A model's scores are calibrated with the share π of mistakes in mind (as the noise of the annotator
in Natarajan et al. 2013, "Learning with Noisy Labels"): with m the score by which a ranking's better
responses lead, and T a temperature,

    P(ranking | meant) ∝ σ(m / T)        P(mistake | ranking) = π·σ(-m/T) / ((1-π)·σ(m/T) + π·σ(-m/T))

averaged over T and π by how well each pair of them explains all the rankings. A poor model would take
its own mistakes for the reviewers', so what the reviewers say of each other counts too:

- Two rankings agree with (1-π)² + π² at most, so their agreement bounds π.
- Each other ranking of the same responses is a vote, for or against, as good as rankings agree.
- Without others, a model that contradicts too many of the rankings it is sure about accuses nobody, nor
  does one that is no better than counting length.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from labeling.statistics.agreement import pair_outcomes
from labeling.statistics.intervals import wilson
from recipes.preferences.groups import Group, Judgment
from reward.evaluation.report import Scored, agreeing_share, highest_accuracy, order_tally

MOST = 200
"""Rankings that the report lists; how many more there are is said."""
SURE = 0.75
"""The probability from which on a ranking is listed: of four, one may be right after all."""
FEW_RANKINGS = 40
TEMPERATURES = np.geomspace(0.02, 50, 61)
LARGEST_SHARE, STEPS = 0.45, 46
EXPECTED = 9.0
"""Beta(1, EXPECTED) is the prior of the share of mistakes: one in ten."""
BELIEVED = 0.2
"""The largest share of mistakes that a model is believed where no two rankings can be compared."""
VOTES = 2
"""Others that count at most: what makes one of them slip may make the next slip too."""


@dataclass(frozen=True)
class Doubted:
    """A ranking, by its place in its group, and the score by which its better responses lead.

    `votes` are the others of its group that say the same on most of the pairs that both order, less
    those that say the reverse; `others` is how many there are of both.
    """

    item: Scored
    place: int
    lead: float
    votes: int = 0
    others: int = 0

    @property
    def judgment(self) -> Judgment:
        return self.item.group.rankings[self.place]


def folds_of(groups: Sequence[Group], folds: int, seed: int) -> np.ndarray:
    """A fold for each prompt, so that a model never scores a prompt whose rankings it has seen."""
    return np.random.default_rng([seed, folds]).permutation(len(groups)) % folds


def label_mistakes(
    parts: Sequence[Sequence[Scored]], *, checked: str, most: int = MOST
) -> dict[str, Any]:
    """Over parts that one model each has scored without having trained on them.

    `checked` says which rankings these are: all, or only the held-out ones.
    """
    doubts = [doubt for part in parts for doubt in on_one_scale(doubts_of(part))]
    rankings = len(doubts)
    none: dict[str, Any] = {
        "checked": checked, "rankings": rankings, "share": None, "likely": None, "rows": [],
    }  # fmt: skip
    if rankings < FEW_RANKINGS:
        why = f"{rankings} rankings are too few to tell mistakes from taste ({FEW_RANKINGS})."
        return {**none, "reason": why}
    votes, others = np.array([(doubt.votes, doubt.others) for doubt in doubts]).T
    agreement = agreement_of(votes, others)
    if agreement is None and only_counts([item for part in parts for item in part]):
        why = (
            "The model does no better than always preferring the longer response, so what it contradicts "
            "says little about the rankings."
        )
        return {**none, "reason": why}
    leads = np.array([doubt.lead for doubt in doubts])
    chances, mistaken = probabilities(leads, votes, agreement)
    if agreement is None and mistaken > BELIEVED:
        why = (
            f"The model contradicts {mistaken:.0%} of the rankings that it is sure about. Those are its own "
            "mistakes rather than the reviewers': train it on more, or have tasks ranked twice."
        )
        return {**none, "reason": why}
    listed = [pair for pair in zip(chances, doubts, strict=True) if pair[0] >= SURE]
    listed.sort(key=lambda each: (-each[0], each[1].item.group.group_id, each[1].place))
    return {
        **none,
        "share": mistaken,
        "likely": len(listed),
        "sure": SURE,
        "rows": [row(float(chance), doubt) for chance, doubt in listed[:most]],
        "reason": None,
    }


def only_counts(scored: Sequence[Scored]) -> bool:
    own = agreeing_share([order_tally(item.group, item.scores) for item in scored])
    longer = agreeing_share([order_tally(item.group, item.lengths) for item in scored])
    return own is not None and longer is not None and own <= longer


def doubts_of(scored: Sequence[Scored]) -> list[Doubted]:
    """Every ranking that orders two responses strictly. One that weighs nothing is looked at too."""
    return [
        Doubted(item, place, lead, int(said.sum()), int(np.abs(said).sum()))
        for item in scored
        for place, said in enumerate(votes_in(item.group))
        if (lead := lead_of(item.group.rankings[place], item)) is not None
    ]


def votes_in(group: Group) -> np.ndarray:
    """Whether two rankings say the same (1) or the reverse (-1) on most pairs that both order.  → (R, R)"""
    count = len(group.rankings)
    said = np.zeros((count, count), dtype=int)
    for a, b in combinations(range(count), 2):
        outcomes = pair_outcomes(group.rankings[a].tiers, group.rankings[b].tiers)
        said[a, b] = said[b, a] = np.sign(outcomes.astype(int).prod(axis=1).sum())
    return said


def agreement_of(votes: np.ndarray, others: np.ndarray) -> float | None:
    """How often another ranking says the same, at the lower end of its interval; None where few can."""
    if (others > 0).sum() < FEW_RANKINGS:
        return None
    agreeing = float((others + votes).sum() / 2 / others.sum())
    return max(0.5, wilson(agreeing, int((others > 0).sum()))[0])


def on_one_scale(doubts: Sequence[Doubted]) -> list[Doubted]:
    """Leads over their own size, as each model has a scale of its own; signs play no part in it."""
    size = float(np.sqrt(np.mean([doubt.lead**2 for doubt in doubts]))) if doubts else 0.0
    return [replace(doubt, lead=doubt.lead / size) for doubt in doubts] if size else list(doubts)


def lead_of(ranking: Judgment, item: Scored) -> float | None:
    """Σ (r_better - r_worse) over its strict pairs, times 2 / K: K responses are K - 1 comparisons,
    however many pairs they make. None where all are tied.
    """
    gaps = [gap for _, _, gap in pairs_of(ranking, item)]
    placed = sum(len(tier) for tier in ranking.tiers)
    return 2 / placed * sum(gaps) if gaps else None


def pairs_of(ranking: Judgment, item: Scored) -> list[tuple[int, int, float]]:
    """(better, worse, by how much the model agrees), response ids."""
    score = dict(zip(item.group.response_ids, item.scores.tolist(), strict=True))
    return [
        (better, worse, score[better] - score[worse])
        for upper, lower in combinations(ranking.tiers, 2)
        for better in upper
        for worse in lower
    ]


def probabilities(
    leads: np.ndarray, votes: np.ndarray | None = None, agreement: float | None = None
) -> tuple[np.ndarray, float]:
    """Of each ranking to be a mistake, and the share of mistakes among all.  (n,) → (n,), scalar

    `votes` (n,) count as far as other rankings agree, `agreement`; None where that is not known.
    """
    largest, backed = LARGEST_SHARE, np.zeros(len(leads))
    if agreement is not None and votes is not None:
        largest = min(largest, 1 - highest_accuracy(agreement))
        known = min(agreement, 1 - 1e-6)
        backed = np.clip(votes, -VOTES, VOTES) * np.log(known / (1 - known))
    shares = np.linspace(0.0, largest, STEPS)
    meant = leads[None, :] / TEMPERATURES[:, None]  # (T, n), log odds by the model alone
    right, wrong = -np.logaddexp(0, -meant), -np.logaddexp(0, meant)
    with np.errstate(divide="ignore"):  # where there are no mistakes their log is -inf
        log_shares, log_rest = np.log(shares), np.log1p(-shares)
    log_likelihood = np.stack(
        [
            np.logaddexp(rest + right + backed / 2, share + wrong - backed / 2).sum(axis=1)
            for share, rest in zip(log_shares, log_rest, strict=True)
        ]
    )  # (S, T)
    log_likelihood += (EXPECTED - 1) * log_rest[:, None]
    weights = np.exp(log_likelihood - log_likelihood.max())
    weights /= weights.sum()
    chances = np.zeros(len(leads))
    for odds, weight in zip(log_shares - log_rest, weights, strict=True):
        chances += weight @ np.exp(-np.logaddexp(0, meant + backed - odds))  # σ(odds - all that)
    return chances, float(weights.sum(axis=1) @ shares)


def row(chance: float, doubt: Doubted) -> dict[str, Any]:
    """Ids and scores, no text: the texts are in the data."""
    group, ranking = doubt.item.group, doubt.judgment
    pairs = pairs_of(ranking, doubt.item)
    known = group.meta.get("ranking_ids") or [None] * len(group.rankings)
    others = [len(g.tiers) > 1 for n, g in enumerate(group.rankings) if n != doubt.place]
    return {
        "group_id": group.group_id,
        "ranking_id": known[doubt.place],
        "reviewer": ranking.reviewer,
        "probability": chance,
        "tiers": ranking.tiers,
        "scores": {
            str(response): float(score)
            for response, score in zip(group.response_ids, doubt.item.scores, strict=True)
        },
        "pairs": len(pairs),
        "contradicted": sum(gap < 0 for _, _, gap in pairs),
        "other_rankings": sum(others),
    }
