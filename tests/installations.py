"""A second installation in the PostgreSQL of the tests, with its own database and folders."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
from django.conf import settings


@contextmanager
def another_installation(database: str, folder: Path) -> Iterator[dict[str, str]]:
    """Create an empty database, and yield the environment of an installation that uses it."""
    parts = urlsplit(os.environ["DATABASE_URL"])
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as server:
        server.execute(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")
        server.execute(f"CREATE DATABASE {database}")
        inherited = {k: v for k, v in os.environ.items() if k != "TIEBREAK_LOCAL_SERVICES"}
        yield {
            **inherited,
            "DATABASE_URL": parts._replace(path=f"/{database}").geturl(),
            "TIEBREAK_VAR": str(folder),
            "TIEBREAK_SECRET_KEY": "secret" * 10,
        }
        server.execute(f"DROP DATABASE {database} WITH (FORCE)")


def manage(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command of manage.py in an installation."""
    return subprocess.run(
        [sys.executable, "manage.py", *arguments], cwd=settings.BASE_DIR, env=environment,
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
