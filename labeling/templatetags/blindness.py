from typing import Any

from django import template

from labeling.core.blindness import may_see_models, may_see_others, others_of
from labeling.core.lettering import Lettering, as_order, letters_of
from labeling.core.suggestions import Suggestion, suggestions_for
from labeling.models import Project, Response
from labeling.reviewing.sheet import Sheet

register = template.Library()


@register.inclusion_tag("labeling/parts/shown_to_all.html", takes_context=True)
def shown_to_all(context: dict[str, Any], project: Project, sheet: Sheet) -> dict[str, Any]:
    """Return the model names and rankings that the project shows to everyone on the ranking page.

    Costs no query if the project shows neither.
    """
    user, order = context["user"], sheet.shown_order
    letters = letters_of(order)
    models: list[tuple[str, str]] = []
    rankings: list[dict[str, Any]] = []
    if may_see_models(user, project, sheet.task, judging=True):
        names = dict(Response.objects.filter(pk__in=order).values_list("pk", "model_name"))
        models = [(letters[response], names[response]) for response in order]
    if may_see_others(user, project, sheet.task, judging=True):
        lettering = Lettering.of(sheet.task, letters)
        rankings = [
            {
                "order": as_order(ranking.tiers, ranking.cut, letters),
                "note": lettering.show(ranking.rationale, ranking.shown_order),
            }
            for ranking in others_of(sheet.task, user).order_by("id")
        ]
    return {"models": models, "rankings": rankings}


@register.simple_tag(takes_context=True)
def suggested(context: dict[str, Any], sheet: Sheet) -> dict[int, Suggestion]:
    """Return the reward model's scores for the ranking page if everyone may see them.

    Otherwise this costs no query.
    """
    return suggestions_for(context["user"], sheet.task, sheet.shown_order, judging=True)


@register.filter
def suggestion_for(suggestions: dict[int, Suggestion], response: int) -> Suggestion | None:
    return suggestions.get(response)
