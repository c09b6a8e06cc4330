"""Agreement between reviewers, with intervals. Pure Python and numpy, because recipes use it too.

A ranking judges each pair of its responses: better, worse or tied. Two rankings of a task are
compared on the pairs that both ranked. Judgments of one task are dependent, so intervals resample
whole tasks (or the given `clusters`), never single pairs.

There are four measures. `pairwise` is the headline of every page and report: of the pairs that two
reviewers of a task both ordered, the share that they ordered the same way. A tie is not an order, so
pairs that either of them tied are left out (setup S2 of Zheng et al., "Judging LLM-as-a-Judge with
MT-Bench and Chatbot Arena", NeurIPS 2023). `exact` includes ties: the share of pairs that both judge
better, both judge worse or both tie (setup S1). `tau` is the mean of Kendall's tau-b over all pairs of
rankings of a task. `alpha` is Krippendorff's alpha, with a pair of responses as the unit and the
values −1, 0, +1: agreement beyond chance.
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
    """A measure with its 95% interval. Without a `value`, `reason` says why.

    `pairs` is the number of comparisons: pairs of responses, once for every two reviewers; pairs of
    rankings for tau; ratings for the alpha of a criterion.
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
    """All measures of one sample. `nominal` is alpha with all differences weighted equally."""

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
    """Return the judgments of two rankings on each pair of their shared responses.  → (pairs, 2) int8

    Pairs are in the order of `combinations` over the ascending shared ids.
    """
    places_a, places_b = _places(a), _places(b)
    shared = sorted(places_a.keys() & places_b.keys())
    places = np.array([[places_a[i], places_b[i]] for i in shared], dtype=np.int64).reshape(-1, 2)
    first, second = np.triu_indices(len(shared), k=1)
    return np.sign(places[second] - places[first]).astype(np.int8)


def _places(tiers: Tiers) -> dict[int, int]:
    return {response: rank for rank, tier in enumerate(tiers) for response in tier}


def strict_counts(a: Tiers, b: Tiers) -> tuple[int, int]:
    """Return the number of pairs that two rankings order the same way, and that both order.

    Plain Python, which is several times as fast as arrays for the few responses of a task.
    """
    first, second = _places(a), _places(b)
    same = both = 0
    for i, j in combinations(first.keys() & second.keys(), 2):
        product = (first[i] - first[j]) * (second[i] - second[j])
        both += product != 0
        same += product > 0
    return same, both


def pairwise_of(sums: ShareSums) -> "Agreement":
    """Return pairwise agreement from sums over prompts of `strict_counts`."""
    if sums.share is None:
        return Agreement(None, None, None, 0, NO_STRICT)
    return Agreement(sums.share, *sums.interval, int(sums.total))


def pairwise_json(agreement: "Agreement", sample: str) -> dict[str, Any]:
    """Return pairwise agreement as JSON for files and commands, with its name and its sample."""
    return {"name": PAIRWISE, "sample": sample, **agreement.as_json()}


def from_json(figure: Mapping[str, Any] | None) -> "Agreement | None":
    """Return the agreement in a dictionary from `pairwise_json`, or None if there is none."""
    if not figure:
        return None
    low, high = figure["interval"] or (None, None)
    return Agreement(figure["value"], low, high, figure["compared"], figure["reason"])


def in_words(figure: Mapping[str, Any]) -> str:
    """Return a dictionary from `pairwise_json` as a sentence."""
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
    """Return the share of compared pairs on which two reviewers agree exactly: <, = or >.

    Each item of `groups` has the rankings of one task by different reviewers. `clusters` has one key
    per group; groups with equal keys (tasks of one prompt) are resampled together.
    """
    return _of_groups(groups, clusters, resamples, seed).exact()


def pairwise_agreement(
    groups: Iterable[Sequence[Tiers]],
    *,
    clusters: Iterable[Hashable] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Agreement:
    """Return the share ordered the same way, of the pairs that two reviewers both ordered.

    A benchmark for a model's accuracy on strict pairs. Arguments as for `exact_agreement`.
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


# --- judgments, all or a part ---------------------------------------------------------------------


class Compared:
    """Rankings prepared for comparison. Parts are resampled with the same clusters as the whole.

    `clusters` maps a task to its cluster; by default each task is a cluster. Takes about a second for
    10,000 rankings of four responses. Each measure then takes a few milliseconds.
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
        """Return all measures of the selected pairs of reviewers, by default of all."""
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
        """Return all measures of one reviewer with the others.

        A unit of alpha is then a pair together with one other reviewer.
        """
        index = self.pairs.reviewers.index(reviewer)
        return self.everything(
            (self.reviewer_pairs.first == index) | (self.reviewer_pairs.second == index)
        )

    def pairwise(self, rows: np.ndarray | None = None) -> Agreement:
        """Return the headline figure. Its interval is computed without resampling."""
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
    """A reviewer's rating of a response on a criterion. `cluster` is the prompt or the task."""

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
    """Return Krippendorff's ordinal alpha of one criterion.

    `pairs` of the result is the number of ratings of responses with two ratings or more.
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
