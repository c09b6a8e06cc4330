"""Tests of `manage.py backup` and `restore`, with two installations in one PostgreSQL."""

import hashlib
import io
import os
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from config.backup import restoring, tools, writing
from config.backup.archive import SUMS, ArchiveReader, ArchiveWriter, BackupError
from labeling.models import FileImport, Ranking
from runs import storage
from runs.disk.usage import REMOVED
from runs.models import Artifact, Run, State
from runs.supervision import workspace
from tests.finetune.factory import make_adapter, make_base, make_run, make_snapshot
from tests.installations import another_installation, manage
from tests.reward.factory import make_project, make_prompt, make_task, make_user, rank

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.processes]


@pytest.fixture
def installation(settings, tmp_path) -> SimpleNamespace:
    """Create an installation with a snapshot, a published adapter, an upload and a run in progress."""
    for name in ("runs", "snapshots", "uploads"):
        setattr(settings, f"{name.upper()}_DIR", tmp_path / "first" / name)
    project = make_project()
    adapter = make_adapter(make_base(project), make_snapshot(project, prompts=3))
    weights = Path(adapter.adapter_folder)
    (weights / "tokenizer").mkdir()
    for path in ("adapter_model.safetensors", "tokenizer/a-b.json", "tokenizer/a.json"):
        (weights / path).write_bytes(os.urandom(2000))
    for path in weights.iterdir():
        files = storage.files_of(path)
        Artifact.objects.create(
            run=adapter.run, name=path.name, path=storage.stored(path),
            bytes=sum(file.stat().st_size for file in files), sha256=storage.digest_of(path, files),
        )  # fmt: skip
    active = make_run(
        "dpo", state=State.RUNNING, finished_at=None, lease_expires_at="2026-01-01T00:00Z"
    )
    folder = workspace.run_dir_of(active).path
    (folder / "checkpoints" / "step-1").mkdir(parents=True)
    (folder / "checkpoints" / "step-1" / "weights").write_bytes(b"x")
    (folder / "events.jsonl").write_text("{}\n")
    upload = FileImport.objects.create(
        project=project, user=make_user(), name="a.jsonl", size=3, state="ready"
    )
    upload.path.parent.mkdir()
    upload.path.write_text("{}\n")
    return SimpleNamespace(project=project, adapter=adapter, weights=weights, root=tmp_path)


@pytest.fixture
def other(installation) -> Iterator[dict[str, str]]:
    """Create a second, empty installation, and return its environment."""
    with another_installation("tiebreak_restored", installation.root / "second") as environment:
        yield environment


def rows_of(url: str) -> dict[str, str]:
    """Return a digest of the rows of each table."""
    with psycopg.connect(url) as database:
        names = database.execute(
            "SELECT relname FROM pg_stat_user_tables WHERE schemaname = 'public' ORDER BY 1"
        ).fetchall()
        return {
            name: database.execute(
                f"SELECT md5(coalesce(string_agg(t::text, '|' ORDER BY t::text), '')) FROM {name} t"
            ).fetchone()[0]
            for [name] in names
        }


def url_of_tests() -> str:
    parts = urlsplit(os.environ["DATABASE_URL"])
    return parts._replace(path=f"/{connection.settings_dict['NAME']}").geturl()


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for name in ("runs", "snapshots", "uploads")
        for path in (folder / name).rglob("*")
        if path.is_file()
    }


def test_a_restored_installation_has_the_same_rows_and_files(installation, other):
    file = installation.root / "backup.tar"
    call_command("backup", str(file))
    assert file.stat().st_mode & 0o777 == 0o600
    restored = manage(other, "restore", str(file))
    assert restored.returncode == 0, restored.stderr
    assert "Restored the backup of" in restored.stdout
    assert rows_of(other["DATABASE_URL"]) == rows_of(url_of_tests())
    kept = {
        name: digest
        for name, digest in digests(installation.root / "first").items()
        if "checkpoints" not in name
    }
    assert len(kept) == 6
    assert digests(installation.root / "second") == kept
    again = manage(other, "restore", str(file))
    assert again.returncode == 1
    assert "The database is not empty" in again.stderr


class Busy(io.BytesIO):
    """A stream whose first write waits until another process has changed the installation."""

    def __init__(self, change: Callable[[], Any]):
        super().__init__()
        self.change: Callable[[], Any] | None = change

    def write(self, data: Any) -> int:
        if self.change is not None:
            change, self.change = self.change, None
            with ThreadPoolExecutor(1) as thread:
                thread.submit(change).result()
        return super().write(data)


def test_changes_during_a_backup_are_left_out_completely(installation, other):
    reviewer = make_user()
    before = rank(make_task(make_prompt(installation.project)), reviewer)
    rows = rows_of(url_of_tests())

    def change() -> None:
        rank(make_task(make_prompt(installation.project)), make_user())
        make_snapshot(installation.project)
        connection.close()

    stream = Busy(change)
    account = writing.write(stream)
    assert not account.problems
    assert Ranking.objects.filter(pk__gt=before.pk).exists()
    file = installation.root / "backup.tar"
    file.write_bytes(stream.getvalue())
    restored = manage(other, "restore", str(file))
    assert restored.returncode == 0, restored.stderr
    assert rows_of(other["DATABASE_URL"]) == rows


