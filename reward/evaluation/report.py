"""Figures of a model on held-out prompts. Each is simple enough to check by hand. Pure numpy.

Each figure has a `value`, a 95% `interval`, and the numbers of pairs and prompts that it is computed
from. If a value is not defined, it is null and there is a `reason`. The pairs of a prompt are not
independent, so the intervals are computed by resampling prompts, not pairs.
reward/evaluation/schema.py declares the keys.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from labeling.statistics.agreement import NO_STRICT, PAIRWISE, strict_counts
from labeling.statistics.intervals import FEW_CLUSTERS, ShareSums, share_interval
from recipes.preferences.groups import Group, by_criterion, strict_wins, wins
from recipes.rundir import RunDir
from reward.evaluation.schema import (
    Agreement,
    Bin,
    Calibration,
    Correlation,
    CriterionFigures,
    Figure,
    Quality,
    Share,
    SplitCounts,
)

CHANCES = 100
"""The number of random draws that are used to estimate the calibration error by chance."""
FEW_PROMPTS = FEW_CLUSTERS
FEW_PAIRS = 20
Evidence = Callable[[Group], np.ndarray]
"""A function that returns the evidence of a group, (K, K): `wins` or `strict_wins`."""


@dataclass(frozen=True)
class Scored:
    """A held-out group, with the score and the length in tokens of each response."""

    group: Group
    scores: np.ndarray  # (K,)
    lengths: np.ndarray  # (K,)
    heads: np.ndarray | None = None  # (K, N); the scores are their mean
    criteria: np.ndarray | None = None  # (K, C), a score for each criterion


@dataclass(frozen=True)
class Tally:
    """The evidence of a prompt: the part that agrees, all of it, and the number of pairs."""

    agreeing: float
    evidence: float
    pairs: int


def quality(scored: Sequence[Scored], seed: int = 0, evidence: Evidence = wins) -> Quality:
    """Return the figures of the report on held-out prompts.

    The calibration is measured against `evidence`.
    """
    groups = [item.group for item in scored]
    agreement = reviewer_agreement(groups)
    return {
        "accuracy": accuracy(scored, seed),
        "reviewer_agreement": agreement,
        "accuracy_limit": accuracy_limit(agreement),
        "longer_is_better": share([order_tally(s.group, s.lengths) for s in scored], seed),
        "calibration": calibration(scored, evidence),
        "length": {
            "score_spearman": length_correlation(scored, lambda s: s.scores, seed),
            "label_spearman": length_correlation(scored, lambda s: win_share(s.group), seed),
        },
    }


# --- accuracy and its limit -----------------------------------------------------------------------


def accuracy(scored: Sequence[Scored], seed: int = 0) -> Share:
    """Return the share of strict judgments of pairs that the model's scores agree with.

    Each strict judgment counts with the weight of its reviewer, as in `wins`. Ties do not count, and
    equal scores are half right. The accuracy compares the model with one reviewer at a time, like
    `reviewer_agreement` compares two reviewers. So a model whose accuracy equals the reviewer
    agreement is as good as a reviewer. A model can be better, up to `accuracy_limit`, because it does
    not make the slips of a reviewer.
    """
    return share([order_tally(item.group, item.scores) for item in scored], seed)


def order_tally(group: Group, values: np.ndarray) -> Tally:
    """Return how much of the strict evidence of the group agrees with the order of `values`, (K,)."""
    return tally(strict_wins(group), values)


def tally(strict: np.ndarray, values: np.ndarray) -> Tally:
    """Return how much of the strict evidence, (K, K), agrees with the order of `values`, (K,).

    Equal values count half.
    """
    difference = values[:, None] - values[None, :]  # (K, K)
    right = (difference > 0) + 0.5 * (difference == 0)
    pairs = int(np.count_nonzero(np.triu(strict + strict.T)))
    return Tally(float((strict * right).sum()), float(strict.sum()), pairs)


def reviewer_agreement(groups: Sequence[Group]) -> Agreement:
    """Return the pairwise agreement of these groups, as defined in labeling.statistics.agreement.

    Rankings count with their weights, as in `accuracy`.
    """
    share = pairwise([agreement_tally(group) for group in groups])
    weights = {ranking.weight for group in groups for ranking in group.rankings}
    weighted = ", rankings weighted" if len(weights) > 1 else ""
    return {**share, "name": PAIRWISE, "sample": f"held-out prompts{weighted}"}


def emit_agreement(run_dir: RunDir, groups: Sequence[Group]) -> None:
    """Write an event with the reviewers' agreement on held-out groups, for the page of the run.

    It is a constant, and the page shows it next to the accuracy of the model.
    """
    value = reviewer_agreement(groups)["value"]
    run_dir.whole.emit("data", pairwise_agreement=value)


def agreement_tally(group: Group) -> Tally:
    """Return the agreement of any two reviewers on the pairs that both order strictly.

    A pair has the mean of the weights of the two reviewers. This corresponds to `accuracy`, in which
    the model predicts each of them. Two rankings of a prompt by the same reviewer, in different
    tasks, are not compared.
    """
    same = evidence = 0.0
    count = 0
    for a, b in combinations(group.rankings, 2):
        if a.reviewer == b.reviewer:
            continue
        agreeing, both = strict_counts(a.tiers, b.tiers)
        weight = (a.weight + b.weight) / 2
        same += weight * agreeing
        evidence += weight * both
        count += both
    return Tally(same, evidence, count)


def pairwise(tallies: Sequence[Tally]) -> Share:
    """Return the agreement of the tallies, with Wilson's interval, as on all pages."""
    sums = ShareSums.of((tally.agreeing, tally.evidence) for tally in tallies)
    pairs = sum(tally.pairs for tally in tallies)
    if sums.share is None:
        return _no_share(NO_STRICT, pairs=pairs, prompts=sums.clusters)
    return {
        "value": sums.share,
        "interval": list(sums.interval),
        "method": "wilson",
        "pairs": pairs,
        "prompts": sums.clusters,
        "reason": None,
    }


