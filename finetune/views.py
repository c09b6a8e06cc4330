import json
from collections.abc import Iterable
from typing import Any

from django.contrib import messages
from django.core.paginator import Paginator
from django.db.models import Q
from django.http import FileResponse, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.http import content_disposition_header
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from accounts.access import lead_required, trainer_required, user_of
from accounts.models import User, audit
from finetune.access import certificate_for, evaluation_for, model_for
from finetune.certificate import issuing
from finetune.evaluation import judges
from finetune.evaluation.answers import answers_of, rendered
from finetune.evaluation.certified import reviewers_of, standings_of
from finetune.evaluation.comparisons import peoples_verdicts
from finetune.evaluation.conclusions import Standing, forecasts, sentence, standing
from finetune.evaluation.regression import as_lines
from finetune.evaluation.reviewers import reviewer_rows
from finetune.evaluation.side_figures import side_figures
from finetune.forms.evaluation import RegressionSetForm
from finetune.forms.registration import AddModelForm
from finetune.model_page.derived import children_of, pushes_of, uses_of
from finetune.model_page.facts import facts_of, missing_files
from finetune.model_page.licence import licence_of
from finetune.model_page.usage import api_code, api_name, curl_code, is_served, python_code
from finetune.models import (
    ALPHA,
    REGRESSION_MARGIN,
    BlindVerdict,
    Certificate,
    Delivery,
    Evaluation,
    Model,
)
from finetune.statistics.evidence import ORDER_BLOCK, Evidence, share_of_alpha
from finetune.statistics.expectations import in_words
from finetune.statistics.regression import prompts_needed
from finetune.statistics.reviewer_effects import GeneralRate
from formatting.numbers import percent, percent_range
from labeling.core.access import led_project, require_trainer, trains
from labeling.core.text import render as render_text
from labeling.models import Prompt
from reward.access import led_projects, trained_projects
from reward.models import RewardModel
from reward.pages.charts import interval_row
from reward.pages.downloads import downloads_of, send_download
from reward.pages.views import change_state, version_lines

PAGE_SIZE = 50
ANSWERS_PER_PAGE = 10
LOST_SHOWN = 20
"""Prompts of a regression set that the page of an evaluation shows with their answers."""


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
    projects = trained_projects(user_of(request))
    form = AddModelForm(request.POST or None, projects=projects)
    if request.method == "POST" and form.is_valid():
        model = form.save(user_of(request))
        messages.success(request, f"{model} can now be used in {model.project}.")
        return redirect("model", model.pk)
    return render(request, "finetune/model_add.html", {"form": form})


@lead_required
@require_GET
def model(request: HttpRequest, pk: int) -> HttpResponse:
    row = model_for(request, pk)
    evaluations = list(row.evaluations.select_related("baseline", "project").order_by("-id"))
    address = request.build_absolute_uri(reverse("openai-root")).rstrip("/")
    context = {
        "model": row,
        "facts": facts_of(row),
        "verdicts": verdicts_of(evaluations),
        "licence": licence_of(row),
        "policy": row.project.get_promotion_policy_display(),
        "files_removed_at": row.files_removed_at(),
        "missing_files": missing_files(row),
        "python_code": python_code(row),
        "is_served": is_served(row),
        "api_name": api_name(row),
        "api_code": api_code(row, address),
        "curl_code": curl_code(row, address),
        "children": children_of(row),
        "pushes": pushes_of(row),
        "uses": uses_of(row),
        "lineage": [step for step in row.ancestry() if step != row],
        "versions": version_lines(row.snapshot.counts) if row.snapshot else [],
        "evaluations": [
            (item, judge_label(item), side_figures(item.report)) for item in evaluations
        ],
        "doubts": row.all_doubts(),
        "withdrawals": row.withdrawals(),
        "certificates": row.certificates.select_related("project"),
        "deliveries": Delivery.of_model(row),
        "downloads": downloads_of(row),
        "can_train": trains(user_of(request), row.project),
    }
    return render(request, "finetune/model.html", context)