@pytest.fixture
def archive(installation) -> bytes:
    stream = io.BytesIO()
    writing.write(stream)
    return stream.getvalue()


def test_a_verified_backup_reports_its_content(archive):
    restored = restoring.verify(io.BytesIO(archive))
    assert restored.files == 6
    assert restored.manifest["format"] == writing.FORMAT


@pytest.mark.parametrize("share", [0.02, 0.5, 1])
def test_a_truncated_backup_is_refused(archive, share):
    """Cut the archive within its first or a later member, or just before the last one."""
    length = archive.rindex(SUMS.encode())
    with pytest.raises(BackupError, match="complete"):
        restoring.verify(io.BytesIO(archive[: int(share * length)]))


def test_an_altered_byte_is_noticed(archive, installation):
    content = (installation.weights / "adapter_model.safetensors").read_bytes()
    altered = archive.replace(content, content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(BackupError, match=r"adapter_model\.safetensors is missing or was altered"):
        restoring.verify(io.BytesIO(altered))


@pytest.mark.parametrize(
    "name",
    ["files/runs/../../etc/passwd", "/etc/passwd", "files/etc/passwd", "files/runs", "database/x"],
)
def test_a_name_outside_the_storage_roots_is_refused(archive, name):
    stream = io.BytesIO()
    writer = ArchiveWriter(stream)
    reader = ArchiveReader(io.BytesIO(archive))
    writer.add("manifest.json", next(reader.members())[1].read())
    writer.add(name, b"x")
    writer.close()
    stream.seek(0)
    with pytest.raises(BackupError, match="does not belong in a backup"):
        restoring.verify(stream)


def test_a_link_is_refused(archive):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        link = tarfile.TarInfo("files/runs/1")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        tar.addfile(link)
    stream.seek(0)
    with pytest.raises(BackupError, match="does not belong in a backup"):
        restoring.verify(stream)


@pytest.mark.parametrize(
    ("manifest", "sentence"),
    [
        (b'{"format": 99}', "format 99"),
        (b"[]", "not a JSON object"),
        (b'{"format": 1, "migrations": ["runs.9999_future"]}', "newer version"),
    ],
)
def test_a_backup_of_another_version_is_refused(manifest, sentence):
    stream = io.BytesIO()
    writer = ArchiveWriter(stream)
    writer.add("manifest.json", manifest)
    writer.close()
    stream.seek(0)
    with pytest.raises(BackupError, match=sentence):
        restoring.verify(stream)


def test_any_other_file_is_refused():
    for content in (b"", b"hello", b"\x1f\x8b" + b"0" * 2000):
        with pytest.raises(BackupError, match="backup"):
            restoring.verify(io.BytesIO(content))


def test_a_missing_and_an_altered_file_are_reported_and_the_rest_is_saved(installation):
    file = installation.root / "backup.tar"
    (installation.weights / "adapter_model.safetensors").write_bytes(b"altered")
    (installation.weights / "tokenizer" / "a.json").unlink()
    installation.adapter.snapshot.file.unlink()
    with pytest.raises(CommandError, match="3 problems") as refused:
        call_command("backup", str(file))
    assert refused.value.returncode == 2
    assert restoring.verify(io.BytesIO(file.read_bytes())).files == 4


def test_files_that_a_clean_up_removed_are_not_missing(installation):
    run = installation.adapter.run
    installation.weights.rename(installation.weights.with_name(f"{REMOVED}output"))
    Run.objects.filter(pk=run.pk).update(files_removed_at=run.finished_at)
    stream = io.BytesIO()
    account = writing.write(stream)
    assert (account.problems, account.files) == ([], 3)


def test_an_existing_file_is_not_replaced(installation):
    file = installation.root / "backup.tar"
    file.write_text("mine")
    with pytest.raises(CommandError, match="exists already"):
        call_command("backup", str(file))
    assert file.read_text() == "mine"


def test_a_failed_backup_leaves_no_file(installation, monkeypatch):
    monkeypatch.setattr(tools, "program", lambda name: "/bin/false")
    file = installation.root / "backup.tar"
    with pytest.raises(CommandError, match="pg_dump failed"):
        call_command("backup", str(file))
    assert not list(installation.root.glob("backup*"))


def test_a_dry_run_of_a_backup_writes_nothing(installation, capsys):
    call_command("backup", str(installation.root / "backup.tar"), "--dry-run")
    assert "A backup would contain 6 files" in capsys.readouterr().err
    assert not list(installation.root.glob("backup*"))


def test_a_dry_run_of_a_restore_reads_the_backup(installation, archive, capsys):
    file = installation.root / "backup.tar"
    file.write_bytes(archive)
    call_command("restore", str(file), "--dry-run")
    assert "Nothing is missing or altered in the backup of" in capsys.readouterr().out


def test_folders_with_files_are_not_mixed_with_a_backup(installation, monkeypatch):
    monkeypatch.setattr(connection.introspection, "table_names", list)
    with pytest.raises(BackupError, match="runs is not empty"):
        restoring.require_empty()
