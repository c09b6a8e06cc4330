"""The page of label mistakes, about which leads decide. Reviewers are not named."""

from typing import Any

from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.db.models import F
from django.db.models.fields.json import KeyTransform
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from formatting.numbers import percent
from labeling.core.access import led_project
from labeling.core.text import shortened
from labeling.models import Adjudication, Project, Ranking
from reward.models import RewardModel

PAGE_SIZE = 25
MAX_MODELS = 20


@login_required
@require_GET
def show(request: HttpRequest, slug: str) -> HttpResponse:
    """Show the label mistakes of the reward model `?model`, or of the newest model that has some.

    The page takes six queries.
    """
    project = led_project(request, slug)
    models = _models(project)
    chosen = [model for model in models if str(model["pk"]) == request.GET.get("model")]
    with_rows = [model for model in models if model["likely"]]
    model = next(iter([*chosen, *with_rows, *models]), None)
    rows = _rows_of(model) if model else []
    page = Paginator(rows, PAGE_SIZE).get_page(request.GET.get("page"))
    context = {
        "project": project,
        "section": "projects",
        "leads": True,
        "model": model,
        "models": models,
        "page": page,
        "rows": _table_rows(project, list(page.object_list)),
        "more": max(0, (model["likely"] or 0) - len(rows)) if model else 0,
    }
    return render(request, "reward/label_mistakes.html", context)


def _models(project: Project) -> list[Any]:
    """Return the newest models that have label mistakes, without the rest of their reports."""

    def part(name: str) -> KeyTransform:
        return KeyTransform(name, KeyTransform("label_mistakes", "report"))

    models = RewardModel.objects.filter(project=project, report__has_key="label_mistakes")
    parts = {name: part(name) for name in ("likely", "rankings", "checked", "reason", "sure")}
    rows: Any = models.order_by("-pk").values("pk", "name", **parts)[:MAX_MODELS]
    return [{**row, "sure_percent": percent(row["sure"] or 0, 0)} for row in rows]


def _rows_of(model: dict[str, Any]) -> list[dict[str, Any]]:
    rows = KeyTransform("rows", KeyTransform("label_mistakes", "report"))
    return RewardModel.objects.filter(pk=model["pk"]).values_list(rows, flat=True).get() or []


def _table_rows(project: Project, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of the table, each with the current state of its ranking.

    Rankings of other projects are not read from the database.
    """
    ids = [row["ranking_id"] for row in rows if row["ranking_id"] is not None]
    rankings = (
        Ranking.objects.filter(task__project=project)
        .annotate(
            prompt_text=F("task__prompt__messages__-1__content"), inactive=F("task__inactive")
        )
        .defer("rationale")
        .in_bulk(ids)
    )
    tasks = {ranking.task_id for ranking in rankings.values()}
    decided = set(Adjudication.objects.filter(task__in=tasks).values_list("task", flat=True))
    return [_table_row(row, rankings.get(row["ranking_id"]), decided) for row in rows]


def _table_row(row: dict[str, Any], ranking: Any, decided: set[int]) -> dict[str, Any]:
    state = ""
    if ranking and ranking.inactive:
        return {**_bare(row), "state": "withdrawn"}
    if ranking and ranking.superseded_at:
        state = "revised since"
    elif ranking and ranking.task_id in decided:
        state = "decided"
    return {
        **_bare(row),
        "task_id": ranking and ranking.task_id,
        "prompt": shortened(str(ranking.prompt_text or ""), 140) if ranking else "",
        "state": state,
    }


def _bare(row: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of a row, without a link to the ranking and the text of its prompt."""
    return {
        "task_id": None,
        "prompt": "",
        "group_id": row["group_id"],
        "probability": "over 99%" if row["probability"] > 0.99 else percent(row["probability"], 0),
        "contradicted": row["contradicted"],
        "pairs": row["pairs"],
        "others": row["other_rankings"],
    }
