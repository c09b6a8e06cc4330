"""Tests of the disk space of runs and of the clean-up of their files."""

import fcntl
import json
from datetime import timedelta
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from accounts.models import AuditEntry, Role, User
from runs.disk import cleaning, usage
from runs.disk.cleaning import Policy
from runs.models import ENDED, Run, State
from runs.supervision import workspace
from tests.runs.test_lifecycle import in_state

pytestmark = pytest.mark.django_db
PUBLISHED = Policy(published=True)


@pytest.fixture(autouse=True)
def folders(runs_dir: Path) -> Path:
    return runs_dir


@pytest.fixture
def trainer(client):
    client.force_login(User.objects.create_user("trainer", role=Role.TRAINER, all_projects=True))
    return client


def with_files(state: State = State.SUCCEEDED, **fields) -> Run:
    """Create a run with 100 bytes of checkpoints, 20 of parts, 50 published and 12 of records."""
    run = in_state(state, **fields)
    folder = workspace.run_dir_of(run).path
    files = {
        "checkpoints/checkpoint-2/model.safetensors": 100,
        "parts/round-1/samples.parquet": 20,
        "output/adapter_model.safetensors": 50,
        "output/README.md": 3,
        "output/report.json": 4,
        "run.json": 5,
    }
    for name, size in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
    return run


def names(run: Run) -> set[str]:
    folder = workspace.run_dir_of(run).path
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return files - {workspace.LOCK}


RECORDS = {"run.json", "output/README.md", "output/report.json"}
ADAPTER = "output/adapter_model.safetensors"


def clean_all(policy: Policy = PUBLISHED) -> cleaning.Outcome:
    runs = [removal.run for removal in cleaning.plan(Run.objects.all(), policy)]
    return cleaning.clean(runs, policy, by=None)


# --- usage ----------------------------------------------------------------------------------------


def test_the_files_of_a_run_are_measured_by_category(tmp_path):
    run = with_files()
    data = workspace.run_dir_of(run).path / "data"
    data.mkdir()
    (tmp_path / "snapshot").write_bytes(b"x" * 999)
    (data / "preferences.parquet").hardlink_to(tmp_path / "snapshot")
    (data / "link").symlink_to("/nonexistent")
    link = (data / "link").lstat().st_size
    assert usage.measure(run) == usage.Usage(working=120, published=50, records=12 + link)


def test_a_run_without_a_folder_uses_nothing():
    assert usage.measure(in_state(State.FAILED)) == usage.Usage()


def test_the_sizes_of_an_ended_run_are_read_once_and_again_after_it_ran(django_assert_num_queries):
    run = with_files()
    usage.usage_of([run])
    (workspace.run_dir_of(run).path / "more").write_bytes(b"x" * 1000)
    run.refresh_from_db()
    with django_assert_num_queries(0):
        assert usage.usage_of([run])[run.pk].records == 12
    run.finished_at = timezone.now()
    assert usage.usage_of([run])[run.pk].records == 1012


def test_the_sizes_of_a_run_that_has_not_ended_are_read_each_time():
    run = with_files(State.RUNNING)
    usage.usage_of([run])
    (workspace.run_dir_of(run).path / "more").write_bytes(b"x" * 1000)
    assert usage.usage_of([run])[run.pk].records == 1012


# --- what is removed ------------------------------------------------------------------------------


def test_a_successful_run_loses_its_working_files_and_keeps_the_others():
    run = with_files()
    outcome = clean_all()
    assert (outcome.runs, outcome.bytes, outcome.skipped) == (1, 120, [])
    assert names(run) == {*RECORDS, ADAPTER}
    entry = AuditEntry.objects.get(action="run files removed")
    assert entry.details == {"id": run.pk, "bytes": 120}
    assert clean_all().runs == 0


@pytest.mark.parametrize("state", [State.QUEUED, State.RUNNING])
def test_a_run_that_has_not_ended_is_never_touched(state):
    run = with_files(state)
    before = names(run)
    assert cleaning.plan(Run.objects.all(), Policy(days=0, published=True)) == []
    outcome = cleaning.clean([run], Policy(days=0, published=True), by=None)
    assert outcome.runs == 0 and str(state) in outcome.skipped[0]
    assert names(run) == before


@pytest.mark.parametrize("state", [State.FAILED, State.CANCELLED])
def test_the_checkpoints_of_a_failed_run_are_kept_for_some_days(state):
    recent, old = with_files(state), with_files(state)
    Run.objects.filter(pk=old.pk).update(finished_at=timezone.now() - timedelta(days=15))
    clean_all(Policy(days=14))
    assert "parts/round-1/samples.parquet" in names(recent)
    assert names(old) == {*RECORDS, ADAPTER}


def test_the_checkpoints_of_an_archived_run_are_removed_immediately():
    run = with_files(State.FAILED, archived_at=timezone.now())
    clean_all(Policy(days=14))
    assert names(run) == {*RECORDS, ADAPTER}


def test_published_files_are_removed_only_from_archived_runs_and_only_on_request():
    kept, archived = with_files(), with_files(archived_at=timezone.now())
    clean_all(Policy())
    assert ADAPTER in names(archived)
    clean_all()
    assert ADAPTER in names(kept) and names(archived) == RECORDS
    archived.refresh_from_db()
    kept.refresh_from_db()
    assert archived.files_removed_at is not None and kept.files_removed_at is None


