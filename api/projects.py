"""Projects with their settings, and the members of a project."""

from datetime import datetime
from typing import Annotated, Any

from django.forms.models import model_to_dict
from django.http import Http404, HttpRequest
from ninja import Path, Router, Schema, Status
from pydantic import Field

from accounts.access import user_of
from accounts.api import ADMIN, READ, Problem
from accounts.models import User
from api.access import (
    archived_project,
    lead_of,
    of_any_project,
    project_led,
    readable_project,
    visible_projects,
)
from api.forms import check, refuse_unknown
from api.pages import After, Limit, Page, Strict, page
from labeling.core.access import leads
from labeling.models import Membership, Project
from labeling.projects import archiving, creation, memberships, settings
from labeling.projects.memberships import MembershipError

router = Router(tags=["projects"])

Settings = dict[str, bool | int | float | str]


class ProjectItem(Schema):
    slug: str
    name: str
    description: str
    created_at: datetime
    archived_at: datetime | None


class ProjectDetail(ProjectItem):
    leads: bool = Field(description="Whether the owner of the token leads the project.")
    guideline_version: int | None = Field(description="Number of the published guideline version.")
    settings: Settings = Field(description="The settings that its settings page shows.")


class NewProject(Strict):
    name: str
    slug: str = Field("", description="If empty, it is derived from the name.")
    description: str = ""
    settings: Settings = {}


class ProjectChange(Strict):
    name: str | None = None
    description: str | None = None
    settings: Settings = {}


class Member(Schema):
    username: str
    name: str
    role: str
    active: bool = Field(description="Whether the person can sign in.")


class MemberRole(Strict):
    role: Membership.Role


Slug = Annotated[str, Path(max_length=60)]
Username = Annotated[str, Path(max_length=150)]


def item(project: Project) -> dict[str, Any]:
    names = ("slug", "name", "description", "created_at", "archived_at")
    return {name: getattr(project, name) for name in names}


def detail(project: Project, user: User) -> dict[str, Any]:
    version = project.current_version
    values = model_to_dict(project, fields=settings.FIELDS)
    return {
        **item(project),
        "leads": leads(user, project),
        "guideline_version": version.number if version else None,
        "settings": {n: v for n, v in values.items() if n not in ("name", "description")},
    }


@router.get("/projects", response=Page[ProjectItem], auth=READ, url_name="api-projects")
def list_projects(request: HttpRequest, after: After = None, limit: Limit = 100) -> Any:
    """List the open projects that the owner of the token works in, oldest first."""
    return page(visible_projects(request), item, after=after, limit=limit)


@router.post("/projects", response={201: ProjectDetail}, auth=ADMIN, url_name="api-projects")
def create_project(request: HttpRequest, body: NewProject) -> Any:
    """Create a project. The owner of the token becomes its lead."""
    user = lead_of(request)
    of_any_project(request)
    sent = {**body.settings, "name": body.name, "slug": body.slug, "description": body.description}
    blank = Project()
    defaults = {name: getattr(blank, name) for name in creation.FIRST_SETTINGS}
    form = creation.ProjectForm({**defaults, **sent})
    refuse_unknown(form, body.settings, at="settings")
    check(form)
    project = creation.create(form=form, by=user)
    if project is None:
        check(form)
        raise Problem(409, "Another project was just created at this address.")
    return Status(201, detail(project, user))


@router.get("/projects/{slug}", response=ProjectDetail, auth=READ, url_name="api-project")
def read_project(request: HttpRequest, slug: Slug) -> Any:
    """Return a project with its settings. Leads may also read an archived project."""
    return detail(readable_project(request, slug), user_of(request))


@router.patch("/projects/{slug}", response=ProjectDetail, auth=ADMIN, url_name="api-project")
def change_project(request: HttpRequest, slug: Slug, body: ProjectChange) -> Any:
    """Change the name, the description or settings of a project. Other values keep."""
    project = project_led(request, slug)
    sent: dict[str, Any] = {**body.settings}
    sent |= {n: v for n in ("name", "description") if (v := getattr(body, n)) is not None}
    stored = model_to_dict(project, fields=settings.FIELDS)
    form = settings.PolicyForm({**stored, **sent}, instance=project)
    refuse_unknown(form, sent, at="settings")
    check(form)
    settings.change(project=project, form=form, by=user_of(request))
    return detail(project, user_of(request))


@router.post("/projects/{slug}/archive", response=ProjectDetail, auth=ADMIN, url_name="api-archive")
def archive_project(request: HttpRequest, slug: Slug) -> Any:
    """Archive a project. It is then read-only."""
    project = project_led(request, slug)
    archiving.archive(project=project, by=user_of(request))
    project.refresh_from_db()
    return detail(project, user_of(request))


@router.post("/projects/{slug}/restore", response=ProjectDetail, auth=ADMIN, url_name="api-restore")
def restore_project(request: HttpRequest, slug: Slug) -> Any:
    """Restore an archived project."""
    project = archived_project(request, slug)
    archiving.restore(project=project, by=user_of(request))
    project.refresh_from_db()
    return detail(project, user_of(request))


# --- members --------------------------------------------------------------------------------------


def member(membership: Membership) -> dict[str, Any]:
    person = membership.user
    return {
        "username": person.username,
        "name": person.get_full_name(),
        "role": membership.role,
        "active": person.is_active,
    }


@router.get("/projects/{slug}/members", response=Page[Member], auth=READ, url_name="api-members")
def list_members(request: HttpRequest, slug: Slug, after: After = None, limit: Limit = 100) -> Any:
    """List the members of a project that the owner of the token leads."""
    rows = project_led(request, slug).memberships.select_related("user")
    return page(rows, member, after=after, limit=limit)


@router.put(
    "/projects/{slug}/members/{username}", response=Member, auth=ADMIN, url_name="api-member"
)
def set_member(request: HttpRequest, slug: Slug, username: Username, body: MemberRole) -> Any:
    """Give a person a role in the project: add them, or change their role."""
    project, by = project_led(request, slug), user_of(request)
    rows = project.memberships.select_related("user", "project")
    membership = rows.filter(user__username=username).first()
    try:
        if membership is None:
            person = User.objects.filter(username=username).first()
            if person is None:
                raise Problem(404, f"Nobody has the username {username}.")
            membership = memberships.add(project=project, person=person, role=body.role, by=by)
        else:
            memberships.change_role(membership=membership, role=body.role, by=by)
    except MembershipError as error:
        raise Problem(409, str(error)) from None
    return member(membership)


@router.delete(
    "/projects/{slug}/members/{username}", response={204: None}, auth=ADMIN, url_name="api-member"
)
def remove_member(request: HttpRequest, slug: Slug, username: Username) -> Any:
    """End a membership. The person's rankings are kept."""
    project = project_led(request, slug)
    rows = project.memberships.select_related("user", "project")
    membership = rows.filter(user__username=username).first()
    if membership is None:
        raise Http404(f"{username} is not a member of this project.")
    try:
        memberships.remove(membership=membership, by=user_of(request))
    except MembershipError as error:
        raise Problem(409, str(error)) from None
    return Status(204, None)
