from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET, require_POST

from accounts.access import user_of
from accounts.parameters import number
from labeling.core.access import led_project
from labeling.core.chats import conversation
from labeling.core.lettering import Lettering, as_order, letters_of
from labeling.core.suggestions import suggestions_for
from labeling.core.text import exact, shortened
from labeling.core.text import render as render_text
from labeling.models import Adjudication, Skip, Slot, Task
from labeling.pages import task_filters
from labeling.queue.gold_copies import copies_of
from labeling.rankings import skip as skipping
from labeling.rankings.recording import InvalidRanking

PAGE_SIZE = 50


@login_required
@require_GET
def data(request: HttpRequest, slug: str) -> HttpResponse:
    """List tasks, newest first. Pages are selected by id, so that every page is equally fast."""
    project = led_project(request, slug)
    search = request.GET.get("q", "").replace("\0", "").strip()[:200]
    before = number(request.GET.get("before", ""))
    show = request.GET.get("show", "")
    tasks_found = _searched(task_filters.filtered(project, show), search)
    if before is not None:
        tasks_found = tasks_found.filter(pk__lt=before)
    tasks = list(tasks_found.select_related("prompt").order_by("-pk")[: PAGE_SIZE + 1])
    context = {
        "project": project,
        "section": "projects",
        "leads": True,
        "search": search,
        "show": show if show in task_filters.FILTERS else "",
        "filters": task_filters.FILTERS,
        "rows": _rows(tasks[:PAGE_SIZE]),
        "older": tasks[PAGE_SIZE - 1].pk if len(tasks) > PAGE_SIZE else None,
        "begun": before is not None,
    }
    return render(request, "labeling/data/list.html", context)


def _searched(tasks: QuerySet[Task], search: str) -> QuerySet[Task]:
    """Return the tasks whose prompt contains the text, or whose number or external id it is."""
    if not search:
        return tasks
    named = Q(prompt__messages__icontains=search) | Q(prompt__external_id=search)
    if (task_id := number(search.removeprefix("#"))) is not None:
        named |= Q(pk=task_id)
    return tasks.filter(named)


def _rows(tasks: list[Task]) -> list[dict[str, Any]]:
    ids = [task.pk for task in tasks]
    counts = {
        row["task_id"]: row
        for row in Slot.objects.filter(task__in=ids)
        .values("task_id")
        .annotate(wanted=Count("pk"), filled=Count("ranking"), leased=Count("leased_until"))
    }
    sizes = dict(
        Task.objects.filter(pk__in=ids).annotate(size=Count("places")).values_list("pk", "size")
    )
    golds = copies_of(ids)
    nothing = {"wanted": 0, "filled": 0, "leased": 0}
    return [
        {
            "task": task,
            "prompt": shortened(str(task.prompt.messages[-1]["content"]), 140),
            "responses": sizes[task.pk],
            "gold": golds.get(task.pk),
            **counts.get(task.pk, nothing),
        }
        for task in tasks
    ]


@login_required
@require_GET
def task(request: HttpRequest, slug: str, task_id: int) -> HttpResponse:
    project = led_project(request, slug)
    row = get_object_or_404(
        Task.objects.select_related("prompt__withdrawn_by", "project", "withdrawn_by"),
        pk=task_id,
        project=project,
    )
    places = list(row.places.select_related("response__withdrawn_by").order_by("position"))
    letters = letters_of([task_response.response_id for task_response in places])
    lettering = Lettering.of(
        row, letters, [task_response.response.text for task_response in places]
    )
    scores = suggestions_for(user_of(request), row, list(letters))
    context = {
        "project": project,
        "section": "projects",
        "leads": True,
        "task": row,
        "messages_of_prompt": conversation(row.prompt.messages),
        "responses": [
            {
                "letter": letters[task_response.response_id],
                "response": task_response.response,
                "model": task_response.response.model_name,
                "suggestion": scores.get(task_response.response_id),
                "html": render_text(task_response.response.text),
                "exact": exact(task_response.response.text),
            }
            for task_response in places
        ],
        "rankings": _rankings(row, lettering),
        "decision": _decision(row, lettering),
        "gold_copy": copies_of([row.pk]).get(row.pk),
        "slots": list(row.slots.select_related("reviewer").order_by("number")),
        "skips": [
            {"skip": skip, "note": lettering.show(skip.note, skip.shown_order)}
            for skip in row.skips.select_related("reviewer")
        ],
    }
    return render(request, "labeling/data/task.html", context)


def _decision(task: Task, lettering: Lettering) -> dict[str, Any] | None:
    decided = Adjudication.objects.filter(task=task)
    decision = decided.select_related("by", "guideline_version").first()
    if decision is None:
        return None
    return {
        "decision": decision,
        "order": as_order(decision.tiers, decision.cut, lettering.letters),
        "note": lettering.show(decision.note, decision.shown_order),
    }


def _rankings(task: Task, lettering: Lettering) -> list[dict[str, Any]]:
    rankings = task.rankings.select_related("reviewer", "guideline_version").order_by("id")
    return [
        {
            "ranking": ranking,
            "order": as_order(ranking.tiers, ranking.cut, lettering.letters),
            "note": lettering.show(ranking.rationale, ranking.shown_order, limit=300),
        }
        for ranking in rankings
    ]


@login_required
@require_POST
def undo_skip(request: HttpRequest, slug: str, task_id: int, skip_id: int) -> HttpResponse:
    """Undo a skip, so that its reviewer may get the task again."""
    project = led_project(request, slug)
    skip = get_object_or_404(
        Skip.objects.select_related("task", "reviewer"),
        pk=skip_id,
        task=task_id,
        task__project=project,
    )
    try:
        skipping.undo_by_lead(skip=skip, by=user_of(request))
    except InvalidRanking as invalid:
        messages.error(request, str(invalid))
    else:
        messages.success(request, f"Skip undone. {skip.reviewer} may get the task again.")
    return redirect("project-task", project.slug, task_id)