def verdicts_of(evaluations: list[Evaluation]) -> list[tuple[str, str]]:
    """Return what the newest finished evaluation proves, by source. Costs four queries."""
    newest = next((each for each in evaluations if each.report and each.is_registered), None)
    if newest is None:
        return []
    sources = {"Reviewers": newest.people(), judge_title(newest): newest.judged()}
    return [
        (source, sentence(newest, evidence))
        for source, evidence in sources.items()
        if evidence is not None
    ]


@trainer_required
@require_POST
def move_model(request: HttpRequest, pk: int) -> HttpResponse:
    """Promote, archive or restore a model. `to` names the action.

    The promotion of a model with doubts needs a `reason`.
    """
    row = model_for(request, pk)
    require_trainer(user_of(request), row.project)
    return change_state(request, row, back="model")


@lead_required
@require_GET
def download(request: HttpRequest, pk: int, part: str) -> HttpResponseBase:
    """Send the archive, the card or the report of an adapter or a merged model."""
    row = model_for(request, pk)
    response = send_download(request, row, part, back="model")
    newest = row.certificates.select_related("project").first()
    if part == "card" and newest and isinstance(response, FileResponse):
        return with_certificate(response, newest, request)
    return response


def with_certificate(
    card: FileResponse, certificate: Certificate, request: HttpRequest
) -> HttpResponse:
    """Return the download of a card with a section about the model's newest certificate."""
    address = request.build_absolute_uri(reverse("certificate", args=[certificate.pk]))
    section = (
        f"\n## Promotion\n\nPromoted on {certificate.issued_at:%Y-%m-%d}. "
        f"[Certificate {certificate.number}]({address}), SHA-256 `{certificate.sha256}`, contains the "
        "verdicts and the evidence. To recompute its conclusion:\n\n"
        f"    python -m finetune.certificate {certificate.file_name}\n"
    )
    text = card.getvalue() + section.encode()
    headers = {"Content-Disposition": card["Content-Disposition"]}
    return HttpResponse(text, content_type=card["Content-Type"], headers=headers)


@lead_required
@require_GET
def evaluation(request: HttpRequest, pk: int) -> HttpResponse:
    row = evaluation_for(request, pk)
    selection = answers_of(row, request.GET.get("verdict", ""))
    page = Paginator(selection.items, ANSWERS_PER_PAGE).get_page(request.GET.get("page"))
    verdicts = row.blind_verdicts()
    counted = row.counted(verdicts)
    people, blind = peoples_verdicts(verdicts), row.evidence_from(counted)
    reviewers = reviewer_rows(row, counted)
    names = User.objects.in_bulk([line.reviewer for line in reviewers]) if reviewers else {}
    context = {
        "evaluation": row,
        "standings": standings(row, blind),
        "reviewers": [(names[line.reviewer], line) for line in reviewers],
        "at_equal_length": length_lines(row, counted),
        "general": general_line(row.general_rate(counted)),
        "people_count": 0 if blind is None else len(blind.units),
        **{name: percent(getattr(row, name)) for name in ("alpha", "own_alpha")},
        "margin": f"{100 * (row.margin or 0):.0f}",
        "forecasts": forecasts(row),
        "order_block": ORDER_BLOCK,
        "report": row.report,
        "judge": judge_title(row),
        "llm_judge": llm_judge_figures(row),
        "identical": identical_answers(row.report),
        "rows": evaluation_rows(row, people),
        "regression": regression_figures(row),
        "people": people,
        "side": side_figures(row.report),
        "query": f"verdict={selection.verdict}&" if selection.verdict else "",
        "shown": selection,
        "page": page,
        "answers": rendered(page.object_list),
    }
    return render(request, "finetune/evaluation.html", context)


