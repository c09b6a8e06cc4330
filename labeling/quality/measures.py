"""The quality figures of a project: agreement, disputes, and reviewers' reliability and biases.

All figures use the same window of the most recently ranked tasks, so a figure is the same on every page.
Results are cached until the next ranking, and for at least a minute if the window has many tasks.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from itertools import starmap
from typing import Any, Generic, TypeVar

import numpy as np
from django.core.cache import cache
from django.utils import timezone

from formatting.numbers import percent
from labeling.models import Project, Task
from labeling.quality import window
from labeling.quality.window import MAX_TASKS, Window
from labeling.statistics.agreement import Agreement, Agreements, Rating, rating_agreement
from labeling.statistics.bias import Meter, PairBiases, as_shown, cluster_numbers, speeds
from labeling.statistics.bradley_terry import Leaderboard, leaderboard
from labeling.statistics.consensus import Posterior, consensus_of_pairs
from labeling.statistics.disputes import Verdicts, verdicts
from labeling.statistics.reliability import Reliabilities, Reliability, fit_pairs

__all__ = ["MAX_TASKS"]

CACHE_SECONDS = 600
REFRESHED_SECONDS = 60
LARGE = 200
"""If the window has more tasks than this, results are computed at most once a minute."""
TRUSTED_SECONDS = 600
MAX_WEEKS = 26
MAX_REVIEWERS = 100

CACHE_VERSION = 2
"""Part of each cache key. Increase it when a class of cached results is renamed or its fields change."""

Result = TypeVar("Result")


def cached_result(
    project: Project,
    name: str,
    compute: Callable[[Window], Result],
    *,
    tasks_at_most: int = MAX_TASKS,
    seconds: int = 0,
) -> Result:
    """Return the result of `compute` for the window, from the cache if it is up to date.

    A cached result costs one query, or none if it is younger than `seconds`.
    """
    key, now = f"quality:{name}:{project.pk}:{tasks_at_most}", timezone.now()
    cached: CachedResult[Result] | None = cache.get(key, version=CACHE_VERSION)
    if cached and now < cached.at + timedelta(seconds=seconds):
        return cached.result
    mark = window.mark(project)
    if cached and (cached.mark == mark or now < cached.at + timedelta(seconds=cached.seconds)):
        return cached.result
    sample = window.load(project, tasks_at_most)
    result = compute(sample)
    # Computing takes half a second per thousand tasks, which is too long after every new ranking.
    large = sample.capped or len(sample.prompts) > LARGE
    refreshed = REFRESHED_SECONDS if large else 0
    result_to_cache = CachedResult(result, mark, now, refreshed)
    cache.set(key, result_to_cache, CACHE_SECONDS, version=CACHE_VERSION)
    return result


@dataclass(frozen=True)
class CachedResult(Generic[Result]):
    """A result in the cache, valid for the state `mark`, and for any state until `at` + `seconds`."""

    result: Result
    mark: window.Mark
    at: datetime
    seconds: int


# --- agreement -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Disagreement:
    """A task on which reviewers disagree. It is disputed if noise does not explain the disagreement.

    `distance` is 0 for equal orders and 1 for opposite ones; a pair that only one of two reviewers ties
    counts half. `p_value` is the probability that noise alone causes as much disagreement.
    """

    task_id: int
    distance: float
    rankings: int
    p_value: float
    disputed: bool

    @property
    def percent(self) -> int:
        return round(100 * self.distance)

    @property
    def chance(self) -> str:
        """Return the p-value as a percentage."""
        return "< 0.1%" if self.p_value < 0.001 else percent(self.p_value)


@dataclass(frozen=True)
class Quality:
    """Agreement and open disputes in the window."""

    tasks: int
    capped: bool
    measures: Agreements
    disagreements: Sequence[Disagreement]
    """Undecided tasks with any disagreement, largest distance first."""
    usual: float
    """The usual rate at which two reviewers disagree on a pair. A pair that only one ties counts half."""
    learned: bool
    """Whether `usual` was estimated from the project, which needs enough tasks."""

    @property
    def disputes(self) -> Sequence[Disagreement]:
        """Return the disputed tasks. labeling.statistics.disputes defines what a dispute is."""
        return [task for task in self.disagreements if task.disputed]

    @property
    def agreement(self) -> Agreement:
        """Return the headline figure, pairwise agreement."""
        return self.measures.pairwise

    @property
    def sample(self) -> str:
        """Return a phrase that says over which tasks the figures are computed."""
        newest = "the newest " if self.capped else ""
        return f"{newest}{self.tasks:,} tasks with two rankings or more"


def quality_of(project: Project, *, tasks_at_most: int = MAX_TASKS) -> Quality:
    """Return the agreement on the most recently ranked tasks, and their open disputes.

    Costs three queries, or one if cached. It costs one more if reviewers disagree on any task, because a
    decision or a withdrawal settles a dispute without a new ranking.
    """
    quality = cached_result(project, "disputes", _quality, tasks_at_most=tasks_at_most)
    if not quality.disagreements:
        return quality
    tasks = Task.objects.filter(pk__in=[row.task_id for row in quality.disagreements])
    still_open = set(tasks.filter(adjudication=None, inactive=False).values_list("pk", flat=True))
    disagreements = [row for row in quality.disagreements if row.task_id in still_open]
    return replace(quality, disagreements=disagreements)


def _quality(sample: Window) -> Quality:
    measures = sample.compared.everything()
    judged = verdicts(sample.compared.pairs.tasks, sample.compared.reviewer_pairs)
    return Quality(
        measures.tasks,
        sample.capped,
        measures,
        _disagreements(judged),
        judged.usual,
        judged.learned,
    )


def _disagreements(judged: Verdicts) -> list[Disagreement]:
    """Return the tasks with a disagreement, largest distance first and then newest first."""
    columns = (judged.distance, judged.rankings, judged.p_value, judged.disputed)
    rows = zip(judged.tasks, *(column.tolist() for column in columns), strict=True)
    disagreements = [row for row in starmap(Disagreement, rows) if row.distance > 0]
    return sorted(disagreements, key=lambda row: (-row.distance, -row.task_id))


# --- by criterion, guideline version and week -----------------------------------------------------


@dataclass(frozen=True)
class Part:
    """The agreement among the rankings of one guideline version or one week."""

    label: Any
    rankings: int
    agreement: Agreements


@dataclass(frozen=True)
class Parts:
    criteria: Sequence[tuple[str, Agreement]]
    versions: Sequence[Part]
    weeks: Sequence[Part]
    capped: bool


def parts_of(project: Project, *, tasks_at_most: int = MAX_TASKS) -> Parts:
    """Return the agreement by criterion, guideline version and week."""
    return cached_result(project, "parts", _parts, tasks_at_most=tasks_at_most)


def _parts(sample: Window) -> Parts:
    versions = np.array([row.version or 0 for row in sample.rows], dtype=np.int64)
    weeks = np.array([monday(row.at).toordinal() for row in sample.rows], dtype=np.int64)
    ranking_pairs = sample.compared.reviewer_pairs.rankings  # (M, 2)
    under, when = versions[ranking_pairs], weeks[ranking_pairs].max(axis=1, initial=0)
    newest = sorted(set(weeks.tolist()))[-MAX_WEEKS:]
    return Parts(
        criteria=criteria_of(sample),
        versions=[
            _part(sample, versions, number, (under == number).all(axis=1))
            for number in sorted(set(versions.tolist()), reverse=True)
        ],
        weeks=[_part(sample, weeks, day, when == day, date.fromordinal(day)) for day in newest],
        capped=sample.capped,
    )


def _part(
    sample: Window, values: np.ndarray, value: int, rows: np.ndarray, label: Any = None
) -> Part:
    agreement = sample.compared.everything(rows)
    return Part(label or value, int((values == value).sum()), agreement)


def monday(at: Any) -> date:
    day: date = timezone.localtime(at, timezone.get_default_timezone()).date()
    return day - timedelta(days=day.weekday())


def criteria_of(sample: Window) -> list[tuple[str, Agreement]]:
    """Return each criterion's name with Krippendorff's alpha of its ratings, sorted by name."""
    ratings: dict[str, list[Rating]] = defaultdict(list)
    for row in sample.rows:
        for response, rated in row.ratings.items():
            for name, value in rated.items():
                ratings[name].append(Rating((row.task, response), row.prompt, value))
    return [(name, rating_agreement(rated)) for name, rated in sorted(ratings.items())]


# --- reviewers -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reviewer:
    """One reviewer's figures. `reliability` is None if nobody else ranked the same tasks."""

    id: int
    rankings: int
    agreement: Agreements
    reliability: Reliability | None
    position: Meter
    length: Meter
    speed: Meter
    as_shown: Meter
    ties: float | None


