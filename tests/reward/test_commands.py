import io
import json

import pyarrow.parquet as pq
import pytest
from django.core.management import CommandError, call_command

from recipes.preferences.groups import read_groups
from reward.models import Snapshot
from runs.models import Run
from tests.finetune.factory import make_snapshot
from tests.reward.factory import (
    make_prompt,
    make_task,
    make_user,
    make_version,
    rank,
    response_ids,
)

pytestmark = pytest.mark.django_db


def said(*command) -> str:
    out = io.StringIO()
    call_command(*command, stdout=out)
    return out.getvalue()


def test_snapshot_freezes_by_its_filter_and_lists_excluded_rankings(project):
    ann, version = make_user(), make_version(project)
    task = make_task(make_prompt(project))
    rank(task, ann, guideline_version=version, active_seconds=9)
    rank(task, make_user(), active_seconds=1)
    text = said("snapshot", project.slug, "--min-seconds", "5")
    snapshot = Snapshot.objects.get()
    assert (
        "- 1  Made in less active time than the filter requires." in text
        and "1 ranking used" in text
    )
    assert str(snapshot.file) in text
    filters = ["--reviewer", ann.username, "--guideline-version", str(version.number)]
    payload = json.loads(said("snapshot", project.slug, *filters, "--json"))
    assert payload["counts"]["used"] == 1 and payload["hash"] == snapshot.content_hash


def test_a_dry_run_of_snapshot_writes_nothing(project):
    rank(make_task(make_prompt(project)), make_user())
    assert "1 ranking used" in said("snapshot", project.slug, "--dry-run")
    assert not Snapshot.objects.exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "has no rankings yet"),
        (["--test", "0.95"], "Must be between 0 and 0.9"),
        (["--reviewer", "nobody"], "There is no user 'nobody'"),
        (["--guideline-version", "9999"], "There is no version 9999"),
        (["--since", "2026-02-30"], "invalid day value"),
    ],
)
def test_snapshot_explains_errors(project, arguments, sentence):
    with pytest.raises(CommandError, match=sentence):
        call_command("snapshot", project.slug, *arguments)
    assert not Snapshot.objects.exists()


def test_train_reward_takes_the_newest_snapshot(project):
    make_snapshot(project, prompts=1)
    newest = make_snapshot(project, prompts=1)
    command = ["train_reward", "--project", project.slug, "--base", "org/base", "--set", "epochs=3"]
    plan = json.loads(said(*command, "--dry-run"))
    assert plan["inputs"] == {"snapshot": newest.pk}
    assert (plan["config"]["epochs"], plan["config"]["base_model"]) == (3, "org/base")
    assert not Run.objects.exists()
    said(*command, "--no-wait")
    assert Run.objects.get().state == "queued"
    with pytest.raises(CommandError, match="Unknown setting 'base_model'"):
        call_command(*command, "--set", "base_model=other")


# --- export --------------------------------------------------------------------------------------


@pytest.fixture
def ranked(project):
    """Check a prompt where b beats a twice, a and c are even, and b and c are not compared."""
    task = make_task(make_prompt(project, "Why?"), ("a", "b", "c"))
    for order in (((1,), (0,)), ((1,), (0,)), ((0, 2),), ((0, 1),)):
        rank(task, make_user(), order)
    return task


def exported(*arguments) -> dict:
    return json.loads(said("export", *arguments).splitlines()[-1])


def test_pairs_are_decided_by_all_rankings_and_ties_give_none(project, ranked, tmp_path):
    file = tmp_path / "pairs.jsonl"
    counts = exported("--project", project.slug, str(file), "--format", "pairs")
    (line,) = file.read_text().splitlines()
    pair = json.loads(line)
    assert pair["prompt"] == [{"role": "user", "content": "Why?"}]
    assert pair["chosen"] == [{"role": "assistant", "content": "b"}]
    assert pair["rejected"] == [{"role": "assistant", "content": "a"}]
    assert pair["margin"] == pytest.approx((2.5 - 0.5) / 3, abs=1e-6)
    assert (counts["rows"], counts["pairs_tied"], counts["pairs_never_compared"]) == (1, 1, 1)
    assert (counts["prompts"], counts["rankings"]) == (1, 4)


def test_k_wise_rows_keep_every_ranking(project, ranked, tmp_path):
    snapshot = make_snapshot(project, prompts=2)
    ids = response_ids(ranked)
    for name in ("rows.parquet", "rows.jsonl"):
        counts = exported("--snapshot", str(snapshot.pk), str(tmp_path / name))
        assert counts["rows"] == 3 and counts["rankings"] == 6
    assert list(read_groups(tmp_path / "rows.parquet")) == list(read_groups(snapshot.file))
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    tiers = [r["tiers"] for row in rows for r in row["rankings"] if row["response_ids"] == ids]
    assert tiers.count([[ids[1]], [ids[0]]]) == 2


def test_one_side_of_the_split_can_be_exported(project, tmp_path):
    snapshot = make_snapshot(project, prompts=30, test_fraction=0.5)
    counts = exported(
        "--snapshot", str(snapshot.pk), str(tmp_path / "t.parquet"), "--split", "test"
    )
    assert counts["rows"] == snapshot.counts["splits"]["test"]["prompts"]
    assert set(pq.read_table(tmp_path / "t.parquet")["split"].to_pylist()) == {"test"}


def test_export_overwrites_only_on_request_and_writes_atomically(project, ranked, tmp_path):
    file = tmp_path / "rows.jsonl"
    counts = exported("--project", project.slug, str(file), "--dry-run")
    assert counts["rows"] == 1 and not file.exists()
    file.write_text("mine")
    with pytest.raises(CommandError, match="exists already"):
        call_command("export", "--project", project.slug, str(file))
    assert file.read_text() == "mine"
    exported("--project", project.slug, str(file), "--force")
    assert json.loads(file.read_text())["responses"] == ["a", "b", "c"]
    assert [path.name for path in tmp_path.glob("*.jsonl*")] == ["rows.jsonl"]


@pytest.mark.parametrize(
    ("name", "sentence"), [("rows.csv", "End its name in"), ("no/rows.jsonl", "There is no folder")]
)
def test_export_explains_errors(project, ranked, tmp_path, name, sentence):
    with pytest.raises(CommandError, match=sentence):
        call_command("export", "--project", project.slug, str(tmp_path / name))


def test_a_base_that_is_not_a_model_is_refused_before_anything_is_queued(project, tmp_path):
    snapshot = make_snapshot(project, prompts=1)
    for base, why in ((str(tmp_path / "nowhere"), "no folder"), (str(tmp_path), "config.json")):
        command = ("train_reward", "--snapshot", str(snapshot.pk), "--base", base)
        for how in ("--dry-run", "--no-wait"):
            with pytest.raises(CommandError, match=why):
                call_command(*command, how)
    assert not Run.objects.exists()


def test_a_folder_is_stored_as_an_absolute_path(project, tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    monkeypatch.chdir(tmp_path.parent)
    snapshot = make_snapshot(project, prompts=1)
    base = f"./{tmp_path.name}"
    plan = said("train_reward", "--snapshot", str(snapshot.pk), "--base", base, "--dry-run")
    assert json.loads(plan)["config"]["base_model"] == str(tmp_path)