def criteria(
    scored: Sequence[Scored], names: Sequence[str], seed: int = 0
) -> list[CriterionFigures]:
    """Return two accuracies for each criterion: that of its own score, and that of the overall score.

    Both are measured on the ratings by the criterion. The agreement is that of two reviewers who both
    rated the responses of a pair differently.
    """
    none = "No two responses were rated differently."
    rows: list[CriterionFigures] = []
    for index, name in enumerate(names):
        rated = [(by_criterion(item.group, name), item) for item in scored]
        own = [order_tally(g, s.criteria[:, index]) for g, s in rated if s.criteria is not None]
        overall = [order_tally(group, item.scores) for group, item in rated]
        rows.append(
            {
                "criterion": name,
                "accuracy": share(own, seed, none=none),
                "overall_accuracy": share(overall, seed, none=none),
                "reviewer_agreement": reviewer_agreement([group for group, _ in rated]),
            }
        )
    return rows


def agreeing_share(tallies: Sequence[Tally]) -> float | None:
    """Return the share of the evidence that agrees, without an interval, or None without evidence."""
    evidence = sum(tally.evidence for tally in tallies)
    return sum(tally.agreeing for tally in tallies) / evidence if evidence else None


def accuracy_limit(agreement: Agreement) -> Figure:
    """Return about the highest accuracy that any model can reach, by the reviewers' agreement."""
    value, interval = agreement["value"], agreement["interval"]
    return {
        "value": None if value is None else highest_accuracy(value),
        "interval": interval and [highest_accuracy(end) for end in interval],
        "reason": agreement["reason"],
    }


def highest_accuracy(agreement: float) -> float:
    """Return an upper bound on the accuracy of any model, from the agreement of two reviewers.

    If a share s of the reviewers is on the majority side of a pair, two of them agree with
    probability s² + (1 - s)². Hence E(2s - 1)² = 2·agreement - 1, and by Jensen's inequality
    E s ≤ (1 + √(2·agreement - 1)) / 2.
    """
    return (1 + max(0.0, 2 * agreement - 1) ** 0.5) / 2


# --- shares with an interval ----------------------------------------------------------------------


