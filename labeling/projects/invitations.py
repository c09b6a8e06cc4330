"""Invitations: links with which people join a project. See docs/people.md.

An invitation gives the role that its maker may give. If the maker leaves the project, or loses this
right, the invitation is no longer valid.
"""

from datetime import timedelta
from typing import Any

from django import forms
from django.conf import settings
from django.contrib.auth.forms import UserCreationForm
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import transaction
from django.db.models import F
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _

from accounts.mail import send
from accounts.models import User, audit
from labeling.models import Invitation, Membership, Project
from labeling.models.invitations import MAX_DAYS, MAX_USES
from labeling.projects import memberships
from labeling.projects.memberships import RANKS

DEFAULT_DAYS = 7


class InvitationError(ValueError):
    """Raised if an invitation is not valid, before anything is written. The message is for its holder."""


class InvitationForm(forms.ModelForm):
    """A form for a new invitation. It offers the roles that its maker may give."""

    days = forms.IntegerField(
        min_value=1,
        max_value=MAX_DAYS,
        initial=DEFAULT_DAYS,
        label="Valid for (days)",
        help_text=f"From 1 to {MAX_DAYS}.",
    )

    class Meta:
        model = Invitation
        fields = ("role", "max_uses", "email")
        labels = {
            "role": "Project role", "max_uses": "Number of people", "email": "E-mail address",
        }  # fmt: skip
        help_texts = {"email": "If given, the link is sent there."}

    def __init__(self, *args: Any, project: Project, by: User | None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.project, self.by = project, by
        role, people = self.fields["role"], self.fields["max_uses"]
        assert isinstance(role, forms.ChoiceField)
        rank = RANKS["trainer"] if by is None else memberships.rank_in(project, by)
        role.choices = [
            (value, label) for value, label in Membership.Role.choices if RANKS[value] <= rank
        ]
        sentence = f"From 1 to {MAX_USES:,}."
        people.validators += [
            MinValueValidator(1, sentence),
            MaxValueValidator(MAX_USES, sentence),
        ]
        people.widget.attrs |= {"min": 1, "max": MAX_USES}
        if not settings.EMAIL_URL:
            del self.fields["email"]

    def clean(self) -> dict[str, Any]:
        values = super().clean() or {}
        if values.get("email") and values.get("max_uses", 1) != 1:
            self.add_error("max_uses", "A link that is sent to one address is for one person.")
        return values


class JoinForm(UserCreationForm):
    """A form with which the holder of an invitation creates an account."""

    class Meta(UserCreationForm.Meta):
        model = User
        fields = ("username", "first_name", "last_name", "email")


@transaction.atomic
def create(*, form: InvitationForm) -> tuple[Invitation, str]:
    """Create an invitation from a valid form. Return it and the path of its link."""
    key, invitation = Invitation.new_key(), form.instance
    invitation.project, invitation.created_by = form.project, form.by
    invitation.digest = Invitation.digest_of(key)
    invitation.expires_at = timezone.now() + timedelta(days=form.cleaned_data["days"])
    invitation.save()
    facts = {"role": invitation.role, "uses": invitation.max_uses}
    audit(form.by, "invitation created", form.project, invitation=invitation.pk, **facts)
    return invitation, reverse("invitation", args=[key])


def send_link(invitation: Invitation, link: str) -> bool:
    """Send the link to the invitation's address. Return False if the mail server refuses it."""
    by = invitation.created_by
    maker = (by.get_full_name() or by.username) if by else "An administrator"
    text = (
        f"{maker} invites you to the project {invitation.project} in Tiebreak.\n\n"
        f"Open this link by {invitation.expires_at:%Y-%m-%d %H:%M} UTC. It works once.\n\n{link}\n\n"
        "If you did not expect this message, ignore it."
    )
    return send(invitation.email, f"Invitation to {invitation.project}", text)


@transaction.atomic
def revoke(*, invitation: Invitation, by: User) -> bool:
    """Revoke an invitation. Return False if it was no longer open."""
    open_ = Invitation.objects.open().filter(pk=invitation.pk)
    if not open_.update(revoked_at=timezone.now()):
        return False
    audit(by, "invitation revoked", invitation.project, invitation=invitation.pk)
    return True


def valid(key: str) -> Invitation | None:
    """Return the valid invitation with this key, or None. Costs up to three queries."""
    rows = Invitation.objects.select_related("project", "created_by")
    invitation = rows.filter(digest=Invitation.digest_of(key)).first()
    return invitation if invitation and _is_valid(invitation) else None


def _is_valid(invitation: Invitation) -> bool:
    """Return whether an invitation is open and its maker still leads the project and may give its role."""
    by, project = invitation.created_by, invitation.project
    if not invitation.is_open or project.archived_at is not None:
        return False
    needed = max(RANKS["lead"], RANKS[invitation.role])
    return by is None or memberships.rank_in(project, by) >= needed


@transaction.atomic
def accept(*, key: str, person: User | None = None, form: JoinForm | None = None) -> User:
    """Make a person a member of the project of an invitation, and return the person.

    `form` is a valid form for a new account, if they have none. The row is locked, so that a link cannot
    be used more often than it allows. Raises InvitationError if it is not valid, and memberships.MembershipError
    if the person is already a member.
    """
    locked = Invitation.objects.select_for_update(of=("self",))
    row = locked.filter(digest=Invitation.digest_of(key)).first()
    if row is None or not _is_valid(row):
        raise InvitationError(
            _("This invitation is not valid. Ask the person who sent it for a new one.")
        )
    if person is None:
        assert form is not None
        person = form.save()
        audit(None, "user added", person, role=person.role, invitation=row.pk)
    memberships.add(project=row.project, person=person, role=row.role, by=row.created_by)
    Invitation.objects.filter(pk=row.pk).update(uses=F("uses") + 1)
    audit(person, "invitation accepted", row.project, invitation=row.pk, role=row.role)
    return person