def standings(evaluation: Evaluation, people: Evidence | None) -> list[Standing]:
    """Return what the verdicts of people and of the judge prove; people first, in one query."""
    if people is None and evaluation.asks_people and evaluation.report:
        people = evaluation.evidence_of([])
    sources = {"Reviewers, blind": people, judge_title(evaluation): evaluation.judged()}
    return [standing(title, evaluation, e) for title, e in sources.items() if e is not None]


def regression_figures(evaluation: Evaluation) -> dict[str, Any] | None:
    """Return what the page says about the regression set, or None without its result. Four queries.

    `lost` lists the prompts on which the candidate's answer is worse, at most LOST_SHOWN.
    """
    result, used = evaluation.regression(), evaluation.regression_set
    if result is None or used is None:
        return None
    lost = evaluation.regression_items.filter(Q(verdict=0) | Q(verdict=None))
    expectations = used.expectations()
    answered = set(evaluation.regression_items.values_list("prompt_id", flat=True))
    return {
        "set": used,
        "result": result,
        "mean": percent(result.mean),
        "low": percent(result.low),
        "level": percent(1 - result.alpha),
        "limit": percent(0.5 - result.margin),
        "lost": [
            {
                "item": item,
                "expect": in_words(expectations[item.prompt_id]),
                "candidate": render_text(item.candidate_text),
                "baseline": render_text(item.baseline_text),
            }
            for item in lost.select_related("prompt")[:LOST_SHOWN]
        ],
        "missing": len(set(used.prompt_ids) - answered),
    }


def judge_title(evaluation: Evaluation) -> str:
    return judges.title_of(evaluation.judge) if evaluation.judge else "Only people"


def judge_label(evaluation: Evaluation) -> str:
    return judges.label_of(evaluation.judge) if evaluation.judge else "Only people"


def length_lines(evaluation: Evaluation, counted: list[BlindVerdict]) -> list[dict[str, str]]:
    """Return the length-controlled win rates of people and of the judge as text. One query."""
    people, judge = evaluation.at_equal_length(counted)
    sources = (("reviewers", people), ("judge", judge))
    return [
        {
            "source": source,
            "rate": percent(rate.rate),
            "interval": percent_range(rate.interval),
            "double": percent(rate.rate_at_double_length, 0),
        }
        for source, rate in sources
        if rate is not None
    ]


def general_line(rate: GeneralRate | None) -> dict[str, Any] | None:
    """Return the win rate over reviewers in general as text, or None for fewer than two reviewers."""
    if rate is None:
        return None
    return {
        "reviewers": rate.reviewers,
        "mean": percent(rate.mean),
        "interval": percent_range(rate.interval),
    }


def llm_judge_figures(evaluation: Evaluation) -> dict[str, Any] | None:
    """Return what the page says about an LLM judge, or None for another judge. Costs two queries."""
    figures = evaluation.report.get("llm_judge")
    judge = judges.existing(evaluation.judge) if figures else None
    if figures is None or judge is None or judge.llm is None:
        return None
    estimate = evaluation.report.get("calibrated")
    return {
        **figures,
        "note": judge.note,
        "model": judge.llm,
        "measured": judge.agreement,
        "first": percent(figures.get("first_preferred")),
        "calibrated": estimate
        and f"{percent(estimate['value'])} (95% interval {percent_range(estimate['interval'])})",
    }


def identical_answers(report: dict[str, Any]) -> dict[str, Any] | None:
    """Return how many answers of the two models are identical, or None for an older report."""
    count, answers = report.get("identical"), (report.get("win_rate") or {}).get("answers")
    if count is None or not answers:
        return None
    return {"count": count, "of": answers, "percent": percent(count / answers)}


def evaluation_rows(evaluation: Evaluation, people: dict[str, Any] | None) -> list[Any]:
    win_rate = evaluation.report.get("win_rate")
    rows = [interval_row(judge_title(evaluation), win_rate, main=True)] if win_rate else []
    if people:
        note = f"{people['answers']} blind comparisons of {people['prompts']} prompts"
        rows.append(interval_row("Reviewers, blind", people, note=note))
    return rows


