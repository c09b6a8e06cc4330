from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from labeling.importing import undoing
from labeling.models import FileImport


class Command(BaseCommand):
    help = (
        "Take an import back: delete the tasks, rankings, responses and prompts that it brought. "
        "Possible as long as nobody has ranked its tasks and no snapshot was frozen since. Without "
        "an id, list the imports."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("id", type=int, nargs="?", help="as import_data and the page say it")
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="say whether it can be undone, and change nothing",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if options["id"] is None:
            for one in FileImport.objects.select_related("project")[:50]:
                made = f"{one.created_at:%Y-%m-%d %H:%M}"
                self.stdout.write(
                    f"{one.pk:>6}  {made}  {one.project.slug}  {one.state}  {one.name}"
                )
            return
        file_import = FileImport.objects.filter(pk=options["id"]).first()
        if file_import is None:
            raise CommandError(f"There is no import {options['id']}.")
        if options["dry_run"]:
            if sentence := undoing.obstacle(file_import):
                raise CommandError(sentence)
            self.stdout.write(f"Import {file_import.pk} of {file_import.name} can be undone.")
            return
        try:
            undoing.undo_now(file_import)
        except undoing.CannotUndo as error:
            raise CommandError(str(error)) from None
        self.stdout.write(f"Import {file_import.pk} of {file_import.name} is undone.")
