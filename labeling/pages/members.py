"""The pages on which leads manage the members of a project."""

from http import HTTPStatus
from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_POST

from accounts import people
from accounts.access import user_of
from accounts.models import User
from accounts.views import link_page
from labeling.core.access import led_project
from labeling.models import Membership, Project
from labeling.projects import memberships
from labeling.projects.invitations import InvitationForm
from labeling.projects.memberships import MembershipError

SUGGESTED = 200
"""Maximum number of usernames suggested while a lead types."""


class AddForm(forms.Form):
    """A form for adding a person who has an account."""

    username = forms.CharField(
        label="Username",
        max_length=150,
        widget=forms.TextInput(attrs={"list": "people", "autocomplete": "off"}),
    )
    role = forms.ChoiceField(choices=Membership.Role.choices)

    def clean_username(self) -> User:
        name = self.cleaned_data["username"].strip()
        person = User.objects.filter(username=name).first()
        if person is None:
            raise forms.ValidationError("Nobody has this username. Create an account instead.")
        return person


@login_required
@require_http_methods(["GET", "POST"])
def members(request: HttpRequest, slug: str) -> HttpResponse:
    """List the members of the project and, on POST, add a person who has an account."""
    project = led_project(request, slug)
    form = AddForm(request.POST if request.method == "POST" else None)
    if request.method == "POST" and form.is_valid():
        person: User = form.cleaned_data["username"]
        try:
            memberships.add(
                project=project, person=person, role=form.cleaned_data["role"], by=user_of(request)
            )
        except MembershipError as error:
            form.add_error("username", str(error))
        else:
            messages.success(request, f"{person} is now a member.")
            return redirect("project-members", slug)
    return members_page(request, project, add=form)


@login_required
@require_http_methods(["GET", "POST"])
def new_person(request: HttpRequest, slug: str) -> HttpResponse:
    """Create an account for a new member, and show the link for their first sign-in."""
    project, by = led_project(request, slug), user_of(request)
    if request.method == "GET":
        return redirect("project-members", slug)
    form = _person_form(by)(request.POST, auto_id="new_%s")
    if form.is_valid():
        person = memberships.create_person(
            project=project, form=form, role=Membership.Role.REVIEWER, by=by
        )
        return link_page(request, person, reverse("project-members", args=[slug]))
    return members_page(request, project, create=form)


@login_required
@require_POST
def change_role(request: HttpRequest, slug: str, user_id: int) -> HttpResponse:
    project = led_project(request, slug)
    membership = _membership(project, user_id)
    role = request.POST.get("role", "")
    try:
        if role not in Membership.Role.values:
            raise MembershipError("A member’s role must be reviewer, lead or trainer.")
        if memberships.change_role(membership=membership, role=role, by=user_of(request)):
            messages.success(request, f"{membership.user} is now a {role} of this project.")
    except MembershipError as error:
        messages.error(request, str(error))
    return _back(membership, user_of(request), slug)


@login_required
@require_POST
def remove(request: HttpRequest, slug: str, user_id: int) -> HttpResponse:
    """End a membership. The person's rankings are kept."""
    project = led_project(request, slug)
    membership = _membership(project, user_id)
    try:
        memberships.remove(membership=membership, by=user_of(request))
        messages.success(
            request, f"{membership.user} is no longer a member. Their rankings are kept."
        )
    except MembershipError as error:
        messages.error(request, str(error))
    return _back(membership, user_of(request), slug)


@login_required
@require_POST
def new_link(request: HttpRequest, slug: str, user_id: int) -> HttpResponse:
    """Show a new one-time link for a member whose account has never been used."""
    person = _membership(led_project(request, slug), user_id).user
    if person.pk not in memberships.linkable(user_of(request), [person]):
        raise PermissionDenied("Only an administrator can create a link for an account in use.")
    return link_page(request, person, reverse("project-members", args=[slug]))


def _membership(project: Project, user_id: int) -> Membership:
    rows = Membership.objects.select_related("user", "project")
    return get_object_or_404(rows, project=project, user=user_id)


def _back(membership: Membership, user: User, slug: str) -> HttpResponse:
    """Redirect to the list of members, or to the home page if the user may no longer lead the project."""
    if membership.user_id == user.pk and not user.is_everywhere:
        return redirect("home")
    return redirect("project-members", slug)


def _person_form(by: User) -> type[people.PersonForm]:
    return people.PersonForm if by.is_superuser else people.ReviewerForm


def members_page(
    request: HttpRequest, project: Project, add: Any = None, create: Any = None, invite: Any = None
) -> HttpResponse:
    """Return the list of members with its forms, of which an invalid one keeps what was typed.

    The calling view must have checked access.
    """
    user = user_of(request)
    rows = list(project.memberships.select_related("user"))
    rows.sort(key=lambda row: (-memberships.RANKS[row.role], row.user.username))
    members = [row.user_id for row in rows]
    linkable = memberships.linkable(user, [row.user for row in rows])
    others = User.objects.filter(is_active=True, simulated=False).exclude(pk__in=members)
    failed = any(form is not None and form.errors for form in (add, create, invite))
    context: dict[str, Any] = {
        "project": project,
        "section": "projects",
        "leads": True,
        "rows": [(row, row.user_id in linkable) for row in rows],
        "add": add or AddForm(),
        "create": create or _person_form(user)(auto_id="new_%s"),
        "invite": invite or InvitationForm(project=project, by=user, auto_id="invite_%s"),
        "invitations": project.invitations.open().select_related("created_by"),
        "people": others.order_by("username").values_list("username", flat=True)[:SUGGESTED],
        "roles": Membership.Role.choices,
    }
    status = HTTPStatus.UNPROCESSABLE_ENTITY if failed else HTTPStatus.OK
    return render(request, "labeling/projects/members.html", context, status=status)
