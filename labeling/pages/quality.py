from collections.abc import Callable, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from accounts.models import User
from labeling.core import charts
from labeling.core.access import led_project
from labeling.core.lettering import Lettering, as_order
from labeling.core.text import excerpt, shortened
from labeling.models import Project, Ranking, Task, TaskResponse
from labeling.quality import window
from labeling.quality.measures import (
    Disagreement,
    board_of,
    consensus_in,
    parts_of,
    people_of,
    quality_of,
)
from labeling.quality.remarks import remarks
from labeling.queue.withdrawals import among
from labeling.statistics.bradley_terry import Leaderboard

DISPUTES_PER_PAGE = 10
VERDICTS_PER_PAGE = 25
MIDDLE, NARROWEST = 1000.0, 200.0


@login_required
@require_GET
def quality(request: HttpRequest, slug: str) -> HttpResponse:
    """Show the view of the quality page that the parameter `show` names.

    The cost is limited, because all figures use the window in labeling.quality.window.
    """
    project = led_project(request, slug)
    show = request.GET.get("show", "agreement")
    if show not in VIEWS:
        raise Http404(f"The quality page has no view {show!r:.40}.")
    context = {
        "project": project,
        "section": "projects",
        "leads": True,
        "show": show,
        "views": [(name, title) for name, (title, _) in VIEWS.items()],
        "template": f"labeling/quality/{show}.html",
        **VIEWS[show][1](project, request.GET.get("page")),
    }
    return render(request, "labeling/quality/quality.html", context)


# --- agreement and disputes ----------------------------------------------------------------------


def _agreement(project: Project, number: str | None) -> dict[str, Any]:
    quality = quality_of(project)
    page = Paginator(quality.disputes, DISPUTES_PER_PAGE).get_page(number)
    return {"quality": quality, "page": page, "disputes": _side_by_side(list(page.object_list))}


def _side_by_side(disputes: list[Disagreement]) -> list[dict[str, Any]]:
    """Return each dispute with its rankings in letters, without reviewers' names."""
    numbers = [dispute.task_id for dispute in disputes]
    tasks = Task.objects.select_related("prompt").in_bulk(numbers)
    places: dict[int, list[TaskResponse]] = {task: [] for task in numbers}
    remaining = TaskResponse.objects.filter(task__in=numbers, withdrawn=False)
    for task_response in remaining.select_related("response"):
        places[task_response.task_id].append(task_response)
    rankings: dict[int, list[Ranking]] = {task: [] for task in numbers}
    current = Ranking.objects.filter(task__in=numbers, superseded_at=None)
    for ranking in current.order_by("id"):
        rankings[ranking.task_id].append(ranking)
    return [
        _dispute_context(
            dispute, tasks[dispute.task_id], places[dispute.task_id], rankings[dispute.task_id]
        )
        for dispute in disputes
        if dispute.task_id in tasks and not tasks[dispute.task_id].inactive
    ]


def _dispute_context(
    dispute: Disagreement, task: Task, places: list[TaskResponse], rankings: list[Ranking]
) -> dict[str, Any]:
    letters = {
        task_response.response_id: ascii_uppercase[task_response.position]
        for task_response in places
    }
    lettering = Lettering.of(
        task, letters, [task_response.response.text for task_response in places]
    )
    return {
        "task_id": dispute.task_id,
        "percent": dispute.percent,
        "prompt": _prompt_line(task, 220),
        "responses": [
            (letters[task_response.response_id], excerpt(task_response.response.text, 400))
            for task_response in places
        ],
        "rankings": [
            {
                "order": as_order(*among(ranking.tiers, ranking.cut, letters), letters),
                "note": lettering.show(ranking.rationale, ranking.shown_order, limit=300),
                "simulated": ranking.source == ranking.Source.SIMULATION,
            }
            for ranking in rankings
        ],
    }


def _prompt_line(task: Task, length: int) -> str:
    return shortened(str(task.prompt.messages[-1]["content"]), length)


# --- reviewers -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bounds:
    """A value with its interval, which labeling.core.charts can draw."""

    value: float
    low: float
    high: float


def _reviewers(project: Project, number: str | None) -> dict[str, Any]:
    people = people_of(project)
    users = User.objects.in_bulk([reviewer.id for reviewer in people.reviewers])
    rows = []
    for reviewer in people.reviewers:
        reliability = reviewer.reliability
        rows.append(
            {
                "name": users[reviewer.id].username,
                "is_program": users[reviewer.id].simulated,
                "reviewer": reviewer,
                "trust": reliability
                and Bounds(reliability.quality, reliability.low, reliability.high),
                "remarks": remarks(reviewer),
            }
        )
    return {"people": people, "reviewers": rows}


# --- criteria, versions and weeks; models; consensus -----------------------------------------------


def _parts(project: Project, number: str | None) -> dict[str, Any]:
    parts = parts_of(project)
    weeks = [(part.label, part.agreement.alpha) for part in parts.weeks]
    return {"parts": parts, "trend": charts.trend(weeks)}


def _models(project: Project, number: str | None) -> dict[str, Any]:
    models = board_of(project)
    span = max(
        [NARROWEST]
        + [
            abs(end - MIDDLE)
            for standing in models.board.standings
            for end in (standing.low, standing.high)
        ]
    )
    return {
        "models": models,
        "board": models.board,
        "rows": _standings(models.board),
        "lowest": MIDDLE - span,
        "highest": MIDDLE + span,
    }


def _standings(board: Leaderboard) -> list[dict[str, Any]]:
    return [
        {
            "rank": index + 1,
            "standing": standing,
            "figure": Bounds(standing.rating, standing.low, standing.high),
            "cells": [
                {"rate": rate, "met": met, "heat": _heat(rate)}
                for rate, met in zip(board.rates[index], board.met[index], strict=True)
            ],
        }
        for index, standing in enumerate(board.standings)
    ]


def _heat(rate: float | None) -> int:
    """Return the shade for a rate, from 1 to 5, where 3 is around one half, or 0 without a rate."""
    return 0 if rate is None else min(5, int(rate * 5) + 1)


def _consensus(project: Project, number: str | None) -> dict[str, Any]:
    consensus = consensus_in(project)
    page = Paginator(consensus.verdicts, VERDICTS_PER_PAGE).get_page(number)
    numbers = [verdict.task_id for verdict in page.object_list]
    tasks = Task.objects.select_related("prompt").in_bulk(numbers)
    orders = window.orders_of(numbers)
    rows = [
        {
            "verdict": verdict,
            "prompt": _prompt_line(tasks[verdict.task_id], 140),
            "order": as_order(verdict.tiers, None, _letters(orders[verdict.task_id])),
        }
        for verdict in page.object_list
        if verdict.task_id in tasks and not tasks[verdict.task_id].inactive
    ]
    return {"consensus": consensus, "page": page, "rows": rows}


def _letters(responses: Sequence[int]) -> dict[int, str]:
    return dict(zip(responses, ascii_uppercase, strict=False))


Part = Callable[[Project, str | None], dict[str, Any]]
VIEWS: dict[str, tuple[str, Part]] = {
    "agreement": ("Agreement and disputes", _agreement),
    "reviewers": ("Reviewers", _reviewers),
    "parts": ("Criteria, versions, time", _parts),
    "models": ("Models", _models),
    "consensus": ("Consensus", _consensus),
}
