"""What is known about a reward model, in numbers that can be checked by hand. Pure numpy.

Every figure says what it rests on: `value`, `interval` (95 %, [low, high]), how many pairs and
prompts, and, where a value is undefined, null with the `reason`. Pairs of one prompt are not
independent, so intervals come from resampling prompts, never pairs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from labeling.statistics.agreement import NO_STRICT, PAIRWISE, strict_counts
from labeling.statistics.intervals import FEW_CLUSTERS, ShareSums, share_interval
from recipes.preferences.groups import Group, by_criterion, strict_wins, wins
from reward.evaluation.figures import HEADLINE

CHANCES = 100
"""Draws of outcomes that show what calibration error comes of chance."""
FEW_PROMPTS = FEW_CLUSTERS
FEW_PAIRS = 20
Evidence = Callable[[Group], np.ndarray]
"""`wins` or `strict_wins`.  → (K, K)"""


@dataclass(frozen=True)
class Scored:
    """A held-out group with the model's score and the length in tokens of each response."""

    group: Group
    scores: np.ndarray  # (K,)
    lengths: np.ndarray  # (K,)
    heads: np.ndarray | None = None  # (K, N), whose mean the scores are
    criteria: np.ndarray | None = None  # (K, C), a score for each criterion


@dataclass(frozen=True)
class Tally:
    """Of one prompt: how much evidence there is, how much of it agrees, and about how many pairs."""

    agreeing: float
    evidence: float
    pairs: int


def quality(scored: Sequence[Scored], seed: int = 0, evidence: Evidence = wins) -> dict[str, Any]:
    """Everything the report says about held-out data. `evidence` is what calibration is judged by."""
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


def headline(report: dict[str, Any]) -> dict[str, Any]:
    """The figures of a report that a run's page shows first, for its result event."""
    return {
        name: {key: report[source][key] for key in ("value", "interval")}
        for name, source in HEADLINE.items()
    }


# --- accuracy, and how high it can be -------------------------------------------------------------


def accuracy(scored: Sequence[Scored], seed: int = 0) -> dict[str, Any]:
    """How often the model orders two responses as a reviewer strictly did.

    Each strict judgment of a pair counts with its reviewer's weight, as in `wins`; ties are no
    judgment; equal scores are right by half. This is the model against one reviewer at a time, as
    `reviewer_agreement` is one reviewer against another: a model at that mark is as good as a
    reviewer. It may do better, since it makes none of their slips, up to `accuracy_limit`.
    """
    return share([order_tally(item.group, item.scores) for item in scored], seed)


def order_tally(group: Group, values: np.ndarray) -> Tally:
    """The group's strict evidence, and how much of it `values` (K,) order the same way."""
    return tally(strict_wins(group), values)


def tally(strict: np.ndarray, values: np.ndarray) -> Tally:
    """How much of strict evidence (K, K) `values` (K,) order the same way; equal ones by half."""
    difference = values[:, None] - values[None, :]  # (K, K)
    right = (difference > 0) + 0.5 * (difference == 0)
    pairs = int(np.count_nonzero(np.triu(strict + strict.T)))
    return Tally(float((strict * right).sum()), float(strict.sum()), pairs)


def reviewer_agreement(groups: Sequence[Group]) -> dict[str, Any]:
    """Return the pairwise agreement of labeling.statistics.agreement over these groups.

    Rankings count with their weights, if they have any, as they do in `accuracy`.
    """
    found = pairwise([agreement_tally(group) for group in groups])
    weights = {ranking.weight for group in groups for ranking in group.rankings}
    weighted = ", rankings weighted" if len(weights) > 1 else ""
    return {**found, "name": PAIRWISE, "sample": f"held-out prompts{weighted}"}


