from collections.abc import Iterable
from typing import Any

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from accounts.access import lead_required, trainer_required, user_of
from finetune.access import evaluation_for, model_for
from finetune.evaluation import judges
from finetune.evaluation.answers import answers_of, rendered
from finetune.evaluation.conclusions import Standing, forecasts, standing
from finetune.evaluation.runs import peoples_verdicts
from finetune.evidence import Evidence
from finetune.forms import AddModelForm
from finetune.models import Evaluation, Model
from finetune.registry import add_base
from formatting.numbers import percent
from reward.access import led_projects
from reward.models import RewardModel
from reward.pages.charts import interval_row
from reward.pages.downloads import downloads_of, send_download
from reward.pages.views import change_state, version_lines

PAGE_SIZE = 50
ANSWERS_PER_PAGE = 10


@lead_required
@require_GET
def models(request: HttpRequest) -> HttpResponse:
    projects = led_projects(user_of(request))
    rows = Model.objects.filter(project__in=projects).select_related("project", "parent", "run")
    page = Paginator(rows, PAGE_SIZE).get_page(request.GET.get("page"))
    last = last_evaluations(page.object_list)
    rewards = RewardModel.objects.filter(project__in=projects).select_related("project")
    context = {
        "page": page,
        "rows": [(model, last.get(model.pk)) for model in page.object_list],
        "reward_models": rewards.select_related("snapshot")[:PAGE_SIZE],
        "can_train": user_of(request).can_train,
    }
    return render(request, "finetune/models.html", context)


def last_evaluations(models: Iterable[Model]) -> dict[int, Evaluation]:
    """Return the newest evaluation of each model, by the id of the model. This takes one query."""
    evaluations = Evaluation.objects.filter(candidate__in=[model.pk for model in models])
    evaluations = evaluations.exclude(report={})
    newest = (
        evaluations.order_by("candidate_id", "-id")
        .distinct("candidate_id")
        .select_related("baseline")
    )
    return {evaluation.candidate_id: evaluation for evaluation in newest}


@trainer_required
@require_http_methods(["GET", "POST"])
def add_model(request: HttpRequest) -> HttpResponse:
    projects = led_projects(user_of(request))
    form = AddModelForm(request.POST or None, projects=projects)
    if request.method == "POST" and form.is_valid():
        model, _ = add_base(**form.cleaned_data, by=user_of(request))
        messages.success(request, f"{model} can now be used in {model.project}.")
        return redirect("model", model.pk)
    return render(request, "finetune/model_add.html", {"form": form})


@lead_required
@require_GET
def model(request: HttpRequest, pk: int) -> HttpResponse:
    row = model_for(request, pk)
    evaluations = list(row.evaluations.select_related("baseline", "project").order_by("-id"))
    context = {
        "model": row,
        "lineage": [step for step in row.ancestry() if step != row],
        "versions": version_lines(row.snapshot.counts) if row.snapshot else [],
        "evaluations": [(item, judges.title_of(item.judge)) for item in evaluations],
        "doubts": row.doubts(),
        "downloads": downloads_of(row),
        "can_train": user_of(request).can_train,
    }
    return render(request, "finetune/model.html", context)


@trainer_required
@require_POST
def move_model(request: HttpRequest, pk: int) -> HttpResponse:
    """Promote, archive or restore a model. `to` names the action.

    The promotion of a model with doubts needs a `reason`.
    """
    return change_state(request, model_for(request, pk), back="model")


@lead_required
@require_GET
def download(request: HttpRequest, pk: int, part: str) -> HttpResponseBase:
    """Send the archive, the card or the report of an adapter or a merged model."""
    return send_download(request, model_for(request, pk), part, back="model")


@lead_required
@require_GET
def evaluation(request: HttpRequest, pk: int) -> HttpResponse:
    row = evaluation_for(request, pk)
    selection = answers_of(row, request.GET.get("verdict", ""))
    page = Paginator(selection.items, ANSWERS_PER_PAGE).get_page(request.GET.get("page"))
    verdicts = row.blind_verdicts()
    people, blind = peoples_verdicts(verdicts), row.people(verdicts)
    context = {
        "evaluation": row,
        "standings": standings(row, blind),
        "people_count": 0 if blind is None else len(blind.units),
        **{name: percent(getattr(row, name)) for name in ("alpha", "own_alpha")},
        "margin": f"{100 * (row.margin or 0):.0f}",
        "forecasts": forecasts(row),
        "report": row.report,
        "judge": judges.title_of(row.judge),
        "identical": identical_answers(row.report),
        "rows": evaluation_rows(row, people),
        "people": people,
        "truncated": {k: percent(v) for k, v in row.report.get("truncated", {}).items()},
        "query": f"verdict={selection.verdict}&" if selection.verdict else "",
        "shown": selection,
        "page": page,
        "answers": rendered(page.object_list),
    }
    return render(request, "finetune/evaluation.html", context)


def standings(evaluation: Evaluation, people: Evidence | None) -> list[Standing]:
    """Return what the verdicts of people and of the judge prove; people first. One query."""
    sources = {
        "Reviewers, blind": people,
        judges.title_of(evaluation.judge): evaluation.judged(),
    }
    return [standing(title, evaluation, e) for title, e in sources.items() if e is not None]


def identical_answers(report: dict[str, Any]) -> dict[str, Any] | None:
    """Return how many answers of the two models are identical, or None for an older report."""
    count, answers = report.get("identical"), (report.get("win_rate") or {}).get("answers")
    if count is None or not answers:
        return None
    return {"count": count, "of": answers, "percent": percent(count / answers)}


def evaluation_rows(evaluation: Evaluation, people: dict[str, Any] | None) -> list[Any]:
    title, win_rate = judges.title_of(evaluation.judge), evaluation.report.get("win_rate")
    rows = [interval_row(title, win_rate, main=True)]
    if people:
        note = f"{people['answers']} blind comparisons of {people['prompts']} prompts"
        rows.append(interval_row("Reviewers, blind", people, note=note))
    return rows
