"""How far the reviewers of a project agree, the tasks on which they do not, and whom to trust.

Everything is computed from the same window of the tasks ranked last, so that a figure is the same on
every page. Results are cached until the next ranking; those over many tasks, for at least a minute.
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
from labeling.quality.window import TASKS_AT_MOST, Window
from labeling.statistics.agreement import Agreement, Agreements, Rating, rating_agreement
from labeling.statistics.bias import Meter, Sways, as_shown, cluster_numbers, speeds
from labeling.statistics.bradley_terry import Leaderboard, leaderboard
from labeling.statistics.consensus import Posterior, consensus_of_pairs
from labeling.statistics.disputes import Verdicts, verdicts
from labeling.statistics.reliability import Reliabilities, Reliability, fit_pairs

__all__ = ["TASKS_AT_MOST"]

KEPT_SECONDS = 600
REFRESHED_SECONDS = 60
LARGE = 200
"""Tasks beyond which results are brought up to date once a minute only."""
TRUSTED_SECONDS = 600
WEEKS_AT_MOST = 26
REVIEWERS_AT_MOST = 100

Found = TypeVar("Found")


def kept(
    project: Project,
    name: str,
    compute: Callable[[Window], Found],
    *,
    tasks_at_most: int = TASKS_AT_MOST,
    seconds: int = 0,
) -> Found:
    """What `compute` makes of the window, from the cache where it is still true: one query then.

    What is younger than `seconds` is true enough, at no query.
    """
    key, now = f"quality:{name}:{project.pk}:{tasks_at_most}", timezone.now()
    held: Kept[Found] | None = cache.get(key)
    if held and now < held.at + timedelta(seconds=seconds):
        return held.found
    mark = window.mark(project)
    if held and (held.mark == mark or now < held.at + timedelta(seconds=held.seconds)):
        return held.found
    looked_at = window.load(project, tasks_at_most)
    found = compute(looked_at)
    # Half a second of work per thousand tasks is too much for every view after every ranking.
    large = looked_at.capped or len(looked_at.prompts) > LARGE
    refreshed = REFRESHED_SECONDS if large else 0
    cache.set(key, Kept(found, mark, now, refreshed), KEPT_SECONDS)
    return found


@dataclass(frozen=True)
class Kept(Generic[Found]):
    """A result for the state that `mark` names; it holds for `seconds` whatever came since `at`."""

    found: Found
    mark: window.Mark
    at: datetime
    seconds: int


# --- agreement -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Dispute:
    """A task on which reviewers disagree; `disputed` if more than their usual noise explains.

    `distance` is 0 for the same order and 1 for the reverse; a tie against an order is half. How
    likely noise alone is to bring such a disagreement about is its `p_value`.
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
        """The p-value for people, as a percentage."""
        return "< 0.1%" if self.p_value < 0.001 else percent(self.p_value)


@dataclass(frozen=True)
class Quality:
    tasks: int
    capped: bool
    measures: Agreements
    differing: Sequence[Dispute]
    """Undecided tasks on which anyone disagrees, the largest distance first."""
    usual: float
    """The usual rate at which two reviewers disagree on a pair, a tie against an order being half."""
    learned: bool
    """Whether the project has enough tasks to show its own usual rate."""

    @property
    def disputes(self) -> Sequence[Dispute]:
        return [one for one in self.differing if one.disputed]

    @property
    def agreement(self) -> Agreement:
        """The headline: pairwise agreement."""
        return self.measures.pairwise

    @property
    def sample(self) -> str:
        """What the figures rest on, in words."""
        newest = "the newest " if self.capped else ""
        return f"{newest}{self.tasks:,} tasks with two rankings or more"


def quality_of(project: Project, *, tasks_at_most: int = TASKS_AT_MOST) -> Quality:
    """Return the agreement and the open disputes of the tasks ranked last.

    Three queries, one when cached; one more where reviewers differ, because a decision or a
    withdrawal settles a dispute without a new ranking.
    """
    quality = kept(project, "disputes", _quality, tasks_at_most=tasks_at_most)
    if not quality.differing:
        return quality
    tasks = Task.objects.filter(pk__in=[one.task_id for one in quality.differing])
    still_open = set(tasks.filter(adjudication=None, out_of_use=False).values_list("pk", flat=True))
    differing = [one for one in quality.differing if one.task_id in still_open]
    return replace(quality, differing=differing)


