from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from labeling.importing import undoing
from labeling.models import FileImport


class Command(BaseCommand):
    help = (
        "Undo an import by deleting the tasks, rankings, responses and prompts that it added. This is "
        "possible until someone ranks its tasks or a snapshot contains them. Without an id, list the "
        "imports."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "id",
            type=int,
            nargs="?",
            help="The number of the import, which import_data prints and the page of the import shows.",
        )
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="Check whether the import can be undone, without changing anything.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if options["id"] is None:
            for file in FileImport.objects.select_related("project")[:50]:
                created = f"{file.created_at:%Y-%m-%d %H:%M}"
                self.stdout.write(
                    f"{file.pk:>6}  {created}  {file.project.slug}  {file.state}  {file.name}"
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
