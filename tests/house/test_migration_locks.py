"""Tests that migrations after the last release do not block a site in use for long.

squawk reads the SQL of each migration. A statement on a small table may break a rule, because its lock
is short. To allow a statement on a large table, add it to ALLOWED with the reason; CHANGELOG.md must
then say that the site has to be stopped for the upgrade.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from django.apps import apps
from django.db import connection
from django.db.migrations.loader import MigrationLoader

from tests import releases

SQUAWK = Path(sys.executable).with_name("squawk")
DJANGO = {"admin", "auth", "contenttypes", "sessions"}
LARGE = {
    "accounts_auditentry", "finetune_evaluationitem", "labeling_ranking",
    "labeling_prompt", "labeling_response", "labeling_skip", "labeling_slot", "labeling_task",
    "labeling_taskresponse", "runs_runevent",
}  # fmt: skip
"""Tables with a row per ranking, response, verdict or event."""
BLOCKING = {
    "adding-field-with-default", "adding-foreign-key-constraint", "adding-not-nullable-field",
    "adding-required-field", "adding-serial-primary-key-field", "changing-column-type",
    "constraint-missing-not-valid", "disallowed-unique-constraint", "require-concurrent-index-creation",
    "require-concurrent-index-deletion", "syntax-error",
}  # fmt: skip
"""The rules of squawk about locks. Its other rules are about style."""
ALLOWED: dict[tuple[str, str], set[str]] = {}
"""Rules that a migration may break, by its app and name. Say why in a comment."""


CHANGES = re.compile(
    r'\s*(?:ALTER TABLE(?: ONLY)?|CREATE (?:UNIQUE )?INDEX .*? ON|UPDATE|DELETE FROM) "?(\w+)"?',
    re.DOTALL,
)


def problems(statements: list[str]) -> dict[str, str]:
    """Return the broken rules of statements on large tables that exist already, with a message each."""
    command = [SQUAWK, "--assume-in-transaction", "--reporter=json"]
    sql = "\n".join(statements)
    ended = subprocess.run(command, input=sql, capture_output=True, text=True)
    assert ended.stdout, ended.stderr
    by_line = [one for one in statements for _ in one.splitlines()]
    result = {}
    for finding in json.loads(ended.stdout):
        rule, statement = finding["rule_name"], by_line[finding["line"]]
        table = CHANGES.match(statement)
        if rule in BLOCKING and (rule == "syntax-error" or (table and table[1] in LARGE)):
            result[rule] = f"{statement}\n{finding['message']}"
    return result


@pytest.mark.django_db
def test_migrations_after_the_last_release_block_no_large_table() -> None:
    """The SQL of a migration does not show what its Python functions do."""
    released = releases.migrations_of(releases.all_paths()[-1])
    loader = MigrationLoader(connection, replace_migrations=False)
    ours = {app for app, _ in releases.migrations_of(releases.all_paths()[-1])} - DJANGO
    blocking = {}
    for app, name in loader.graph.nodes:
        if app not in ours or (app, name) in released or "squashed" in name:
            continue
        statements = loader.collect_sql([(loader.graph.nodes[app, name], False)])
        found = problems(statements) if statements else {}
        for rule in found.keys() - ALLOWED.get((app, name), set()):
            blocking[app, name, rule] = found[rule]
    assert not blocking, "\n\n".join(f"{key}: {text}" for key, text in blocking.items())


@pytest.mark.parametrize(
    ("statement", "rule"),
    [
        (
            'ALTER TABLE "labeling_ranking" ADD COLUMN "x" uuid DEFAULT gen_random_uuid() NOT NULL;',
            "adding-field-with-default",
        ),
        (
            'ALTER TABLE "labeling_ranking" ADD COLUMN "x" integer NOT NULL;',
            "adding-required-field",
        ),
        (
            'CREATE INDEX "i" ON "labeling_ranking" ("source");',
            "require-concurrent-index-creation",
        ),
        (
            'ALTER TABLE "labeling_ranking" ADD CONSTRAINT "c" CHECK ("cut" > 0);',
            "constraint-missing-not-valid",
        ),
        (
            'ALTER TABLE "labeling_ranking" ALTER COLUMN "cut" TYPE bigint USING "cut"::bigint;',
            "changing-column-type",
        ),
    ],
)
def test_a_statement_that_blocks_a_large_table_is_found(statement: str, rule: str) -> None:
    assert rule in problems(["-- a comment", statement])
    assert problems([statement.replace("labeling_ranking", "labeling_project")]) == {}


@pytest.mark.parametrize(
    "statement",
    [
        'ALTER TABLE "labeling_ranking" ADD COLUMN "x" integer DEFAULT 3 NOT NULL;',
        'ALTER TABLE "labeling_ranking" ADD COLUMN "x" integer NULL;',
        'CREATE TABLE "labeling_skip" ("x" integer); CREATE INDEX "i" ON "labeling_skip" ("x");',
    ],
)
def test_a_statement_that_only_changes_the_catalog_is_allowed(statement: str) -> None:
    assert problems([statement]) == {}


def test_large_tables_exist() -> None:
    assert {model._meta.db_table for model in apps.get_models()} >= LARGE
