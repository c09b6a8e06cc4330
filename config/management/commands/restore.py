import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from django.core.management import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError

from config.backup import restoring
from config.backup.archive import BackupError
from config.doctor import unapplied_migrations


class Command(BaseCommand):
    requires_system_checks: list[str] = []  # some of them read tables
    help = "Restore a backup into an empty database and empty folders."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", help="the backup, or - for the standard input")
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="Read the whole backup and verify its digests without restoring anything.",
        )

    def handle(self, *, file: str, dry_run: bool, **options: Any) -> None:
        try:
            with nullcontext(sys.stdin.buffer) if file == "-" else Path(file).open("rb") as stream:
                restored = restoring.verify(stream) if dry_run else restoring.restore(stream)
        except BackupError as error:
            raise CommandError(str(error)) from None
        except OSError as error:
            raise CommandError(f"{error.filename or file}: {error.strerror}.") from None
        except DatabaseError as error:
            raise CommandError(f"The database does not answer: {str(error).strip()}") from None
        content = (
            f"the backup of {restored.manifest['created_at']} with {restored.files} files, "
            f"{restored.bytes / 1e6:,.1f} MB in all"
        )
        if dry_run:
            self.stdout.write(f"Nothing is missing or altered in {content}.")
            return
        self.stdout.write(f"Restored {content}.")
        if unapplied := unapplied_migrations():
            self.stdout.write(
                f"It is from an earlier version: {unapplied} migrations are not applied yet. "
                "Run `manage.py migrate`."
            )
        self.stdout.write("Run `manage.py doctor` to check every file.")
