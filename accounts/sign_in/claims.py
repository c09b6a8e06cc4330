"""Rights that the claims of an identity provider give a person: a role and memberships of projects."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from accounts.sign_in.providers import REFUSE, ROLES, Provider

MAX_VALUES = 2000
"""Only this many values of a claim are looked at."""


@dataclass(frozen=True)
class Grant:
    """The rights that a provider's claims give."""

    role: str | None
    """One of ROLES, or None if the provider does not manage roles."""
    memberships: Mapping[str, str]
    """The role for each project's slug."""
    managed_projects: frozenset[str]
    """The slugs of all projects whose memberships the provider manages."""


def values_of(claims: Mapping[str, Any], name: str) -> list[str]:
    """Return the texts of a claim. A dot in the name leads into an object, as in realm_access.roles.

    A claim that is missing or has another type has no values.
    """
    value: Any = claims
    if name in claims:
        value = claims[name]
    else:
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
    values = value if isinstance(value, list) else [value]
    return [item for item in values[:MAX_VALUES] if isinstance(item, str)]


def text_of(claims: Mapping[str, Any], name: str) -> str:
    """Return the first text of a claim, without null characters and surrounding spaces, or ""."""
    return next(iter(values_of(claims, name)), "").replace("\x00", "").strip()


def grant_of(provider: Provider, claims: Mapping[str, Any]) -> Grant | None:
    """Return what the claims give, or None if they give no role and the provider requires one."""
    granted_roles = [
        provider.roles[v] for v in values_of(claims, provider.roles_claim) if v in provider.roles
    ]
    role = max(granted_roles, key=ROLES.index, default=provider.default_role)
    if role == REFUSE:
        return None
    manages_roles = bool(provider.roles) or provider.default_role != "reviewer"
    memberships: dict[str, str] = {}
    for value in values_of(claims, provider.projects_claim or provider.roles_claim):
        for slug, project_role in provider.projects.get(value, ()):
            if memberships.get(slug) != "lead":
                memberships[slug] = project_role
    managed = frozenset(slug for pairs in provider.projects.values() for slug, _ in pairs)
    return Grant(role if manages_roles else None, memberships, managed)


def is_verified(provider: Provider, claims: Mapping[str, Any]) -> bool:
    """Return whether the e-mail address in the claims is verified.

    Only the JSON value true and the text "true" count.
    """
    return provider.trust_email or claims.get("email_verified") in (True, "true", ["true"])


def in_domains(provider: Provider, email: str) -> bool:
    """Return whether an e-mail address is in one of the provider's domains."""
    return email.rpartition("@")[2].lower() in provider.email_domains
