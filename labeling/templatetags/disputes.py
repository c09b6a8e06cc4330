from typing import Any

from django import template

from accounts.models import User
from labeling.core.lettering import LetteredText, Lettering, letters_of
from labeling.disputes.adjudication import causes, guideline_gaps, order_for
from labeling.models import Adjudication, Project, Task
from labeling.quality import window
from labeling.rankings import overlap

register = template.Library()


@register.inclusion_tag("labeling/disputes/why_disputed.html", takes_context=True)
def why_disputed(context: dict[str, Any], project: Project) -> dict[str, Any]:
    """Return how often leads gave each cause of a dispute, and the newest gaps in the guideline.

    Costs one query, or four if a decision names the guideline as the cause.
    """
    cause_counts = causes(project)
    blamed = any(count.cause == Adjudication.Cause.GUIDELINE for count in cause_counts)
    gaps = _in_letters(guideline_gaps(project), context["user"]) if blamed else []
    return {"project": project, "causes": cause_counts, "gaps": gaps}


def _in_letters(gaps: list[Adjudication], lead: User) -> list[tuple[Adjudication, LetteredText]]:
    """Return each decision with its note, in the letters of the dispute's page."""
    tasks = Task.objects.select_related("prompt").in_bulk([gap.task_id for gap in gaps])
    orders = window.orders_of(list(tasks))
    rows = []
    for gap in gaps:
        letters = letters_of(order_for(gap.task_id, lead, orders[gap.task_id]))
        lettering = Lettering.of(tasks[gap.task_id], letters)
        rows.append((gap, lettering.show(gap.note, gap.shown_order, limit=300)))
    return rows


@register.inclusion_tag("labeling/projects/rankings_saved.html")
def rankings_saved(project: Project) -> dict[str, Any]:
    """Return how many rankings sequential overlap has saved, or None with fixed overlap."""
    sequential = project.overlap == Project.Overlap.SEQUENTIAL
    return {"project": project, "savings": overlap.savings(project) if sequential else None}
