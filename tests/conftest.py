"""Marks for tests that need more than PostgreSQL and Redis, so that `make test-fast` can skip them.

A test is marked by its folder, the name of its file or its fixtures. Other marks are in the test
files. The order of the files keeps both processes busy to the end.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.test import TransactionTestCase
from pytest_django.live_server_helper import LiveServer
from whitenoise.middleware import WhiteNoiseMiddleware

from tests.emptying import empty_tables
from tests.gate import Gate

TESTS = Path(__file__).parent

MARKS_OF_FOLDERS = {"browser": "browser", "buckets": "processes"}
MARKS_OF_FIXTURES = {"browser": "browser", "celery_worker": "worker"}
MARKS_OF_FILES = {
    "test_access_matrix": "slow",
    "test_active_benchmark": "slow",
    "test_ceiling_benchmark": "slow",
    "test_dispute_statistics": "slow",
    "test_export_benchmark": "slow",
    "test_finetune_benchmark": "slow",
    "test_gate_benchmark": "slow",
    "test_hostile_parameters": "slow",
    "test_import_cost": "slow",
    "test_import_fuzz": "slow",
    "test_import_odd_values": "slow",
    "test_labels_benchmark": "slow",
    "test_local_": "processes",
    "test_plain_english": "slow",
    "test_query_counts": "slow",
    "test_queue_hammer": "slow",
    "test_queue_machine": "slow",
    "test_network_": "processes",
    "test_ray_": "processes",
    "test_scorer": "processes",
    "test_supervisor": "processes",
    "test_training_": "torch",
    "test_web_": "processes",
}
"""Marks by the beginning of a file's name."""
LONG_MARKS = {"browser", "django_db", "processes", "slow", "torch", "worker"}


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Skip importing the tests of the recipes if they are deselected: torch may be missing."""
    left_out = "not torch" in config.option.markexpr
    return True if left_out and mark_of_file(collection_path) == "torch" else None


@pytest.hookimpl(wrapper=True, tryfirst=True)  # before -m selects tests
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """Set the marks, and move the short files to the end after Django's order is applied.

    pytest-xdist gives each process one file after the other. If the last ones were long, one
    process would wait for the other.
    """
    for item in items:
        for mark in marks_of(item):
            item.add_marker(mark)
    yield
    long = {item.path for item in items if not is_short(item)}
    items.sort(key=lambda item: item.path not in long)


def is_short(item: pytest.Item) -> bool:
    """Return whether a test has no mark and uses no database."""
    marks = {mark.name for mark in item.iter_markers()} & LONG_MARKS
    return not marks and "_django_db_helper" not in getattr(item, "fixturenames", ())


def marks_of(item: pytest.Item) -> set[str]:
    folder = item.path.relative_to(TESTS).parts[0]
    fixtures = getattr(item, "fixturenames", ())
    marks = {MARKS_OF_FOLDERS.get(folder), mark_of_file(item.path)}
    marks |= {mark for name, mark in MARKS_OF_FIXTURES.items() if name in fixtures}
    return {mark for mark in marks if mark}


def mark_of_file(path: Path) -> str | None:
    return next(
        (mark for start, mark in MARKS_OF_FILES.items() if path.name.startswith(start)), None
    )


@pytest.fixture(autouse=True, scope="session")
def static_files_are_listed_once() -> Iterator[None]:
    """List the static files once per process. Otherwise, every test client would list them again."""
    list_files = WhiteNoiseMiddleware.add_files_from_finders
    files: dict[str, Any] = {}

    def add_files(middleware: WhiteNoiseMiddleware) -> None:
        if not files:
            list_files(middleware)
            files.update(middleware.files)
        middleware.files.update(files)

    WhiteNoiseMiddleware.add_files_from_finders = add_files
    yield
    WhiteNoiseMiddleware.add_files_from_finders = list_files


@pytest.fixture(autouse=True, scope="session")
def tables_are_emptied_fast() -> Iterator[None]:
    """Replace the flush after each test that commits."""
    flush = TransactionTestCase._fixture_teardown

    def empty(test: TransactionTestCase) -> None:
        for database in test._databases_names(include_mirrors=False):
            empty_tables(database)

    TransactionTestCase._fixture_teardown = empty
    yield
    TransactionTestCase._fixture_teardown = flush


@pytest.fixture
def live_server(live_server: LiveServer, transactional_db: None) -> Iterator[LiveServer]:
    """Answer requests during the test only.

    The tables are emptied afterwards, which could deadlock with a request in progress.
    """
    server: Any = live_server.thread.httpd
    gate = server.get_app()
    if not isinstance(gate, Gate):
        gate = Gate(gate)
        server.set_app(gate)
    gate.open()
    yield live_server
    gate.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Hide the event loop of Playwright from tests that use no browser.

    Playwright leaves its loop marked as running in the main thread until the session ends, so
    asyncio.run() would fail in every later test of the same process.
    """
    loop = asyncio._get_running_loop()
    if item.get_closest_marker("browser") is None:
        asyncio._set_running_loop(None)
    try:
        return (yield)
    finally:
        asyncio._set_running_loop(loop or asyncio._get_running_loop())
