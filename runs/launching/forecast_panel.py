"""The panel of the launch page with the forecast of memory, time and cost.

The panel posts the launch form to the same address until the forecast is there.
"""

from typing import Any

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_POST

from accounts.access import trainer_required, user_of
from runs import preflight, services
from runs.launching.form import Launch
from runs.launching.views import kind_or_404
from runs.models import Forecast
from runs.services import InvalidConfig

BUSY = (Forecast.State.QUEUED, Forecast.State.MEASURING)


@trainer_required
@require_POST
def forecast(request: HttpRequest, kind: str) -> HttpResponse:
    run_kind = kind_or_404(kind)
    if not run_kind.forecast:
        raise Http404(f"Runs of the kind {kind} have no forecast.")
    form = Launch(run_kind, request.POST, by=user_of(request))
    panel = _panel(form, repeat="repeat" in request.POST)
    if panel["shown"] == request.POST.get("shown"):
        return HttpResponse(status=204)  # the page already shows this
    by_script = "HX-Request" in request.headers
    template = "runs/preflight.html" if by_script else "runs/preflight_page.html"
    return render(request, template, {"kind": run_kind, "section": "runs", **panel})


def _panel(launch: Launch, *, repeat: bool) -> dict[str, Any]:
    """Return what the panel shows for a form. Nothing is queued if the form has errors."""
    if not launch.inputs.is_valid():
        return _problem("Choose the inputs first.")
    kind, inputs = launch.kind.name, launch.inputs.inputs()
    try:
        config = services.checked(kind, launch.config.values(), inputs)
    except InvalidConfig as error:
        return _problem(" ".join(error.errors.values()))
    row = preflight.request(kind, config, inputs)
    if repeat and row.state not in (*BUSY, Forecast.State.DONE):
        preflight.repeat(row)
        row.refresh_from_db()
    predicted = preflight.outcome(row, config)
    unfit = row.state == Forecast.State.TOO_LARGE or (predicted and not predicted.fits)
    changes = preflight.changes_for(row, config) if unfit else []
    return {
        "row": row,
        "busy": row.state in BUSY or any(change.forecast.state in BUSY for change in changes),
        "measuring": row.state in BUSY,
        "predicted": predicted,
        "cost": preflight.cost_text(predicted.seconds) if predicted else "",
        "unfit": unfit,
        "changes": changes,
        "shown": f"{row.pk} {row.state} {' '.join(change.forecast.state for change in changes)}",
    }


def _problem(text: str) -> dict[str, Any]:
    return {"problem": text, "shown": ""}
