import uuid
from dataclasses import dataclass
from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.files.uploadedfile import UploadedFile
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.template.defaultfilters import filesizeformat
from django.views.decorators.http import require_http_methods

from accounts.access import user_of
from accounts.models import audit
from labeling import uploads
from labeling.access import led_project
from labeling.importers import (
    FORMATS,
    BadInput,
    Imported,
    detect,
    import_file,
    refresh_statistics,
)
from labeling.models import Project
from labeling.uploads import LARGEST, Upload

AUTO = "auto"
TABLES = ("prompts", "responses", "tasks", "rankings")


class UploadForm(forms.Form):
    file = forms.FileField(
        help_text=f"JSON lines, a JSON array, CSV or Parquet, also .gz. At most {LARGEST >> 20} MB; "
        "for a larger one use the command.",
    )
    format = forms.ChoiceField(
        choices=[(AUTO, "Find out from the file"), *((f.name, f.title) for f in FORMATS.values())],
        initial=AUTO,
    )
    any_criteria = forms.BooleanField(
        required=False, label="Keep ratings of criteria that the guideline does not have"
    )

    def clean_file(self) -> UploadedFile:
        file: UploadedFile = self.cleaned_data["file"]
        if (file.size or 0) > LARGEST:
            raise forms.ValidationError(
                f"The file has {filesizeformat(file.size or 0)}; a page takes {LARGEST >> 20} MB. "
                "Import it with manage.py import_data, or compress it with gzip."
            )
        return file


@login_required
@require_http_methods(["GET", "POST"])
def choose(request: HttpRequest, slug: str) -> HttpResponse:
    """Take a file, and look at it on the next page."""
    project = led_project(request, slug)
    form = UploadForm(request.POST or None, request.FILES or None)
    if request.method == "POST" and form.is_valid():
        sent = form.cleaned_data
        upload = uploads.keep(
            sent["file"].chunks(),
            user=user_of(request),
            project=project,
            name=sent["file"].name or "file",
            format=sent["format"],
            any_criteria=sent["any_criteria"],
        )
        return redirect("project-import-look", project.slug, uuid.UUID(upload.key))
    context = {**_about(project), "form": form, "formats": FORMATS.values()}
    return render(request, "labeling/import.html", context)


@login_required
@require_http_methods(["GET", "POST"])
def look(request: HttpRequest, slug: str, key: uuid.UUID) -> HttpResponse:
    """What the file would bring; POST imports it. Reads the whole file."""
    project = led_project(request, slug)
    upload = uploads.find(key, user=user_of(request), project=project)
    if upload is None:
        messages.warning(request, "That file was imported already, or is no longer kept.")
        return redirect("project-import", project.slug)
    if request.method == "POST":
        try:
            imported = _import(upload, project, request)
        except BadInput:
            return redirect("project-import-look", project.slug, key)
        new = imported.written.new
        messages.success(
            request,
            f"{upload.name} is imported: " + ", ".join(f"{new[t]:,} new {t}" for t in TABLES) + ".",
        )
        return redirect("project-data", project.slug)
    return render(
        request, "labeling/import_look.html", {**_about(project), **_looked_at(upload, project)}
    )


def _about(project: Project) -> dict[str, Any]:
    return {"project": project, "section": "projects", "leads": True, "largest": LARGEST >> 20}


def _import(upload: Upload, project: Project, request: HttpRequest) -> Imported:
    """Raises BadInput, and then nothing was written."""
    with transaction.atomic():
        imported = _read(upload, project)
        new = dict(imported.written.new)
        audit(user_of(request), "file imported", project, file=upload.name, new=new)
    refresh_statistics(imported.written)
    upload.forget()
    return imported


def _read(upload: Upload, project: Project) -> Imported:
    return import_file(
        upload.path,
        project=project,
        format=FORMATS.get(upload.format),
        any_criteria=upload.any_criteria,
    )


@dataclass(frozen=True)
class Line:
    name: str
    read: int
    known: int
    new: int


def _looked_at(upload: Upload, project: Project) -> dict[str, Any]:
    """Do it all, then take it back."""
    found: dict[str, Any] = {"upload": upload, "size": filesizeformat(upload.path.stat().st_size)}
    try:
        found["format"] = FORMATS.get(upload.format) or detect(upload.path)
        with transaction.atomic():
            imported = _read(upload, project)
            transaction.set_rollback(True)
    except BadInput as error:
        sentence = str(error).replace(upload.path.name, upload.name)
        return {**found, "problem": sentence}
    written, tally = imported.written, imported.tally
    return {
        **found,
        "lines": [Line(t, written.read[t], written.known(t), written.new[t]) for t in TABLES],
        "held": written.held,
        "anything": any(written.new[table] for table in TABLES),
        "read": [(name, count) for name, count in tally.read.items() if count],
        "left_out": sorted((+tally.left_out).items()),
        "changed": sorted((+tally.changed).items()),
        "reviewers": written.new["reviewers"],
    }