@dataclass(frozen=True)
class People:
    reviewers: Sequence[Reviewer]
    position: Meter
    places: Sequence[Meter]
    length: Meter
    reason: str
    tasks: int
    left_out: int
    capped: bool


def people_of(project: Project, *, tasks_at_most: int = MAX_TASKS) -> People:
    """Return the reviewers in the window, most rankings first. Takes about a second for 30 reviewers."""
    return cached_result(project, "people", _people, tasks_at_most=tasks_at_most)


def _people(sample: Window) -> People:
    pairs = sample.compared.pairs
    reliabilities = fit_pairs(pairs)
    clusters = cluster_numbers(pairs.tasks, sample.prompts)
    lengths = {response: answer.length for response, answer in sample.answers.items()}
    biases = PairBiases(pairs, [row.shown_order for row in sample.rows], lengths, clusters)
    speed = _speeds(sample, lengths)
    counts = np.bincount([pairs.reviewers.index(row.reviewer) for row in sample.rows])
    order = np.argsort(-counts, kind="stable")[:MAX_REVIEWERS]
    return People(
        reviewers=[
            _reviewer(sample, reliabilities, biases, speed, int(index), int(counts[index]))
            for index in order
        ],
        position=biases.position(),
        places=biases.by_position(),
        length=biases.length(),
        reason=reliabilities.reason,
        tasks=len(np.unique(sample.compared.reviewer_pairs.task)),
        left_out=len(counts) - len(order),
        capped=sample.capped,
    )


