from typing import Any

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import FileResponse, Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.template.loader import render_to_string
from django.utils import translation
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accounts.access import lead_required, trainer_required, user_of
from accounts.parameters import number
from runs import kinds, live, services
from runs.forms import FilterForm, Launch, initial_from
from runs.kinds import CannotRun, RunKind
from runs.models import ENDED, Run, State
from runs.supervision import workspace

PAGE_SIZE = 25
LOG_TAIL = 6000


def run_for(request: HttpRequest, run_id: int) -> Run:
    """Return the run. Raises Http404 if the user may not see it."""
    visible = Run.objects.visible_to(user_of(request))
    return get_object_or_404(
        visible.select_related("project", "created_by", "cancelled_by"), pk=run_id
    )


def kind_or_404(name: str) -> RunKind:
    try:
        return kinds.get(name)
    except CannotRun as error:
        raise Http404(str(error)) from None


@lead_required
@require_safe
def run_list(request: HttpRequest) -> HttpResponse:
    form = FilterForm(request.GET, user=user_of(request))
    runs = form.runs().select_related("created_by", "project").defer("config")
    page = Paginator(runs, PAGE_SIZE).get_page(request.GET.get("page"))
    context = {"page": page, "form": form, "filtered": bool(form.chosen), "section": "runs"}
    return render(request, "runs/list.html", context)


@trainer_required
@require_safe
def choose_kind(request: HttpRequest) -> HttpResponse:
    return render(request, "runs/kinds.html", {"kinds": kinds.all_kinds(), "section": "runs"})


@trainer_required
@require_http_methods(["GET", "POST"])
def launch(request: HttpRequest, kind: str) -> HttpResponse:
    run_kind = kind_or_404(kind)
    if request.method == "POST":
        form = Launch(run_kind, request.POST)
        run = form.start(user_of(request))
        if run:
            return redirect("run", run.pk)
    else:
        form = Launch(run_kind, initial=initial_from(run_kind, request.GET))
    context = {"kind": run_kind, "launch": form, "section": "runs"}
    return render(request, "runs/launch.html", context, status=422 if form.invalid else 200)


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
        "artifacts": run.artifacts.all(),
        "links": live.links(run),
        "shares": " ".join(sorted(live.shares_of(run))),
        "may_change": user_of(request).can_train,
        "restart_label": services.restart_label(run),
        "section": "runs",
    }
    return render(request, "runs/run.html", context)


def _live_context(run: Run) -> dict[str, Any]:
    log = workspace.log_of(workspace.run_dir_of(run))
    return {
        "run": run,
        "progress": live.progress(run),
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
        "messages": in_english("runs/messages.html", live_context, request),
        "log": live_context["log"],
    }
    return JsonResponse(answer, headers={"Cache-Control": "no-store"})


def in_english(template: str, context: dict[str, Any], request: HttpRequest) -> str:
    """Render a template of a page that is not translated, with English dates and numbers."""
    with translation.override("en"):
        return render_to_string(template, context, request)


@lead_required
@require_safe
def run_log(request: HttpRequest, run_id: int) -> HttpResponse:
    run = run_for(request, run_id)
    path = workspace.log_of(workspace.run_dir_of(run))
    if not path.exists():
        return HttpResponse("No output yet.\n", content_type="text/plain; charset=utf-8")
    return FileResponse(path.open("rb"), content_type="text/plain; charset=utf-8")  # type: ignore[return-value]


@trainer_required
@require_POST
def run_cancel(request: HttpRequest, run_id: int) -> HttpResponse:
    run = run_for(request, run_id)
    if services.cancel(run, user_of(request)):
        messages.success(request, "The run is being cancelled.")
    else:
        messages.warning(request, services.why_not_cancelled(run))
    return redirect("run", run.pk)


@trainer_required
@require_POST
def run_restart(request: HttpRequest, run_id: int) -> HttpResponse:
    run = run_for(request, run_id)
    if run.state == State.FAILED and not services.restart_label(run):
        text = "This run failed before its first checkpoint. Run it again with other settings."
        messages.warning(request, text)
    elif services.restart(run, user_of(request)):
        messages.success(request, "The run is in the queue again.")
    else:
        messages.warning(request, "Only a failed or cancelled run can be continued.")
    return redirect("run", run.pk)
