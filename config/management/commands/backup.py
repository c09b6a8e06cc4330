import sys
from pathlib import Path
from typing import Any

from django.core.management import BaseCommand, CommandError, CommandParser

from config.backup import writing
from config.backup.archive import BackupError

EXIT_PROBLEMS = 2


class Command(BaseCommand):
    help = """Write a backup of the database and of all files that it names, while Tiebreak is in use."""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", help="a new file, or - for the standard output")
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="Print the number and size of the files without writing anything.",
        )

    def handle(self, *, file: str, dry_run: bool, **options: Any) -> None:
        try:
            if dry_run:
                account = writing.measure()
            elif file == "-":
                account = writing.write(sys.stdout.buffer)
            else:
                account = writing.write_file(Path(file))
        except BrokenPipeError:
            raise CommandError(
                "The reader of the output has gone. The backup is incomplete."
            ) from None
        except BackupError as error:
            raise CommandError(str(error)) from None
        for problem in account.problems:
            self.stderr.write(problem)
        size = f"{account.files} files, {account.bytes / 1e6:,.1f} MB"
        if dry_run:
            self.stderr.write(f"A backup would contain {size}, and the database.")
        else:
            self.stderr.write(f"The backup is complete: the database and {size} in all.")
        if account.problems:
            raise CommandError(
                f"{len(account.problems)} problems with files. The rest was saved. "
                "`manage.py doctor` says what to do.",
                returncode=EXIT_PROBLEMS,
            )
