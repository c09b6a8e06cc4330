from typing import Any

from django.conf import settings
from django.core.management import BaseCommand, CommandError, CommandParser

from buckets import cache, files
from buckets.bucket import StorageError
from config.stray_files import stray


class Command(BaseCommand):
    help = (
        "Delete files in the object store that belong to no run, snapshot or upload, such as those whose "
        "deletion failed because the storage did not answer, and local copies of files that were erased "
        "or changed there. Files that were published in the last hour are kept."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="List them, but delete nothing.")

    def handle(self, *, dry_run: bool, **options: Any) -> None:
        if not files.is_remote():
            raise CommandError(
                "TIEBREAK_STORAGE names no object store, so there is nothing to clean."
            )
        count = 0
        try:
            for name in stray():
                self.stdout.write(name)
                count += 1
                if not dry_run:
                    files.bucket().remove(name)
            outdated = 0 if dry_run else cache.drop_outdated()
        except StorageError as problem:
            raise CommandError(str(problem)) from None
        if dry_run:
            self.stdout.write(f"{count} would be deleted from {settings.STORAGE}.")
            return
        self.stdout.write(
            f"{count} deleted from {settings.STORAGE}, and {outdated} outdated local copies."
        )
