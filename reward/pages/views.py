from functools import partial
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
from labeling.models import GuidelineVersion, Project, Ranking
from labeling.statistics.agreement import from_json
from recipes.preferences.groups import PreferenceError
from reward import promotion
from reward.access import led_projects, reward_model_for, snapshot_for
from reward.evaluation.figures import limit_to_tell, no_better_than_length
from reward.forms import SnapshotForm
from reward.models import Snapshot
from reward.ordering import queue
from reward.pages.charts import curve, interval_row, reliability
from reward.pages.downloads import offered
from reward.pages.learning_curve import learning
from reward.pages.report import (
    label_mistakes_line,
    length_rows,
    mistakes,
    slice_tables,
    temperature_line,
)
from reward.preferences.filters import REASONS, SnapshotFilter
from reward.preferences.samples import sample
from reward.preferences.snapshots import (
    Account,
    SnapshotError,
    freeze,
    ranking_ids,
    sample_groups,
    survey,
)
from reward.promotion import CannotMove

PER_PAGE = 50
SAMPLES = 3


@lead_required
@require_GET
def snapshots(request: HttpRequest) -> HttpResponse:
    projects = led_projects(user_of(request))
    found = Snapshot.objects.filter(project__in=projects).select_related("project", "created_by")
    page = Paginator(found, PER_PAGE).get_page(request.GET.get("page"))
    context = {"page": page, "can_freeze": user_of(request).can_train}
    return render(request, "reward/snapshots.html", context)


@trainer_required
@require_http_methods(["GET", "POST"])
def new_snapshot(request: HttpRequest) -> HttpResponse:
    """With ?project: its form and what the filter would find. POST with `freeze` writes it."""
    project = _project_asked_for(request)
    if project is None:
        projects = led_projects(user_of(request))
        return render(request, "reward/snapshot_choose.html", {"projects": projects})
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
    return render(request, "reward/snapshot_new.html", context)


def _project_asked_for(request: HttpRequest) -> Project | None:
    """The one named in ?project, or the only one there is. Raises Http404 for a stranger's."""
    projects = led_projects(user_of(request))
    slug = request.GET.get("project")
    if slug:
        return get_object_or_404(projects, slug=slug)
    first_two = list(projects[:2])
    return first_two[0] if len(first_two) == 1 else None


@lead_required
@require_GET
def snapshot(request: HttpRequest, pk: int) -> HttpResponse:
    found = snapshot_for(request, pk)
    try:
        samples, problem = [sample(group) for group in sample_groups(found, SAMPLES)], ""
    except PreferenceError as error:
        samples, problem = [], str(error)
    context = {
        "snapshot": found,
        "left_out": left_out_lines(found.counts),
        "splits": split_lines(found.counts),
        "versions": version_lines(found.counts),
        "sources": source_lines(found.counts),
        "agreement": from_json(found.counts.get("pairwise_agreement")),
        "samples": samples,
        "problem": problem,
        "reward_models": found.reward_models.all(),
        "models": found.models.all(),
        "can_train": user_of(request).can_train,
        **random_stream(found),
    }
    return render(request, "reward/snapshot.html", context)


def random_stream(snapshot: Snapshot) -> dict[str, Any]:
    """Whether what the snapshot holds out was left to chance. One query."""
    stream = queue.stream_of(snapshot.project)
    random = stream is not None and queue.holds_out_random(snapshot, stream)
    return {"stream": stream, "held_out_is_random": random}


@trainer_required
@require_GET
def snapshot_file(request: HttpRequest, pk: int) -> HttpResponseBase:
    found = snapshot_for(request, pk)
    if not found.file.is_file():
        raise Http404(f"The file of snapshot {found.pk} is gone.")
    name = f"{found.project.slug}-snapshot-{found.pk}.parquet"
    return FileResponse(found.file.open("rb"), as_attachment=True, filename=name)


@lead_required
@require_GET
def snapshot_rankings(request: HttpRequest, pk: int) -> HttpResponse:
    """The way back: the very rankings that a snapshot was made of."""
    found = snapshot_for(request, pk)
    try:
        paginator = Paginator(range(found.counts["used"]), 100)
        page = paginator.get_page(request.GET.get("page"))
        ids = list(islice(ranking_ids(found), page.start_index() - 1, page.end_index()))
    except (PreferenceError, OSError) as error:
        raise Http404(f"The file of snapshot {found.pk} cannot be read.") from error
    rankings = Ranking.objects.select_related(
        "task__prompt", "reviewer", "guideline_version__guideline"
    ).in_bulk(ids)
    context = {"snapshot": found, "page": page, "rankings": [rankings[pk] for pk in ids]}
    return render(request, "reward/snapshot_rankings.html", context)


# --- reward models -------------------------------------------------------------------------------


