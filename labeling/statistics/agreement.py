"""Agreement between reviewers, with intervals. Does not import Django, because recipes use it too.

A ranking judges the first response of each pair as better, worse or tied. Two rankings of a task are
compared on the pairs that both contain. The judgments on one task are dependent, so intervals resample
whole tasks (or the given `clusters`), never single pairs.

There are four measures:

- `pairwise`, the headline figure on every page and in every report: the share of pairs that two reviewers
  order the same way, among the pairs that both of them order. Pairs that either of them ties are left out
  (setup S2 of Zheng et al., "Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena", NeurIPS 2023).
- `exact`, which includes ties: the share of pairs on which both judgments are equal (setup S1).
- `tau`: the mean of Kendall's tau-b over every two rankings of the same task.
- `alpha`: Krippendorff's alpha, which measures agreement beyond chance. A unit is a pair of responses,
  and the values are −1, 0 and +1.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from formatting.numbers import percent, percent_range
from labeling.statistics.alpha import NOMINAL, ORDINAL, alpha_of, coincidences, either_way
from labeling.statistics.bootstrap import RESAMPLES, Bootstrap, by_cluster, number_keys, ratio
from labeling.statistics.intervals import ShareSums
from labeling.statistics.pairs import Judgment, Pairs, Tiers, expand
from labeling.statistics.reviewer_pairs import ReviewerPairs, reviewer_pairs

PAIRWISE = "Pairwise agreement"
"""The name of the headline figure on every page and in every report."""

Outcomes = np.ndarray  # (pairs, 2) int8; +1: the first of the pair is better, 0: tied, −1: worse

NO_COMPARISON = "No two reviewers ranked the same responses."
NO_STRICT = "No two reviewers both ordered the same pair without a tie."
NO_TAU = (
    "Of any two reviewers who share a task, one tied everything, so there is no order to compare."
)
ALL_TIED = "Everyone tied every pair. With a single value, agreement beyond chance is undefined."
NO_RATING = "No response was rated by two reviewers."
ONE_RATING = "All ratings are equal. With a single value, agreement beyond chance is undefined."


@dataclass(frozen=True)
class Agreement:
    """A measure of agreement with its 95% interval. If `value` is None, `reason` says why.

    `pairs` is the number of compared items. These are usually pairs of responses, counted once for
    every two reviewers. For tau they are pairs of rankings, and for the alpha of a criterion they are
    ratings.
    """

    value: float | None
    low: float | None
    high: float | None
    pairs: int
    reason: str = ""

    def as_json(self) -> dict[str, Any]:
        interval = None if self.value is None else [self.low, self.high]
        return {
            "value": self.value,
            "interval": interval,
            "compared": self.pairs,
            "reason": self.reason,
        }


@dataclass(frozen=True)
class Agreements:
    """All measures for one sample. `nominal` is alpha with equal weights for all differences."""

    pairwise: Agreement
    exact: Agreement
    tau: Agreement
    alpha: Agreement
    nominal: Agreement
    tasks: int

    def as_json(self) -> dict[str, Any]:
        measures = ("pairwise", "exact", "tau", "alpha", "nominal")
        return {name: getattr(self, name).as_json() for name in measures} | {"tasks": self.tasks}


def pair_outcomes(a: Tiers, b: Tiers) -> Outcomes:
    """Return both rankings' judgments on each pair of the responses they share.  → (pairs, 2) int8

    The pairs are the `combinations` of the shared ids in ascending order.
    """
    places_a, places_b = _places(a), _places(b)
    shared = sorted(places_a.keys() & places_b.keys())
    places = np.array([[places_a[i], places_b[i]] for i in shared], dtype=np.int64).reshape(-1, 2)
    first, second = np.triu_indices(len(shared), k=1)
    return np.sign(places[second] - places[first]).astype(np.int8)


def _places(tiers: Tiers) -> dict[int, int]:
    return {response: rank for rank, tier in enumerate(tiers) for response in tier}


def strict_counts(a: Tiers, b: Tiers) -> tuple[int, int]:
    """Return how many pairs two rankings order the same way, and how many pairs both of them order.

    This is plain Python, because arrays are several times slower for so few responses.
    """
    first, second = _places(a), _places(b)
    same = both = 0
    for i, j in combinations(first.keys() & second.keys(), 2):
        product = (first[i] - first[j]) * (second[i] - second[j])
        both += product != 0
        same += product > 0
    return same, both


def pairwise_of(sums: ShareSums) -> "Agreement":
    """Return pairwise agreement from the results of `strict_counts`, summed over prompts."""
    if sums.share is None:
        return Agreement(None, None, None, 0, NO_STRICT)
    return Agreement(sums.share, *sums.interval, int(sums.total))


def pairwise_json(agreement: "Agreement", sample: str) -> dict[str, Any]:
    """Return pairwise agreement as JSON for files and commands, with its name and a sample description."""
    return {"name": PAIRWISE, "sample": sample, **agreement.as_json()}


def from_json(figure: Mapping[str, Any] | None) -> "Agreement | None":
    """Return the agreement in a dictionary from `pairwise_json`, or None if there is none."""
    if not figure:
        return None
    low, high = figure["interval"] or (None, None)
    return Agreement(figure["value"], low, high, figure["compared"], figure["reason"])


def in_words(figure: Mapping[str, Any]) -> str:
    """Return the figure in a dictionary from `pairwise_json` as a sentence."""
    if figure["value"] is None:
        return f"{figure['name']} {figure['sample']}: none. {figure['reason']}"
    value, interval = percent(figure["value"]), percent_range(figure["interval"])
    return (
        f"{figure['name']} {figure['sample']}: {value} ({interval}), {figure['compared']:,} pairs."
    )


# --- groups of rankings ---------------------------------------------------------------------------


def exact_agreement(
    groups: Iterable[Sequence[Tiers]],
    *,
    clusters: Iterable[Hashable] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Agreement:
    """Return the share of compared pairs on which two reviewers agree exactly, ties included.

    Each item of `groups` contains the rankings of one task by different reviewers. `clusters` has a key
    for each group; groups with equal keys, such as tasks with the same prompt, are resampled together.
    Without `clusters`, each group is a cluster.
    """
    return _of_groups(groups, clusters, resamples, seed).exact()


def pairwise_agreement(
    groups: Iterable[Sequence[Tiers]],
    *,
    clusters: Iterable[Hashable] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Agreement:
    """Return the share of pairs that two reviewers order the same way, among those that both order.

    This is a benchmark for a model's accuracy on pairs without ties. The arguments are those of
    `exact_agreement`.
    """
    return _of_groups(groups, clusters, resamples, seed).pairwise()


def _of_groups(
    groups: Iterable[Sequence[Tiers]],
    clusters: Iterable[Hashable] | None,
    resamples: int,
    seed: int,
) -> "Compared":
    rankings = list(groups)
    keys = list(range(len(rankings))) if clusters is None else list(clusters)
    if len(keys) != len(rankings):
        raise ValueError(f"{len(rankings)} groups need as many cluster keys; got {len(keys)}.")
    judgments = [
        Judgment(task, reviewer, tiers)
        for task, group in enumerate(rankings)
        for reviewer, tiers in enumerate(group)
    ]
    return Compared(judgments, dict(enumerate(keys)), resamples=resamples, seed=seed)


# --- all judgments, or a selection ----------------------------------------------------------------


class Compared:
    """Rankings prepared for comparison. Every selection of them is resampled by the same clusters.

    `clusters` maps a task to its cluster; by default each task is a cluster. Preparing 10,000 rankings of
    four responses takes about a second, and each measure then takes a few milliseconds.
    """

    def __init__(
        self,
        judgments: Iterable[Judgment],
        clusters: Mapping[Any, Hashable] | None = None,
        *,
        resamples: int = RESAMPLES,
        seed: int = 0,
    ) -> None:
        self.pairs: Pairs = expand(judgments)
        self.reviewer_pairs: ReviewerPairs = reviewer_pairs(self.pairs)
        shared = np.unique(self.reviewer_pairs.task)
        keys = [self.pairs.tasks[task] for task in shared]
        numbers, count = number_keys(keys if clusters is None else [clusters[key] for key in keys])
        self.cluster = np.zeros(len(self.pairs.tasks), dtype=np.int64)
        self.cluster[shared] = numbers
        self.bootstrap = Bootstrap(count, resamples=resamples, seed=seed)

    def everything(self, rows: np.ndarray | None = None) -> Agreements:
        """Return all measures for the selected rows of `reviewer_pairs`, by default for all rows."""
        part = self._part(rows)
        return Agreements(
            self.pairwise(rows),
            self.exact(rows),
            self.tau(rows),
            self.alpha(rows),
            self.alpha(rows, NOMINAL),
            len(np.unique(part.task)),
        )

    def of_reviewer(self, reviewer: Any) -> Agreements:
        """Return all measures of the agreement between one reviewer and the others.

        For alpha, a unit is then a pair of responses and one other reviewer.
        """
        index = self.pairs.reviewers.index(reviewer)
        return self.everything(
            (self.reviewer_pairs.first == index) | (self.reviewer_pairs.second == index)
        )

    def pairwise(self, rows: np.ndarray | None = None) -> Agreement:
        """Return the headline figure, whose interval is computed without resampling."""
        part = self._part(rows)
        if not len(part):
            return Agreement(None, None, None, 0, NO_COMPARISON)
        counts = np.column_stack([part.strict_same, part.strict])
        clusters = by_cluster(counts, self.cluster[part.task], max(1, self.bootstrap.clusters))
        return pairwise_of(ShareSums.of(clusters.tolist()))

    def exact(self, rows: np.ndarray | None = None) -> Agreement:
        part = self._part(rows)
        return self._share(part, part.same, part.compared, NO_COMPARISON)

    def tau(self, rows: np.ndarray | None = None) -> Agreement:
        part = self._part(rows)
        tau = part.tau
        defined = np.isfinite(tau)
        reason = NO_TAU if len(part) else NO_COMPARISON
        return self._share(part, np.where(defined, tau, 0), defined, reason, lowest=-1.0)

    def alpha(self, rows: np.ndarray | None = None, metric: str = ORDINAL) -> Agreement:
        part = self._part(rows)
        tables = part.shares if rows is None else part.table.astype(float)
        sums = by_cluster(
            tables.reshape(-1, 9), self.cluster[part.task], max(1, self.bootstrap.clusters)
        )

        def value(totals: np.ndarray) -> np.ndarray:
            table = totals.reshape(-1, 3, 3)
            return alpha_of(either_way(table + table.transpose(0, 2, 1)), metric)

        compared = int(part.compared.sum())
        if not compared:
            return Agreement(None, None, None, 0, NO_COMPARISON)
        alpha = float(value(sums.sum(axis=0, keepdims=True))[0])
        if not np.isfinite(alpha):
            return Agreement(None, None, None, compared, ALL_TIED)
        low, high = self.bootstrap.interval(sums, value, lowest=-1.0, highest=1.0)
        return Agreement(alpha, low, high, compared)

    def _part(self, rows: np.ndarray | None) -> ReviewerPairs:
        return self.reviewer_pairs if rows is None else self.reviewer_pairs.select(rows)

    def _share(
        self,
        part: ReviewerPairs,
        counted: np.ndarray,
        among: np.ndarray,
        reason: str,
        *,
        lowest: float = 0.0,
    ) -> Agreement:
        total = int(among.sum())
        if not total:
            return Agreement(None, None, None, 0, reason)
        rows = np.column_stack([counted, among])
        sums = by_cluster(rows, self.cluster[part.task], self.bootstrap.clusters)
        low, high = self.bootstrap.interval(sums, ratio, lowest=lowest, highest=1.0)
        return Agreement(float(counted.sum() / total), low, high, total)


# --- ratings --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rating:
    """A rating of a response (`unit`) on a criterion. `cluster` is the prompt or the task."""

    unit: Hashable
    cluster: Hashable
    value: int


def rating_agreement(
    ratings: Iterable[Rating],
    *,
    measure: Callable[[np.ndarray], np.ndarray] = lambda o: alpha_of(o, ORDINAL),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Agreement:
    """Return Krippendorff's ordinal alpha of the ratings on one criterion.

    In the result, `pairs` counts the ratings of those responses that have at least two.
    """
    all_ratings = list(ratings)
    unit, units = number_keys(rating.unit for rating in all_ratings)
    several = np.bincount(unit, minlength=units) > 1 if units else np.zeros(0, dtype=bool)
    keep = np.flatnonzero(several[unit]) if units else unit
    if not len(keep):
        return Agreement(None, None, None, 0, NO_RATING)
    order = keep[np.argsort(unit[keep], kind="stable")]
    scale, value = np.unique([all_ratings[n].value for n in order], return_inverse=True)
    tables = coincidences(unit[order], value, len(scale))
    heads = order[np.unique(unit[order], return_index=True)[1]]
    cluster, clusters = number_keys(all_ratings[n].cluster for n in heads)
    sums = by_cluster(tables.reshape(len(tables), -1), cluster, clusters)

    def of_totals(totals: np.ndarray) -> np.ndarray:
        return measure(totals.reshape(-1, len(scale), len(scale)))

    alpha = float(of_totals(sums.sum(axis=0, keepdims=True))[0])
    if not np.isfinite(alpha):
        return Agreement(None, None, None, len(keep), ONE_RATING)
    draws = Bootstrap(clusters, resamples=resamples, seed=seed)
    low, high = draws.interval(sums, of_totals, lowest=-1.0, highest=1.0)
    return Agreement(alpha, low, high, len(keep))
