from itertools import islice
from typing import Any

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import FileResponse, Http404, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from accounts.access import lead_required, trainer_required, user_of
from accounts.parameters import number
from formatting.numbers import percent, percent_range
from labeling.core.access import require_trainer, trains
from labeling.models import GuidelineVersion, Project, Ranking
from labeling.statistics.agreement import from_json
from recipes.preferences.groups import PreferenceError
from reward.access import led_projects, reward_model_for, snapshot_for, trained_projects
from reward.evaluation.figures import limit_to_show, no_better_than_length
from reward.evaluation.schema import CriterionFigures, Disagreement, RewardReport
from reward.forms import SnapshotForm
from reward.models import Snapshot
from reward.onnx import exports_of
from reward.ordering import queue
from reward.pages.charts import IntervalRow, curve, interval_row, reliability
from reward.pages.downloads import downloads_of
from reward.pages.learning_curve import learning
from reward.pages.report import (
    label_mistakes_line,
    length_rows,
    mistakes,
    slice_tables,
    temperature_line,
)
from reward.preferences.filters import REASONS, SnapshotFilter
from reward.preferences.samples import sample, sample_groups
from reward.preferences.snapshots import (
    Account,
    SnapshotError,
    freeze,
    ranking_ids,
    survey,
)
from reward.promotion import MOVED, CannotMove, Promotable, move

PAGE_SIZE = 50
SAMPLES = 3


@lead_required
@require_GET
def snapshots(request: HttpRequest) -> HttpResponse:
    projects = led_projects(user_of(request))
    listed = Snapshot.objects.filter(project__in=projects).select_related("project", "created_by")
    page = Paginator(listed, PAGE_SIZE).get_page(request.GET.get("page"))
    context = {"page": page, "can_freeze": user_of(request).can_train}
    return render(request, "reward/snapshots/list.html", context)


@trainer_required
@require_http_methods(["GET", "POST"])
def new_snapshot(request: HttpRequest) -> HttpResponse:
    """Show the form for the project `?project`, and the counts of its filter.

    A POST with `freeze` writes the snapshot.
    """
    project = _project_of(request)
    if project is None:
        projects = trained_projects(user_of(request))
        return render(request, "reward/snapshots/choose.html", {"projects": projects})
    form = SnapshotForm(request.POST or None, project=project)
    account = None
    if request.method == "POST" and form.is_valid():
        if "freeze" in request.POST:
            try:
                snapshot = freeze(project=project, filter=form.filter, by=user_of(request))
            except SnapshotError as error:
                form.add_error(None, str(error))
            else:
                messages.success(request, f"Frozen as snapshot {snapshot.pk}.")
                return redirect("snapshot", snapshot.pk)
        account = survey(project=project, filter=form.filter)
    elif request.method == "GET":
        account = survey(project=project, filter=SnapshotFilter())
    context = {"form": form, "project": project, "account": account and account_lines(account)}
    return render(request, "reward/snapshots/new.html", context)


def _project_of(request: HttpRequest) -> Project | None:
    """Return the project `?project`, or the user's only project, or None.

    Raises Http404 for a project in which the user may not train.
    """
    projects = trained_projects(user_of(request))
    slug = request.GET.get("project")
    if slug:
        return get_object_or_404(projects, slug=slug)
    first_two = list(projects[:2])
    return first_two[0] if len(first_two) == 1 else None


@lead_required
@require_GET
def snapshot(request: HttpRequest, pk: int) -> HttpResponse:
    snapshot = snapshot_for(request, pk)
    try:
        samples, problem = [sample(group) for group in sample_groups(snapshot, SAMPLES)], ""
    except PreferenceError as error:
        samples, problem = [], str(error)
    context = {
        "snapshot": snapshot,
        "left_out": left_out_lines(snapshot.counts),
        "splits": split_lines(snapshot.counts),
        "versions": version_lines(snapshot.counts),
        "sources": source_lines(snapshot.counts),
        "agreement": from_json(snapshot.counts.get("pairwise_agreement")),
        "samples": samples,
        "problem": problem,
        "reward_models": snapshot.reward_models.all(),
        "models": snapshot.models.all(),
        "can_train": trains(user_of(request), snapshot.project),
        **random_stream(snapshot),
    }
    return render(request, "reward/snapshots/snapshot.html", context)


