from pathlib import Path
from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import FileResponse, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.template.loader import render_to_string
from django.utils import translation
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST, require_safe

from accounts.access import lead_required, trainer_required, user_of
from accounts.parameters import number
from buckets.files import fetch_quietly
from formatting import glossary
from runs import live, queue, services
from runs.models import ENDED, Priority, Run
from runs.supervision import workspace

LOG_TAIL = 6000


def run_for(request: HttpRequest, run_id: int) -> Run:
    """Return the run. Raises Http404 if the user may not see it."""
    visible = Run.objects.visible_to(user_of(request))
    return get_object_or_404(
        visible.select_related("project", "created_by", "cancelled_by"), pk=run_id
    )


def trained_run_for(request: HttpRequest, run_id: int) -> Run:
    """Return the run, which the user may change.

    Raises Http404 if the user may not see it, and PermissionDenied if they may only see it.
    """
    run = run_for(request, run_id)
    if not may_change(request, run):
        raise PermissionDenied(_("Only trainers of the project may change its runs."))
    return run


def may_change(request: HttpRequest, run: Run) -> bool:
    """Return whether the user may start and change runs of the run's project. At most one query."""
    return services.may_start(user_of(request), run.project_id)


@lead_required
@require_safe
def run_page(request: HttpRequest, run_id: int) -> HttpResponse:
    run = run_for(request, run_id)
    points = live.points(run)
    context = {
        **_live_context(run),
        "kind": live.kind_of(run),
        "points": points,
        "last": points[-1]["number"] if points else 0,
        "samples": live.samples(run),
        "artifacts": run.artifacts.all(),
        "links": live.links(run),
        "shares": " ".join(sorted(live.shares_of(run))),
        "main_figures": glossary.MAIN,
        "may_change": may_change(request, run),
        "restart_label": services.restart_label(run),
        "section": "runs",
    }
    return render(request, "runs/run.html", context)


def _log_of(run: Run) -> Path:
    """Return the path of the log, after copying it from an object store if it is not written here."""
    log = workspace.log_of(workspace.run_dir_of(run))
    fetch_quietly(log)
    return log


def _live_context(run: Run) -> dict[str, Any]:
    log = _log_of(run)
    return {
        "run": run,
        "progress": live.progress(run),
        "reason": queue.reason_of(run),
        "recent_messages": live.messages(run),
        "log": workspace.log_tail(log, LOG_TAIL),
        "ended": run.state in ENDED,
    }


@lead_required
@require_safe
def run_live(request: HttpRequest, run_id: int) -> HttpResponse:
    run = run_for(request, run_id)
    after = request.GET.get("after", "")
    live_context = _live_context(run)
    answer = {
        "state": run.state,
        "label": run.get_state_display(),
        "ended": live_context["ended"],
        "cancelling": run.cancel_requested_at is not None,
        "step": run.step,
        "total": run.total_steps,
        "seconds_left": live_context["progress"].seconds_left,
        "points": live.points(run, after=number(after) or 0),
        "status": in_english("runs/status.html", live_context, request),
        "figures": in_english("runs/figures.html", live_context, request),
        "messages": in_english("runs/messages.html", live_context, request),
        "samples": _new_samples(run, request),
        "log": live_context["log"],
    }
    return JsonResponse(answer, headers={"Cache-Control": "no-store"})


def _new_samples(run: Run, request: HttpRequest) -> dict[str, Any] | None:
    """Return the sample answers as HTML, or None if the page has the newest ones."""
    samples = live.samples(run, after=number(request.GET.get("samples", "")) or 0)
    if samples is None:
        return None
    html = in_english("runs/samples.html", {"samples": samples}, request)
    return {"number": samples.number, "html": html}


def in_english(template: str, context: dict[str, Any], request: HttpRequest) -> str:
    """Render a template of a page that is not translated, with English dates and numbers."""
    with translation.override("en"):
        return render_to_string(template, context, request)


@lead_required
@require_safe
def run_log(request: HttpRequest, run_id: int) -> HttpResponse:
    run = run_for(request, run_id)
    path = _log_of(run)
    if not path.exists():
        return HttpResponse("No output yet.\n", content_type="text/plain; charset=utf-8")
    return FileResponse(path.open("rb"), content_type="text/plain; charset=utf-8")  # type: ignore[return-value]


@lead_required
@require_safe
def run_queue(request: HttpRequest) -> HttpResponse:
    user = user_of(request)
    overview = queue.overview()
    runs = [run.pk for host in overview.hosts for run in host.runs]
    runs += [waiting.run.pk for waiting in overview.waiting]
    visible = set(Run.objects.visible_to(user).filter(pk__in=runs).values_list("pk", flat=True))
    changeable = Run.objects.trained_by(user).filter(pk__in=visible)
    context = {
        "overview": overview,
        "visible": visible,
        "changeable": set(changeable.values_list("pk", flat=True)),
        "priorities": list(reversed(Priority)),
        "section": "runs",
    }
    return render(request, "runs/queue.html", context)


@trainer_required
@require_POST
def run_priority(request: HttpRequest, run_id: int) -> HttpResponse:
    run = trained_run_for(request, run_id)
    values = {str(priority.value): priority for priority in Priority}
    priority = values.get(request.POST.get("priority", ""))
    if priority is None:
        messages.error(request, "Choose a priority: low, normal or high.")
    elif services.set_priority(run, priority, user_of(request)):
        messages.success(request, f"Run {run.pk} has the priority {priority.label.lower()}.")
    else:
        messages.warning(request, f"Run {run.pk} is no longer queued.")
    return redirect("run-queue")


@trainer_required
@require_POST
def run_cancel(request: HttpRequest, run_id: int) -> HttpResponse:
    run = trained_run_for(request, run_id)
    if services.cancel(run, user_of(request)):
        messages.success(request, "The run is being cancelled.")
    else:
        messages.warning(request, services.why_not_cancelled(run))
    return redirect("run", run.pk)


@trainer_required
@require_POST
def run_restart(request: HttpRequest, run_id: int) -> HttpResponse:
    run = trained_run_for(request, run_id)
    if services.restart(run, user_of(request)):
        messages.success(request, "The run is in the queue again.")
    else:
        messages.warning(request, "Only a failed or cancelled run can be continued.")
    return redirect("run", run.pk)
