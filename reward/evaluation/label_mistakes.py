"""Label mistakes, which are rankings that were probably entered by mistake. Pure numpy.

A label mistake is a ranking that contradicts the intention of its reviewer, who reversed the order,
confused two prompts or made a slip. As in confident learning (Northcutt et al. 2021,
arXiv:1911.00068), each ranking is judged by a model that was not trained on its prompt, and the share
of label mistakes is estimated together with their probabilities. A lead checks the list. The mistakes
of the *model* are a different list (confident_mistakes.py).

The scores of the model are calibrated jointly with the share π of label mistakes, which is the
annotator noise of Natarajan et al. 2013, "Learning with Noisy Labels". Let m be the score by which the
better responses of a ranking lead, and T a temperature. Then

    P(ranking | meant) ∝ σ(m / T)        P(mistake | ranking) = π·σ(-m/T) / ((1-π)·σ(m/T) + π·σ(-m/T))

This is averaged over T and π, with the likelihood of all rankings under (T, π) as weights. A poor
model would attribute its own errors to reviewers. So the other rankings of a prompt are used as well:

- Two rankings agree with a probability of at most (1-π)² + π², so their agreement bounds π.
- Each other ranking of the same responses is a vote for or against the ranking. The weight of a vote
  depends on how often rankings agree.
- If there are no other rankings, the list is empty in two cases: the model contradicts too many
  rankings about which it is confident, or it is not better than preferring the longer response.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from labeling.statistics.agreement import pair_outcomes
from labeling.statistics.intervals import wilson
from recipes.preferences.groups import Group, Judgment
from reward.evaluation.report import Scored, agreeing_share, highest_accuracy, order_tally
from reward.evaluation.schema import DoubtfulRanking, LabelMistakes

MAX_ROWS = 200
"""The maximum number of rankings in the list of the report. The report also counts the others."""
SURE = 0.75
"""The minimum probability of a ranking in the list.

