import json
from argparse import RawDescriptionHelpFormatter
from typing import Any

from django.core.management import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError

from config.doctor import examine

EXIT_PROBLEMS = 2


class Command(BaseCommand):
    requires_system_checks: list[str] = []  # an unwritable folder would make them fail
    help = """Find missing and altered files in the installation.

The command checks that the folders are writable and have free space, that the files of snapshots, models
and runs exist and have their recorded content, that base models stored as folders exist, that queued runs
have their input, and that every run directory belongs to a run. It changes nothing.

Exit status: 0 without problems (there may be warnings), 2 with problems, and 1 if the checks failed, for
example because the database does not answer."""

    def create_parser(self, *args: Any, **kwargs: Any) -> CommandParser:
        return super().create_parser(*args, formatter_class=RawDescriptionHelpFormatter, **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--quick",
            action="store_true",
            help="Compare only the sizes of files, without reading their content.",
        )
        parser.add_argument(
            "--json", action="store_true", help="Print one JSON object for each problem."
        )

    def handle(self, *, quick: bool, **options: Any) -> None:
        serious = warnings = 0
        try:
            for problem in examine(digests=not quick):
                serious += problem.serious
                warnings += not problem.serious
                self.report(vars(problem) if options["json"] else None, problem)
        except DatabaseError as error:
            raise CommandError(f"The database does not answer: {str(error).strip()}") from None
        summary = f"{serious} problems and {warnings} warnings."
        if serious:
            raise CommandError(summary, returncode=EXIT_PROBLEMS)
        if not options["json"]:
            self.stdout.write(summary if warnings else "Nothing is missing or altered.")

    def report(self, row: dict[str, Any] | None, problem: Any) -> None:
        level = "problem" if problem.serious else "warning"
        text = f"{level}: {problem.about}: {problem.sentence}"
        self.stdout.write(text if row is None else json.dumps(row, ensure_ascii=False))
