"""Identity providers that the operator declares in a TOML file, for single sign-on.

    [keycloak]                                  # the name, which is a part of addresses
    label = "Keycloak"                          # the text of the button
    issuer = "https://id.example.org/realms/main"
    client_id = "tiebreak"
    secret_variable = "KEYCLOAK_SECRET"         # the environment variable with the secret
    create_accounts = true
    email_domains = ["example.org"]

    [keycloak.roles]                            # values of the claim `roles_claim`
    tiebreak-trainers = "trainer"

docs/sign-in.md describes every setting. A file that is not valid offers no provider, and a system check
reports it. This module needs no database.
"""

import logging
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings

logger = logging.getLogger("tiebreak.sign_in")

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,28}[a-z0-9])?", re.ASCII)
VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*", re.ASCII)
DOMAIN = re.compile(r"[a-z0-9]([a-z0-9.-]{0,250}[a-z0-9])?", re.ASCII)
LOOPBACK = ("localhost", "127.0.0.1", "::1")
MAX_BYTES = 1_000_000
ADMINISTRATOR = "administrator"
ROLES = ("reviewer", "lead", "trainer", ADMINISTRATOR)
"""The roles that a claim can give, from the fewest rights to the most."""
PROJECT_ROLES = ("reviewer", "lead")
REFUSE = "none"
"""The value of `default_role` with which nobody can sign in without a claim that gives a role."""


class ProviderProblem(ValueError):  # noqa: N818
    """An invalid declaration of an identity provider. The text is a sentence."""


@dataclass(frozen=True, kw_only=True)
class Provider:
    """An identity provider, and what its claims mean here."""

    name: str
    kind: str = "oidc"
    """The protocol, "oidc" or "saml"."""
    label: str = ""
    """The text of the button. If empty, the name."""
    create_accounts: bool = False
    """Create an account for a person without one at their first sign-in."""
    email_domains: tuple[str, ...] = ()
    """If not empty, only people with a verified e-mail address in one of these domains may sign in."""
    link_by_email: bool = False
    """Give a person with a verified e-mail address the existing account with this address."""
    trust_email: bool = False
    """Treat all e-mail addresses as verified. Only for a provider that verifies them."""
    second_factor: bool = False
    """Count a sign-in through this provider as a second factor."""
    username_claim: str = "preferred_username"
    roles_claim: str = "groups"
    roles: Mapping[str, str] = field(default_factory=dict)
    """The role for each value of `roles_claim`. With several values, the one with most rights counts."""
    default_role: str = "reviewer"
    """The role without any of these values, or "none" to refuse the sign-in."""
    projects_claim: str = ""
    """The claim for `projects`. If empty, `roles_claim`."""
    projects: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    """The memberships for each value of `projects_claim`, as pairs of a project's slug and a role."""

    issuer: str = ""
    client_id: str = ""
    secret_variable: str = ""
    scopes: tuple[str, ...] = ("openid", "profile", "email")

    entity_id: str = ""
    sso_url: str = ""
    certificate: str = ""
    """The certificate of a SAML provider, in PEM format or as Base64."""
    email_claim: str = "email"
    first_name_claim: str = "given_name"
    last_name_claim: str = "family_name"

    @property
    def title(self) -> str:
        return self.label or self.name

    @property
    def secret(self) -> str:
        return os.environ.get(self.secret_variable, "") if self.secret_variable else ""


ONLY_OIDC = {"issuer", "client_id", "secret_variable", "scopes"}
ONLY_SAML = {"entity_id", "sso_url", "certificate"}
REQUIRED = {"oidc": ("issuer", "client_id"), "saml": ("entity_id", "sso_url", "certificate")}