def share(
    tallies: Sequence[Tally],
    seed: int = 0,
    *,
    none: str = "No two responses were strictly ordered.",
) -> Share:
    """Return the share of the evidence that agrees, with an interval over prompts."""
    used = [tally for tally in tallies if tally.evidence > 0]
    agreeing = np.array([tally.agreeing for tally in used])
    evidence = np.array([tally.evidence for tally in used])
    if not used:
        return _no_share(none)
    interval, method = share_interval(agreeing, evidence, seed)
    return {
        "value": float(agreeing.sum() / evidence.sum()),
        "interval": interval,
        "method": method,
        "pairs": sum(tally.pairs for tally in used),
        "prompts": len(used),
        "reason": None,
    }


def _no_share(reason: str, *, pairs: int = 0, prompts: int = 0) -> Share:
    return {
        "value": None,
        "interval": None,
        "method": None,
        "pairs": pairs,
        "prompts": prompts,
        "reason": reason,
    }


# --- calibration ----------------------------------------------------------------------------------


def calibration(scored: Sequence[Scored], evidence: Evidence = wins, bins: int = 5) -> Calibration:
    """Return the calibration error, and the model's probabilities and the shares of wins in bins.

    Each compared pair counts once, from the side of the response with the higher score, so the
    probability σ(r_i - r_j) is in [½, 1]. With `wins`, a tie is half a win. With `strict_wins`, which
    is for models with ties as a third outcome, a tie does not count. The expected calibration error
    (Naeini et al. 2015) weights the bins by their evidence. `ece_by_chance` is the error that is
    expected for a perfectly calibrated model with this number of pairs.
    """
    probabilities, won, weights = _confident_side(scored, evidence)
    edges, indices = _binned(probabilities, bins)
    rows: list[Bin] = []
    for number in range(bins):
        here = indices == number
        weight = float(weights[here].sum())
        rows.append(
            {
                "low": float(edges[number]),
                "high": float(edges[number + 1]),
                "pairs": int(here.sum()),
                "evidence": weight,
                "predicted": float(weights[here] @ probabilities[here] / weight)
                if weight
                else None,
                "observed": float(won[here].sum() / weight) if weight else None,
            }
        )
    if len(weights) < FEW_PAIRS:
        reason = f"{len(weights)} compared pairs are too few to judge calibration ({FEW_PAIRS})."
        return {
            "ece": None,
            "ece_by_chance": None,
            "bins": rows,
            "pairs": len(weights),
            "reason": reason,
        }
    return {
        "ece": _error(probabilities, won, weights, bins),
        "ece_by_chance": _ece_by_chance(probabilities, weights, bins),
        "bins": rows,
        "pairs": len(weights),
        "reason": None,
    }


def ece(scored: Sequence[Scored], evidence: Evidence = wins, bins: int = 5) -> float | None:
    """Return only the calibration error, or None if there are too few pairs."""
    columns = _confident_side(scored, evidence)
    return None if len(columns[0]) < FEW_PAIRS else _error(*columns, bins)


