"""Start a PostgreSQL and a Redis for the tests, before Django reads its settings.

Each test process has its own servers. With DATABASE_URL and REDIS_URL set, run the tests in one
process, because several would empty each other's queues.
"""

import gc
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
    if os.environ.pop("TIEBREAK_LOCAL_SERVICES", ""):  # the servers of the pytest-xdist controller
        del os.environ["DATABASE_URL"], os.environ["REDIS_URL"]
    # The test processes share the cores, and models of tests are too small for several threads.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
provide()


def relax_durability() -> None:
    """Disable durability in the tests' PostgreSQL, whose data need not survive a crash.

    Tests that kill a PostgreSQL start their own, with the settings of the product.
    """
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as connection:
        for setting in ("fsync", "full_page_writes", "synchronous_commit"):
            connection.execute(f"ALTER SYSTEM SET {setting} = off")
        connection.execute("SELECT pg_reload_conf()")


if os.environ.get("TIEBREAK_LOCAL_SERVICES"):
    relax_durability()


gc.set_threshold(10_000, 20, 20)


def pytest_collection_finish() -> None:
    """Keep the garbage collector from visiting the modules and tests again and again.

    With the higher thresholds above, this saves a fifth of the processor time of fast tests.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def no_language_is_left_behind() -> Iterator[None]:
    """Reset the language, which a request leaves in the thread."""
    yield
    from django.utils import translation

    translation.deactivate()


@pytest.fixture
def folder() -> Iterator[Path]:
    """Yield a folder with a short path, for data folders with their own servers.

    tmp_path does not work: as root, PostgreSQL uses another account, and pytest closes its folders
    to other accounts.
    """
    path = Path(tempfile.mkdtemp(prefix="tb-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path, ignore_errors=True)
