"""Runs: start them with the form of the launch page, follow them, cancel and continue them."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from django.http import HttpRequest
from ninja import Path, Query, Router, Schema, Status
from pydantic import Field

from accounts.api import READ, TRAIN, Problem
from accounts.models import User
from api.access import check_project, run_of, to_change, trainer_of, visible_runs
from api.forms import check, invalid, refuse_unknown
from api.pages import After, Limit, Number, Page, Strict, page
from runs import kinds, queue, services
from runs.kinds import CannotRun, RunKind
from runs.models import Priority, Run, RunEvent, State, projects_trained_by
from runs.services import InvalidConfig, SameRun

router = Router(tags=["runs"])

MAX_VALUES = 200
"""Largest number of inputs or settings in a request. The kinds have far fewer."""


class KindItem(Schema):
    name: str
    title: str
    description: str
    inputs: list[str] = Field(description="Names of the inputs.")
    settings: list[dict[str, Any]] = Field(description="Name, default, label and help of each.")
    presets: list[str]


class RunItem(Schema):
    id: int
    kind: str
    title: str
    project: str | None
    state: State
    priority: int
    step: int
    total_steps: int
    created_by: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    error: str


class Artifact(Schema):
    name: str
    bytes: int
    sha256: str


class RunDetail(RunItem):
    config: dict[str, Any]
    inputs: dict[str, Any]
    result: dict[str, Any]
    attempt: int
    reason: str = Field(description="Why a queued run waits.")
    cancel_requested_at: datetime | None
    artifacts: list[Artifact]


class NewRun(Strict):
    kind: str = Field(max_length=40, description="A name from /run-kinds.", examples=["dpo"])
    inputs: dict[str, Any] = Field({}, max_length=MAX_VALUES, description="As in the launch form.")
    config: dict[str, Any] = Field(
        {}, max_length=MAX_VALUES, description="Settings that differ from the preset."
    )
    preset: str = Field("", max_length=60)
    title: str = Field("", max_length=200)
    again: bool = Field(
        False, description="Start it even if a run with the same settings has not ended."
    )


class PriorityChange(Strict):
    priority: Priority


class EventItem(Schema):
    number: int
    at: datetime
    event: str
    data: dict[str, Any]


RunNumber = Annotated[Number, Path()]


def item(run: Run) -> dict[str, Any]:
    names = (
        "kind", "title", "state", "priority", "step", "total_steps", "created_at", "started_at",
        "finished_at", "error",
    )  # fmt: skip
    return {
        "id": run.pk,
        "project": run.project.slug if run.project else None,
        "created_by": run.created_by.username if run.created_by else None,
        **{name: getattr(run, name) for name in names},
    }


def detail(run: Run) -> dict[str, Any]:
    names = ("config", "inputs", "result", "attempt", "cancel_requested_at")
    return {
        **item(run),
        **{name: getattr(run, name) for name in names},
        "reason": queue.reason_of(run),
        "artifacts": list(run.artifacts.values("name", "bytes", "sha256")),
    }


@router.get("/run-kinds", response=list[KindItem], auth=READ, url_name="api-run-kinds")
def list_kinds(request: HttpRequest) -> Any:
    """List the kinds of runs with their inputs and settings."""
    return [
        {
            "name": kind.name,
            "title": kind.title,
            "description": kind.description,
            "inputs": list(kind.inputs_form.base_fields),
            "settings": [
                {"name": o.name, "default": o.default, "label": o.label, "help": o.help}
                for o in kind.config_class.options()
                if o.name not in kind.decided
            ],
            "presets": [preset.name for preset in kind.config_class.presets()],
        }
        for kind in kinds.all_kinds()
    ]


@router.get("/runs", response=Page[RunItem], auth=READ, url_name="api-runs")
def list_runs(
    request: HttpRequest,
    project: Annotated[str, Query(max_length=60, description="Slug of a project.")] = "",
    kind: Annotated[str, Query(max_length=40)] = "",
    state: State | None = None,
    after: After = None,
    limit: Limit = 100,
) -> Any:
    """List the runs that the owner of the token may see, newest first."""
    rows = visible_runs(request).select_related("project", "created_by").defer("config", "result")
    filters = {"project__slug": project, "kind": kind, "state": state}
    rows = rows.filter(**{name: value for name, value in filters.items() if value})
    return page(rows, item, after=after, limit=limit, newest_first=True)


@router.post("/runs", response={201: RunDetail}, auth=TRAIN, url_name="api-runs")
def start_run(request: HttpRequest, body: NewRun) -> Any:
    """Queue a run. Inputs and settings are checked as on the launch page."""
    user = trainer_of(request)
    return Status(201, detail(start(request, body, user)))


def start(request: HttpRequest, body: NewRun, user: User, request_id: UUID | None = None) -> Run:
    """Queue the run that the body describes, and return it. Raises Problem."""
    kind = _kind(body.kind)
    inputs = checked_inputs(kind, body.inputs, user)
    check_project(request, kind.project_of(inputs))
    try:
        return services.start(
            kind.name,
            body.config,
            user,
            inputs=inputs,
            preset=body.preset,
            title=body.title.strip(),
            request_id=request_id,
            again=body.again,
        )
    except SameRun as error:
        raise Problem(409, f"{error.errors['again']} Send again: true to start another.") from None
    except InvalidConfig as error:
        paths = {"inputs": "inputs", "preset": "preset", "request_id": "body"}
        raise invalid(
            [
                {"at": paths.get(name, f"config.{name}"), "what": text}
                for name, text in error.errors.items()
            ]
        ) from None


def checked_inputs(kind: RunKind, sent: dict[str, Any], user: User) -> dict[str, Any]:
    """Return the inputs of a run, checked by the form of the launch page. Raises Problem.

    Only inputs of projects in which the user may train are accepted.
    """
    form = kind.inputs_form(sent, projects=projects_trained_by(user))
    refuse_unknown(form, sent, at="inputs")
    try:
        check(form, at="inputs")
    except (TypeError, AttributeError):  # a list or an object where a form expects a value
        problem = {"at": "inputs", "what": "Each input must be text, a number, true or false."}
        raise invalid([problem]) from None
    return form.inputs()


def _kind(name: str) -> RunKind:
    try:
        return kinds.get(name)
    except CannotRun as error:
        raise invalid([{"at": "kind", "what": str(error)}]) from None


@router.get("/runs/{number}", response=RunDetail, auth=READ, url_name="api-run")
def read_run(request: HttpRequest, number: RunNumber) -> Any:
    """Return a run with its settings, inputs, result and files."""
    return detail(run_of(request, number))


@router.get("/runs/{number}/events", response=Page[EventItem], auth=READ, url_name="api-run-events")
def list_events(
    request: HttpRequest, number: RunNumber, after: After = None, limit: Limit = 100
) -> Any:
    """List the events of a run: progress, messages and samples. `after` is the number of an event."""
    rows = RunEvent.objects.filter(run=run_of(request, number)).order_by("number")
    if after is not None:
        rows = rows.filter(number__gt=after)
    events = list(rows[: limit + 1])
    more, events = len(events) > limit, events[:limit]
    names = ("number", "at", "event", "data")
    items = [{name: getattr(event, name) for name in names} for event in events]
    return {"items": items, "next": events[-1].number if more else None}


@router.post("/runs/{number}/cancel", response=RunDetail, auth=TRAIN, url_name="api-run-cancel")
def cancel_run(request: HttpRequest, number: RunNumber) -> Any:
    """Cancel a queued run, or ask the worker of a running one to stop it."""
    user, run = to_change(request, run_of, number)
    if not services.cancel(run, user):
        raise Problem(409, services.why_not_cancelled(run))
    return detail(_again(run))


@router.post("/runs/{number}/continue", response=RunDetail, auth=TRAIN, url_name="api-run-continue")
def continue_run(request: HttpRequest, number: RunNumber) -> Any:
    """Continue a failed or cancelled run from its last checkpoint."""
    user, run = to_change(request, run_of, number)
    if not services.restart(run, user):
        raise Problem(409, "Only a failed or cancelled run can be continued.")
    return detail(_again(run))


@router.put("/runs/{number}/priority", response=RunDetail, auth=TRAIN, url_name="api-run-priority")
def set_priority(request: HttpRequest, number: RunNumber, body: PriorityChange) -> Any:
    """Change the priority of a queued run: -1, 0 or 1. Workers claim higher priorities first."""
    user, run = to_change(request, run_of, number)
    if not services.set_priority(run, Priority(body.priority), user):
        raise Problem(409, f"Run {run.pk} is no longer queued.")
    return detail(_again(run))


def _again(run: Run) -> Run:
    run.refresh_from_db()
    return run
