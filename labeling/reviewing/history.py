"""The pages with a reviewer's own rankings, on which they can revise them while that is allowed."""

from datetime import datetime
from http import HTTPStatus
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods

from accounts.access import user_of
from accounts.parameters import number
from database import clock
from labeling.core.access import project_for
from labeling.core.blindness import may_see_models, may_see_others, may_see_suggestions
from labeling.core.response_names import fields_by_id, page_names
from labeling.guidelines.confirmations import unconfirmed
from labeling.models import Project, Ranking
from labeling.rankings import recording, revision_window
from labeling.rankings.content import Errors, Policy
from labeling.rankings.forms import Fields, fields_of, fields_of_ranking, first, read_answer
from labeling.reviewing import progress
from labeling.reviewing.confirmation import confirmation_page
from labeling.reviewing.sheet import Sheet

PAGE_SIZE = 50


@login_required
@require_GET
def history(request: HttpRequest, slug: str) -> HttpResponse:
    project = project_for(request, slug)
    own = revision_window.with_first_sent(
        Ranking.objects.filter(
            reviewer=user_of(request),
            task__project=project,
            task__inactive=False,
            superseded_at=None,
        )
    ).select_related("task__prompt", "task__project")
    before = number(request.GET.get("before", ""))
    if before is not None:
        own = own.filter(pk__lt=before)
    rankings = list(own.order_by("-id")[: PAGE_SIZE + 1])
    context = {
        "project": project,
        "section": "review",
        "progress": progress.of_reviewer(project, user_of(request)),
        "rows": [
            {"ranking": ranking, "until": open_until(ranking)} for ranking in rankings[:PAGE_SIZE]
        ],
        "older": rankings[PAGE_SIZE - 1].pk if len(rankings) > PAGE_SIZE else None,
        "newer": before is not None,
        "sees_others": _may_see_more(request, project, rankings[0]) if rankings else False,
    }
    return render(request, "labeling/reviewing/history.html", context)


def _may_see_more(request: HttpRequest, project: Project, own: Ranking) -> bool:
    """Return whether the project shows others' rankings, scores or model names to the reviewer."""
    policies = (may_see_others, may_see_models, may_see_suggestions)
    return any(may(user_of(request), project, own.task) for may in policies)


def open_until(ranking: Ranking) -> datetime | None:
    """Return the time until which a ranking may be revised, or None if it is too late."""
    until = revision_window.revisable_until(ranking)
    return until if until and until > clock.now() else None


@login_required
@never_cache
@require_http_methods(["GET", "POST"])
def own_ranking(request: HttpRequest, slug: str, ranking_id: int) -> HttpResponse:
    """Show one of the reviewer's own rankings and, on POST, revise it. The old ranking is kept."""
    project = project_for(request, slug)
    ranking = get_object_or_404(
        Ranking.objects.select_related("task__prompt", "task__project__current_version"),
        pk=ranking_id,
        reviewer=user_of(request),
        task__project=project,
        superseded_at=None,
    )
    if request.method == "POST":
        return _revised(request, project, ranking)
    if open_until(ranking) is None:
        messages.info(request, _("This ranking can no longer be revised."))
        return redirect("review-history", project.slug)
    if confirmation := unconfirmed(project=project, reviewer=user_of(request)):
        return confirmation_page(request, project, confirmation)
    return _form(request, project, ranking, _fields_of(ranking))


def _fields_of(ranking: Ranking) -> Fields:
    fields = fields_of_ranking(
        ranking.tiers,
        ranking.cut,
        ranking.ratings,
        ranking.flags,
        ranking.rationale,
        strength=ranking.strength,
        shown_order=ranking.shown_order,
    )
    fields["active_seconds"] = [str(ranking.active_seconds)]
    return fields


def as_draft(ranking: Ranking) -> dict[str, Any]:
    """Return the ranking as a draft, so that its reviewer can edit it on the page."""
    return {"fields": _fields_of(ranking), "at": int(clock.now().timestamp() * 1000)}


def _order_of(ranking: Ranking) -> list[int]:
    """Return the ids of the task's responses that are not withdrawn, in the order the reviewer saw."""
    places = ranking.task.places.filter(withdrawn=False).order_by("position")
    own = list(places.values_list("response_id", flat=True))
    remaining = [pk for pk in ranking.shown_order if pk in own]
    return remaining if len(remaining) == len(own) else own


def _form(
    request: HttpRequest,
    project: Project,
    ranking: Ranking,
    fields: Fields,
    errors: Errors | None = None,
) -> HttpResponse:
    number_shown = number(first(fields, "guideline_version"))
    sheet = Sheet(
        task=ranking.task,
        shown_order=_order_of(ranking),
        version=recording.version_shown(project, number_shown),
        fields=fields,
        errors=errors,
        policy=Policy.of(project),
    )
    context = {
        "project": project,
        "section": "review",
        "ranking": ranking,
        "sheet": sheet,
        "draft_key": f"{ranking.reviewer_id}-ranking-{ranking.pk}",
        "draft_at": 0,
    }
    status = HTTPStatus.UNPROCESSABLE_ENTITY if errors else HTTPStatus.OK
    return render(request, "labeling/reviewing/review.html", context, status=status)


def _revised(request: HttpRequest, project: Project, ranking: Ranking) -> HttpResponse:
    names = page_names(ranking.task_id, _order_of(ranking))
    fields = fields_by_id(fields_of(request.POST), names)
    version = recording.version_shown(project, number(first(fields, "guideline_version")))
    answer = read_answer(
        fields,
        shown_order=_order_of(ranking),
        criteria=version.criteria.all(),
        policy=Policy.of(project),
    )
    try:
        if answer.errors:
            raise recording.InvalidRanking(answer.errors)
        recording.revise(
            ranking=ranking,
            reviewer=user_of(request),
            content=answer.content,
            idempotency_key=answer.idempotency_key,
            guideline_version=answer.guideline_version,
        )
    except recording.InvalidRanking as invalid:
        return _form(request, project, ranking, fields, invalid.errors)
    messages.success(request, _("Your revision is saved and replaces the earlier ranking."))
    return redirect("review-history", project.slug)