def _binned(probabilities: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the edges of the bins, (bins + 1,), and the index of the bin of each pair."""
    edges = np.linspace(0.5, 1.0, bins + 1)
    return edges, np.clip(np.digitize(probabilities, edges) - 1, 0, bins - 1)


def _error(probabilities: np.ndarray, won: np.ndarray, weights: np.ndarray, bins: int) -> float:
    """Return Σ over the bins of |predicted - observed wins|, divided by all evidence."""
    off = np.bincount(_binned(probabilities, bins)[1], weights=weights * probabilities - won)
    return float(np.abs(off).sum() / weights.sum())


def _ece_by_chance(probabilities: np.ndarray, weights: np.ndarray, bins: int) -> float:
    """Return the mean calibration error if outcomes are drawn by the model's own probabilities.

    The judgments are drawn independently. In reality, the judgments of a ranking depend on each other,
    so the effect of chance is somewhat larger.
    """
    rng = np.random.default_rng(0)
    judgments = np.maximum(1, np.round(weights)).astype(int)
    drawn = (rng.binomial(judgments, probabilities) / judgments for _ in range(CHANCES))
    return float(np.mean([_error(probabilities, weights * won, weights, bins) for won in drawn]))


def _confident_side(
    scored: Sequence[Scored], evidence_of: Evidence
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return three arrays with a value per compared pair.

    They are σ(|r_i - r_j|), the wins of the response with the higher score, and the evidence.
    """
    probabilities, won, weights = [], [], []
    for item in scored:
        matrix = evidence_of(item.group)  # (K, K)
        for i, j in combinations(range(len(matrix)), 2):
            evidence = matrix[i, j] + matrix[j, i]
            if evidence > 0:
                gap = float(item.scores[i] - item.scores[j])
                probabilities.append(1 / (1 + np.exp(-abs(gap))))
                won.append(matrix[i, j] if gap > 0 else matrix[j, i] if gap < 0 else evidence / 2)
                weights.append(evidence)
    return np.array(probabilities), np.array(won), np.array(weights)


# --- length ---------------------------------------------------------------------------------------


def length_correlation(
    scored: Sequence[Scored], value: Callable[[Scored], np.ndarray], seed: int
) -> Correlation:
    """Return Spearman's correlation of a value of each response with its length in tokens.

    The mean of the prompt is subtracted from both, because the scores of different prompts are not on
    the same scale, and long prompts get long answers.
    """
    used = [item for item in scored if len(item.scores) > 1]
    values = [value(item) - value(item).mean() for item in used]
    lengths = [item.lengths - item.lengths.mean() for item in used]
    responses = sum(len(item) for item in values)
    rho = spearman(np.concatenate(values), np.concatenate(lengths)) if used else None
    interval = None
    if rho is None or responses < FEW_PROMPTS:
        rho = None
        reason: str | None = "Too few responses, or all of the same length or value, to correlate."
    else:
        if len(used) >= FEW_PROMPTS:
            interval = _spearman_interval(values, lengths, seed)
        reason = None if interval else f"An interval needs {FEW_PROMPTS} prompts."
    return {
        "value": rho,
        "interval": interval,
        "responses": responses,
        "prompts": len(used),
        "reason": reason,
    }


def _spearman_interval(
    values: list[np.ndarray], lengths: list[np.ndarray], seed: int
) -> list[float] | None:
    rng = np.random.default_rng(seed)
    replicates = []
    for _ in range(300):
        drawn = rng.integers(0, len(values), len(values))
        rho = spearman(
            np.concatenate([values[d] for d in drawn]), np.concatenate([lengths[d] for d in drawn])
        )
        if rho is not None:
            replicates.append(rho)
    if len(replicates) < 200:
        return None
    low, high = np.quantile(replicates, [0.025, 0.975])
    return [float(low), float(high)]


def spearman(a: np.ndarray, b: np.ndarray) -> float | None:
    """Return the rank correlation, or None if one of the two does not vary.

    Equal values have the mean of their ranks.
    """
    if len(a) < 3:
        return None
    x, y = ranks(a), ranks(b)
    x, y = x - x.mean(), y - y.mean()
    scale = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / scale) if scale > 0 else None


def ranks(values: np.ndarray) -> np.ndarray:
    """Return the ranks of the values, from 1 for the smallest. Equal values have their mean rank."""
    _, indices, counts = np.unique(np.round(values, 9), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[indices]


def win_share(group: Group) -> np.ndarray:
    """Return the share of its comparisons that each response won, (K,).

    A tie is half a win. The share is ½ for a response without comparisons.
    """
    matrix = wins(group)
    won, compared = matrix.sum(axis=1), matrix.sum(axis=1) + matrix.sum(axis=0)
    return np.divide(won, compared, out=np.full(len(matrix), 0.5), where=compared > 0)


def split_counts(splits: Mapping[str, Sequence[Group]]) -> dict[str, SplitCounts]:
    """Return the numbers of prompts, responses, compared pairs and rankings in each split."""
    return {
        split: {
            "prompts": len(groups),
            "responses": sum(len(group.responses) for group in groups),
            "pairs": pair_count(groups),
            "rankings": sum(len(group.rankings) for group in groups),
        }
        for split, groups in splits.items()
    }


def pair_count(groups: Sequence[Group]) -> int:
    """Return the number of pairs of responses that a reviewer compared."""
    return sum(int(np.count_nonzero(np.triu(m + m.T))) for m in map(wins, groups))
