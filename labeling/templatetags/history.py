from string import ascii_uppercase
from typing import Any

from django import template

from labeling.core.lettering import as_order
from labeling.core.text import shortened
from labeling.models import Ranking

register = template.Library()


@register.filter
def shown_letters(ranking: Ranking) -> list[Any]:
    """Return the ranking's order in the letters that its reviewer saw."""
    order = ranking.shown_order or sorted(i for tier in ranking.tiers for i in tier)
    letters = dict(zip(order, ascii_uppercase, strict=False))
    return as_order(ranking.tiers, ranking.cut, letters)


@register.filter
def prompt_line(ranking: Ranking) -> str:
    return shortened(str(ranking.task.prompt.messages[-1]["content"]), 140)
