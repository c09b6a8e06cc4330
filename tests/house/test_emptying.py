"""Tests of how tables are emptied after a test, and of the order of the test files."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.contrib.contenttypes.models import ContentType
from django.db import connection

from accounts.models import User
from labeling.models import GuidelineVersion, Project, Ranking
from labeling.rankings.content import Content
from labeling.rankings.recording import record
from tests import conftest
from tests.emptying import empty_tables
from tests.labeling.world import make_member, make_project, make_task, one_each


@pytest.mark.django_db(transaction=True)
def test_all_rows_are_deleted_also_those_that_triggers_protect() -> None:
    project = make_project()
    task = make_task(project)
    record(
        task=task, reviewer=make_member(project), source="import", content=Content(one_each(task))
    )
    types, permissions = ContentType.objects.count(), Permission.objects.count()
    assert Ranking.objects.exists() and GuidelineVersion.objects.exists()
    empty_tables("default")
    for model in (Ranking, GuidelineVersion, Project, User):
        assert not model.objects.exists()
    assert (ContentType.objects.count(), Permission.objects.count()) == (types, permissions)
    with connection.cursor() as cursor:
        cursor.execute("SHOW session_replication_role")
        assert cursor.fetchone() == ("origin",)


def test_files_without_marks_and_database_come_last() -> None:
    def item(path: str, *marks: str, fixtures: tuple[str, ...] = ()) -> Any:
        names = [SimpleNamespace(name=mark) for mark in marks]
        return SimpleNamespace(
            path=conftest.TESTS / path,
            fixturenames=fixtures,
            iter_markers=lambda: names,
            add_marker=lambda mark: names.append(SimpleNamespace(name=mark)),
        )

    items = [
        item("labeling/test_text.py"),
        item("labeling/test_some_slow.py"),
        item("labeling/test_some_slow.py", "slow"),
        item("labeling/test_queue.py", fixtures=("_django_db_helper",)),
        item("runs/test_environment.py", "parametrize"),
        item("serving/test_training_process.py"),
    ]
    hook = conftest.pytest_collection_modifyitems(items)
    next(hook)
    assert next(hook, None) is None
    assert [Path(item.path).name for item in items] == [
        "test_some_slow.py", "test_some_slow.py", "test_queue.py", "test_training_process.py",
        "test_text.py", "test_environment.py",
    ]  # fmt: skip
