from typing import Any

from django import template

from labeling import overlap
from labeling.adjudication import causes, guideline_gaps
from labeling.models import Adjudication, Project

register = template.Library()


@register.inclusion_tag("labeling/why_disputed.html")
def why_disputed(project: Project) -> dict[str, Any]:
    """The causes that leads gave, and where the guideline fell short. A query, two when it did."""
    given = causes(project)
    blamed = any(one.cause == Adjudication.Cause.GUIDELINE for one in given)
    gaps = guideline_gaps(project) if blamed else []
    return {"project": project, "causes": given, "gaps": gaps}


@register.inclusion_tag("labeling/rankings_saved.html")
def rankings_saved(project: Project) -> dict[str, Any]:
    """What sequential overlap saved; nothing with fixed overlap. One bounded query, for leads only."""
    sequential = project.overlap == Project.Overlap.SEQUENTIAL
    return {"project": project, "saved": overlap.saved(project) if sequential else None}