def random_stream(snapshot: Snapshot) -> dict[str, Any]:
    """Return the template context about the random stream of the project. This takes one query."""
    stream = queue.stream_of(snapshot.project)
    random = stream is not None and queue.has_random_test_set(snapshot, stream)
    return {"stream": stream, "held_out_is_random": random}


@trainer_required
@require_GET
def snapshot_file(request: HttpRequest, pk: int) -> HttpResponseBase:
    snapshot = snapshot_for(request, pk)
    require_trainer(user_of(request), snapshot.project)
    if not snapshot.file.is_file():
        raise Http404(f"The file of snapshot {snapshot.pk} is missing.")
    name = f"{snapshot.project.slug}-snapshot-{snapshot.pk}.parquet"
    return FileResponse(snapshot.file.open("rb"), as_attachment=True, filename=name)


@lead_required
@require_GET
def snapshot_rankings(request: HttpRequest, pk: int) -> HttpResponse:
    """List the rankings that a snapshot was made from."""
    snapshot = snapshot_for(request, pk)
    try:
        paginator = Paginator(range(snapshot.counts["used"]), 100)
        page = paginator.get_page(request.GET.get("page"))
        ids = list(islice(ranking_ids(snapshot), page.start_index() - 1, page.end_index()))
    except (PreferenceError, OSError) as error:
        raise Http404(f"The file of snapshot {snapshot.pk} cannot be read.") from error
    rankings = Ranking.objects.select_related(
        "task__prompt", "reviewer", "guideline_version__guideline"
    ).in_bulk(ids)
    context = {"snapshot": snapshot, "page": page, "rankings": [rankings[pk] for pk in ids]}
    return render(request, "reward/snapshots/rankings.html", context)


# --- reward models -------------------------------------------------------------------------------


@lead_required
@require_GET
def reward_model(request: HttpRequest, pk: int) -> HttpResponse:
    model = reward_model_for(request, pk)
    report: RewardReport = model.report
    calibration, training = report.get("calibration"), report.get("training")
    disagreement = report.get("disagreement")
    context = {
        "reward_model": model,
        "report": report,
        "rows": report_rows(report, model.snapshot),
        "only_length": no_better_than_length(report),
        "doubts": model.all_doubts(),
        "withdrawals": model.withdrawals(),
        "reliability": reliability(calibration["bins"] if calibration else []),
        "ece": calibration,
        "length": report.get("length"),
        "disagreement": with_percents(disagreement),
        "temperature": temperature_line(report),
        "length_rows": length_rows(report),
        "slices": slice_tables(report),
        "mistakes": mistakes(report),
        "learning": learning(report),
        "label_mistakes": label_mistakes_line(report),
        "criteria": [
            (row["criterion"], criterion_rows(row)) for row in report.get("criteria") or []
        ],
        "mistake_rows": mistake_rows(disagreement),
        "curve": curve((training and training.get("curve")) or []),
        "training": training,
        "data": report.get("data"),
        "left_out": report.get("left_out") or [],
        "downloads": downloads_of(model),
        "onnx_exports": exports_of(model),
        "can_train": trains(user_of(request), model.project),
    }
    return render(request, "reward/reward_model.html", context)


@trainer_required
@require_POST
def move_reward_model(request: HttpRequest, pk: int) -> HttpResponse:
    """Promote, archive or restore a reward model. `reason` overrides its doubts."""
    model = reward_model_for(request, pk)
    require_trainer(user_of(request), model.project)
    return change_state(request, model, back="reward-model")


def change_state(request: HttpRequest, model: Promotable, *, back: str) -> HttpResponse:
    """Change the state of a model as the form asks, and redirect to the page named `back`.

    The calling view must have checked access.
    """
    to, reason = request.POST.get("to", ""), request.POST.get("reason", "")
    if to not in MOVED:
        sentence = "Choose an action for the model: promote, archive or restore."
        return render(request, "400.html", {"sentence": sentence}, status=400)
    try:
        done = move(model, to, by=user_of(request), reason=reason)
    except CannotMove as error:
        messages.error(request, str(error))
    else:
        messages.success(request, done)
    return redirect(back, model.pk)


# --- rows and lines ------------------------------------------------------------------------------


