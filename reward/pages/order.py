from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db.models import Count, Exists, OuterRef, Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET, require_POST

from accounts.access import user_of
from labeling.core.access import led_project, trains
from labeling.core.text import shortened
from labeling.models import Project, Slot, Task
from reward.forms import usable_reward_models
from reward.models import OrderedTask, QueueOrder, RandomStream, RewardModel
from reward.ordering import queue

NEXT = 20
MODELS = 20


@login_required
@require_GET
def show(request: HttpRequest, slug: str) -> HttpResponse:
    """Show the current order and its first tasks. The page takes eight queries."""
    project = led_project(request, slug)
    order = QueueOrder.objects.filter(project=project, undone_at=None)
    in_force = order.select_related("reward_model", "created_by").first()
    stream = queue.stream_of(project)
    context = {
        "project": project,
        "section": "projects",
        "leads": True,
        "order": in_force,
        "rows": next_rows(in_force) if in_force else [],
        "stream": stream,
        "models": models_on_stream(project, stream),
        "to_launch": usable_reward_models().filter(project=project).first(),
        "can_train": trains(user_of(request), project),
    }
    return render(request, "reward/queue_order.html", context)


@login_required
@require_POST
def undo(request: HttpRequest, slug: str) -> HttpResponse:
    project = led_project(request, slug)
    if queue.undo(project=project, by=user_of(request)):
        messages.success(request, "The waiting tasks are back in their earlier order.")
    else:
        messages.info(request, "The tasks are not ordered by a model, so there is nothing to undo.")
    return redirect("queue-order", project.slug)


def next_rows(order: QueueOrder) -> list[dict[str, Any]]:
    """Return the first tasks of the order that are still waiting for a reviewer."""
    free = Slot.objects.filter(task=OuterRef("task"), reviewer=None, ranking=None)
    waiting = OrderedTask.objects.filter(Exists(free), order=order, task__inactive=False).order_by(
        "place"
    )
    rows = list(waiting.select_related("task__prompt")[:NEXT])
    filled = dict(
        Task.objects.filter(pk__in=[row.task_id for row in rows])
        .annotate(filled=Count("slots", filter=Q(slots__ranking__isnull=False)))
        .values_list("pk", "filled")
    )
    return [
        {
            "ordered": row,
            "prompt": shortened(str(row.task.prompt.messages[-1]["content"]), 140),
            "filled": filled[row.task_id],
        }
        for row in rows
    ]


def models_on_stream(project: Project, stream: RandomStream | None) -> list[RewardModel]:
    """Return the newest reward models whose held-out prompts are all in the random stream."""
    if stream is None:
        return []
    newest = RewardModel.objects.filter(project=project).exclude(state="archived")
    return [
        model for model in newest.select_related("snapshot")[:MODELS]
        if queue.has_random_test_set(model.snapshot, stream)
    ]  # fmt: skip
