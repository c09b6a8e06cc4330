from typing import Any

from django import template

from accounts.models import User
from labeling.core.lettering import Lettered, Lettering, letters_of
from labeling.disputes.adjudication import causes, guideline_gaps, order_for
from labeling.models import Adjudication, Project, Task
from labeling.quality import window
from labeling.rankings import overlap

register = template.Library()


@register.inclusion_tag("labeling/why_disputed.html", takes_context=True)
def why_disputed(context: dict[str, Any], project: Project) -> dict[str, Any]:
    """The causes that leads gave, and where the guideline fell short. A query, four when it did."""
    given = causes(project)
    blamed = any(one.cause == Adjudication.Cause.GUIDELINE for one in given)
    gaps = _in_letters(guideline_gaps(project), context["user"]) if blamed else []
    return {"project": project, "causes": given, "gaps": gaps}


def _in_letters(gaps: list[Adjudication], lead: User) -> list[tuple[Adjudication, Lettered]]:
    """Each with its note in the letters of the page that its link opens."""
    tasks = Task.objects.select_related("prompt").in_bulk([gap.task_id for gap in gaps])
    orders = window.orders_of(list(tasks))
    shown = []
    for gap in gaps:
        letters = letters_of(order_for(gap.task_id, lead, orders[gap.task_id]))
        lettering = Lettering.of(tasks[gap.task_id], letters)
        shown.append((gap, lettering.show(gap.note, gap.shown_order, limit=300)))
    return shown


@register.inclusion_tag("labeling/rankings_saved.html")
def rankings_saved(project: Project) -> dict[str, Any]:
    """What sequential overlap saved; nothing with fixed overlap. One bounded query, for leads only."""
    sequential = project.overlap == Project.Overlap.SEQUENTIAL
    return {"project": project, "saved": overlap.saved(project) if sequential else None}
