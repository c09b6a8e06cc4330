"""The page on which reviewers confirm that they have read a new guideline version."""

from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST

from accounts.access import user_of
from accounts.parameters import local_path, number
from labeling.core.access import project_for
from labeling.core.text import render as render_text
from labeling.guidelines.confirmations import UnconfirmedVersion, confirm
from labeling.guidelines.versions import difference
from labeling.models import Project


def confirmation_page(
    request: HttpRequest, project: Project, unconfirmed: UnconfirmedVersion
) -> HttpResponse:
    """Show the guideline, and the changes since the version that the reviewer last confirmed, if any."""
    context = {
        "project": project,
        "section": "review",
        "version": unconfirmed.version,
        "before": unconfirmed.before,
        "difference": difference(unconfirmed.before, unconfirmed.version)
        if unconfirmed.before
        else [],
        "html": render_text(unconfirmed.version.text, line_breaks=False),
        "criteria": list(unconfirmed.version.criteria.all()),
        "next": request.get_full_path(),
    }
    return render(request, "labeling/reviewing/guideline.html", context)


@login_required
@require_POST
def confirm_guideline(request: HttpRequest, slug: str) -> HttpResponse:
    project = project_for(request, slug)
    version = number(request.POST.get("version", "")) or 0
    if not confirm(project=project, reviewer=user_of(request), version_id=version):
        raise Http404("The project has not published this version.")
    if target := local_path(request.POST.get("next", "")):
        return redirect(target)
    return redirect("review", project.slug)