@pytest.mark.parametrize(
    ("state", "needed"), [(s, s not in ENDED) for s in State] + [(State.FAILED, True)]
)
def test_files_that_another_run_may_still_read_are_kept(state, needed):
    run = with_files(archived_at=timezone.now())
    config = {"adapter": f"runs:{run.pk}/output", "epochs": 1}
    reader = in_state(state, config=config)
    if state in (State.CANCELLED, State.FAILED):
        needed = True  # it can be continued
    (removal,) = cleaning.plan(Run.objects.filter(pk=run.pk), PUBLISHED)
    assert bool(removal.kept) is needed
    assert removal.kept in ("", f"Run {reader.pk} reads its files.")


def test_a_run_that_was_archived_meanwhile_or_started_again_is_checked_again():
    run = with_files(State.FAILED, archived_at=timezone.now())
    (removal,) = cleaning.plan(Run.objects.all(), PUBLISHED)
    assert removal.total == 170
    Run.objects.update(archived_at=None)
    assert cleaning.clean([removal.run], PUBLISHED, by=None).runs == 0
    Run.objects.update(state=State.QUEUED, finished_at=None)
    assert "is queued" in cleaning.clean([removal.run], PUBLISHED, by=None).skipped[0]
    assert len(names(run)) == 6


def test_a_folder_that_a_process_still_uses_is_left_alone():
    run = with_files()
    with (workspace.run_dir_of(run).path / workspace.LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "still uses the folder" in clean_all().skipped[0]
    assert len(names(run)) == 6
    assert clean_all().runs == 1


def test_a_missing_folder_is_reported_and_does_not_stop_the_others():
    missing, other = in_state(State.SUCCEEDED), with_files()
    outcome = cleaning.clean([missing, other], Policy(), by=None)
    assert outcome.runs == 1 and f"The folder of run {missing.pk}" in outcome.skipped[0]


def test_a_clean_up_that_was_killed_is_finished_by_the_next_one(monkeypatch):
    run = with_files()
    monkeypatch.setattr(cleaning, "_delete", lambda path: None)
    assert "cannot be deleted" in clean_all().skipped[0]
    assert not workspace.has_checkpoint(workspace.run_dir_of(run))
    monkeypatch.undo()
    assert clean_all().bytes == 120
    assert names(run) == {*RECORDS, ADAPTER}


# --- the page and the command ---------------------------------------------------------------------


def test_the_page_shows_a_preview_and_removes_only_the_selected_runs(trainer):
    one, two = with_files(title="One"), with_files(title="Two")
    page = trainer.get("/runs/disk/").text
    assert "One" in page and "240\xa0bytes in all" in page
    answer = trainer.post("/runs/disk/", {"days": "14", "run": [str(one.pk), "x"]}, follow=True)
    assert "Removed files of 1 run" in answer.text
    assert (len(names(one)), len(names(two))) == (4, 6)


def test_published_files_on_the_page_need_the_checkbox(trainer):
    run = with_files(archived_at=timezone.now())
    trainer.post("/runs/disk/", {"days": "14", "run": run.pk})
    assert ADAPTER in names(run)
    assert "50\xa0bytes" in trainer.get("/runs/disk/?days=14&published=on").text
    trainer.post("/runs/disk/", {"days": "14", "published": "on", "run": run.pk})
    assert names(run) == RECORDS
    assert "Its files were removed" in trainer.get(f"/runs/{run.pk}/").text


@pytest.mark.parametrize("days", ["-1", "x", "", "99999999999999999999"])
def test_invalid_days_remove_nothing(trainer, days):
    run = with_files(State.FAILED)
    assert trainer.get("/runs/disk/", {"days": days}).status_code == 200
    assert trainer.post("/runs/disk/", {"days": days, "run": run.pk}).status_code == 422
    assert len(names(run)) == 6


def test_leads_cannot_clean_up(client):
    client.force_login(User.objects.create_user("lead", role=Role.LEAD))
    run = with_files()
    assert client.get("/runs/disk/").status_code == 403
    assert client.post("/runs/disk/", {"days": "0", "run": run.pk}).status_code == 403
    assert len(names(run)) == 6


def clean_runs(*words: str) -> list[str]:
    out = StringIO()
    call_command("clean_runs", *words, stdout=out)
    return out.getvalue().splitlines()


def test_a_dry_run_lists_the_files_and_removes_nothing():
    run = with_files(archived_at=timezone.now())
    first, last = map(json.loads, clean_runs("--published", "--dry-run", "--json"))
    assert first == {"run": run.pk, "working": 120, "published": 50, "kept": ""}
    assert last == {"runs": 1, "bytes": 170, "dry_run": True}
    assert len(names(run)) == 6


def test_the_command_cleans_up_the_named_runs():
    one, two = with_files(), with_files()
    assert clean_runs(str(one.pk)) == ["Removed files of 1 runs, 120\xa0bytes."]
    assert (len(names(one)), len(names(two))) == (4, 6)
    with pytest.raises(CommandError, match="There is no run 4711"):
        clean_runs("4711")
    with pytest.raises(CommandError, match="0 or more"):
        clean_runs("--days", "-1")


def test_the_command_ends_with_status_2_if_a_run_was_left_alone(capsys):
    run = with_files()
    with (workspace.run_dir_of(run).path / workspace.LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(SystemExit) as ended:
            clean_runs()
    assert ended.value.code == 2
