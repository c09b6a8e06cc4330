"""Tests of the squashed migrations: new databases use them, older ones the migrations they replace."""

import pytest
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder

SQUASHED = {
    "accounts": "0001_squashed_0009_audit_clock",
    "finetune": "0001_squashed_0011_chat",
    "labeling": "0001_squashed_0031_chat",
    "reward": "0001_squashed_0006_withdrawals",
    "runs": "0001_squashed_0006_help_texts",
}
CURRENT = dict.fromkeys([*SQUASHED, "webhooks"], "9999")
LATER = {"webhooks": "0000"}
"""Apps that were added after the squashed migrations."""

pytestmark = pytest.mark.django_db


def pending(applied: dict[str, str]) -> list[tuple[str, str]]:
    """Return the migrations that a database still needs.

    `applied` has the number of the last migration of each app, before they were squashed. A new
    database has none. Apps of other packages have all of theirs.
    """
    recorder = MigrationRecorder(connection)
    recorder.flush()
    for app, name in MigrationLoader(None, replace_migrations=False).graph.nodes:
        if "squashed" not in name and applied and (name[:4] <= (LATER | applied).get(app, "9999")):
            recorder.record_applied(app, name)
    executor = MigrationExecutor(connection)
    executor.loader.check_consistent_history(connection)
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    return [(migration.app_label, migration.name) for migration, _ in plan]


def test_a_new_database_uses_only_squashed_migrations_and_later_ones() -> None:
    plan = pending({})
    assert set(SQUASHED.items()) <= set(plan)
    loader = MigrationLoader(None)
    replaced = {
        key for squashed in SQUASHED.items() for key in loader.replacements[squashed].replaces
    }
    assert len(replaced) == 63 and not replaced & set(plan)


def test_a_current_database_needs_no_migration() -> None:
    assert pending(CURRENT) == []


@pytest.mark.parametrize(
    "older",
    [
        {
            "accounts": "0008",
            "labeling": "0028",
            "runs": "0006",
            "reward": "0005",
            "finetune": "0004",
        },
        {
            "accounts": "0009",
            "labeling": "0030",
            "runs": "0006",
            "reward": "0006",
            "finetune": "0010",
        },
        {
            "accounts": "0001",
            "labeling": "0010",
            "runs": "0002",
            "reward": "0003",
            "finetune": "0002",
        },
    ],
)
def test_an_older_database_continues_with_the_migrations_that_it_lacks(
    older: dict[str, str],
) -> None:
    plan = pending(older)
    loader = MigrationLoader(None)
    expected = {
        (app, name)
        for app, squashed in SQUASHED.items()
        for app, name in loader.replacements[app, squashed].replaces
        if name[:4] > older[app]
    }
    assert expected <= set(plan)
    assert not set(SQUASHED.items()) & set(plan)
