"""Create accounts, and issue one-time links with which people set their own password.

A link is signed by Django's password reset token generator and can be used once. It expires when the
password changes, when the user signs in, when a newer link is issued, when the account is deactivated,
and after TIEBREAK_LINK_HOURS.
"""

from typing import Any

from django import forms
from django.conf import settings
from django.contrib.auth.tokens import PasswordResetTokenGenerator
from django.db import transaction
from django.db.models import F, Q
from django.urls import reverse
from django.utils.encoding import force_bytes
from django.utils.http import urlsafe_base64_encode

from accounts.models import Role, User, audit


class LinkError(ValueError):
    """Raised if no link can be issued, before anything is written. The message says why."""


class LinkTokens(PasswordResetTokenGenerator):
    """The token generator for one-time links. Only an active account's newest link is valid."""

    key_salt = "accounts.people.LinkTokens"

    def _make_hash_value(self, user: Any, timestamp: int) -> str:
        return f"{super()._make_hash_value(user, timestamp)}{user.link_number}"

    def check_token(self, user: Any, token: str | None) -> bool:
        allowed = user is not None and user.is_active and (settings.PASSWORDS or user.is_superuser)
        return allowed and super().check_token(user, token)


link_tokens = LinkTokens()


class LinkForm(forms.Form):
    """The form behind a one-time link where passwords are turned off. It only signs in."""

    def __init__(self, user: User, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.user = user

    def save(self) -> User:
        return self.user


class PersonForm(forms.ModelForm):
    """A form for a new account. It has no password; its owner sets one through a one-time link."""

    class Meta:
        model = User
        fields: tuple[str, ...] = ("username", "first_name", "last_name", "role", "all_projects")

    def save(self, commit: bool = True) -> User:
        self.instance.set_unusable_password()
        person: User = super().save(commit)
        return person


class ReviewerForm(PersonForm):
    """A form with which leads create reviewers. It has no field with which they could grant a role."""

    class Meta(PersonForm.Meta):
        fields = ("username", "first_name", "last_name")


class RoleForm(forms.ModelForm):
    """A form with which administrators change an account's rights."""

    class Meta:
        model = User
        fields = ("role", "all_projects", "is_active", "is_superuser")
        labels = {"is_active": "May sign in", "is_superuser": "Administrator"}
        help_texts = {
            "is_active": "Uncheck it when someone leaves. Their rankings are kept.",
            "is_superuser": "Administrators manage accounts and may do everything in every project.",
        }


@transaction.atomic
def create(*, form: PersonForm, by: User | None) -> User:
    """Create an account from a valid form, with an audit entry."""
    person = form.save()
    rights = {name: getattr(person, name) for name in ("role", "all_projects", "is_superuser")}
    audit(by, "user added", person, **rights)
    return person


@transaction.atomic
def change(*, form: RoleForm, by: User) -> list[str]:
    """Save the changes in a valid form, and return the names of the changed fields.

    Access to the admin is given or removed according to the new role.
    """
    changed = list(form.changed_data)
    if changed:
        person = form.instance
        person.is_staff = person.is_superuser or person.role != Role.REVIEWER
        person.save(update_fields=[*changed, "is_staff"])
        audit(by, "user changed", person, **{name: getattr(person, name) for name in changed})
    return changed


@transaction.atomic
def issue_link(*, person: User, by: User | None, replace: bool = True) -> str:
    """Return the path of a new one-time link, which makes earlier links expire.

    With `replace=False`, earlier links stay valid: a stranger who asks for a reset must not end the link
    that someone has just received. Raises LinkError if the account is not active.
    """
    if not person.is_active:
        raise LinkError(
            f"{person} may not sign in, so a link would not work. Activate the account first."
        )
    if not settings.PASSWORDS and not person.is_superuser:
        raise LinkError(
            f"Passwords are turned off, so {person} signs in through the identity provider. Only "
            "administrators may use a link."
        )
    if replace:
        use_link(person=person)
        person.refresh_from_db()
    audit(by, "one-time link issued", person)
    number = urlsafe_base64_encode(force_bytes(person.pk))
    return reverse("one-time-link", args=[number, link_tokens.make_token(person)])


def use_link(*, person: User) -> None:
    """Make all links of a person expire."""
    User.objects.filter(pk=person.pk).update(link_number=F("link_number") + 1)


def anyone_can_sign_in() -> bool:
    """Return whether any active account has a password. Costs one query."""
    without = Q(password="") | Q(password__startswith="!")  # noqa: S106
    return User.objects.filter(is_active=True).exclude(without).exists()
