"""The window over which the quality figures are computed: the most recently ranked tasks."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import NamedTuple

from django.contrib.postgres.aggregates import ArrayAgg
from django.db.models import Count, Func, IntegerField, Max, QuerySet, Subquery
from django.db.models.functions import Coalesce

from labeling.models import Project, Ranking, Response, Slot, Task, TaskResponse
from labeling.queue.withdrawals import withdrawn_of, without
from labeling.statistics.agreement import Compared
from labeling.statistics.pairs import Judgment, Tiers

MAX_TASKS = 1000
RANKINGS_PER_TASK = 3


class Row(NamedTuple):
    """A current ranking. `version` is the number of its guideline version, None if it was imported."""

    ranking: int
    task: int
    prompt: int
    reviewer: int
    tiers: Tiers
    ratings: dict[str, dict[str, int]]
    shown_order: Sequence[int]
    seconds: float
    source: str
    at: datetime
    version: int | None


COLUMNS = (
    "id",
    "task",
    "task__prompt",
    "reviewer",
    "tiers",
    "ratings",
    "shown_order",
    "active_seconds",
    "source",
    "created_at",
    "guideline_version__number",
)


class Answer(NamedTuple):
    """A response's model and length. The length is in bytes of UTF-8, to avoid reading the text."""

    length: int
    model: str


class Bytes(Func):
    function = "octet_length"
    output_field = IntegerField()


@dataclass(frozen=True)
class Window:
    """All rankings of the most recently ranked tasks, in the order in which they were made.

    `capped` is whether older tasks were left out. Gold tasks are excluded, because their answers are
    known and far more reviewers rank them.
    """

    rows: Sequence[Row]
    capped: bool

    @cached_property
    def judgments(self) -> list[Judgment]:
        return [Judgment(row.task, row.reviewer, row.tiers) for row in self.rows]

    @cached_property
    def compared(self) -> Compared:
        return Compared(self.judgments, self.prompts)

    @cached_property
    def prompts(self) -> dict[int, int]:
        return {row.task: row.prompt for row in self.rows}

    @cached_property
    def answers(self) -> dict[int, Answer]:
        """Return the responses by id. Costs one query."""
        return answers_of(list(self.prompts))


def _filled_slots(project: Project) -> QuerySet[Slot]:
    """Return the filled slots, newest ranking first, which is the order of an index.

    Extra rankings have no slot. They are loaded with the other rankings of their task.
    """
    return Slot.objects.filter(project=project, ranking__isnull=False).order_by("-ranking_id")


Mark = tuple[int, int, datetime | None] | None


def mark(project: Project) -> Mark:
    """Return the state on which results depend, or None if there are no rankings. Costs one query.

    It consists of the newest ranking's id, the number of withdrawn responses, and the last withdrawal.
    """
    withdrawn = Response.objects.filter(prompt__project=project, withdrawn_at__isnull=False)
    grouped = withdrawn.order_by().values("prompt__project")
    return (
        _filled_slots(project)
        .values_list(
            "ranking_id",
            Coalesce(Subquery(grouped.annotate(n=Count("pk")).values("n")), 0),
            Subquery(grouped.annotate(last=Max("withdrawn_at")).values("last")),
        )
        .first()
    )


def load(project: Project, tasks_at_most: int = MAX_TASKS) -> Window:
    """Load the window. Costs three queries and takes about 0.1 s for 3,000 rankings."""
    at_most = RANKINGS_PER_TASK * tasks_at_most
    counted = _filled_slots(project).filter(task__inactive=False).exclude(task__kind=Task.Kind.GOLD)
    newest = counted.values_list("task", flat=True)
    newest_tasks = list(newest[: at_most + 1])
    recent = list(dict.fromkeys(newest_tasks[:at_most]))
    current = Ranking.objects.filter(task__in=recent[:tasks_at_most], superseded_at=None)
    rows = [Row(*row) for row in current.order_by("id").values_list(*COLUMNS)]
    if withdrawn := withdrawn_of(recent[:tasks_at_most]):
        rows = [row._replace(tiers=without(row.tiers, None, withdrawn)[0]) for row in rows]
    capped = len(newest_tasks) > at_most or len(recent) > tasks_at_most
    return Window(rows, capped)


def answers_of(tasks: Sequence[int]) -> dict[int, Answer]:
    """Return the responses of these tasks by id. Costs one query."""
    places = TaskResponse.objects.filter(task__in=tasks)
    rows = places.values_list("response", Bytes("response__text"), "response__model_name")
    return {response: Answer(length, model) for response, length, model in rows}


def orders_of(tasks: Sequence[int]) -> dict[int, list[int]]:
    """Return the response ids of each task in the task's order, which determines their letters."""
    rows = TaskResponse.objects.filter(task__in=tasks).order_by().values("task")
    listed = rows.annotate(ids=ArrayAgg("response", order_by="position"))
    return dict(listed.values_list("task", "ids"))
