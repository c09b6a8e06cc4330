import uuid
from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.files.uploadedfile import UploadedFile
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.template.defaultfilters import filesizeformat
from django.views.decorators.http import require_GET, require_http_methods

from accounts.access import user_of
from labeling.core import text
from labeling.core.access import led_project
from labeling.importing import lifecycle, undoing
from labeling.importing.files.encodings import ENCODINGS, UTF8
from labeling.importing.formats.columns.mapping import MEANINGS, Mapping
from labeling.importing.reading import FORMATS
from labeling.models import FileImport, Project

MAX_UPLOAD_BYTES = 50 << 20
AUTO = "auto"
IMPORTED = FileImport.State.IMPORTED
RECENT = 20


class UploadForm(forms.Form):
    file = forms.FileField(
        help_text="JSON lines, a JSON array, CSV, Excel or Parquet; text files may be compressed with gzip. At most "
        f"{MAX_UPLOAD_BYTES >> 20} MB. Import larger files with manage.py import_data.",
    )
    format = forms.ChoiceField(
        choices=[(AUTO, "Detect automatically"), *((f.name, f.title) for f in FORMATS.values())],
        initial=AUTO,
    )
    encoding = forms.ChoiceField(
        choices=[(name, name) for name in ENCODINGS],
        initial=UTF8,
        help_text="Applies to text files. CSV files saved by Windows programs are often windows-1252.",
    )
    any_criteria = forms.BooleanField(
        required=False, label="Keep ratings of criteria that the guideline does not have"
    )

    too_large = False

    def clean_file(self) -> UploadedFile:
        file: UploadedFile = self.cleaned_data["file"]
        if (file.size or 0) > MAX_UPLOAD_BYTES:
            self.too_large = True
            raise forms.ValidationError(
                f"The file has {filesizeformat(file.size or 0)}, but this page accepts up to {MAX_UPLOAD_BYTES >> 20} MB. "
                "Import it with manage.py import_data, or compress it with gzip."
            )
        return file


@login_required
@require_http_methods(["GET", "POST"])
def upload(request: HttpRequest, slug: str) -> HttpResponse:
    """Receive a file, ask a worker to check it, and redirect to its preview."""
    project = led_project(request, slug)
    form = UploadForm(request.POST or None, request.FILES or None)
    if request.method == "POST" and form.is_valid():
        data = form.cleaned_data
        file_import = lifecycle.receive(
            data["file"].chunks(),
            user=user_of(request),
            project=project,
            name=data["file"].name or "file",
            format="" if data["format"] == AUTO else data["format"],
            any_criteria=data["any_criteria"],
            encoding=data["encoding"],
        )
        return redirect("project-import-preview", project.slug, file_import.key)
    recent = FileImport.objects.filter(project=project).select_related("user")[:RECENT]
    context = {**_about(project), "form": form, "formats": FORMATS.values(), "recent": recent}
    return render(
        request, "labeling/data/import.html", context, status=413 if form.too_large else 200
    )


@login_required
@require_http_methods(["GET", "POST"])
def preview(request: HttpRequest, slug: str, key: uuid.UUID) -> HttpResponse:
    """Show the preview of a file, or the worker's progress. POST imports, cancels or undoes it."""
    project = led_project(request, slug)
    file_import = get_object_or_404(FileImport, project=project, key=key)
    if request.method == "POST":
        if "map" in request.POST:
            _map(request, file_import)
        elif "undo" in request.POST:
            if not lifecycle.start_undo(file_import, user_of(request)):
                messages.info(request, "This import cannot be undone.")
        elif "cancel" in request.POST:
            if not lifecycle.cancel(file_import):
                messages.info(
                    request, "There is nothing to cancel, because the work on this file has ended."
                )
        elif not lifecycle.start_import(file_import):
            messages.info(request, "This file is not waiting to be imported.")
        return redirect("project-import-preview", project.slug, key)
    report = file_import.report
    context = {
        **_about(project),
        "file": file_import,
        "report": report,
        "anything": any(line["new"] for line in report.get("lines", [])),
        "obstacle": undoing.obstacle(file_import) if file_import.state == IMPORTED else "",
        "columns": _columns(file_import),
        "meanings": MEANINGS.items(),
        "first": [_rendered(record) for record in report.get("first", [])],
    }
    return render(request, "labeling/data/import_preview.html", context)


@login_required
@require_GET
def state(request: HttpRequest, slug: str, key: uuid.UUID) -> JsonResponse:
    """Return the state of an import as JSON, for the script of its page."""
    project = led_project(request, slug)
    file_import = get_object_or_404(FileImport, project=project, key=key)
    return JsonResponse({"state": file_import.state, "prompts": file_import.prompts_read})


def _map(request: HttpRequest, file_import: FileImport) -> None:
    """Save the meaning that the lead chose for each column, and have the file checked again."""
    chosen: dict[str, list[str]] = {}
    for number, column in enumerate(_columns(file_import)):
        meaning = request.POST.get(f"meaning-{number}", "")
        chosen.setdefault(meaning if meaning in MEANINGS else "unused", []).append(column["name"])
    if not lifecycle.map_columns(file_import, Mapping.from_json(chosen)):
        messages.info(request, "The columns of this file can no longer be changed.")


def _columns(file_import: FileImport) -> list[dict[str, Any]]:
    """Return the columns whose meaning a lead can choose. Keys within a column are not included."""
    report = file_import.report
    if not file_import.open or report.get("format", "columns") != "columns":
        return []
    return [column for column in report.get("columns", []) if not column.get("nested")]


def _rendered(record: dict[str, Any]) -> dict[str, Any]:
    """Return one of the first prompts, with its texts rendered as reviewers will see them."""
    letters = "ABCDEFGHI"
    return {
        "messages": [(m["role"], text.render(m["content"])) for m in record["messages"]],
        "responses": [
            (letters[number], text.render(response["text"]))
            for number, response in enumerate(record["responses"][: len(letters)])
        ],
        "rankings": [
            " > ".join(
                " = ".join(letters[index] for index in tier if index < len(letters))
                for tier in ranking["tiers"]
            )
            for ranking in record["rankings"]
        ],
    }


def _about(project: Project) -> dict[str, Any]:
    return {
        "project": project,
        "section": "projects",
        "leads": True,
        "largest": MAX_UPLOAD_BYTES >> 20,
    }
