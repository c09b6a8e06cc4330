"""The objects of the GraphQL schema. Each is made from a row that its list has read."""

from datetime import datetime
from typing import Any

import strawberry
from strawberry.scalars import JSON

from api.access import visible_runs
from api.graphql.batching import FIRST, Nested, attribute
from finetune.models import Evaluation as EvaluationRow
from finetune.models import Model as ModelRow
from labeling.models import Project as ProjectRow
from labeling.models import Ranking as RankingRow
from labeling.models import Task as TaskRow
from labeling.models import TaskResponse
from runs.models import Run as RunRow

Row = strawberry.Private[Any]


@strawberry.type(description="A response of a task.")
class Response:
    id: strawberry.ID
    text: str
    model: str

    @classmethod
    def of(cls, place: TaskResponse) -> "Response":
        response = place.response
        return cls(id=_id(response), text=response.text, model=response.model_name)


@strawberry.type(description="A reviewer's current ranking of a task.")
class Ranking:
    id: strawberry.ID
    task_id: strawberry.ID
    reviewer: str
    guideline_version: int | None
    tiers: list[list[strawberry.ID]] = strawberry.field(
        description="Ids of responses, best first. A tier is a tie."
    )
    cut: int | None
    ratings: JSON
    flags: JSON
    rationale: str
    active_seconds: float
    source: str
    created_at: datetime

    @classmethod
    def of(cls, row: RankingRow) -> "Ranking":
        version = row.guideline_version
        return cls(
            id=_id(row),
            task_id=strawberry.ID(str(row.task_id)),
            reviewer=row.reviewer.username,
            guideline_version=version.number if version else None,
            tiers=[[strawberry.ID(str(pk)) for pk in tier] for tier in row.tiers],
            cut=row.cut,
            ratings=row.ratings,
            flags=row.flags,
            rationale=row.rationale,
            active_seconds=row.active_seconds,
            source=row.source,
            created_at=row.created_at,
        )


@strawberry.type(description="A prompt with the responses to rank.")
class Task:
    row: Row
    id: strawberry.ID
    external_id: str
    kind: str
    messages: JSON
    priority: int
    rankings_wanted: int
    held: bool
    withdrawn: bool
    created_at: datetime

    @classmethod
    def of(cls, row: TaskRow) -> "Task":
        return cls(
            row=row,
            id=_id(row),
            external_id=row.external_id or row.prompt.external_id,
            kind=row.kind,
            messages=row.prompt.messages,
            priority=row.priority,
            rankings_wanted=row.rankings_wanted,
            held=row.held,
            withdrawn=row.withdrawn_at is not None,
            created_at=row.created_at,
        )

    @strawberry.field
    def responses(self, first: int = FIRST) -> list[Response]:
        return [Response.of(place) for place in _read(self.row, "responses", first)]

    @strawberry.field
    def rankings(self, first: int = FIRST) -> list[Ranking]:
        return [Ranking.of(row) for row in _read(self.row, "rankings", first)]


@strawberry.type(description="A background run.")
class Run:
    id: strawberry.ID
    kind: str
    title: str
    project: str | None = strawberry.field(description="Slug of its project.")
    state: str
    step: int
    total_steps: int
    created_by: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    error: str

    @classmethod
    def of(cls, row: RunRow) -> "Run":
        return cls(
            id=_id(row),
            kind=row.kind,
            title=row.title,
            project=row.project.slug if row.project else None,
            state=row.state,
            step=row.step,
            total_steps=row.total_steps,
            created_by=row.created_by.username if row.created_by else None,
            created_at=row.created_at,
            started_at=row.started_at,
            finished_at=row.finished_at,
            error=row.error,
        )


@strawberry.type(description="The comparison of a model with its baseline.")
class Evaluation:
    id: strawberry.ID
    project: str
    run_id: strawberry.ID
    candidate: str
    candidate_id: strawberry.ID
    baseline: str
    baseline_id: strawberry.ID
    judge: str
    registered: bool
    report: JSON

    @classmethod
    def of(cls, row: EvaluationRow) -> "Evaluation":
        return cls(
            id=_id(row),
            project=row.project.slug,
            run_id=strawberry.ID(str(row.run_id)),
            candidate=str(row.candidate),
            candidate_id=_id(row.candidate),
            baseline=str(row.baseline),
            baseline_id=_id(row.baseline),
            judge=row.judge,
            registered=row.is_registered,
            report=row.report,
        )


