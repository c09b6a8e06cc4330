"""The page with others' rankings of a task, for reviewers who have ranked it, if the project allows it."""

from typing import Any

from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET

from accounts.access import user_of
from labeling.core.access import leads, project_for
from labeling.core.blindness import (
    may_see_models,
    may_see_others,
    may_see_suggestions,
    others_of,
)
from labeling.core.chats import conversation
from labeling.core.lettering import Lettering, as_order, letters_of
from labeling.core.suggestions import suggestions_for
from labeling.core.text import exact
from labeling.core.text import render as render_text
from labeling.models import Ranking


@login_required
@require_GET
def others(request: HttpRequest, slug: str, ranking_id: int) -> HttpResponse:
    """Show others' rankings next to the reviewer's own. Their names are never sent to the browser."""
    project = project_for(request, slug)
    user = user_of(request)
    own = get_object_or_404(
        Ranking.objects.select_related("task__prompt", "task__project"),
        pk=ranking_id,
        reviewer=user,
        task__project=project,
        task__inactive=False,
        superseded_at=None,
    )
    show_models = may_see_models(user, project, own.task)
    show_others = may_see_others(user, project, own.task)
    if not (show_models or show_others or may_see_suggestions(user, project, own.task)):
        raise PermissionDenied(
            _("This project shows others' rankings and model names to leads only.")
        )
    places = list(own.task.places.select_related("response").order_by("position"))
    positions = {response: task_response for task_response, response in enumerate(own.shown_order)}
    places.sort(
        key=lambda task_response: positions.get(
            task_response.response_id, len(positions) + task_response.position
        )
    )
    letters = letters_of([task_response.response_id for task_response in places])
    lettering = Lettering.of(
        own.task, letters, [task_response.response.text for task_response in places]
    )
    scores = suggestions_for(user, own.task, list(letters))
    other_rankings = others_of(own.task, user).order_by("?")
    context = {
        "project": project,
        "section": "review",
        "leads": leads(user, project),
        "ranking": own,
        "own": _ranking_context(own, lettering),
        "show_others": show_others,
        "others": [
            _ranking_context(ranking, lettering)
            for ranking in (other_rankings if show_others else ())
        ],
        "messages_of_prompt": conversation(own.task.prompt.messages),
        "responses": [
            {
                "letter": letters[task_response.response_id],
                "model": task_response.response.model_name if show_models else "",
                "suggestion": scores.get(task_response.response_id),
                "html": render_text(task_response.response.text),
                "exact": exact(task_response.response.text),
            }
            for task_response in places
        ],
    }
    return render(request, "labeling/reviewing/others.html", context)


def _ranking_context(ranking: Ranking, lettering: Lettering) -> dict[str, Any]:
    return {
        "order": as_order(ranking.tiers, ranking.cut, lettering.letters),
        "note": lettering.show(ranking.rationale, ranking.shown_order),
    }
