import sys
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts.management.commands.token import user_named
from finetune.evaluation.regression import BadSet, as_lines, create
from finetune.models import (
    MAX_REGRESSION_MARGIN,
    MIN_REGRESSION_MARGIN,
    REGRESSION_MARGIN,
    RegressionSet,
)
from labeling.management.lookups import project_named


class Command(BaseCommand):
    help = (
        "Create a new version of a project's regression set from a file, or print the newest version. "
        "Each line of the file is a JSON object with `prompt` (a number or a text) or `messages`, and "
        "`expect`, the properties that an answer must have."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("project", metavar="PROJECT", help="the project's slug")
        parser.add_argument(
            "file", nargs="?", metavar="FILE", help="the file, or - for standard input"
        )
        parser.add_argument(
            "--margin",
            type=float,
            default=REGRESSION_MARGIN,
            help="largest loss of win rate that still counts as not worse (default %(default)s)",
        )
        parser.add_argument("--by", metavar="USERNAME", help="the account responsible")

    def handle(self, *args: Any, **options: Any) -> None:
        project = project_named(options["project"])
        if not options["file"]:
            newest = RegressionSet.newest(project.pk)
            if newest is None:
                raise CommandError(f"{project} has no regression set.")
            return self.stdout.write(as_lines(newest))
        margin = options["margin"]
        if not MIN_REGRESSION_MARGIN <= margin <= MAX_REGRESSION_MARGIN:
            raise CommandError(
                f"The margin must be from {MIN_REGRESSION_MARGIN} to {MAX_REGRESSION_MARGIN}; it is "
                f"{margin}."
            )
        if project.archived_at:
            raise CommandError(f"{project} is archived.")
        by = user_named(options["by"]) if options["by"] else None
        try:
            created = create(project=project, text=_text(options["file"]), margin=margin, by=by)
        except BadSet as problem:
            raise CommandError(str(problem)) from None
        return self.stdout.write(
            f"Version {created.number} of the regression set of {project} has {len(created.cases)} "
            f"prompts. SHA-256 {created.sha256}"
        )


def _text(name: str) -> str:
    try:
        return sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{name} cannot be read: {error}.") from None
