import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from labeling.management.lookups import project_named
from labeling.models import Task
from labeling.queue import raising


class Command(BaseCommand):
    help = (
        "Request more rankings of existing tasks. Tasks with fewer than --wanted rankings get the missing "
        "ones; other tasks are not changed. "
        "Exit status: 0 on success, 1 if nothing was changed because of an error."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--project", required=True, metavar="SLUG", help="The slug of the project."
        )
        parser.add_argument(
            "--wanted",
            type=int,
            required=True,
            metavar="N",
            help="The number of rankings that each task should have, from 1 to 9.",
        )
        parser.add_argument(
            "--task",
            type=int,
            metavar="ID",
            help="The number of the only task to change. By default, all tasks of the project are.",
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="Count the rankings without requesting them."
        )
        parser.add_argument(
            "--json", action="store_true", help="Print one JSON object instead of text."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        project = project_named(options["project"])
        task = None
        if options["task"] is not None:
            task = Task.objects.filter(project=project, pk=options["task"]).first()
            if task is None:
                raise CommandError(f"{project} has no task {options['task']}.")
        chosen = {"project": project, "wanted": options["wanted"], "task": task}
        try:
            done = (
                raising.plan(**chosen) if options["dry_run"] else raising.apply(**chosen, by=None)
            )
        except raising.CannotRaise as refused:
            raise CommandError(str(refused)) from None
        if options["json"]:
            self.stdout.write(json.dumps(vars(done) | {"dry_run": options["dry_run"]}))
            return
        verb = "Would request" if options["dry_run"] else "Requested"
        self.stdout.write(f"{verb} {done.slots} more rankings of {done.tasks} tasks.")
        if done.later:
            self.stdout.write(
                f"Another {done.later} will be requested when held tasks are released."
            )
        for reason, count in sorted(done.left_out.items()):
            self.stdout.write(f"Unchanged: {count} tasks {raising.REASONS[reason]}.")