def _quality(looked_at: Window) -> Quality:
    measures = looked_at.compared.everything()
    judged = verdicts(looked_at.compared.pairs.tasks, looked_at.compared.meetings)
    differing = _differing(judged)
    return Quality(
        measures.tasks, looked_at.capped, measures, differing, judged.usual, judged.learned
    )


def _differing(judged: Verdicts) -> list[Dispute]:
    """The largest distance first; of equals the newest."""
    columns = (judged.distance, judged.rankings, judged.p_value, judged.disputed)
    rows = zip(judged.tasks, *(column.tolist() for column in columns), strict=True)
    found = [row for row in starmap(Dispute, rows) if row.distance > 0]
    return sorted(found, key=lambda dispute: (-dispute.distance, -dispute.task_id))


# --- parts: criteria, versions, weeks ------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    label: Any
    rankings: int
    agreement: Agreements


@dataclass(frozen=True)
class Parts:
    criteria: Sequence[tuple[str, Agreement]]
    versions: Sequence[Part]
    weeks: Sequence[Part]
    capped: bool


def parts_of(project: Project, *, tasks_at_most: int = TASKS_AT_MOST) -> Parts:
    return kept(project, "parts", _parts, tasks_at_most=tasks_at_most)


def _parts(looked_at: Window) -> Parts:
    versions = np.array([row.version or 0 for row in looked_at.rows], dtype=np.int64)
    weeks = np.array([monday(row.at).toordinal() for row in looked_at.rows], dtype=np.int64)
    met = looked_at.compared.meetings.rankings
    under, when = versions[met], weeks[met].max(axis=1, initial=0)
    newest = sorted(set(weeks.tolist()))[-WEEKS_AT_MOST:]
    return Parts(
        criteria=criteria_of(looked_at),
        versions=[
            _part(looked_at, versions, number, (under == number).all(axis=1))
            for number in sorted(set(versions.tolist()), reverse=True)
        ],
        weeks=[_part(looked_at, weeks, day, when == day, date.fromordinal(day)) for day in newest],
        capped=looked_at.capped,
    )


def _part(
    looked_at: Window, values: np.ndarray, value: int, rows: np.ndarray, label: Any = None
) -> Part:
    agreement = looked_at.compared.everything(rows)
    return Part(label or value, int((values == value).sum()), agreement)


def monday(at: Any) -> date:
    day: date = timezone.localtime(at, timezone.get_default_timezone()).date()
    return day - timedelta(days=day.weekday())


def criteria_of(looked_at: Window) -> list[tuple[str, Agreement]]:
    """Krippendorff's alpha of the ratings on each criterion, by its name."""
    ratings: dict[str, list[Rating]] = defaultdict(list)
    for row in looked_at.rows:
        for response, rated in row.ratings.items():
            for name, value in rated.items():
                ratings[name].append(Rating((row.task, response), row.prompt, value))
    return [(name, rating_agreement(found)) for name, found in sorted(ratings.items())]


# --- reviewers -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reviewer:
    """`reliability` is None for reviewers without shared tasks. Meters: see labeling.statistics.bias."""

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


def people_of(project: Project, *, tasks_at_most: int = TASKS_AT_MOST) -> People:
    """Those with most rankings in the window first; about a second for 30 of them."""
    return kept(project, "people", _people, tasks_at_most=tasks_at_most)


def _people(looked_at: Window) -> People:
    pairs = looked_at.compared.pairs
    reliabilities = fit_pairs(pairs)
    clusters = cluster_numbers(pairs.tasks, looked_at.prompts)
    lengths = {response: answer.length for response, answer in looked_at.answers.items()}
    sways = Sways(pairs, [row.shown for row in looked_at.rows], lengths, clusters)
    haste = _haste(looked_at, lengths)
    counts = np.bincount([pairs.reviewers.index(row.reviewer) for row in looked_at.rows])
    order = np.argsort(-counts, kind="stable")[:REVIEWERS_AT_MOST]
    return People(
        reviewers=[
            _reviewer(looked_at, reliabilities, sways, haste, int(index), int(counts[index]))
            for index in order
        ],
        position=sways.position(),
        places=sways.by_position(),
        length=sways.length(),
        reason=reliabilities.reason,
        tasks=len(np.unique(looked_at.compared.meetings.task)),
        left_out=len(counts) - len(order),
        capped=looked_at.capped,
    )