@lead_required
@require_GET
def reward_model(request: HttpRequest, pk: int) -> HttpResponse:
    found = reward_model_for(request, pk)
    report = found.report
    calibration, training = report.get("calibration") or {}, report.get("training") or {}
    context = {
        "reward_model": found,
        "report": report,
        "rows": report_rows(report, found.snapshot),
        "only_length": no_better_than_length(report),
        "doubts": found.doubts(),
        "reliability": reliability(calibration.get("bins") or []),
        "ece": calibration,
        "length": report.get("length") or {},
        "disagreement": with_percents(report.get("disagreement")),
        "temperature": temperature_line(report),
        "length_rows": length_rows(report),
        "slices": slice_tables(report),
        "mistakes": mistakes(report),
        "learning": learning(report),
        "label_mistakes": label_mistakes_line(report),
        "criteria": [
            (row["criterion"], criterion_rows(row)) for row in report.get("criteria") or []
        ],
        "mistake_rows": mistake_rows(report.get("disagreement") or {}),
        "curve": curve(training.get("curve") or []),
        "training": training,
        "data": report.get("data") or {},
        "left_out": report.get("left_out") or [],
        "downloads": offered(found),
        "can_train": user_of(request).can_train,
    }
    return render(request, "reward/reward_model.html", context)


@trainer_required
@require_POST
def move_reward_model(request: HttpRequest, pk: int) -> HttpResponse:
    """Promote (with `despite_doubts` where there are some), archive or restore it, as `to` says."""
    return moved(request, reward_model_for(request, pk), back="reward-model")


def moved(request: HttpRequest, model: Any, *, back: str) -> HttpResponse:
    """Move a reward model or a language model as the form says, and show the page named `back`."""
    insists = "despite_doubts" in request.POST
    verbs: dict[str, tuple[Any, str]] = {
        "promote": (partial(promotion.promote, despite_doubts=insists), "is promoted"),
        "archive": (promotion.archive, "is archived"),
        "restore": (promotion.restore, "is a candidate again"),
    }
    if request.POST.get("to") not in verbs:
        text = "Choose what to do with the model: promote, archive or restore."
        return HttpResponse(text, status=400)
    verb, done = verbs[request.POST["to"]]
    try:
        verb(model, by=user_of(request))
    except CannotMove as error:
        messages.error(request, str(error))
    else:
        messages.success(request, f"{model} {done}.")
    return redirect(back, model.pk)


# --- what the pages say --------------------------------------------------------------------------


def report_rows(report: dict[str, Any], snapshot: Snapshot | None = None) -> list[Any]:
    accuracy = report.get("accuracy") or {}
    note = f"{accuracy.get('pairs', 0):,} pairs of {accuracy.get('prompts', 0):,} held-out prompts"
    return [
        interval_row("The model agrees with a reviewer", accuracy, note=note, main=True),
        interval_row(
            "Pairwise agreement of reviewers",
            report.get("reviewer_agreement"),
            note=agreement_note(report, snapshot),
        ),
        interval_row(
            "The longer response is preferred",
            report.get("longer_is_better"),
            note="what counting tokens would achieve",
        ),
    ]


def agreement_note(report: dict[str, Any], snapshot: Snapshot | None) -> str:
    """Name the sample of the agreement, and give the figure of the whole snapshot."""
    sample = (report.get("reviewer_agreement") or {}).get("sample") or "held-out prompts"
    whole = (snapshot.counts.get("pairwise_agreement") if snapshot else None) or {}
    note = f"on {sample}, the mark to reach{limit_note(report)}"
    if whole.get("value") is None:
        return note
    value, interval = percent(whole["value"]), percent_range(whole["interval"])
    return f"{note}. Whole snapshot: {value} ({interval})"


def limit_note(report: dict[str, Any]) -> str:
    limit = limit_to_tell(report)
    return "" if limit is None else f"; about {percent(limit)} is the most any model can reach"


def criterion_rows(row: dict[str, Any]) -> list[Any]:
    return [
        interval_row("Its own score agrees with a reviewer", row["accuracy"], main=True),
        interval_row("The overall score does", row["overall_accuracy"]),
        interval_row("Pairwise agreement of reviewers", row["reviewer_agreement"]),
    ]


def with_percents(disagreement: dict[str, Any] | None) -> dict[str, Any] | None:
    if disagreement is None:
        return None
    parts = [{**part, "percent": percent(part["accuracy"])} for part in disagreement["parts"]]
    return {**disagreement, "parts": parts}


def mistake_rows(disagreement: dict[str, Any]) -> list[Any]:
    found = disagreement.get("finds_mistakes") or {}
    return [
        interval_row(
            "The heads lie far apart", found.get("spread"),
            note="standard deviation of the difference in score",
        ),
        interval_row(
            "… compared with the difference itself", found.get("relative"),
            note="standard deviation over the difference", main=True,
        ),
        interval_row(
            "The difference is small", found.get("small_gap"), note="what one head knows already"
        ),
    ] if found else []  # fmt: skip


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
    """Return how many rankings came from where; they sum to Snapshot.rankings."""
    lines = [(str(Ranking.Source(name).label), n) for name, n in counts["sources"].items()]
    return lines + _outcome_line(counts)


def _outcome_line(counts: dict[str, Any]) -> list[tuple[str, int]]:
    outcomes = counts.get("outcomes", 0)
    return [("Outcomes of disputes", outcomes)] if outcomes else []


def version_lines(counts: dict[str, Any]) -> list[tuple[str, int]]:
    """Return how many rankings each guideline version has; they sum to Snapshot.rankings.

    Costs a query.
    """
    used = counts.get("guideline_versions", {})
    versions = GuidelineVersion.objects.select_related("guideline").in_bulk(
        [pk for key in used if (pk := number(key)) is not None]
    )
    names = {str(pk): str(version) for pk, version in versions.items()}
    lines = [(names.get(key, "Under no guideline"), count) for key, count in used.items()]
    return lines + _outcome_line(counts)