def _reviewer(
    sample: Window,
    reliabilities: Reliabilities,
    biases: PairBiases,
    speed: dict[int, Meter],
    index: int,
    rankings: int,
) -> Reviewer:
    pairs = sample.compared.pairs
    who = pairs.reviewers[index]
    own = [row for row in sample.rows if row.reviewer == who]
    outcomes = pairs.outcome[pairs.reviewer == index]
    return Reviewer(
        id=who,
        rankings=rankings,
        agreement=sample.compared.of_reviewer(who),
        reliability=reliabilities.of.get(who),
        position=biases.position(index),
        length=biases.length_of(index),
        speed=speed[who],
        as_shown=as_shown([row.tiers for row in own], [row.shown_order for row in own]),
        ties=float((outcomes == 0).mean()) if len(outcomes) else None,
    )


def _speeds(sample: Window, lengths: dict[int, int]) -> dict[int, Meter]:
    seconds: dict[int, list[float]] = defaultdict(list)
    read: dict[int, list[float]] = defaultdict(list)
    for row in sample.rows:
        seconds[row.reviewer], read[row.reviewer]
        if row.source == "review" and row.seconds > 0:
            seconds[row.reviewer].append(row.seconds)
            placed = [response for tier in row.tiers for response in tier]
            read[row.reviewer].append(float(sum(lengths.get(i, 0) for i in placed)))
    return speeds(seconds, read)


def reliabilities_of(project: Project) -> Reliabilities:
    """Return the reliability of every reviewer in the window, at most ten minutes old.

    This is fast enough for a submission: it usually needs no query, and about 0.3 s every ten minutes.
    """
    return cached_result(project, "reliabilities", _reliabilities, seconds=TRUSTED_SECONDS)


def _reliabilities(sample: Window) -> Reliabilities:
    return fit_pairs(sample.compared.pairs)


# --- consensus -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """The most probable order of a task's responses, with its probability."""

    task_id: int
    rankings: int
    tiers: Sequence[Sequence[int]]
    probability: float
    best_probability: float


@dataclass(frozen=True)
class Consensus:
    verdicts: Sequence[Verdict]
    capped: bool

    @property
    def clear(self) -> int:
        """Return the number of tasks whose consensus order has a probability above one half."""
        return sum(verdict.probability > 0.5 for verdict in self.verdicts)


def consensus_in(project: Project, *, tasks_at_most: int = MAX_TASKS) -> Consensus:
    """Return the consensus on each task with two or more rankings, least certain first."""
    return cached_result(project, "consensus", _consensus, tasks_at_most=tasks_at_most)


def _consensus(sample: Window) -> Consensus:
    pairs = sample.compared.pairs
    counts: dict[int, int] = defaultdict(int)
    for row in sample.rows:
        counts[row.task] += 1
    posteriors = consensus_of_pairs(pairs, fit_pairs(pairs))
    verdicts = [
        _verdict(task, posterior, counts[task])
        for task, posterior in posteriors.items()
        if isinstance(task, int) and counts[task] > 1
    ]
    return Consensus(sorted(verdicts, key=lambda v: (v.probability, -v.task_id)), sample.capped)


def _verdict(task: int, posterior: Posterior, rankings: int) -> Verdict:
    return Verdict(
        task, rankings, posterior.tiers, posterior.probability, posterior.best_probability
    )


# --- models --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Board:
    board: Leaderboard
    rankings: int
    capped: bool


def board_of(project: Project, *, tasks_at_most: int = MAX_TASKS) -> Board:
    """Return the leaderboard of the models. Only leads may see it, because it shows model names."""
    return cached_result(project, "models", _board, tasks_at_most=tasks_at_most)


def _board(sample: Window) -> Board:
    pairs = sample.compared.pairs
    models = {response: answer.model for response, answer in sample.answers.items()}
    clusters = cluster_numbers(pairs.tasks, sample.prompts)
    first, second = pairs.first[pairs.pair].tolist(), pairs.second[pairs.pair].tolist()
    board = leaderboard(
        [models[response] for response in first],
        [models[response] for response in second],
        pairs.outcome,
        clusters[pairs.task[pairs.pair]] if len(pairs) else pairs.pair,
    )
    return Board(board, len(sample.rows), sample.capped)
