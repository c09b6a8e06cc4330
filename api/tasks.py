"""Tasks: add them in bulk, read them, withdraw and restore them."""

from datetime import datetime
from typing import Annotated, Any

from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest
from django.shortcuts import get_object_or_404
from ninja import Path, Query, Router, Schema
from pydantic import Field

from accounts.access import user_of
from accounts.api import LABEL, READ
from api.access import project_led
from api.forms import invalid
from api.pages import After, Limit, Number, Page, Strict, page
from api.projects import Slug
from labeling.importing import entries
from labeling.importing.records import BadInput, SeveralProblems
from labeling.models import Project, Task
from labeling.removal import withdrawing

router = Router(tags=["tasks"])


class ResponseItem(Schema):
    id: int
    external_id: str
    text: str
    model: str


class TaskItem(Schema):
    id: int
    external_id: str = Field(description="The id that it was added with.")
    kind: Task.Kind
    messages: list[dict[str, str]] = Field(description="The prompt, a chat.")
    responses: list[ResponseItem]
    priority: int
    rankings_wanted: int
    rankings: int = Field(description="Current rankings.")
    held: bool = Field(description="Whether it is hidden until a lead has checked its findings.")
    withdrawn: bool
    created_at: datetime


class NewTasks(Strict):
    checks_values = False  # the writer replaces such characters, and counts them

    items: list[dict[str, Any]] = Field(
        min_length=1,
        max_length=entries.MOST,
        description="Prompts with responses, each an object as in a line of Tiebreak JSONL.",
        examples=[
            [
                {
                    "id": "lamp-1",
                    "messages": [{"role": "user", "content": "Which lamp?"}],
                    "responses": [
                        {"text": "The tall one.", "model": "a"},
                        {"text": "The red one.", "model": "b"},
                    ],
                }
            ]
        ],
    )


class Counted(Schema):
    read: int
    new: int = Field(description="Rows added. The others were there before.")


class Added(Schema):
    prompts: Counted
    responses: Counted
    tasks: Counted
    rankings: Counted
    held: int = Field(description="New tasks that a lead must check before reviewers get them.")
    left_out: dict[str, int] = Field(description="Values that were not used, by reason.")
    changed: dict[str, int] = Field(description="Values that were stored differently, by reason.")


class Withdrawal(Strict):
    reason: str = Field("", max_length=withdrawing.MAX_REASON_LENGTH)


TaskNumber = Annotated[Number, Path()]


def rows_of(project: Project) -> QuerySet[Task]:
    """Return the tasks with what `item` needs: three queries for a page, however many tasks."""
    current = Count("rankings", filter=Q(rankings__superseded_at=None))
    rows = Task.objects.filter(project=project).select_related("prompt")
    return rows.annotate(current=current).prefetch_related("places__response")


def item(task: Task) -> dict[str, Any]:
    places = sorted(task.places.all(), key=lambda place: place.position)
    return {
        "id": task.pk,
        "external_id": task.external_id or task.prompt.external_id,
        "kind": task.kind,
        "messages": task.prompt.messages,
        "responses": [
            {
                "id": place.response_id,
                "external_id": place.response.external_id,
                "text": place.response.text,
                "model": place.response.model_name,
            }
            for place in places
        ],
        "priority": task.priority,
        "rankings_wanted": task.rankings_wanted,
        "rankings": task.current,  # type: ignore[attr-defined]
        "held": task.held,
        "withdrawn": task.withdrawn_at is not None,
        "created_at": task.created_at,
    }


@router.get("/projects/{slug}/tasks", response=Page[TaskItem], auth=READ, url_name="api-tasks")
def list_tasks(
    request: HttpRequest,
    slug: Slug,
    external_id: Annotated[
        str, Query(max_length=200, description="Only tasks that were added with this id.")
    ] = "",
    after: After = None,
    limit: Limit = 100,
) -> Any:
    """List the tasks of a project that the owner of the token leads, oldest first."""
    rows = rows_of(project_led(request, slug))
    if external_id:
        same = Q(external_id=external_id) | Q(external_id="", prompt__external_id=external_id)
        rows = rows.filter(same)
    return page(rows, item, after=after, limit=limit)


@router.get("/projects/{slug}/tasks/{number}", response=TaskItem, auth=READ, url_name="api-task")
def read_task(request: HttpRequest, slug: Slug, number: TaskNumber) -> Any:
    """Return a task with its prompt and responses."""
    return item(get_object_or_404(rows_of(project_led(request, slug)), pk=number))


@router.post("/projects/{slug}/tasks", response=Added, auth=LABEL, url_name="api-tasks")
def add_tasks(request: HttpRequest, slug: Slug, body: NewTasks) -> Any:
    """Add up to 1,000 prompts with their responses, all or none.

    Adding the same prompts and responses again adds no duplicates.
    """
    project = project_led(request, slug)
    try:
        written, tally = entries.add(project=project, values=body.items, by=user_of(request))
    except BadInput as error:
        problems = error.problems if isinstance(error, SeveralProblems) else [error]
        raise invalid(
            [{"at": f"items.{int(p.line or 0)}", "what": str(p)} for p in problems]
        ) from None
    names = ("prompts", "responses", "tasks", "rankings")
    return {
        **{name: {"read": written.read[name], "new": written.new[name]} for name in names},
        "held": written.held,
        "left_out": {name: count for name, count in tally.left_out.items() if count},
        "changed": {name: count for name, count in tally.changed.items() if count},
    }


@router.post(
    "/projects/{slug}/tasks/{number}/withdraw",
    response=TaskItem,
    auth=LABEL,
    url_name="api-task-withdraw",
)
def withdraw_task(request: HttpRequest, slug: Slug, number: TaskNumber, body: Withdrawal) -> Any:
    """Withdraw a task. Reviewers no longer get it, and its rankings are kept."""
    return _moved(request, slug, number, withdrawing.withdraw, reason=body.reason)


@router.post(
    "/projects/{slug}/tasks/{number}/restore",
    response=TaskItem,
    auth=LABEL,
    url_name="api-task-restore",
)
def restore_task(request: HttpRequest, slug: Slug, number: TaskNumber) -> Any:
    """Restore a withdrawn task."""
    return _moved(request, slug, number, withdrawing.restore)


def _moved(request: HttpRequest, slug: str, number: int, move: Any, **options: Any) -> Any:
    project = project_led(request, slug)
    tasks = Task.objects.filter(project=project).select_related("project", "prompt")
    move(content=get_object_or_404(tasks, pk=number), by=user_of(request), **options)
    return item(rows_of(project).get(pk=number))
