"""Only the modules of labeling.queue write slots."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from config.env import BASE_DIR

PACKAGES = ("accounts", "config", "database", "demo", "finetune", "labeling", "reward", "runs")
OWNER = BASE_DIR / "labeling" / "queue"

METHODS = {
    "bulk_create", "bulk_update", "create", "delete", "get_or_create", "save", "update",
    "update_or_create",
}  # fmt: skip
# `Slot.objects.filter(…)`, `Slot(…)`, `task.slots.filter(…)`, and variables named slot or slots.
RECEIVER = re.compile(r"\bSlot\b|(?:^|\.)slots?\b(?!\.(?:task|ranking|reviewer|project)\b)")
SQL = re.compile(
    r"\b(?:UPDATE(?:\s+ONLY)?|INSERT\s+INTO|DELETE\s+FROM|MERGE\s+INTO|COPY)\s+\"?labeling_slot\b"
    r"|^labeling_slot\s*\(",
    re.IGNORECASE,
)


def writes(source: str) -> Iterator[int]:
    """Yield the line of each statement in the source that writes slots."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            receiver = ast.unparse(node.func.value)
            if node.func.attr in METHODS and RECEIVER.search(receiver):
                yield node.lineno
        elif isinstance(node, ast.Constant) and SQL.search(str(node.value)):
            yield node.lineno


def modules() -> Iterator[Path]:
    for package in PACKAGES:
        for path in sorted((BASE_DIR / package).rglob("*.py")):
            if "migrations" not in path.parts and OWNER not in path.parents:
                yield path


def test_no_module_outside_the_queue_writes_slots() -> None:
    locations = [
        f"{path.relative_to(BASE_DIR)}:{line}"
        for path in modules()
        for line in writes(path.read_text())
    ]
    assert not locations, "Use a function of labeling.queue.slots instead."


@pytest.mark.parametrize(
    "source",
    [
        "Slot.objects.filter(pk=1).update(ranking=None)",
        "Slot.objects.create(task=task)",
        "Slot(task=task).save()",
        "task.slots.all().delete()",
        "slot.save(update_fields=['draft'])",
        "cursor.execute(f'WITH held AS (SELECT 1) UPDATE labeling_slot slot SET x = {x}')",
        "copy_rows('labeling_slot (task_id, number)', rows)",
    ],
)
def test_writes_are_recognised(source: str) -> None:
    assert list(writes(source)) == [1]


@pytest.mark.parametrize(
    "source",
    [
        "Slot.objects.filter(pk=1).exists()",
        "slots.free_leases(Slot.objects.filter(project=project))",
        "slot.ranking.delete()",
        "cursor.execute('SELECT id FROM labeling_slot FOR UPDATE')",
    ],
)
def test_reads_are_not_writes(source: str) -> None:
    assert not list(writes(source))
