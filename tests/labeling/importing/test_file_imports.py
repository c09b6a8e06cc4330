"""Tests of imports by a real Celery worker and its reading process."""

import json
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from django.urls import reverse

from config.env import BASE_DIR
from labeling.importing import lifecycle, process
from labeling.models import FileImport, Project, Prompt
from tests.clients import signed_in
from tests.labeling.pages.test_pages_data import line, sent
from tests.labeling.pages.test_pages_project import make_lead
from tests.worker import celery_worker, database_url, runs_dir, wait_until  # noqa: F401

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.processes]


@pytest.fixture
def child(settings, tmp_path, monkeypatch):
    """Let the reading process use the test's database and folder."""
    settings.UPLOADS_DIR = tmp_path / "uploads"
    monkeypatch.setenv("TIEBREAK_UPLOADS_DIR", str(settings.UPLOADS_DIR))
    monkeypatch.setenv("DATABASE_URL", database_url())
    monkeypatch.setenv("TIEBREAK_SECRET_KEY", "a key that signs nothing here")
    return monkeypatch


def received(project: Project, content: str | bytes, name="a.jsonl") -> FileImport:
    client = signed_in(make_lead(project))
    response = sent(client, project, content, name)
    return FileImport.objects.get(key=response.url.rstrip("/").rsplit("/", 1)[1])


def in_state(file_import: FileImport, state: str) -> bool:
    file_import.refresh_from_db()
    return file_import.state == state


def test_a_worker_checks_and_imports_a_file(child, celery_worker, project):  # noqa: F811
    worker = celery_worker()
    file_import = received(project, line() + line("Why?"))
    wait_until(lambda: in_state(file_import, "ready"), 30, worker.said)
    assert not Prompt.objects.exists()
    client = signed_in(file_import.user)
    client.post(reverse("project-import-preview", args=[project.slug, file_import.key]))
    wait_until(lambda: in_state(file_import, "imported"), 30, worker.said)
    assert Prompt.objects.count() == 2 and file_import.prompts_read == 2
    wait_until(lambda: not file_import.path.exists(), 10)


def test_reading_stops_at_the_memory_limit(child, project, settings):
    settings.IMPORT_MEMORY_MB = 64
    child.setenv("TIEBREAK_IMPORT_MEMORY_MB", "64")
    file_import = received(project, b'{"prompt": [' + b"{}," * 1_000_000 + b"{}]}")
    lifecycle.execute(file_import.pk)
    assert in_state(file_import, "failed") and "64 MB of memory" in file_import.problem


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_the_memory_limit_leaves_out_the_library_of_parquet(child, project, tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    path.write_text(line())
    if kind == "parquet":
        pq.write_table(pa.table({"prompt": ["Why?"], "response": ["So."]}), path)
    file_import = received(project, path.read_bytes(), path.name)
    code = (
        "import os, sys; os.environ['DJANGO_SETTINGS_MODULE'] = 'config.settings'\n"
        "from labeling.importing import process\n"
        "process.step = lambda *_: print('pyarrow.parquet' in sys.modules) or ''\n"
        f"process.main({file_import.pk}, 1)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=BASE_DIR, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as running:  # it ends when its standard input is closed
        assert running.stdout.read().split() == [str(kind == "parquet").encode()]


def test_reading_stops_at_the_time_limit(child, project, settings):
    settings.IMPORT_SECONDS = 1
    child.setenv("TIEBREAK_IMPORT_SECONDS", "1")
    file_import = received(project, "".join(line(f"{n}?") for n in range(20_000)))
    lifecycle.execute(file_import.pk)
    assert in_state(file_import, "failed") and "1 seconds of processor time" in file_import.problem
    assert not Prompt.objects.exists()


def test_a_file_whose_worker_died_is_read_by_the_next(child, project):
    file_import = received(project, line())
    assert lifecycle.claim(file_import.pk) == 1
    assert lifecycle.claim(file_import.pk) is None and lifecycle.reap() == 0
    FileImport.objects.update(heartbeat_at="2026-01-01T00:00Z")
    assert lifecycle.reap() == 1
    lifecycle.execute(file_import.pk)
    assert in_state(file_import, "ready") and file_import.token == 2


def test_a_file_that_crashes_its_workers_is_abandoned(child, project):
    file_import = received(project, line())
    for _ in range(lifecycle.MAX_ATTEMPTS):
        assert lifecycle.claim(file_import.pk)
        FileImport.objects.update(heartbeat_at="2026-01-01T00:00Z")
    assert lifecycle.claim(file_import.pk) is None
    lifecycle.reap()
    assert in_state(file_import, "failed") and "worker stopped several times" in file_import.problem


def test_a_file_is_cancelled_while_it_is_read(child, project):
    file_import = received(project, "".join(line(f"{n}?") for n in range(5000)))
    FileImport.objects.update(cancel_requested=True)
    lifecycle.execute(file_import.pk)
    assert in_state(file_import, "cancelled") and not file_import.path.exists()


def test_a_cancellation_that_came_too_late_for_the_check_does_not_end_the_import(child, project):
    file_import = received(project, line())
    token = lifecycle.claim(file_import.pk)
    assert lifecycle.cancel(FileImport.objects.get())
    lifecycle.finish(file_import.pk, token, process.step(file_import.pk, token))
    assert in_state(file_import, "ready")
    assert lifecycle.start_import(file_import)
    lifecycle.execute(file_import.pk)
    assert in_state(file_import, "imported") and Prompt.objects.count() == 1


def test_the_reading_process_ends_with_its_worker(child, project):
    file_import = received(project, "".join(line(f"{n}?") for n in range(5000)))
    token = lifecycle.claim(file_import.pk)
    process = lifecycle._FileProcess(file_import.pk, token)
    process.process.stdin.close()
    assert process.process.wait(30) == 1
    assert in_state(file_import, "checking") and not Prompt.objects.exists()


def test_a_missing_file_is_named(child, project):
    file_import = received(project, line())
    file_import.path.unlink()
    lifecycle.execute(file_import.pk)
    assert in_state(file_import, "failed") and "a.jsonl is no longer in" in file_import.problem


def test_an_incomplete_upload_leaves_no_file(child, project, tmp_path):
    def chunks():
        yield json.dumps({}).encode()
        raise OSError("No space left on device")

    lead = make_lead(project)
    with pytest.raises(OSError, match="No space"):
        lifecycle.receive(chunks(), user=lead, project=project, name="a.jsonl")
    assert not FileImport.objects.exists() and not list((tmp_path / "uploads").iterdir())
