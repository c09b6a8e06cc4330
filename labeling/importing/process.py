"""Read one file for a worker, in a process with limited memory and processor time.

    python -m labeling.importing.process ID TOKEN

It prints JSON lines: {"prompts": N} for progress, and {"problem": "…"} if the file is refused. The
report is written to the file's row, in the same transaction as the import.
"""

import json
import os
import resource
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from django.db import transaction
from django.db.models.functions import Now

MB = 1 << 20

Progress = Callable[[int], None]


def step(pk: int, token: int, progress: Progress = lambda prompts: None) -> str:
    """Check, import or undo the file of a row, depending on its state. Return the problem, or "".

    Does nothing if the row has been claimed again.
    """
    from labeling.core.text import storable
    from labeling.importing import mappings, undoing
    from labeling.importing.files.encodings import as_utf8
    from labeling.importing.reading import BadInput, UnclearColumns, proposal_of
    from labeling.models import FileImport

    row = (
        FileImport.objects.select_related("project", "user")
        .filter(pk=pk, token=token, state__in=FileImport.ACTIVE)
        .first()
    )
    if row is None:
        return ""
    try:
        if row.state == FileImport.State.CHECKING:
            _check(row, progress)
        elif row.state == FileImport.State.IMPORTING:
            _import(row, progress)
        else:
            undoing.undo(row)
    except undoing.CannotUndo as obstacle:
        return str(obstacle)
    except UnclearColumns as unclear:
        with as_utf8(row.path, row.encoding) as path:
            _describe(
                row, path, unclear.proposal, state=FileImport.State.UNCLEAR, heartbeat_at=None
            )
    except BadInput as error:
        # A wrong column meaning may be the cause, so let the lead change the meanings.
        with suppress(BadInput), as_utf8(row.path, row.encoding) as path:
            _describe(row, path, proposal_of(path, mappings.of(row, path)))
        return storable(str(error)).replace(row.path.name, row.name)
    except FileNotFoundError:
        return f"{row.name} is no longer in {row.path.parent}. Send it again."
    except MemoryError:
        from django.conf import settings

        return (
            f"Reading the file takes more than {settings.IMPORT_MEMORY_MB} MB of memory. Split it; "
            "TIEBREAK_IMPORT_MEMORY_MB sets the limit."
        )
    return ""


def _describe(row: Any, path: Path, proposal: Any, **fields: Any) -> None:
    """Store the file's columns in its row, so that a lead can choose their meanings."""
    from labeling.importing.reading import first_rows
    from labeling.importing.report import columns
    from labeling.models import FileImport

    FileImport.objects.filter(pk=row.pk, token=row.token, state=row.state).update(
        report=columns(proposal, first_rows(path)), **fields
    )


def _check(row: Any, progress: Progress) -> None:
    """Import the file, roll back the import, and store its report."""
    from labeling.importing.report import report
    from labeling.models import FileImport

    with transaction.atomic():
        imported = _read(row, progress)
        transaction.set_rollback(True)
    FileImport.objects.filter(pk=row.pk, token=row.token, state=row.state).update(
        state=FileImport.State.READY,
        heartbeat_at=None,
        prompts_read=imported.written.read["prompts"],
        report=report(imported),
    )


def _import(row: Any, progress: Progress) -> None:
    from accounts.models import audit
    from labeling.importing import mappings
    from labeling.importing.files.encodings import as_utf8
    from labeling.importing.reading import refresh_statistics
    from labeling.importing.report import report
    from labeling.models import FileImport

    with transaction.atomic():
        imported = _read(row, progress)
        own_row = FileImport.objects.filter(pk=row.pk, token=row.token, state=row.state)
        if not own_row.update(
            state=FileImport.State.IMPORTED,
            heartbeat_at=None,
            finished_at=Now(),
            prompts_read=imported.written.read["prompts"],
            report=report(imported),
        ):
            transaction.set_rollback(True)
            return
        with as_utf8(row.path, row.encoding) as path:
            mappings.remember(row, path)
        new = dict(imported.written.new)
        audit(row.user, "file imported", row.project, file=row.name, new=new)
    refresh_statistics(imported.written)


def _read(row: Any, progress: Progress) -> Any:
    from labeling.importing import mappings
    from labeling.importing.files.encodings import as_utf8
    from labeling.importing.reading import FORMATS, import_file

    with as_utf8(row.path, row.encoding) as path:
        return import_file(
            path,
            project=row.project,
            format=FORMATS.get(row.format),
            mapping=mappings.of(row, path),
            any_criteria=row.any_criteria,
            progress=progress,
            file_import=row.pk,
        )


def load_library(pk: int) -> None:
    """Import pyarrow for a Parquet file before memory is limited, so that the limit excludes pyarrow."""
    from labeling.importing.files.source import PARQUET
    from labeling.models import FileImport

    row = FileImport.objects.filter(pk=pk).first()
    if row is None:
        return
    with suppress(FileNotFoundError), row.path.open("rb") as file:
        if file.read(len(PARQUET)) == PARQUET:
            import labeling.importing.files.parquet  # noqa: F401


def limit(memory_mb: int, seconds: int) -> None:
    """Limit this process's processor time, and the memory that it may use in addition to its present use."""
    pages = int(Path("/proc/self/statm").read_text().split()[5]) if sys.platform == "linux" else 0
    data = pages * resource.getpagesize() + memory_mb * MB
    resource.setrlimit(resource.RLIMIT_DATA, (data, data))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _end_with_worker() -> None:
    """End this process if the worker dies, which closes standard input."""

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 512):
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _print_message(**message: Any) -> None:
    print(json.dumps(message), flush=True)


def main(pk: int, token: int) -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    import django

    _end_with_worker()
    django.setup()
    from django.conf import settings

    load_library(pk)
    limit(settings.IMPORT_MEMORY_MB, settings.IMPORT_SECONDS)
    try:
        problem = step(pk, token, lambda prompts: _print_message(prompts=prompts))
    except Exception as error:
        traceback.print_exc()
        problem = (
            f"Reading the file failed: {type(error).__name__}. This is a bug in Tiebreak; the "
            "worker's log has the details."
        )
    if problem:
        _print_message(problem=problem)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