At this probability, about one ranking in four is not a label mistake.
"""
FEW_RANKINGS = 40
TEMPERATURES = np.geomspace(0.02, 50, 61)
LARGEST_SHARE, STEPS = 0.45, 46
EXPECTED = 9.0
"""Beta(1, EXPECTED) is the prior of the share of label mistakes. Its mean is one in ten."""
BELIEVED = 0.2
"""The largest share of label mistakes that is believed if no two rankings can be compared."""
VOTES = 2
"""The maximum number of votes that count. Other rankings can be wrong for the same reason."""


@dataclass(frozen=True)
class Doubt:
    """A ranking that may be a label mistake, and the evidence about it.

    The ranking is given by its index in its group, and `lead` is the score by which its better
    responses lead. `votes` is the number of other rankings that agree with it on most of their common
    pairs, minus the number of those that do not. `others` is the sum of the two numbers.
    """

    item: Scored
    index: int
    lead: float
    votes: int = 0
    others: int = 0

    @property
    def judgment(self) -> Judgment:
        return self.item.group.rankings[self.index]


def folds_of(groups: Sequence[Group], folds: int, seed: int) -> np.ndarray:
    """Return a random fold for each prompt, (prompts,)."""
    return np.random.default_rng([seed, folds]).permutation(len(groups)) % folds


def label_mistakes(
    parts: Sequence[Sequence[Scored]], *, checked: str, most: int = MAX_ROWS
) -> LabelMistakes:
    """Return the label mistakes, most probable first.

    Each part was scored by a model that was not trained on it. `checked` says which rankings were
    checked: "all" or "held-out".
    """
    doubts = [doubt for part in parts for doubt in on_one_scale(doubts_of(part))]
    rankings = len(doubts)
    if rankings < FEW_RANKINGS:
        reason = (
            f"{rankings} rankings are too few to distinguish mistakes from taste "
            f"({FEW_RANKINGS} needed)."
        )
        return _not_estimated(checked, rankings, reason)
    votes, others = np.array([(doubt.votes, doubt.others) for doubt in doubts]).T
    agreement = agreement_of(votes, others)
    if agreement is None and only_counts_length([item for part in parts for item in part]):
        reason = (
            "The model does no better than always preferring the longer response, so its scores are "
            "weak evidence about the rankings."
        )
        return _not_estimated(checked, rankings, reason)
    leads = np.array([doubt.lead for doubt in doubts])
    chances, mistaken = probabilities(leads, votes, agreement)
    if agreement is None and mistaken > BELIEVED:
        reason = (
            f"The model contradicts {mistaken:.0%} of the rankings it is confident about. Most of these "
            "are probably mistakes of the model: train it on more rankings, or have tasks ranked twice."
        )
        return _not_estimated(checked, rankings, reason)
    listed = [pair for pair in zip(chances, doubts, strict=True) if pair[0] >= SURE]
    listed.sort(key=lambda each: (-each[0], each[1].item.group.group_id, each[1].index))
    return {
        "checked": checked,
        "rankings": rankings,
        "share": mistaken,
        "likely": len(listed),
        "sure": SURE,
        "rows": [row(float(chance), doubt) for chance, doubt in listed[:most]],
        "reason": None,
    }


def _not_estimated(checked: str, rankings: int, reason: str) -> LabelMistakes:
    return {
        "checked": checked,
        "rankings": rankings,
        "share": None,
        "likely": None,
        "rows": [],
        "reason": reason,
    }


def only_counts_length(scored: Sequence[Scored]) -> bool:
    """Return whether always preferring the longer response is as accurate as the scores."""
    own = agreeing_share([order_tally(item.group, item.scores) for item in scored])
    longer = agreeing_share([order_tally(item.group, item.lengths) for item in scored])
    return own is not None and longer is not None and own <= longer


def doubts_of(scored: Sequence[Scored]) -> list[Doubt]:
    """Return all rankings that order two responses strictly, even if their weight is 0."""
    return [
        Doubt(item, index, lead, int(votes.sum()), int(np.abs(votes).sum()))
        for item in scored
        for index, votes in enumerate(votes_in(item.group))
        if (lead := lead_of(item.group.rankings[index], item)) is not None
    ]


def votes_in(group: Group) -> np.ndarray:
    """Return the vote of each ranking about each other, (R, R).

    It is 1 if the two rankings agree on most of their common pairs, and otherwise -1.
    """
    count = len(group.rankings)
    votes = np.zeros((count, count), dtype=int)
    for a, b in combinations(range(count), 2):
        outcomes = pair_outcomes(group.rankings[a].tiers, group.rankings[b].tiers)
        votes[a, b] = votes[b, a] = np.sign(outcomes.astype(int).prod(axis=1).sum())
    return votes


def agreement_of(votes: np.ndarray, others: np.ndarray) -> float | None:
    """Return how often other rankings agree: the lower end of the interval, or None for few votes."""
    if (others > 0).sum() < FEW_RANKINGS:
        return None
    agreeing = float((others + votes).sum() / 2 / others.sum())
    return max(0.5, wilson(agreeing, int((others > 0).sum()))[0])


def on_one_scale(doubts: Sequence[Doubt]) -> list[Doubt]:
    """Divide the leads by their root mean square, because the scales of models differ."""
    size = float(np.sqrt(np.mean([doubt.lead**2 for doubt in doubts]))) if doubts else 0.0
    return [replace(doubt, lead=doubt.lead / size) for doubt in doubts] if size else list(doubts)


def lead_of(ranking: Judgment, item: Scored) -> float | None:
    """Return 2 / K · Σ (r_better - r_worse) over the strict pairs of a ranking, or None without any.

    K responses have K(K - 1) / 2 pairs, but only K - 1 independent comparisons. 2 / K is the ratio of
    the two numbers.
    """
    gaps = [gap for _, _, gap in pairs_of(ranking, item)]
    placed = sum(len(tier) for tier in ranking.tiers)
    return 2 / placed * sum(gaps) if gaps else None


def pairs_of(ranking: Judgment, item: Scored) -> list[tuple[int, int, float]]:
    """Return the strict pairs of a ranking as (better, worse, difference of their scores), by id."""
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
    """Return the probability that each ranking is a label mistake, (n,), and the share of mistakes.

    `leads` and `votes` are (n,). `agreement` is how often other rankings agree. If it is None, the
    votes do not count.
    """
    largest, backed = LARGEST_SHARE, np.zeros(len(leads))
    if agreement is not None and votes is not None:
        largest = min(largest, 1 - highest_accuracy(agreement))
        reliability = min(agreement, 1 - 1e-6)
        backed = np.clip(votes, -VOTES, VOTES) * np.log(reliability / (1 - reliability))
    shares = np.linspace(0.0, largest, STEPS)
    log_odds = leads[None, :] / TEMPERATURES[:, None]  # (T, n), log odds by the model alone
    right, wrong = -np.logaddexp(0, -log_odds), -np.logaddexp(0, log_odds)
    with np.errstate(divide="ignore"):  # the log of a share of 0 is -inf
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
        chances += weight @ np.exp(
            -np.logaddexp(0, log_odds + backed - odds)
        )  # σ(odds - log_odds - backed)
    return chances, float(weights.sum(axis=1) @ shares)


def row(chance: float, doubt: Doubt) -> DoubtfulRanking:
    """Return a row of the report. It has ids and scores but no texts, because the data has them."""
    group, ranking = doubt.item.group, doubt.judgment
    pairs = pairs_of(ranking, doubt.item)
    ranking_ids = group.meta.get("ranking_ids") or [None] * len(group.rankings)
    others = [len(g.tiers) > 1 for n, g in enumerate(group.rankings) if n != doubt.index]
    return {
        "group_id": group.group_id,
        "ranking_id": ranking_ids[doubt.index],
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
