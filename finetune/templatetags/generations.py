"""The generations of a project for its page, as charts and as a table."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django import template
from django.utils.formats import number_format
from django.utils.translation import gettext as _

from finetune.evaluation import judges
from finetune.evaluation.generations import EVEN, Generation, Interval, generations_of
from labeling.core.charts import Trend, axis_around, trend
from labeling.models import Project
from labeling.templatetags.numbers import percent

register = template.Library()

WIDTH = 400
"""The width of a chart in its own units, which is about its width on a phone in pixels."""
MOST_OPEN = 10
"""With more rows, the table is folded."""


@dataclass(frozen=True)
class Row:
    """A model: the first one, or one that was promoted. `generation` is None for the first one."""

    label: str
    model: int
    name: str
    generation: Generation | None
    over_first: Interval | None
    score: Interval | None


@dataclass(frozen=True)
class Label:
    """The label of a dot on the axis, and the text that describes the dot."""

    name: str
    text: str


@register.inclusion_tag("finetune/generations.html")
def generations(project: Project) -> dict[str, Any]:
    """Return the charts and the table of the project's generations.

    Takes a query, one for each certificate that this process has not read before, and one for a judge
    that is a model.
    """
    promoted = generations_of(project)
    if not promoted:
        return {"rows": []}
    judge = next((g.promotion.judge for g in reversed(promoted) if g.promotion.score), "")
    rows = rows_of(promoted, judge)
    level = 1 - max((row.over_first.alpha for row in rows if row.over_first), default=0.0)
    return {
        "project": project,
        "rows": rows,
        "first": rows[0].name,
        "win_rates": win_rate_chart(rows),
        "scores": score_chart(rows),
        "judge": judges.title_of(judge) if judge else "",
        "level": percent(max(0.0, level), 0),
        "is_open": len(rows) <= MOST_OPEN,
    }


def rows_of(generations: Sequence[Generation], judge: str) -> list[Row]:
    """Return the first model and the promoted ones, with their mean scores by this judge."""
    first = generations[0].promotion
    rows = []
    if first.before != first.model:
        score = first.score_before if first.judge == judge else None
        rows.append(Row(_("base"), first.before, first.name_before, None, EVEN, score))
    for generation in generations:
        step = generation.promotion
        score = step.score if step.judge == judge else None
        label = str(generation.number)
        rows.append(Row(label, step.model, step.name, generation, generation.over_first, score))
    return rows


def win_rate_chart(rows: Sequence[Row]) -> Trend | None:
    points = [
        (Label(row.label, described(row, row.over_first, percent)), row.over_first)
        for row in rows
        if row.over_first
    ]
    return trend(points, width=WIDTH)


def score_chart(rows: Sequence[Row]) -> Trend | None:
    points = [
        (Label(row.label, described(row, row.score, score_text)), row.score)
        for row in rows
        if row.score
    ]
    if not points:
        return None
    axis = axis_around(min(s.low for _, s in points), max(s.high for _, s in points))
    return trend(points, axis, WIDTH)


def described(row: Row, figure: Interval, text: Any) -> str:
    if figure is EVEN:
        return f"{row.name}: {text(figure.value)}"
    return _("%(model)s: %(value)s (%(low)s to %(high)s)") % {
        "model": row.name,
        "value": text(figure.value),
        "low": text(figure.low),
        "high": text(figure.high),
    }


@register.filter
def score_text(value: float) -> str:
    """Format a score with two decimals in the page's language."""
    return str(number_format(value, 2))
