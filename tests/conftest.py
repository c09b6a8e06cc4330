"""Marks for tests that need more than PostgreSQL and Redis, so that `make test-fast` can skip them.

A test is marked by its folder, the name of its file or its fixtures. Other marks are in the test
files.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from whitenoise.middleware import WhiteNoiseMiddleware

TESTS = Path(__file__).parent

MARKS_OF_FOLDERS = {"browser": "browser"}
MARKS_OF_FIXTURES = {"browser": "browser", "celery_worker": "worker"}
MARKS_OF_FILES = {
    "test_access_matrix": "slow",
    "test_dispute_statistics": "slow",
    "test_hostile_parameters": "slow",
    "test_import_cost": "slow",
    "test_import_fuzz": "slow",
    "test_import_odd_values": "slow",
    "test_local_": "processes",
    "test_plain_english": "slow",
    "test_query_counts": "slow",
    "test_queue_hammer": "slow",
    "test_queue_machine": "slow",
    "test_supervisor": "processes",
    "test_training_": "torch",
    "test_web_": "processes",
}
"""Marks by the beginning of a file's name."""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Skip importing the tests of the recipes if they are deselected: torch may be missing."""
    left_out = "not torch" in config.option.markexpr
    return True if left_out and mark_of_file(collection_path) == "torch" else None


@pytest.hookimpl(tryfirst=True)  # before -m selects tests
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for mark in marks_of(item):
            item.add_marker(mark)


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
