"""Tests of the marks by which `make test-fast` skips tests."""

import re
import tomllib
from types import SimpleNamespace

import pytest

from config.env import BASE_DIR
from tests import conftest

TESTS = BASE_DIR / "tests"


def declared_marks() -> set[str]:
    settings = tomllib.loads((BASE_DIR / "pyproject.toml").read_text())
    lines = settings["tool"]["pytest"]["ini_options"]["markers"]
    return {line.partition(":")[0] for line in lines}


def test_the_fast_tests_have_no_mark_and_the_guide_lists_the_marks() -> None:
    makefile = (BASE_DIR / "Makefile").read_text()
    [expression] = re.findall(r'-m "(not [^"]*)"', makefile)
    assert set(expression.removeprefix("not ").split(" and not ")) == declared_marks()
    guide = (BASE_DIR / "CONTRIBUTING.md").read_text()
    assert [mark for mark in declared_marks() if f"`{mark}`" not in guide] == []


@pytest.mark.parametrize(
    ("path", "fixtures", "marks"),
    [
        ("browser/test_review.py", ["visit", "browser"], {"browser"}),
        ("browser/test_pages.py", [], {"browser"}),
        ("runs/test_faults.py", ["celery_worker"], {"worker"}),
        ("config/local/test_local_services.py", [], {"processes"}),
        ("recipes/preferences/test_training_loss.py", [], {"torch"}),
        ("labeling/test_queue.py", ["db"], set()),
    ],
)
def test_a_test_is_marked_by_its_folder_its_file_and_its_fixtures(
    path: str, fixtures: list[str], marks: set[str]
) -> None:
    item = SimpleNamespace(path=TESTS / path, fixturenames=fixtures)
    assert conftest.marks_of(item) == marks


@pytest.mark.parametrize(
    ("expression", "ignored"), [("not browser and not torch", True), ("", None), ("torch", None)]
)
def test_skipped_files_that_import_torch_are_not_imported(
    expression: str, ignored: bool | None
) -> None:
    config = SimpleNamespace(option=SimpleNamespace(markexpr=expression))
    path = TESTS / "recipes" / "preferences" / "test_training_loss.py"
    assert conftest.pytest_ignore_collect(path, config) is ignored
    assert (
        conftest.pytest_ignore_collect(TESTS / "reward" / "scoring" / "test_scores.py", config)
        is None
    )