def read_providers(path: Path) -> dict[str, Provider]:
    """Return the providers of a file by name, or {} without the file. Raises ProviderProblem."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ProviderProblem(f"{path} is larger than {MAX_BYTES // 1000} kB.")
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ProviderProblem(f"{path} cannot be read: {error}.") from None
    try:
        return {name: _provider(name, table) for name, table in tables.items()}
    except ProviderProblem as problem:
        raise ProviderProblem(f"{path}: {problem}") from None


def offered() -> dict[str, Provider]:
    """Return the providers by name, or {} if the file is not valid. Reads the file when it changes."""
    path = settings.PROVIDERS
    try:
        changed = path.stat().st_mtime_ns
    except OSError:
        return {}
    try:
        return _read_once(path, changed)
    except ProviderProblem as problem:
        logger.error("No identity provider can be used. %s", problem)
        return {}


@lru_cache(maxsize=4)
def _read_once(path: Path, changed: int) -> dict[str, Provider]:
    return read_providers(path)


def saml_installed() -> bool:
    """Return whether the packages for SAML are installed, which are in the extra `saml`."""
    return find_spec("onelogin") is not None


def _provider(name: str, table: Any) -> Provider:
    where = f"The provider {name!r}"
    if not NAME.fullmatch(name):
        raise ProviderProblem(
            f"{where} needs another name: 1 to 30 lower-case letters, digits and hyphens."
        )
    if not isinstance(table, dict):
        raise ProviderProblem(f"{where} must be a table, such as [{name}].")
    kind = table.get("kind", "oidc")
    if kind not in REQUIRED:
        raise ProviderProblem(f"{where}: kind must be oidc or saml; it is {kind!r}.")
    names = {item.name for item in fields(Provider)} - {"name"}
    names -= ONLY_SAML if kind == "oidc" else ONLY_OIDC
    if unknown := sorted(table.keys() - names):
        raise ProviderProblem(
            f"{where} has the unknown setting {', '.join(unknown)}. The settings are "
            f"{', '.join(sorted(names))}."
        )
    if missing := [setting for setting in REQUIRED[kind] if not table.get(setting)]:
        raise ProviderProblem(f"{where} has no {missing[0]}.")
    values = dict(table)
    for setting, value in values.items():
        try:
            values[setting] = _checked(setting, value)
        except ProviderProblem as problem:
            raise ProviderProblem(f"{where}: {setting} {problem}; it is {value!r}.") from None
    return Provider(name=name, **values)


def _checked(setting: str, value: Any) -> Any:
    """Return the value in the type of its field. Raises ProviderProblem with a predicate."""
    match setting:
        case "create_accounts" | "link_by_email" | "trust_email" | "second_factor":
            return _require(value, isinstance(value, bool), "must be true or false")
        case "issuer" | "sso_url":
            return _require(value, is_secure_url(value), SECURE_URL)
        case "secret_variable":
            valid = isinstance(value, str) and bool(VARIABLE.fullmatch(value))
            _require(value, valid, "must be the name of an environment variable")
            return _require(value, bool(os.environ.get(value)), "names a variable that is not set")
        case "default_role":
            valid = value in (*ROLES[:-1], REFUSE)
            return _require(value, valid, f"must be {', '.join(ROLES[:-1])} or {REFUSE}")
        case "roles":
            valid = isinstance(value, dict) and all(role in ROLES for role in value.values())
            return _require(value, valid, f"must give each value one of {', '.join(ROLES)}")
        case "projects":
            return _memberships(value)
        case "email_domains":
            valid = _is_list(value) and all(DOMAIN.fullmatch(item.lower()) for item in value)
            _require(value, valid, "must be a list of domains, such as example.org")
            return tuple(item.lower() for item in value)
        case "scopes":
            valid = _is_list(value) and "openid" in value
            return tuple(_require(value, valid, "must be a list of texts that contains openid"))
        case _:
            valid = isinstance(value, str) and len(value) <= 20_000
            return _require(value, valid, "must be a text")


SECURE_URL = "must be an https address, or an http address of this machine, without ? and #"


def is_secure_url(value: Any) -> bool:
    """Return whether a value is an https address, or http on the loopback interface."""
    if not isinstance(value, str) or not value.isascii() or any(c in value for c in " ?#\\"):
        return False
    try:
        parts = urlsplit(value)
        valid = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False
    local = parts.scheme == "http" and parts.hostname in LOOPBACK
    return valid and not parts.username and (parts.scheme == "https" or local)


def _memberships(value: Any) -> dict[str, tuple[tuple[str, str], ...]]:
    sentence = 'must give each value a list such as ["lamps", "support:lead"]'
    _require(value, isinstance(value, dict) and all(map(_is_list, value.values())), sentence)
    memberships = {
        text: tuple(tuple(f"{entry}:reviewer".split(":")[:2]) for entry in entries)
        for text, entries in value.items()
    }
    roles = {role for pairs in memberships.values() for _slug, role in pairs}
    _require(value, roles <= set(PROJECT_ROLES), sentence)
    return memberships  # type: ignore[return-value]


def _is_list(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) and item for item in value)


def _require(value: Any, valid: bool, predicate: str) -> Any:
    if not valid:
        raise ProviderProblem(predicate)
    return value
