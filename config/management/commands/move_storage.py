from argparse import RawDescriptionHelpFormatter
from typing import Any

from django.conf import settings
from django.core.management import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError

from buckets.bucket import StorageError
from config.moving import CannotMove, move, storage_at
from runs.models import Run, State

FOLDERS = "folders"
"""The word for the local folders of the settings."""


class Command(BaseCommand):
    help = """Copy all stored files to another storage: runs, models, snapshots and uploads.

FROM and TO are addresses as in TIEBREAK_STORAGE, or "folders" for the folders in the settings. Without
--from, the source is the present storage. Each file is copied, read again and compared. The source is
not changed. If the command is interrupted, start it again: it continues where it ended. Afterwards set
TIEBREAK_STORAGE to TO and restart all programs. Stop the workers first."""

    def create_parser(self, *args: Any, **kwargs: Any) -> CommandParser:
        return super().create_parser(*args, formatter_class=RawDescriptionHelpFormatter, **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("to", metavar="TO", help=f"The target: an address, or {FOLDERS}.")
        parser.add_argument(
            "--from",
            dest="source",
            metavar="FROM",
            help=f"The source: an address, or {FOLDERS} (default: the present storage).",
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="List the files, but copy nothing."
        )

    def handle(self, *, to: str, source: str | None, dry_run: bool, **options: Any) -> None:
        source = str(settings.STORAGE or "") if source is None else source
        if not isinstance(settings.STORAGE, str) and source.startswith("/"):
            source = f"file://{source}"
        total = count = 0
        try:
            if not dry_run:
                self.refuse_running_runs()
            texts = ["" if text == FOLDERS else text for text in (source, to)]
            if not to:
                raise CannotMove("TO is empty. Name an address, or use the word folders.")
            storages = [storage_at(text) for text in texts]
            for moved in move(*storages, dry_run=dry_run):
                self.stdout.write(f"{moved.name}: {moved.files} files, {moved.bytes:,} bytes")
                total += moved.bytes
                count += 1
        except (CannotMove, StorageError) as problem:
            raise CommandError(str(problem)) from None
        except OSError as error:
            raise CommandError(
                f"{error.filename or to} cannot be read or written: {error}"
            ) from None
        verb = "would be copied" if dry_run else "were copied and verified"
        self.stdout.write(f"{count} runs, snapshots and uploads with {total:,} bytes {verb}.")

    def refuse_running_runs(self) -> None:
        try:
            running = list(Run.objects.filter(state=State.RUNNING).values_list("pk", flat=True)[:5])
        except DatabaseError as error:
            raise CannotMove(f"The database does not answer: {str(error).strip()}") from None
        if running:
            numbers = ", ".join(f"#{pk}" for pk in running)
            raise CannotMove(f"Runs are in progress: {numbers}. Stop the workers first.")
