"""The pages on which leads write, preview and publish a guideline.

The page on which reviewers read it is in labeling.pages.project.
"""

from http import HTTPStatus
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_POST

from accounts.access import user_of
from labeling.core.access import led_project
from labeling.guidelines import versions as guidelines
from labeling.guidelines.forms import CriterionFormSet, DraftForm, preview
from labeling.guidelines.versions import GuidelineError
from labeling.models import GuidelineVersion, Project


@login_required
@require_http_methods(["GET", "POST"])
def edit(request: HttpRequest, slug: str) -> HttpResponse:
    """Edit the draft. If there is none, saving creates a draft, starting with the current version."""
    project = led_project(request, slug)
    draft = guidelines.draft_of(project)
    source = draft or project.current_version
    data = request.POST if request.method == "POST" else None
    form = DraftForm(
        data,
        preview_url=reverse("project-guideline-preview", args=[slug]),
        initial=_initial(draft, source),
    )
    criteria = CriterionFormSet(
        data, initial=_criteria(source) if data is None else None, prefix="criteria"
    )
    fingerprint = request.POST.get("seen", guidelines.fingerprint(draft))
    if request.method == "POST" and form.is_valid() & criteria.is_valid():
        content = {**form.cleaned_data, "criteria": criteria.criteria}
        try:
            if draft is None and not fingerprint:
                guidelines.create_draft(project=project, by=user_of(request), **content)
            else:
                guidelines.save_draft(
                    version=draft or _gone(), seen_fingerprint=fingerprint, **content
                )
        except GuidelineError as error:
            form.add_error(None, str(error))
            fingerprint = guidelines.fingerprint(guidelines.draft_of(project))
        else:
            if "publish" in request.POST:
                return redirect("project-guideline-publish", slug)
            messages.success(request, "The draft was saved. Reviewers see it once it is published.")
            return redirect("project-guideline-edit", slug)
    failed = form.errors or criteria.total_error_count()
    context = {
        **_context(project), "form": form, "criteria": criteria, "draft": draft,
        "source": source, "seen": fingerprint,
    }  # fmt: skip
    status = HTTPStatus.UNPROCESSABLE_ENTITY if failed else HTTPStatus.OK
    return render(request, "labeling/guidelines/edit.html", context, status=status)


def _gone() -> GuidelineVersion:
    raise GuidelineError(
        "The draft was published or deleted in the meantime. Saving again creates a new draft with "
        "your text."
    )


def _initial(draft: GuidelineVersion | None, source: GuidelineVersion | None) -> dict[str, Any]:
    """Return the form's initial values. Only the text is copied from a published version."""
    return {
        "text": source.text if source else "",
        "change_note": draft.change_note if draft else "",
        "requalify": draft.requalify if draft else False,
    }


def _criteria(source: GuidelineVersion | None) -> list[dict[str, Any]]:
    if source is None:
        return []
    rows = source.criteria.order_by("position", "id").values("name", "meaning", "scale")
    return [dict(row) for row in rows]


@login_required
@require_POST
def show_preview(request: HttpRequest, slug: str) -> HttpResponse:
    """Return the posted Markdown as HTML, as reviewers will see it, without saving it."""
    led_project(request, slug)
    return HttpResponse(preview(request.POST.get("text", "")))


@login_required
@require_POST
def new_draft(request: HttpRequest, slug: str, number: int) -> HttpResponse:
    """Create a draft with the content of any version."""
    project = led_project(request, slug)
    versions = GuidelineVersion.objects.filter(guideline__project=project, number=number)
    version = versions.select_related("guideline__project").first()
    if version is None:
        raise Http404(f"There is no version {number} of this guideline.")
    try:
        guidelines.draft_from(version=version, by=user_of(request))
    except GuidelineError as error:
        messages.error(request, str(error))
    return redirect("project-guideline-edit", slug)


@login_required
@require_POST
def delete_draft(request: HttpRequest, slug: str) -> HttpResponse:
    project = led_project(request, slug)
    draft = guidelines.draft_of(project)
    if draft is None:
        messages.error(request, "There is no draft.")
    else:
        try:
            guidelines.delete_draft(version=draft, by=user_of(request))
            messages.success(request, f"The draft of version {draft.number} was deleted.")
        except GuidelineError as error:
            messages.error(request, str(error))
    return redirect("project-guideline", slug)


@login_required
@require_http_methods(["GET", "POST"])
def publish(request: HttpRequest, slug: str) -> HttpResponse:
    """Show the draft and its changes as reviewers will see them and, on POST, publish it."""
    project = led_project(request, slug)
    draft = guidelines.draft_of(project)
    if draft is None:
        messages.error(request, "There is no draft to publish.")
        return redirect("project-guideline", slug)
    if request.method == "POST":
        try:
            guidelines.publish(
                version=draft, by=user_of(request), seen_fingerprint=request.POST.get("seen", "")
            )
        except GuidelineError as error:
            messages.error(request, str(error))
            return redirect("project-guideline-publish", slug)
        sentence = f"Version {draft.number} is published. New rankings use it."
        messages.success(request, sentence)
        return redirect("project-guideline", slug)
    before = guidelines.version_before(draft)
    context = {
        **_context(project),
        "version": draft,
        "before": before,
        "difference": guidelines.difference(before, draft) if before else [],
        "html": preview(draft.text),
        "criteria": list(draft.criteria.all()),
        "seen": guidelines.fingerprint(draft),
        "empty": not draft.text.strip(),
    }
    return render(request, "labeling/guidelines/publish.html", context)


def _context(project: Project) -> dict[str, Any]:
    return {"project": project, "section": "projects", "leads": True}