def report_rows(report: RewardReport, snapshot: Snapshot | None = None) -> list[IntervalRow]:
    accuracy = report.get("accuracy")
    pairs, prompts = (accuracy["pairs"], accuracy["prompts"]) if accuracy else (0, 0)
    note = f"{pairs:,} pairs of {prompts:,} held-out prompts"
    return [
        interval_row("Model agrees with a reviewer", accuracy, note=note, main=True),
        interval_row(
            "Pairwise agreement of reviewers",
            report.get("reviewer_agreement"),
            note=agreement_note(report, snapshot),
        ),
        interval_row(
            "Always preferring the longer response",
            report.get("longer_is_better"),
            note="a rule without a model",
        ),
    ]


def agreement_note(report: RewardReport, snapshot: Snapshot | None) -> str:
    """Return a note about the agreement: its sample, and the agreement on the whole snapshot."""
    agreement = report.get("reviewer_agreement")
    sample = (agreement and agreement.get("sample")) or "held-out prompts"
    whole = (snapshot.counts.get("pairwise_agreement") if snapshot else None) or {}
    note = f"on {sample}; the target for the model{limit_note(report)}"
    if whole.get("value") is None:
        return note
    value, interval = percent(whole["value"]), percent_range(whole["interval"])
    return f"{note}. Whole snapshot: {value} ({interval})"


def limit_note(report: RewardReport) -> str:
    limit = limit_to_show(report)
    return "" if limit is None else f"; about {percent(limit)} is the most any model can reach"


def criterion_rows(row: CriterionFigures) -> list[IntervalRow]:
    return [
        interval_row("Criterion score agrees with a reviewer", row["accuracy"], main=True),
        interval_row("Overall score agrees with a reviewer", row["overall_accuracy"]),
        interval_row("Pairwise agreement of reviewers", row["reviewer_agreement"]),
    ]


def with_percents(disagreement: Disagreement | None) -> dict[str, Any] | None:
    if disagreement is None:
        return None
    parts = [{**part, "percent": percent(part["accuracy"])} for part in disagreement["parts"]]
    return {**disagreement, "parts": parts}


def mistake_rows(disagreement: Disagreement | None) -> list[IntervalRow]:
    if disagreement is None:
        return []
    finders = disagreement["finds_mistakes"]
    return [
        interval_row(
            "Heads disagree", finders["spread"],
            note="standard deviation of the difference in score",
        ),
        interval_row(
            "Heads disagree, relative to the difference", finders["relative"],
            note="standard deviation divided by the difference", main=True,
        ),
        interval_row("Difference is small", finders["small_gap"], note="needs only one head"),
    ]  # fmt: skip


def account_lines(account: Account) -> dict[str, Any]:
    counts = account.to_dict()
    return {
        **counts,
        "total": account.used + account.outcomes,
        "left_out_lines": left_out_lines(counts),
        "split_lines": split_lines(counts),
    }


def left_out_lines(counts: dict[str, Any]) -> list[tuple[str, int]]:
    left_out = counts.get("left_out", {})
    return [(sentence, left_out[key]) for key, sentence in REASONS.items() if key in left_out]


def split_lines(counts: dict[str, Any]) -> list[dict[str, Any]]:
    names = {"train": "Training", "test": "Held out"}
    columns = ("prompts", "responses", "rankings", "pairs", "ties")
    splits = counts.get("splits", {})
    return [
        {"name": names[key], "cells": [splits.get(key, {}).get(column, 0) for column in columns]}
        for key in names
    ]


def source_lines(counts: dict[str, Any]) -> list[tuple[str, int]]:
    """Return the number of rankings from each source. Their sum is Snapshot.rankings."""
    lines = [(str(Ranking.Source(name).label), n) for name, n in counts["sources"].items()]
    return lines + _outcome_line(counts)


def _outcome_line(counts: dict[str, Any]) -> list[tuple[str, int]]:
    outcomes = counts.get("outcomes", 0)
    return [("Leads' decisions", outcomes)] if outcomes else []


def version_lines(counts: dict[str, Any]) -> list[tuple[str, int]]:
    """Return the number of rankings under each guideline version. Their sum is Snapshot.rankings.

    This takes one query.
    """
    used = counts.get("guideline_versions", {})
    versions = GuidelineVersion.objects.select_related("guideline").in_bulk(
        [pk for key in used if (pk := number(key)) is not None]
    )
    names = {str(pk): str(version) for pk, version in versions.items()}
    lines = [(names.get(key, "Under no guideline"), count) for key, count in used.items()]
    return lines + _outcome_line(counts)
