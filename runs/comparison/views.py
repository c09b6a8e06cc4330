from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from accounts.access import lead_required, user_of
from accounts.models import User
from accounts.parameters import number
from runs import live
from runs.comparison import answers, curves, figures, settings
from runs.models import Run
from runs.templatetags.runs import metric as metric_label
from runs.templatetags.runs import run_name

MOST_RUNS = 10
SUGGESTED = 12
ANSWERS_PER_PAGE = 5
COLOURS, DASHES = 6, 5
"""The numbers of colours and of patterns of lines. Without a common divisor, 30 runs can differ."""


@dataclass(frozen=True)
class Entry:
    """A run of the comparison. The letter and the pattern of its lines tell it apart without colour."""

    letter: str
    run: Run
    colour: int
    dash: int
    query_without: str


@lead_required
@require_safe
def compare(request: HttpRequest) -> HttpResponse:
    requested = run_ids(request.GET.getlist("run"))
    visible = Run.objects.visible_to(user_of(request)).select_related("project", "created_by")
    by_id = visible.in_bulk(requested[:MOST_RUNS])
    runs = [by_id[pk] for pk in requested if pk in by_id]
    entries = entries_of(runs)
    columns = curves.curves(runs)
    rows = settings.rows(runs)
    page = Paginator(answers.rows(runs), ANSWERS_PER_PAGE).get_page(request.GET.get("page"))
    context = {
        "entries": entries,
        "missing": [pk for pk in requested[:MOST_RUNS] if pk not in by_id],
        "left_out": requested[MOST_RUNS:],
        "most": MOST_RUNS,
        "suggestions": suggestions(user_of(request), runs),
        "results": figures.of_results(runs),
        "last_values": figures.of_curves(runs, [curves.last_values(columns[r.pk]) for r in runs]),
        "differing": settings.differing(rows),
        "partial": settings.partial(rows),
        "equal": settings.equal(rows),
        "page": page,
        "answers": [(row.prompt, list(zip(entries, row.answers, strict=True))) for row in page],
        "query": "".join(f"run={run.pk}&" for run in runs),
        "chart": chart_data(entries, columns),
        "section": "runs",
    }
    return render(request, "runs/compare.html", context)


def run_ids(texts: Iterable[str]) -> list[int]:
    """Return the ids in texts such as "12", "#12" and "3, 4", each once. Other text is ignored."""
    parts = (part.strip().removeprefix("#") for text in texts for part in text.split(","))
    return list(dict.fromkeys(pk for part in parts if (pk := number(part)) is not None))


def entries_of(runs: list[Run]) -> list[Entry]:
    return [
        Entry(
            letter=chr(ord("A") + index),
            run=run,
            colour=index % COLOURS,
            dash=index % DASHES,
            query_without="&".join(f"run={other.pk}" for other in runs if other != run),
        )
        for index, run in enumerate(runs)
    ]


def suggestions(user: User, runs: list[Run]) -> list[Run]:
    """Return runs to add: the newest of the same kinds and projects, or the newest of all."""
    others = Run.objects.visible_to(user).in_use().exclude(pk__in=[run.pk for run in runs])
    if runs:
        others = others.filter(
            kind__in={run.kind for run in runs}, project__in={run.project_id for run in runs}
        )
    return list(others.order_by("-id").defer("config", "result")[:SUGGESTED])


def chart_data(entries: list[Entry], columns: dict[int, curves.Columns]) -> dict[str, Any]:
    """Return the curves for the script. A metric is a share if it is one in each run that has it."""
    names = {name for each in columns.values() for name in each["values"]}
    return {
        "runs": [
            {
                "letter": entry.letter,
                "name": run_name(entry.run),
                "colour": entry.colour,
                "dash": entry.dash,
                "total": entry.run.total_steps,
                **columns[entry.run.pk],
            }
            for entry in entries
        ],
        "labels": {name: metric_label(name) for name in sorted(names)},
        "shares": sorted(
            name
            for name in names
            if all(
                name in live.shares_of(entry.run)
                for entry in entries
                if name in columns[entry.run.pk]["values"]
            )
        ),
    }