def _reviewer(
    looked_at: Window,
    reliabilities: Reliabilities,
    sways: Sways,
    haste: dict[int, Meter],
    index: int,
    rankings: int,
) -> Reviewer:
    pairs = looked_at.compared.pairs
    who = pairs.reviewers[index]
    own = [row for row in looked_at.rows if row.reviewer == who]
    said = pairs.outcome[pairs.reviewer == index]
    return Reviewer(
        id=who,
        rankings=rankings,
        agreement=looked_at.compared.of_reviewer(who),
        reliability=reliabilities.of.get(who),
        position=sways.position(index),
        length=sways.length_of(index),
        speed=haste[who],
        as_shown=as_shown([row.tiers for row in own], [row.shown for row in own]),
        ties=float((said == 0).mean()) if len(said) else None,
    )


def _haste(looked_at: Window, lengths: dict[int, int]) -> dict[int, Meter]:
    seconds: dict[int, list[float]] = defaultdict(list)
    read: dict[int, list[float]] = defaultdict(list)
    for row in looked_at.rows:
        seconds[row.reviewer], read[row.reviewer]
        if row.source == "review" and row.seconds > 0:
            seconds[row.reviewer].append(row.seconds)
            placed = [response for tier in row.tiers for response in tier]
            read[row.reviewer].append(float(sum(lengths.get(i, 0) for i in placed)))
    return speeds(seconds, read)


def reliabilities_of(project: Project) -> Reliabilities:
    """Of everyone in the window, to weigh their rankings with; up to ten minutes old.

    No query mostly, so that a submit may ask for it; some 0.3 s once in ten minutes.
    """
    return kept(project, "reliabilities", _reliabilities, seconds=TRUSTED_SECONDS)


def _reliabilities(looked_at: Window) -> Reliabilities:
    return fit_pairs(looked_at.compared.pairs)


# --- consensus -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """What the rankings of a task come to."""

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
        """Tasks whose order is more probable than all others together."""
        return sum(verdict.probability > 0.5 for verdict in self.verdicts)


def consensus_in(project: Project, *, tasks_at_most: int = TASKS_AT_MOST) -> Consensus:
    """Of tasks with two rankings or more, the least certain first."""
    return kept(project, "consensus", _consensus, tasks_at_most=tasks_at_most)


def _consensus(looked_at: Window) -> Consensus:
    pairs = looked_at.compared.pairs
    counts: dict[int, int] = defaultdict(int)
    for row in looked_at.rows:
        counts[row.task] += 1
    found = consensus_of_pairs(pairs, fit_pairs(pairs))
    verdicts = [
        _verdict(task, posterior, counts[task])
        for task, posterior in found.items()
        if isinstance(task, int) and counts[task] > 1
    ]
    return Consensus(sorted(verdicts, key=lambda v: (v.probability, -v.task_id)), looked_at.capped)


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


def board_of(project: Project, *, tasks_at_most: int = TASKS_AT_MOST) -> Board:
    """The models that wrote the responses. Blind to names it is not: for leads."""
    return kept(project, "models", _board, tasks_at_most=tasks_at_most)


def _board(looked_at: Window) -> Board:
    pairs = looked_at.compared.pairs
    models = {response: answer.model for response, answer in looked_at.answers.items()}
    clusters = cluster_numbers(pairs.tasks, looked_at.prompts)
    first, second = pairs.first[pairs.pair].tolist(), pairs.second[pairs.pair].tolist()
    found = leaderboard(
        [models[response] for response in first],
        [models[response] for response in second],
        pairs.outcome,
        clusters[pairs.task[pairs.pair]] if len(pairs) else pairs.pair,
    )
    return Board(found, len(looked_at.rows), looked_at.capped)
