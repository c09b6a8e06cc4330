from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from finetune.removal import deletion
from finetune.removal.deletion import CannotDelete
from labeling.management.lookups import project_named
from labeling.models import Project
from labeling.projects import archiving


class Command(BaseCommand):
    help = (
        "Archive or restore a project, or delete it with its data, rankings, snapshots, runs, "
        "models and files. Only an archived project without unfinished runs can be deleted."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("slug", metavar="SLUG")
        chosen = parser.add_mutually_exclusive_group()
        chosen.add_argument("--archive", action="store_true", help="make it read-only")
        chosen.add_argument("--restore", action="store_true", help="make it writable again")
        chosen.add_argument("--confirm", metavar="SLUG", help="the slug again, to delete it")
        parser.add_argument(
            "--allow-promoted", action="store_true", help="delete promoted models too"
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="count without deleting anything"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        project = project_named(options["slug"])
        if options["archive"] or options["restore"]:
            self._move(project, options)
            return
        extent = deletion.extent_of(project)
        for name, count in extent.counts:
            self.stdout.write(f"{count:>9,} {name}")
        for sentence in extent.obstacles:
            self.stdout.write(sentence)
        if options["dry_run"]:
            self.stdout.write("Nothing was deleted.")
            return
        if options["confirm"] != project.slug:
            raise CommandError(
                f"To delete the project, add --confirm {project.slug}. Nothing was deleted."
            )
        try:
            deletion.delete(project=project, by=None, allow_promoted=options["allow_promoted"])
        except CannotDelete as error:
            raise CommandError(str(error)) from None
        self.stdout.write(f"Deleted {project}.")

    def _move(self, project: Project, options: dict[str, Any]) -> None:
        move = archiving.archive if options["archive"] else archiving.restore
        done = options["dry_run"] or move(project=project, by=None)
        word = "archived" if options["archive"] else "restored"
        self.stdout.write(
            f"{project} {'would be' if options['dry_run'] else 'is'} {word}."
            if done
            else "Nothing changed."
        )
