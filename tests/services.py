"""Gives the tests a PostgreSQL and a Redis of their own, before Django reads its settings.

Run in several processes, each has servers of its own. With servers given by DATABASE_URL and
REDIS_URL the processes would empty each other's queues: run the tests in one then.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from config.env import BASE_DIR
from config.local.services import provide

folder = os.environ.setdefault("TIEBREAK_VAR", str(BASE_DIR / "var" / "test"))
if worker := os.environ.get("PYTEST_XDIST_WORKER", ""):
    os.environ["TIEBREAK_VAR"] = f"{folder}-{worker}"
    if os.environ.pop("TIEBREAK_LOCAL_SERVICES", ""):  # those of the process that hands out tests
        del os.environ["DATABASE_URL"], os.environ["REDIS_URL"]
provide()


def relax_durability() -> None:
    """Let the tests' own PostgreSQL skip its waits for the disk: its data need not survive a crash.

    Tests that kill a PostgreSQL start one of their own, with the settings of the product.
    """
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as connection:
        for setting in ("fsync", "full_page_writes", "synchronous_commit"):
            connection.execute(f"ALTER SYSTEM SET {setting} = off")
        connection.execute("SELECT pg_reload_conf()")


if os.environ.get("TIEBREAK_LOCAL_SERVICES"):
    relax_durability()


@pytest.fixture(autouse=True)
def no_language_is_left_behind() -> Iterator[None]:
    """A request leaves the language of its reader in the thread."""
    yield
    from django.utils import translation

    translation.deactivate()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path, for data folders with servers of their own.

    Not pytest's: run by root, PostgreSQL has another account, and each session of pytest closes
    the folder of all sessions to other accounts.
    """
    path = Path(tempfile.mkdtemp(prefix="tb-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path, ignore_errors=True)
