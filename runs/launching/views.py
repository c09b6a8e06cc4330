from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accounts.access import trainer_required, user_of
from runs import kinds
from runs.kinds import CannotRun, RunKind
from runs.launching.form import Launch, initial_from


def kind_or_404(name: str) -> RunKind:
    try:
        return kinds.get(name)
    except CannotRun as error:
        raise Http404(str(error)) from None


@trainer_required
@require_safe
def choose_kind(request: HttpRequest) -> HttpResponse:
    return render(request, "runs/kinds.html", {"groups": kinds.by_group(), "section": "runs"})


@trainer_required
@require_http_methods(["GET", "POST"])
def launch(request: HttpRequest, kind: str) -> HttpResponse:
    run_kind = kind_or_404(kind)
    if request.method == "POST":
        form = Launch(run_kind, request.POST, by=user_of(request))
        run = form.start(user_of(request))
        if run:
            return redirect("run", run.pk)
    else:
        by = user_of(request)
        form = Launch(run_kind, initial=initial_from(run_kind, request.GET, by), by=by)
    context = {"kind": run_kind, "launch": form, "section": "runs"}
    return render(request, "runs/launch.html", context, status=422 if form.invalid else 200)


@trainer_required
@require_POST
def launch_preview(request: HttpRequest, kind: str) -> HttpResponse:
    """Show the form again, with what it would start. Nothing is started."""
    run_kind = kind_or_404(kind)
    form = Launch(run_kind, request.POST, by=user_of(request))
    context = {"kind": run_kind, "launch": form, "section": "runs"}
    return render(request, "runs/launch.html", context)


@trainer_required
@require_POST
def launch_first_batch(request: HttpRequest, kind: str) -> HttpResponse:
    """Show the form again, with the first batch of the run that it would start.

    A worker computes it, so the page asks again until it is there. While it is not, the script gets 204.
    """
    run_kind = kind_or_404(kind)
    form = Launch(run_kind, request.POST, by=user_of(request))
    batch, problem = form.first_batch(again="repeat" in request.POST)
    waiting = batch is None and not problem
    if waiting and "waiting" in request.POST:
        return HttpResponse(status=204)  # the page already says so
    context = {
        "kind": run_kind,
        "launch": form,
        "batch": batch,
        "batch_problem": problem,
        "batch_waiting": waiting,
        "section": "runs",
    }
    return render(request, "runs/launch.html", context)
