"""The home page, which depends on the user's role, and the list of projects."""

from typing import Any

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from accounts.access import user_of
from accounts.models import User
from finetune.models import Model
from labeling.core.access import leads
from labeling.models import Project
from labeling.quality.measures import quality_of
from labeling.reviewing import progress
from runs.models import Run

PROJECTS_ON_HOME = 6


@login_required
@require_GET
def home(request: HttpRequest) -> HttpResponse:
    user = user_of(request)
    visible = list(Project.objects.visible_to(user).distinct()[: PROJECTS_ON_HOME + 1])
    cards = [_card(user, project) for project in visible[:PROJECTS_ON_HOME]]
    waiting = [card for card in cards if card["own"].waiting]
    context: dict[str, Any] = {
        "cards": cards,
        "more": len(visible) > PROJECTS_ON_HOME,
        "next": max(waiting, key=_urgency, default=None),
        "today": sum(card["own"].today for card in cards),
    }
    if user.can_train:
        context["runs"] = Run.objects.visible_to(user).order_by("-id")[:5]
        models = Model.objects.filter(project__in=Project.objects.led_by(user))
        context["models"] = models.select_related("project").order_by("-id")[:5]
    return render(request, "home.html", context)


def _urgency(card: dict[str, Any]) -> tuple[bool, int]:
    """Return a sort key by which real projects come before simulated ones, then by waiting tasks."""
    return (not card["project"].simulated, card["own"].waiting)


def _card(user: User, project: Project) -> dict[str, Any]:
    card: dict[str, Any] = {
        "project": project,
        "own": progress.of_reviewer(project, user),
        "leads": leads(user, project),
    }
    if card["leads"]:
        card["progress"] = progress.of_project(project)
        card["quality"] = quality_of(project)
    return card


@login_required
@require_GET
def projects(request: HttpRequest) -> HttpResponse:
    user = user_of(request)
    rows = [
        {
            "project": project,
            "own": progress.of_reviewer(project, user),
            "progress": progress.of_project(project) if leads(user, project) else None,
        }
        for project in Project.objects.visible_to(user)
        .distinct()
        .select_related("current_version")[:100]
    ]
    archived = Project.objects.archived_led_by(user)[:100]
    context = {"rows": rows, "archived": archived, "section": "projects"}
    return render(request, "projects.html", context)