def agreement_tally(group: Group) -> Tally:
    """Pairs are counted once for every two reviewers, with the mean of their weights.

    That is the weight they have when each in turn is the one to be predicted, as in `accuracy`. Two
    rankings by one reviewer, of different tasks of the prompt, are not compared.
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


def pairwise(tallies: Sequence[Tally]) -> dict[str, Any]:
    """Return the agreement of the tallies as the report has it, with the interval of the headline."""
    sums = ShareSums.of((tally.agreeing, tally.evidence) for tally in tallies)
    counts = {"pairs": sum(tally.pairs for tally in tallies), "prompts": sums.clusters}
    if sums.share is None:
        return {"value": None, "interval": None, "method": None, **counts, "reason": NO_STRICT}
    figure = {"value": sums.share, "interval": list(sums.interval), "method": "wilson"}
    return {**figure, **counts, "reason": None}


def criteria(scored: Sequence[Scored], names: Sequence[str], seed: int = 0) -> list[dict[str, Any]]:
    """How well each criterion's own score, and the overall score, order what reviewers rated by it.

    Beside it, how often two reviewers who each rated both responses differently agree.
    """
    none = "No two responses were rated differently."
    rows = []
    for place, name in enumerate(names):
        rated = [(by_criterion(item.group, name), item) for item in scored]
        own = [order_tally(g, s.criteria[:, place]) for g, s in rated if s.criteria is not None]
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
    """Agreeing evidence over all evidence, without an interval; None without evidence."""
    evidence = sum(tally.evidence for tally in tallies)
    return sum(tally.agreeing for tally in tallies) / evidence if evidence else None


def accuracy_limit(agreement: dict[str, Any]) -> dict[str, Any]:
    """About the most that any model can reach against single reviewers who agree this often."""
    found = {"value": agreement["value"], "interval": agreement["interval"]}
    if found["value"] is not None:
        found["value"] = highest_accuracy(found["value"])
        found["interval"] = [highest_accuracy(end) for end in found["interval"]]
    return {**found, "reason": agreement["reason"]}


def highest_accuracy(agreement: float) -> float:
    """What no model can exceed against single reviewers of whom two agree this often.

    With s the share of reviewers on a pair's majority side, two agree with s² + (1 - s)², so that
    E(2s - 1)² = 2·agreement - 1, and by Jensen E s ≤ (1 + √(2·agreement - 1)) / 2.
    """
    return (1 + max(0.0, 2 * agreement - 1) ** 0.5) / 2


# --- shares with an interval ----------------------------------------------------------------------


def share(
    tallies: Sequence[Tally],
    seed: int = 0,
    *,
    none: str = "No two responses were strictly ordered.",
) -> dict[str, Any]:
    """Agreeing evidence over all evidence, with an interval over prompts."""
    used = [tally for tally in tallies if tally.evidence > 0]
    agreeing = np.array([tally.agreeing for tally in used])
    evidence = np.array([tally.evidence for tally in used])
    counts = {"pairs": sum(tally.pairs for tally in used), "prompts": len(used)}
    if not used:
        return {"value": None, "interval": None, "method": None, **counts, "reason": none}
    value = float(agreeing.sum() / evidence.sum())
    interval, method = share_interval(agreeing, evidence, seed)
    return {"value": value, "interval": interval, "method": method, **counts, "reason": None}


# --- calibration ----------------------------------------------------------------------------------


def calibration(
    scored: Sequence[Scored], evidence: Evidence = wins, bins: int = 5
) -> dict[str, Any]:
    """How often the response that the model prefers won, beside how sure the model was.

    Each compared pair once, seen from the response with the higher score: the model's probability
    σ(r_i - r_j) lies in [½, 1]. With `wins` a tie is half a win; with `strict_wins` it is none, for
    models to whom it is an outcome of its own. ECE (Naeini et al. 2015) weighs bins by evidence.
    Few pairs are off by chance: `ece_by_chance` is what a model would show on them that is right about
    how sure it may be.
    """
    probabilities, won, weights = _confident_side(scored, evidence)
    edges, place = _binned(probabilities, bins)
    rows: list[dict[str, Any]] = []
    for number in range(bins):
        here = place == number
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
        none = {"ece": None, "ece_by_chance": None}
        return {**none, "bins": rows, "pairs": len(weights), "reason": reason}
    return {
        "ece": _error(probabilities, won, weights, bins),
        "ece_by_chance": _ece_by_chance(probabilities, weights, bins),
        "bins": rows,
        "pairs": len(weights),
        "reason": None,
    }


def ece(scored: Sequence[Scored], evidence: Evidence = wins, bins: int = 5) -> float | None:
    """The calibration error alone; None for few pairs."""
    found = _confident_side(scored, evidence)
    return None if len(found[0]) < FEW_PAIRS else _error(*found, bins)


def _binned(probabilities: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Edges (bins + 1,), and the bin of each pair."""
    edges = np.linspace(0.5, 1.0, bins + 1)
    return edges, np.clip(np.digitize(probabilities, edges) - 1, 0, bins - 1)


