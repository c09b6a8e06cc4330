"""Tests that snapshots exclude gold and that full records contain it."""

import json

import pytest

from labeling.gold import making
from labeling.importing.reading import import_file
from labeling.models import Gold
from labeling.queue import slots
from reward.preferences.snapshots import SnapshotError, SnapshotFilter, freeze, survey
from tests.labeling.gold.gold_world import answer, make_gold
from tests.labeling.world import ids, make_member, make_project, make_task
from tests.reward.test_commands import exported

pytestmark = pytest.mark.django_db


@pytest.fixture
def project():
    """Return a project with a published guideline, which gold needs."""
    return make_project()


def answered(one):
    reviewer = make_member(one.project)
    return answer(slots.lease_new_slot(task=one.task, reviewer=reviewer), reviewer)


@pytest.mark.parametrize("purpose", Gold.Purpose.values)
def test_a_snapshot_excludes_and_counts_gold(project, purpose):
    answered(make_gold(project, purpose))
    account = survey(project=project, filter=SnapshotFilter())
    assert (account.considered, account.used, dict(account.left_out)) == (1, 0, {"gold": 1})
    with pytest.raises(SnapshotError):
        freeze(project=project, filter=SnapshotFilter(), by=None)


def test_a_snapshot_keeps_rankings_of_the_source_task_of_gold(project):
    task = make_task(project)
    reviewer = make_member(project)
    answer(slots.claim(project=project, reviewer=reviewer), reviewer)
    first, second, _third = ids(task)
    gold = making.make(task=task, constraints=[{"kind": "above", "a": first, "b": second}])
    answered(gold)
    account = survey(project=project, filter=SnapshotFilter())
    assert (account.used, dict(account.left_out)) == (1, {"gold": 1})


def test_gold_survives_an_export_and_import_of_full_records(project, tmp_path):
    gold = make_gold(project, "training", "It names a day.")
    answered(gold)
    retired = make_gold(project)
    making.retire(gold=retired, by=None)
    file = tmp_path / "full.jsonl"
    exported("--project", project.slug, str(file), "--format", "full")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert sum(task["gold"] is not None for row in rows for task in row["tasks"]) == 1
    copy = make_project()
    import_file(file, project=copy)
    [copied_gold] = Gold.objects.filter(project=copy)
    first, second, _third = ids(copied_gold.task)
    assert copied_gold.constraints == [{"kind": "above", "a": first, "b": second}]
    assert (copied_gold.purpose, copied_gold.explanation) == ("training", "It names a day.")
    assert copied_gold.task.rankings.count() == 1
