"""The guideline versions of a project."""

from datetime import datetime
from typing import Annotated, Any

from django.http import Http404, HttpRequest
from ninja import Path, Router, Schema, Status
from pydantic import Field

from accounts.access import user_of
from accounts.api import ADMIN, READ, Problem
from api.access import project_led, readable_project
from api.forms import invalid
from api.pages import After, Limit, Page, Strict, page
from api.projects import Slug
from labeling.core.access import leads
from labeling.guidelines import versions
from labeling.guidelines.forms import CriterionFormSet, DraftForm
from labeling.guidelines.versions import GuidelineError
from labeling.models import GuidelineVersion

router = Router(tags=["guidelines"])

MAX_CRITERIA = 50


class CriterionItem(Strict):
    name: str = Field(max_length=40, description="A short key, such as honesty.")
    meaning: str = Field(max_length=300)
    scale: int = Field(5, ge=2, le=10, description="The highest rating.")


class VersionItem(Schema):
    number: int
    state: GuidelineVersion.State
    change_note: str
    requalify: bool
    created_at: datetime
    published_at: datetime | None


class VersionDetail(VersionItem):
    text: str = Field(description="Markdown.")
    criteria: list[CriterionItem]


class NewVersion(Strict):
    text: str = Field(max_length=500_000, description="Markdown.")
    criteria: list[CriterionItem] = Field([], max_length=MAX_CRITERIA)
    change_note: str = Field("", max_length=300)
    requalify: bool = Field(False, description="Whether reviewers must qualify again.")


VersionNumber = Annotated[int, Path(ge=1, le=2**31 - 1)]


def item(version: GuidelineVersion) -> dict[str, Any]:
    return {name: getattr(version, name) for name in VersionItem.model_fields}


def detail(version: GuidelineVersion) -> dict[str, Any]:
    criteria = [
        {"name": c.name, "meaning": c.meaning, "scale": c.scale}
        for c in version.criteria.order_by("position", "id")
    ]
    return {**item(version), "text": version.text, "criteria": criteria}


def visible_versions(request: HttpRequest, slug: str) -> Any:
    """Return the versions that the owner of the token may read: reviewers read published ones."""
    project = readable_project(request, slug)
    rows = GuidelineVersion.objects.filter(guideline__project=project)
    if leads(user_of(request), project):
        return rows
    return rows.filter(state=GuidelineVersion.State.PUBLISHED)


@router.get(
    "/projects/{slug}/guideline/versions",
    response=Page[VersionItem],
    auth=READ,
    url_name="api-versions",
)
def list_versions(request: HttpRequest, slug: Slug, after: After = None, limit: Limit = 100) -> Any:
    """List the versions of a guideline, oldest first. Reviewers do not see drafts."""
    return page(visible_versions(request, slug), item, after=after, limit=limit)


@router.get(
    "/projects/{slug}/guideline/versions/{number}",
    response=VersionDetail,
    auth=READ,
    url_name="api-version",
)
def read_version(request: HttpRequest, slug: Slug, number: VersionNumber) -> Any:
    """Return a version with its text and criteria."""
    version = visible_versions(request, slug).filter(number=number).first()
    if version is None:
        raise Http404(f"There is no version {number} of this guideline.")
    return detail(version)


@router.post(
    "/projects/{slug}/guideline/versions",
    response={201: VersionDetail},
    auth=ADMIN,
    url_name="api-versions",
)
def create_draft(request: HttpRequest, slug: Slug, body: NewVersion) -> Any:
    """Create a draft of the next version. Reviewers see it once it is published."""
    project = project_led(request, slug)
    content = _checked(body)
    try:
        draft = versions.create_draft(project=project, by=user_of(request), **content)
    except GuidelineError as error:
        raise Problem(409, str(error)) from None
    return Status(201, detail(draft))


@router.post(
    "/projects/{slug}/guideline/versions/{number}/publish",
    response=VersionDetail,
    auth=ADMIN,
    url_name="api-version-publish",
)
def publish_version(request: HttpRequest, slug: Slug, number: VersionNumber) -> Any:
    """Publish a draft. It can then not be changed, and new rankings are made under it."""
    draft = versions.draft_of(project_led(request, slug))
    if draft is None or draft.number != number:
        raise Problem(409, f"Version {number} of this guideline is not a draft.")
    try:
        return detail(versions.publish(version=draft, by=user_of(request)))
    except GuidelineError as error:
        raise Problem(409, str(error)) from None


@router.delete(
    "/projects/{slug}/guideline/versions/{number}",
    response={204: None},
    auth=ADMIN,
    url_name="api-version",
)
def delete_draft(request: HttpRequest, slug: Slug, number: VersionNumber) -> Any:
    """Delete a draft. A published version cannot be deleted."""
    draft = versions.draft_of(project_led(request, slug))
    if draft is None or draft.number != number:
        raise Problem(409, f"Version {number} of this guideline is not a draft.")
    try:
        versions.delete_draft(version=draft, by=user_of(request))
    except GuidelineError as error:
        raise Problem(409, str(error)) from None
    return Status(204, None)


def _checked(body: NewVersion) -> dict[str, Any]:
    """Return the content of a draft, checked by the forms of the page. Raises Problem."""
    criteria = [criterion.dict() for criterion in body.criteria]
    form = DraftForm({**body.dict(exclude={"criteria"})}, preview_url="")
    data: dict[str, Any] = {"criteria-TOTAL_FORMS": len(criteria), "criteria-INITIAL_FORMS": 0}
    for index, criterion in enumerate(criteria):
        data |= {f"criteria-{index}-{name}": value for name, value in criterion.items()}
    formset = CriterionFormSet(data, prefix="criteria")
    if form.is_valid() & formset.is_valid():
        return {**form.cleaned_data, "criteria": formset.criteria}
    errors = [
        {"at": name if name != "__all__" else "body", "what": str(text)}
        for name, texts in form.errors.items()
        for text in texts
    ]
    for index, found in enumerate(formset.errors):
        errors += [
            {"at": f"criteria.{index}.{name}", "what": str(text)}
            for name, texts in found.items()
            for text in texts
        ]
    errors += [{"at": "criteria", "what": str(text)} for text in formset.non_form_errors()]
    raise invalid(errors)
