"""Invitations: leads create and revoke them on the members page, and their holders accept them."""

from typing import Any

from django.conf import settings
from django.contrib import messages
from django.contrib.auth import login
from django.contrib.auth.decorators import login_required
from django.db import IntegrityError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST

from accounts.access import user_of
from accounts.models import User
from accounts.sign_in import throttle
from accounts.sign_in.throttle import Throttled
from labeling.core.access import led_project
from labeling.models import Invitation, Project
from labeling.pages.members import members_page
from labeling.projects import invitations
from labeling.projects.invitations import InvitationError, InvitationForm, JoinForm
from labeling.projects.memberships import MembershipError


@login_required
@never_cache
@require_http_methods(["GET", "POST"])
def invite(request: HttpRequest, slug: str) -> HttpResponse:
    """Create an invitation and show its link, once."""
    project, by = led_project(request, slug), user_of(request)
    if request.method == "GET":
        return redirect("project-members", slug)
    form = InvitationForm(request.POST, project=project, by=by, auto_id="invite_%s")
    if not form.is_valid():
        return members_page(request, project, invite=form)
    invitation, path = invitations.create(form=form)
    link = request.build_absolute_uri(path)
    sent = bool(invitation.email) and invitations.send_link(invitation, link)
    context = {
        "project": project,
        "section": "projects",
        "leads": True,
        "invitation": invitation,
        "link": link,
        "sent": sent,
    }
    return render(request, "labeling/projects/invitation_link.html", context)


@login_required
@require_POST
def revoke(request: HttpRequest, slug: str, pk: int) -> HttpResponse:
    project = led_project(request, slug)
    invitation = get_object_or_404(
        Invitation.objects.select_related("project"), project=project, pk=pk
    )
    if invitations.revoke(invitation=invitation, by=user_of(request)):
        messages.success(request, "The invitation is revoked. Its link no longer works.")
    else:
        messages.info(request, "The invitation was no longer open.")
    return redirect("project-members", slug)


@never_cache
@require_http_methods(["GET", "POST"])
def invitation(request: HttpRequest, key: str) -> HttpResponse:
    """Show an invitation to its holder and, on POST, accept it.

    Whoever has the key may see the page. Each wrong key counts as a failed attempt to sign in of the
    address, and so does each refused account, so that nobody finds out usernames in this way.
    """
    try:
        with throttle.attempt(request, f"invitation {Invitation.digest_of(key)}") as attempt:
            row = invitations.valid(key)
            response = _answer(request, key, row) if row else None
            if response is not None and response.status_code < 400:
                attempt.succeed()
    except Throttled as refusal:
        return _not_valid(request, refusal.messages[0], status=429)
    return response or _to_project(request, key) or _not_valid(request)


def _to_project(request: HttpRequest, key: str) -> HttpResponse | None:
    """Redirect a member who opens a used link again, for example after a double click."""
    if not isinstance(request.user, User):
        return None
    visible = Project.objects.visible_to(request.user)
    digest = Invitation.digest_of(key)
    row = Invitation.objects.filter(digest=digest, project__in=visible).first()
    return redirect("project", row.project.slug) if row else None


def _not_valid(request: HttpRequest, sentence: str = "", status: int = 404) -> HttpResponse:
    context = {"sentence": sentence}
    return render(request, "labeling/invitation_not_valid.html", context, status=status)


def _answer(request: HttpRequest, key: str, row: Invitation) -> HttpResponse:
    person = request.user if isinstance(request.user, User) else None
    form = None
    if person is None and getattr(settings, "PASSWORDS", True):
        form = JoinForm(request.POST if request.method == "POST" else None)
    if request.method == "POST" and (person or (form and form.is_valid())):
        return _accept(request, key, row, person, form)
    return _page(request, row, person, form)


def _page(
    request: HttpRequest, row: Invitation, person: User | None, form: JoinForm | None
) -> HttpResponse:
    context: dict[str, Any] = {
        "invitation": row,
        "form": form,
        "is_member": bool(person) and row.project.memberships.filter(user=person).exists(),
        "sign_in": f"{reverse('login')}?next={request.path}",
    }
    status = 422 if form and form.errors else 200
    return render(request, "labeling/invitation.html", context, status=status)


def _accept(
    request: HttpRequest, key: str, row: Invitation, person: User | None, form: JoinForm | None
) -> HttpResponse:
    try:
        member = invitations.accept(key=key, person=person, form=form)
    except IntegrityError:
        if form is None:
            raise
        # Another request has taken the username since the form was checked.
        form.add_error("username", _("A user with that username already exists."))
        return _page(request, row, None, form)
    except InvitationError:
        return _not_valid(request)
    except MembershipError as error:
        messages.info(request, str(error))
        return redirect("home")
    if person is None:
        login(request, member, backend="accounts.backends.PasswordBackend")
    messages.success(request, _("You are now a member of %(project)s.") % {"project": row.project})
    return redirect("project", row.project.slug)
