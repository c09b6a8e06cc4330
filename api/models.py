"""Language models and reward models: facts, doubts and the gate of a promotion."""

from datetime import datetime
from typing import Annotated, Any, Literal

from django.db.models import QuerySet
from django.http import HttpRequest
from ninja import Path, Query, Router, Schema
from pydantic import Field

from accounts.api import READ, TRAIN, Problem
from api.access import model_of, own_projects, reward_model_of, to_change
from api.pages import After, Limit, Number, Page, Strict, page
from finetune.model_page.facts import facts_of
from finetune.models import Model
from reward.models import RewardModel
from reward.promotion import MAX_REASON_LENGTH, CannotMove, Promotable, move

router = Router(tags=["models"])

Action = Literal["promote", "archive", "restore"]
Slug = Annotated[str, Query(max_length=60, description="Slug of a project.")]
ModelNumber = Annotated[Number, Path()]
StateFilter = Annotated[Promotable.State | None, Query()]


class ModelItem(Schema):
    id: int
    name: str
    project: str
    state: Promotable.State
    run: int | None
    snapshot: int | None
    created_at: datetime


class LanguageModelItem(ModelItem):
    base: str
    endpoint: str
    parent: int | None


class LanguageModelDetail(LanguageModelItem):
    facts: dict[str, str]
    doubts: list[str] = Field(description="Reasons not to promote it. A promotion needs none.")
    certificates: list[int] = Field(description="Numbers of the certificates of its promotions.")


class RewardModelDetail(ModelItem):
    doubts: list[str] = Field(description="Reasons not to promote it.")
    report: dict[str, Any]


class Move(Strict):
    reason: str = Field(
        "",
        max_length=MAX_REASON_LENGTH,
        description="Needed to promote a model with doubts. It is recorded with them.",
    )


def reward_item(model: RewardModel) -> dict[str, Any]:
    return {
        "id": model.pk,
        "name": str(model),
        "project": model.project.slug,
        "state": model.state,
        "run": model.run_id,
        "snapshot": model.snapshot_id,
        "created_at": model.created_at,
    }


def item(model: Model) -> dict[str, Any]:
    return {
        "id": model.pk,
        "name": model.name,
        "project": model.project.slug,
        "state": model.state,
        "run": model.run_id,
        "snapshot": model.snapshot_id,
        "created_at": model.created_at,
        "base": model.base,
        "endpoint": model.endpoint,
        "parent": model.parent_id,
    }


def detail(model: Model) -> dict[str, Any]:
    certificates = model.certificates.order_by("number").values_list("number", flat=True)
    return {
        **item(model),
        "facts": dict(facts_of(model)),
        "doubts": model.all_doubts(),
        "certificates": list(certificates),
    }


def reward_detail(model: RewardModel) -> dict[str, Any]:
    return {**reward_item(model), "doubts": model.all_doubts(), "report": model.report}


def _listed(request: HttpRequest, rows: QuerySet[Any], project: str, state: Any) -> QuerySet[Any]:
    projects = own_projects(request)
    if project:
        projects = projects.filter(slug=project)
    rows = rows.filter(project__in=projects).select_related("project")
    return rows.filter(state=state) if state else rows


@router.get("/models", response=Page[LanguageModelItem], auth=READ, url_name="api-models")
def list_models(
    request: HttpRequest,
    project: Slug = "",
    state: StateFilter = None,
    after: After = None,
    limit: Limit = 100,
) -> Any:
    """List the language models of the projects that the owner of the token leads, newest first."""
    rows = _listed(request, Model.objects.all(), project, state)
    return page(rows, item, after=after, limit=limit, newest_first=True)


@router.get("/models/{number}", response=LanguageModelDetail, auth=READ, url_name="api-model")
def read_model(request: HttpRequest, number: ModelNumber) -> Any:
    """Return a language model with facts about it, and the reasons not to promote it."""
    return detail(model_of(request, number))


@router.post(
    "/models/{number}/{action}",
    response=LanguageModelDetail,
    auth=TRAIN,
    url_name="api-model-move",
)
def move_model(request: HttpRequest, number: ModelNumber, action: Action, body: Move) -> Any:
    """Promote, archive or restore a language model. The gate decides as on its page."""
    user, model = to_change(request, model_of, number)
    _move(model, action, by=user, reason=body.reason)
    return detail(model)


@router.get("/reward-models", response=Page[ModelItem], auth=READ, url_name="api-reward-models")
def list_reward_models(
    request: HttpRequest,
    project: Slug = "",
    state: StateFilter = None,
    after: After = None,
    limit: Limit = 100,
) -> Any:
    """List the reward models of the projects that the owner of the token leads, newest first."""
    rows = _listed(request, RewardModel.objects.all(), project, state)
    rows = rows.select_related("project", "snapshot")
    return page(rows, reward_item, after=after, limit=limit, newest_first=True)


@router.get(
    "/reward-models/{number}",
    response=RewardModelDetail,
    auth=READ,
    url_name="api-reward-model",
)
def read_reward_model(request: HttpRequest, number: ModelNumber) -> Any:
    """Return a reward model with its report, and the reasons not to promote it."""
    return reward_detail(reward_model_of(request, number))


@router.post(
    "/reward-models/{number}/{action}",
    response=RewardModelDetail,
    auth=TRAIN,
    url_name="api-reward-model-move",
)
def move_reward_model(request: HttpRequest, number: ModelNumber, action: Action, body: Move) -> Any:
    """Promote, archive or restore a reward model."""
    user, model = to_change(request, reward_model_of, number)
    _move(model, action, by=user, reason=body.reason)
    return reward_detail(model)


def _move(model: Promotable, action: Action, **options: Any) -> None:
    try:
        move(model, action, **options)
    except CannotMove as error:
        raise Problem(409, str(error)) from None
