from typing import Any

from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from accounts.access import user_of
from labeling.core.access import leads, readable_project
from labeling.core.text import render as render_text
from labeling.guidelines.versions import difference
from labeling.importing import findings
from labeling.models import GuidelineVersion, Project
from labeling.projects import staffing
from labeling.quality.measures import quality_of
from labeling.reviewing import progress


@login_required
@require_GET
def overview(request: HttpRequest, slug: str) -> HttpResponse:
    project = readable_project(request, slug)
    user = user_of(request)
    context: dict[str, Any] = {
        "project": project,
        "section": "projects",
        "leads": leads(user, project),
        "own": progress.of_reviewer(project, user),
        "version": project.current_version,
    }
    if context["leads"]:
        context["progress"] = progress.of_project(project)
        context["quality"] = quality_of(project)
        context["reviewers"] = progress.by_reviewer(project)
        context["findings"] = findings.counts(project)
        context["shortage"] = staffing.shortage(project)
        context["totals"] = _totals(context["reviewers"])
    return render(request, "labeling/projects/project.html", context)


def _totals(rows: list[progress.ReviewerRow]) -> dict[str, int]:
    return {
        name: sum(getattr(row, name) for row in rows)
        for name in ("rankings", "simulated", "imported")
    }


@login_required
@require_GET
def guideline(request: HttpRequest, slug: str) -> HttpResponse:
    project = readable_project(request, slug)
    is_lead = leads(user_of(request), project)
    versions = _versions(project, drafts=is_lead)
    version = _chosen(versions, request.GET.get("version", ""), project)
    before = _before(versions, version)
    context = {
        "project": project,
        "section": "projects",
        "leads": is_lead,
        "versions": versions,
        "draft": next((v for v in versions if v.state == GuidelineVersion.State.DRAFT), None),
        "version": version,
        "html": render_text(version.text, line_breaks=False) if version else "",
        "criteria": list(version.criteria.all()) if version else [],
        "before": before,
        "difference": difference(before, version) if before and version else [],
    }
    return render(request, "labeling/guidelines/guideline.html", context)


def _versions(project: Project, *, drafts: bool) -> list[GuidelineVersion]:
    """Return the project's guideline versions, newest first, without drafts unless `drafts` is set."""
    versions = GuidelineVersion.objects.filter(guideline__project=project).order_by("-number")
    if not drafts:
        versions = versions.filter(state=GuidelineVersion.State.PUBLISHED)
    return list(versions.select_related("guideline", "published_by"))


def _chosen(
    versions: list[GuidelineVersion], number: str, project: Project
) -> GuidelineVersion | None:
    if not number:
        current = [v for v in versions if v.pk == project.current_version_id]
        return next(iter(current or versions), None)
    chosen = [version for version in versions if str(version.number) == number]
    if not chosen:
        raise Http404(f"There is no version {number[:20]} of this guideline.")
    return chosen[0]


def _before(
    versions: list[GuidelineVersion], version: GuidelineVersion | None
) -> GuidelineVersion | None:
    return next((other for other in versions if version and other.number < version.number), None)
