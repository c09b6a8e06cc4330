from string import ascii_uppercase
from typing import Any

from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from labeling import progress
from labeling.access import led_project
from labeling.models import Prompt, TaskResponse
from labeling.quality import Dispute, quality_of
from labeling.text import shortened
from labeling.views.sheet import as_order

DISPUTES_A_PAGE = 10


@login_required
@require_GET
def quality(request: HttpRequest, slug: str) -> HttpResponse:
    project = led_project(request, slug)
    found = quality_of(project)
    page = Paginator(found.disputes, DISPUTES_A_PAGE).get_page(request.GET.get("page"))
    context = {
        "project": project,
        "section": "projects",
        "leads": True,
        "quality": found,
        "page": page,
        "disputes": _side_by_side(list(page.object_list)),
        "reviewers": progress.by_reviewer(project),
    }
    return render(request, "labeling/quality.html", context)


def _side_by_side(disputes: list[Dispute]) -> list[dict[str, Any]]:
    """Each dispute's rankings in letters, blind to who made them. Two queries."""
    tasks = [dispute.task_id for dispute in disputes]
    prompts = {
        task: prompt
        for prompt in Prompt.objects.filter(tasks__in=tasks).distinct()
        for task in prompt.tasks.filter(pk__in=tasks).values_list("pk", flat=True)
    }
    places: dict[int, list[TaskResponse]] = {task: [] for task in tasks}
    for place in TaskResponse.objects.filter(task__in=tasks).select_related("response"):
        places[place.task_id].append(place)
    return [
        _shown(dispute, prompts[dispute.task_id], places[dispute.task_id]) for dispute in disputes
    ]


def _shown(dispute: Dispute, prompt: Prompt, places: list[TaskResponse]) -> dict[str, Any]:
    letters = {place.response_id: ascii_uppercase[place.position] for place in places}
    return {
        "task_id": dispute.task_id,
        "percent": dispute.percent,
        "prompt": shortened(str(prompt.messages[-1]["content"]), 220),
        "responses": [
            (letters[place.response_id], shortened(place.response.text, 400)) for place in places
        ],
        "rankings": [
            {
                "order": as_order(ranking.tiers, ranking.cut, letters),
                "rationale": ranking.rationale,
                "simulated": ranking.source == ranking.Source.SIMULATION,
            }
            for ranking in dispute.rankings
        ],
    }
