"""Tests of the file that declares identity providers, and of what claims give."""

from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import Client

from accounts.sign_in import claims, providers
from accounts.sign_in.providers import Provider, ProviderProblem, read_providers
from config import checks
from config.env import Variable

VALID = 'issuer = "https://id.example.org"\nclient_id = "tiebreak"\n'


@pytest.fixture
def file(settings, tmp_path: Path) -> Path:
    settings.PROVIDERS = tmp_path / "providers.toml"
    return settings.PROVIDERS


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("x", "cannot be read"),
        ("[A B]", "cannot be read"),
        ('["A b"]\n' + VALID, "needs another name"),
        ("company = 1", "must be a table"),
        ("[company]", "has no issuer"),
        ('[company]\nissuer = "https://id.example.org"', "has no client_id"),
        (
            '[company]\nissuer = "http://id.example.org"\nclient_id = "x"',
            "must be an https address",
        ),
        ('[company]\nissuer = "https://a b"\nclient_id = "x"', "must be an https address"),
        ('[company]\nissuer = "https://u:p@id.test"\nclient_id = "x"', "must be an https address"),
        (f"[company]\n{VALID}client_secret = 'x'", "unknown setting client_secret"),
        (f"[company]\n{VALID}create_accounts = 'no'", "create_accounts must be true or false"),
        (f"[company]\n{VALID}roles = {{ a = 'root' }}", "roles must give each value one of"),
        (f"[company]\n{VALID}default_role = 'administrator'", "default_role must be"),
        (f"[company]\n{VALID}email_domains = 'example.org'", "must be a list of domains"),
        (f"[company]\n{VALID}email_domains = ['@example.org']", "must be a list of domains"),
        (
            f"[company]\n{VALID}projects = {{ a = ['lamps:owner'] }}",
            "projects must give each value",
        ),
        (f"[company]\n{VALID}scopes = ['email']", "a list of texts that contains openid"),
        (f"[company]\n{VALID}secret_variable = 'NO_SUCH_VARIABLE'", "a variable that is not set"),
        (f"[company]\n{VALID}secret_variable = 'a secret'", "the name of an environment variable"),
        ('[company]\nkind = "ldap"', "kind must be oidc or saml"),
        ('[company]\nkind = "saml"\nissuer = "https://x"', "unknown setting issuer"),
        ('[company]\nkind = "saml"', "has no entity_id"),
    ],
)
def test_a_wrong_file_is_an_error_that_names_the_place(file, text, problem) -> None:
    file.write_text(text)
    with pytest.raises(ProviderProblem, match=problem):
        read_providers(file)
    [error] = checks.providers_valid(None)
    assert error.id == "tiebreak.E007" and problem in error.msg
    assert providers.offered() == {}


@pytest.mark.django_db
def test_a_wrong_file_does_not_break_the_sign_in_page(file) -> None:
    file.write_text("[")
    assert Client().get("/login/").status_code == 200
    file.write_text(f"[company]\n{VALID}label = 'The <b> company'")
    assert b"Sign in with The &lt;b&gt; company" in Client().get("/login/").content


def test_the_checks_find_passwords_turned_off_without_a_provider(settings, file) -> None:
    assert checks.providers_valid(None) == []
    settings.PASSWORDS = False
    assert [warning.id for warning in checks.providers_valid(None)] == ["tiebreak.W006"]
    file.write_text(f"[company]\n{VALID}")
    assert checks.providers_valid(None) == []


def test_the_checks_find_a_saml_provider_without_the_extra(file, monkeypatch) -> None:
    file.write_text(
        '[company]\nkind = "saml"\nentity_id = "x"\nsso_url = "https://x"\ncertificate = "x"'
    )
    assert checks.providers_valid(None) == []
    monkeypatch.setattr(checks, "saml_installed", lambda: False)
    assert [error.id for error in checks.providers_valid(None)] == ["tiebreak.E008"]


def test_a_secret_comes_from_the_environment(file, monkeypatch) -> None:
    monkeypatch.setenv("COMPANY_SECRET", "s3cret")
    file.write_text(f"[company]\n{VALID}secret_variable = 'COMPANY_SECRET'")
    provider = read_providers(file)["company"]
    assert provider.secret == "s3cret" and "s3cret" not in repr(provider)


def test_an_unknown_role_that_needs_a_second_factor_is_an_error(monkeypatch) -> None:
    variable = Variable("TIEBREAK_SECOND_FACTOR", "", "")
    assert variable.choices("lead", "trainer") == []
    monkeypatch.setenv("TIEBREAK_SECOND_FACTOR", "Lead, trainer,lead")
    assert variable.choices("lead", "trainer") == ["lead", "trainer"]
    monkeypatch.setenv("TIEBREAK_SECOND_FACTOR", "boss")
    with pytest.raises(ImproperlyConfigured, match="contains 'boss'; it may contain lead, trainer"):
        variable.choices("lead", "trainer")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("groups", ["a", "b"]),
        ("realm_access.roles", ["r"]),
        ("https://x.test/roles", ["dotted"]),
        ("sub", ["1"]),
        ("missing", []),
        ("sub.missing", []),
        ("number", []),
        ("mixed", ["c"]),
    ],
)
def test_claims_of_any_shape_are_read(name, values) -> None:
    given = {
        "groups": ["a", "b"],
        "realm_access": {"roles": ["r"]},
        "https://x.test/roles": ["dotted"],
        "sub": "1",
        "number": 7,
        "mixed": [1, None, "c", {}],
    }
    assert claims.values_of(given, name) == values


def test_the_largest_role_and_the_lead_of_a_project_count() -> None:
    provider = Provider(
        name="x",
        roles={"a": "lead", "b": "reviewer"},
        projects={"a": (("p", "lead"), ("q", "reviewer")), "b": (("p", "reviewer"),)},
    )
    grant = claims.grant_of(provider, {"groups": ["b", "a", "b"]})
    assert grant is not None and grant.role == "lead"
    assert grant.memberships == {"p": "lead", "q": "reviewer"}
    assert grant.managed_projects == {"p", "q"}
