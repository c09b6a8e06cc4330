"""Create and change accounts as an identity provider says."""

import re
from collections.abc import Mapping
from typing import Any

from allauth.account.models import EmailAddress
from allauth.mfa.models import Authenticator
from allauth.socialaccount.models import SocialAccount
from django.db import IntegrityError, transaction

from accounts.models import Role, User, audit
from accounts.sign_in.claims import text_of
from accounts.sign_in.providers import ADMINISTRATOR, Provider

MAX_TRIES = 50
NOT_IN_USERNAMES = re.compile(r"[^\w.@+-]+")


def prepared_account(email: str) -> User | None:
    """Return the account that an administrator prepared for the owner of an e-mail address, or None.

    Only an account that nobody has used counts: it has no password, and nobody has signed in to it. So
    a person who enters someone else's address in their own account gains nothing. Accounts of
    administrators do not count; administrators connect a provider themselves.
    """
    matching = User.objects.filter(
        email__iexact=email, is_active=True, simulated=False, is_superuser=False, last_login=None
    )
    unused = [person for person in matching[:2] if not person.has_usable_password()]
    return unused[0] if len(unused) == 1 and len(matching[:2]) == 1 else None


@transaction.atomic
def create_account(
    *, provider: Provider, claims: Mapping[str, Any], email: str, account: SocialAccount
) -> User:
    """Create an account without a password, connected to the provider, with an audit entry.

    `email` is a verified address or "". An unverified address is not stored.
    """
    person = User(
        first_name=text_of(claims, provider.first_name_claim)[:150],
        last_name=text_of(claims, provider.last_name_claim)[:150],
        email=email[:254],
    )
    person.set_unusable_password()
    _save_with_free_name(person, _username(provider, claims, email))
    account.user = person
    account.save()
    audit(person, "user added", person, provider=provider.name, role=person.role)
    return person


def _username(provider: Provider, claims: Mapping[str, Any], email: str) -> str:
    suggestion = text_of(claims, provider.username_claim) or email.partition("@")[0]
    name = NOT_IN_USERNAMES.sub("-", suggestion).strip("-.")[:140]
    return name or provider.name


def _save_with_free_name(person: User, name: str) -> None:
    """Save a new account under the name, or with a number after it if the name is taken."""
    for number in range(1, MAX_TRIES):
        person.username = name if number == 1 else f"{name}-{number}"
        if User.objects.filter(username__iexact=person.username).exists():
            continue
        try:
            with transaction.atomic():
                person.save(force_insert=True)
            return
        except IntegrityError:
            person.pk = None
    raise IntegrityError(f"No username like {name} is free.")


@transaction.atomic
def set_role(*, person: User, role: str | None, provider: Provider) -> bool:
    """Give a person a role, and return whether it was different. Writes an audit entry.

    The right of an administrator changes only if the provider's settings name this role.
    """
    if role is None:
        return False
    person = User.objects.select_for_update().get(pk=person.pk)
    before = (person.role, person.is_superuser)
    person.role = Role.TRAINER if role == ADMINISTRATOR else Role(role)
    if ADMINISTRATOR in provider.roles.values():
        person.is_superuser = role == ADMINISTRATOR
    if (person.role, person.is_superuser) == before:
        return False
    person.is_staff = person.is_superuser or person.role != Role.REVIEWER
    person.save(update_fields=["role", "is_superuser", "is_staff"])
    audit(
        None,
        "user changed",
        person,
        role=person.role,
        is_superuser=person.is_superuser,
        provider=provider.name,
    )
    return True


def forget(*, person: User) -> None:
    """Delete a person's second factors and their connections to identity providers."""
    Authenticator.objects.filter(user=person).delete()
    SocialAccount.objects.filter(user=person).delete()
    EmailAddress.objects.filter(user=person).delete()