@strawberry.type(description="A language model.")
class Model:
    row: Row
    id: strawberry.ID
    name: str
    project: str
    state: str
    base: str
    parent_id: strawberry.ID | None
    run_id: strawberry.ID | None
    snapshot_id: strawberry.ID | None
    created_at: datetime

    @classmethod
    def of(cls, row: ModelRow) -> "Model":
        return cls(
            row=row,
            id=_id(row),
            name=row.name,
            project=row.project.slug,
            state=row.state,
            base=row.base,
            parent_id=_optional(row.parent_id),
            run_id=_optional(row.run_id),
            snapshot_id=_optional(row.snapshot_id),
            created_at=row.created_at,
        )

    @strawberry.field
    def evaluations(self, first: int = FIRST) -> list[Evaluation]:
        return [Evaluation.of(row) for row in _read(self.row, "evaluations", first)]


@strawberry.type(description="A project that the owner of the token leads.")
class Project:
    row: Row
    id: strawberry.ID
    slug: str
    name: str
    description: str
    created_at: datetime

    @classmethod
    def of(cls, row: ProjectRow) -> "Project":
        return cls(
            row=row,
            id=_id(row),
            slug=row.slug,
            name=row.name,
            description=row.description,
            created_at=row.created_at,
        )

    @strawberry.field
    def tasks(self, first: int = FIRST) -> list[Task]:
        return [Task.of(row) for row in _read(self.row, "tasks", first)]

    @strawberry.field
    def runs(self, first: int = FIRST) -> list[Run]:
        return [Run.of(row) for row in _read(self.row, "runs", first)]

    @strawberry.field
    def models(self, first: int = FIRST) -> list[Model]:
        return [Model.of(row) for row in _read(self.row, "models", first)]

    @strawberry.field
    def evaluations(self, first: int = FIRST) -> list[Evaluation]:
        return [Evaluation.of(row) for row in _read(self.row, "evaluations", first)]


def _id(row: Any) -> strawberry.ID:
    return strawberry.ID(str(row.pk))


def _optional(pk: int | None) -> strawberry.ID | None:
    return None if pk is None else strawberry.ID(str(pk))


def _read(row: Any, name: str, first: int) -> list[Any]:
    """Return the rows of a nested list, which its parent's list has read."""
    return getattr(row, attribute(name, first))


# --- rows -----------------------------------------------------------------------------------------


def task_rows(request: Any) -> Any:
    return TaskRow.objects.select_related("prompt").order_by("pk")


def ranking_rows(request: Any) -> Any:
    rows = RankingRow.objects.filter(superseded_at=None)
    return rows.select_related("reviewer", "guideline_version").order_by("pk")


def run_rows(request: Any) -> Any:
    rows = visible_runs(request).select_related("project", "created_by")
    return rows.defer("config", "result").order_by("-pk")


def model_rows(request: Any) -> Any:
    return ModelRow.objects.select_related("project").order_by("-pk")


def evaluation_rows(request: Any) -> Any:
    rows = EvaluationRow.objects.select_related("project", "candidate", "baseline")
    return rows.order_by("-pk")


EVALUATIONS = Nested("evaluations", evaluation_rows, {})
IN_TASK = {
    "responses": Nested(
        "places", lambda request: TaskResponse.objects.select_related("response"), {}
    ),
    "rankings": Nested("rankings", ranking_rows, {}),
}
IN_MODEL = {"evaluations": EVALUATIONS}
IN_PROJECT = {
    "tasks": Nested("tasks", task_rows, IN_TASK),
    "runs": Nested("runs", run_rows, {}),
    "models": Nested("models", model_rows, IN_MODEL),
    "evaluations": EVALUATIONS,
}
