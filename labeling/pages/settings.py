from http import HTTPStatus
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods

from accounts.access import user_of
from labeling.core.access import led_project
from labeling.projects.settings import SECTIONS, PolicyForm, change
from labeling.rankings import overlap


@login_required
@require_http_methods(["GET", "POST"])
def settings(request: HttpRequest, slug: str) -> HttpResponse:
    """Show the settings of a project and, on POST, save them."""
    project = led_project(request, slug)
    form = PolicyForm(request.POST or None, instance=project)
    status = HTTPStatus.OK
    if request.method == "POST":
        if form.is_valid():
            changed = change(project=project, form=form, by=user_of(request))
            sentence = f"Saved: {_listed(form, changed)}." if changed else "Nothing changed."
            messages.success(request, sentence)
            return redirect("project-settings", slug)
        status = HTTPStatus.UNPROCESSABLE_ENTITY
        project.refresh_from_db()
    context: dict[str, Any] = {
        "project": project,
        "section": "projects",
        "leads": True,
        "form": form,
        "sections": [
            (name, [form[field] for field in fields]) for name, fields in SECTIONS.items()
        ],
        "savings": overlap.savings(project),
    }
    return render(request, "labeling/projects/settings.html", context, status=status)


def _listed(form: PolicyForm, names: list[str]) -> str:
    return ", ".join(str(form.fields[name].label).lower() for name in names)
