import json
from argparse import RawDescriptionHelpFormatter
from typing import Any

from django.core.management import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError

from config.doctor import examine

EXIT_PROBLEMS = 2


class Command(BaseCommand):
    requires_system_checks: list[str] = []  # an unwritable folder is what this is asked about
    help = """Find what is missing or altered in the installation's files.

Looks at: whether the folders can be written and have free space; whether the files of snapshots,
models and runs are there with the content that was recorded; whether bases given as folders are
there; runs that wait for files that are gone; run directories that belong to no run.

Changes nothing. Exit status: 0 no problems (warnings may be printed), 2 problems, 1 it could
not look, such as when the database does not answer."""

    def create_parser(self, *args: Any, **kwargs: Any) -> CommandParser:
        return super().create_parser(*args, formatter_class=RawDescriptionHelpFormatter, **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--quick", action="store_true", help="compare sizes only, without reading the files"
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object a problem")

    def handle(self, *, quick: bool, **options: Any) -> None:
        serious = warnings = 0
        try:
            for problem in examine(digests=not quick):
                serious += problem.serious
                warnings += not problem.serious
                self.say(vars(problem) if options["json"] else None, problem)
        except DatabaseError as error:
            raise CommandError(f"The database does not answer: {str(error).strip()}") from None
        summary = f"{serious} problems and {warnings} warnings."
        if serious:
            raise CommandError(summary, returncode=EXIT_PROBLEMS)
        if not options["json"]:
            self.stdout.write(summary if warnings else "Nothing is missing or altered.")

    def say(self, row: dict[str, Any] | None, problem: Any) -> None:
        level = "problem" if problem.serious else "warning"
        text = f"{level}: {problem.about}: {problem.sentence}"
        self.stdout.write(text if row is None else json.dumps(row, ensure_ascii=False))
