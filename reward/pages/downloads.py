"""Downloads of the files of reward models and of language models."""

from typing import Any

from django.contrib import messages
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.views.decorators.http import require_GET

from accounts.access import lead_required, user_of
from accounts.models import audit
from reward.access import reward_model_for
from reward.onnx import exports_of
from runs import downloads
from runs.downloads import FileMissing
from runs.models import Artifact, Run

FILES = {"card": "README.md", "report": "report.json"}


@lead_required
@require_GET
def download(request: HttpRequest, pk: int, part: str) -> HttpResponseBase:
    """Send the archive, the card or the report of a reward model."""
    return send_download(request, reward_model_for(request, pk), part, back="reward-model")


@lead_required
@require_GET
def download_onnx(request: HttpRequest, pk: int) -> HttpResponseBase:
    """Send the archive of the newest export to ONNX."""
    model = reward_model_for(request, pk)
    try:
        run = exports_of(model).first()
        if run is None:
            raise FileMissing(f"{model} was not exported to ONNX. Start an export first.")
        response = downloads.archive(run, name=f"{downloads.folder_name(model.name, run)}-onnx")
    except FileMissing as problem:
        messages.error(request, str(problem))
        return redirect("reward-model", model.pk)
    audit(user_of(request), "model downloaded", model, id=model.pk, part="onnx")
    return response


def send_download(request: HttpRequest, model: Any, part: str, *, back: str) -> HttpResponseBase:
    """Return the download. If a file is missing, redirect to the page `back` with a message."""
    try:
        if model.run is None:
            raise FileMissing(f"{model} was not trained here, so it has no files to download.")
        response = _response(model.run, part, downloads.folder_name(model.name, model.run))
    except FileMissing as problem:
        messages.error(request, str(problem))
        return redirect(back, model.pk)
    audit(user_of(request), "model downloaded", model, id=model.pk, part=part)
    return response


def _response(run: Run, part: str, name: str) -> HttpResponseBase:
    if part == "archive":
        return downloads.archive(run, name=name)
    return downloads.single_file(run, FILES[part], name=f"{name}-{FILES[part]}")


def downloads_of(model: Any) -> dict[str, Any] | None:
    """Return the template context for the files of a model, or None for a base.

    This takes one query.
    """
    if model.run is None:
        return None
    files = list(model.run.artifacts.all())
    folder = downloads.folder_name(model.name, model.run)
    return {
        "files": files,
        "names": {file.name for file in files},
        "folder": folder,
        "bytes": _bytes(files),
        "snippet": downloads.loading_snippet(model.run, folder),
    }


def _bytes(files: list[Artifact]) -> int:
    return sum(file.bytes for file in files)