def _error(probabilities: np.ndarray, won: np.ndarray, weights: np.ndarray, bins: int) -> float:
    """Σ over bins of |what was predicted less what was won|, over all the evidence."""
    off = np.bincount(_binned(probabilities, bins)[1], weights=weights * probabilities - won)
    return float(np.abs(off).sum() / weights.sum())


def _ece_by_chance(probabilities: np.ndarray, weights: np.ndarray, bins: int) -> float:
    """The mean over outcomes drawn by the model's own probabilities, each judgment of each pair for
    itself. As those of one ranking hang together, chance does rather more than that.
    """
    rng = np.random.default_rng(0)
    judgments = np.maximum(1, np.round(weights)).astype(int)
    drawn = (rng.binomial(judgments, probabilities) / judgments for _ in range(CHANCES))
    return float(np.mean([_error(probabilities, weights * won, weights, bins) for won in drawn]))


def _confident_side(
    scored: Sequence[Scored], evidence_of: Evidence
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per compared pair: σ(|r_i - r_j|), the wins of the higher score, and all the evidence."""
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
) -> dict[str, Any]:
    """Spearman's correlation of a value of each response with its length in tokens.

    Both are taken relative to their prompt's mean, because scores of different prompts are not on
    one scale and long prompts get long answers.
    """
    used = [item for item in scored if len(item.scores) > 1]
    values = [value(item) - value(item).mean() for item in used]
    lengths = [item.lengths - item.lengths.mean() for item in used]
    responses = sum(len(item) for item in values)
    counts = {"responses": responses, "prompts": len(used)}
    found = spearman(np.concatenate(values), np.concatenate(lengths)) if used else None
    if found is None or responses < FEW_PROMPTS:
        why = "Too few responses, or all of one length or one value, to correlate."
        return {"value": None, "interval": None, **counts, "reason": why}
    interval = _spearman_interval(values, lengths, seed) if len(used) >= FEW_PROMPTS else None
    reason = None if interval else f"An interval needs {FEW_PROMPTS} prompts."
    return {"value": found, "interval": interval, **counts, "reason": reason}


def _spearman_interval(
    values: list[np.ndarray], lengths: list[np.ndarray], seed: int
) -> list[float] | None:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(300):
        drawn = rng.integers(0, len(values), len(values))
        rho = spearman(
            np.concatenate([values[d] for d in drawn]), np.concatenate([lengths[d] for d in drawn])
        )
        if rho is not None:
            found.append(rho)
    if len(found) < 200:
        return None
    low, high = np.quantile(found, [0.025, 0.975])
    return [float(low), float(high)]


def spearman(a: np.ndarray, b: np.ndarray) -> float | None:
    """Rank correlation, ties at their mean rank; None where one side does not vary."""
    if len(a) < 3:
        return None
    x, y = ranks(a), ranks(b)
    x, y = x - x.mean(), y - y.mean()
    scale = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / scale) if scale > 0 else None


def ranks(values: np.ndarray) -> np.ndarray:
    """1 for the smallest; equal values share the mean of their ranks."""
    _, place, counts = np.unique(np.round(values, 9), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[place]


def win_share(group: Group) -> np.ndarray:
    """The share of its comparisons that each response won, ties half; ½ where it was in none.  → (K,)"""
    matrix = wins(group)
    won, all_of_it = matrix.sum(axis=1), matrix.sum(axis=1) + matrix.sum(axis=0)
    return np.divide(won, all_of_it, out=np.full(len(matrix), 0.5), where=all_of_it > 0)


def pair_count(groups: Sequence[Group]) -> int:
    """Pairs of responses that somebody compared."""
    return sum(int(np.count_nonzero(np.triu(m + m.T))) for m in map(wins, groups))