# --- regression sets -----------------------------------------------------------------------------


@lead_required
@require_http_methods(["GET", "POST"])
def regression_set(request: HttpRequest, slug: str) -> HttpResponse:
    """Show the newest version of a project's regression set. A POST creates the next one."""
    project = led_project(request, slug)
    rows = list(project.regression_sets.select_related("created_by").order_by("-number"))
    current = rows[0] if rows else None
    initial = {
        "text": as_lines(current) if current else "",
        "margin_points": round(100 * (current.margin if current else REGRESSION_MARGIN), 6),
    }
    posted = request.POST if request.method == "POST" else None
    form = RegressionSetForm(posted, initial=initial)
    if request.method == "POST" and not project.archived_at and form.is_valid():
        created = form.save(project, user_of(request))
        if created:
            messages.success(request, f"Version {created.number} is used by new evaluations.")
            return redirect("regression-set", project.slug)
    cases = current.cases if current else []
    page = Paginator(cases, PAGE_SIZE).get_page(request.GET.get("page"))
    context = {
        "project": project,
        "section": "projects",
        "leads": True,
        "current": current,
        "earlier": rows[1:],
        "next_number": current.number + 1 if current else 1,
        "required": project.require_regression_set,
        "margin_points": initial["margin_points"],
        "needed": prompts_needed(share_of_alpha(ALPHA, 1), current.margin) if current else 0,
        "page": page,
        "form": form,
    }
    page.object_list = case_rows(page.object_list)
    return render(request, "finetune/regression.html", context, status=422 if form.errors else 200)


def case_rows(cases: Any) -> list[dict[str, Any]]:
    """Return the prompts of cases with the properties that an answer must have, in one query."""
    prompts = Prompt.objects.in_bulk([case["prompt"] for case in cases])
    return [
        {
            "number": case["prompt"],
            "prompt": str(prompts[case["prompt"]]),
            "withdrawn": prompts[case["prompt"]].withdrawn_at,
            "expect": in_words(case["expect"]),
        }
        for case in cases
    ]


# --- certificates --------------------------------------------------------------------------------


@lead_required
@require_GET
def certificates(request: HttpRequest, slug: str) -> HttpResponse:
    """List the promotions of a project, each with its certificate."""
    project = led_project(request, slug)
    rows = Certificate.objects.filter(project=project).defer("text")
    rows = rows.select_related("model", "issued_by").order_by("-number")
    context = {
        "project": project,
        "section": "projects",
        "leads": True,
        "page": Paginator(rows, PAGE_SIZE).get_page(request.GET.get("page")),
    }
    return render(request, "finetune/certificates.html", context)


@lead_required
@require_GET
def certificate(request: HttpRequest, pk: int) -> HttpResponse:
    row = certificate_for(request, pk)
    document = json.loads(row.text)
    content = document["content"]
    context = {
        "certificate": row,
        "document": document,
        "content": content,
        "standings": standings_of(content),
        "reviewers": reviewers_of(content),
        "side": [(each, side_figures(each["report"])) for each in content["evaluations"]],
        "own_key": document["signature"]["public_key"] == issuing.public_key(),
        "prompts": len(content["prompts"]),
    }
    return render(request, "finetune/certificate.html", context)


@lead_required
@require_GET
def download_certificate(request: HttpRequest, pk: int) -> HttpResponse:
    """Send the signed file exactly as it was issued."""
    row = certificate_for(request, pk)
    audit(user_of(request), "certificate downloaded", row, id=row.pk)
    name = content_disposition_header(as_attachment=True, filename=row.file_name)
    headers = {"Content-Disposition": str(name)}
    return HttpResponse(row.text, content_type="application/json", headers=headers)
