"""Helpers for benchmarks: temporary databases, hardware and commit, percentiles, messages."""

import os
import platform
import secrets
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from config.env import BASE_DIR

SECRET_KEY = "benchmark"  # noqa: S105 - of databases that are dropped afterwards


@contextmanager
def databases(names: Sequence[object], prefix: str = "bench") -> Iterator[dict[Any, str]]:
    """Yield the URL of an empty database for each name, and drop the databases afterwards."""
    base, run = os.environ["DATABASE_URL"], secrets.token_hex(3)
    created = {name: f"tiebreak_{prefix}_{run}_{name}" for name in names}
    with psycopg.connect(base, autocommit=True) as server:
        try:
            for database in created.values():
                server.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))
            yield {name: make_conninfo(base, dbname=database) for name, database in created.items()}
        finally:
            for database in created.values():
                drop = "DROP DATABASE IF EXISTS {} WITH (FORCE)"
                server.execute(sql.SQL(drop).format(sql.Identifier(database)))


def use(url: str) -> None:
    """Set up Django with this database. Call it before importing Django."""
    import django

    os.environ.update(environment(url))
    django.setup()


def environment(url: str) -> dict[str, str]:
    return {
        **os.environ,
        "DATABASE_URL": url,
        "TIEBREAK_SECRET_KEY": SECRET_KEY,
        "DJANGO_SETTINGS_MODULE": "config.settings",
    }


def hardware() -> dict[str, Any]:
    with psycopg.connect(os.environ["DATABASE_URL"]) as server:
        version = server.execute("SHOW server_version").fetchone()
    return {
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "postgresql": version[0] if version else "",
        "load_average": round(statistics.mean(os.getloadavg()), 1),
    }


def commit() -> str:
    result = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=BASE_DIR, capture_output=True, text=True
    )
    return result.stdout.strip() or "unknown"


def p(values: list[float], percent: int) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] if ordered else 0.0


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
