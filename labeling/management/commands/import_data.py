from pathlib import Path
from typing import Any

from django.core.checks import Tags
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction
from django.db.models.functions import Now
from django.utils.text import slugify

from accounts.models import audit
from labeling.core.text import storable, visible
from labeling.importing.files.encodings import ENCODINGS, UTF8, as_utf8
from labeling.importing.formats.columns.mapping import MEANINGS, Mapping
from labeling.importing.reading import (
    FORMATS,
    BadInput,
    ImportResult,
    UnclearColumns,
    import_file,
    refresh_statistics,
)
from labeling.importing.report import report
from labeling.importing.writer import EXISTING, NEW
from labeling.models import FileImport, Project

TABLES = ("prompts", "responses", "tasks", "rankings")


class Command(BaseCommand):
    # The other system checks import all pages, which takes 48 MB and 0.3 seconds.
    requires_system_checks = ("deployment", Tags.models, Tags.security)
    help = (
        "Import prompts, responses and rankings from a file, either all of it or nothing. Importing the "
        "same file again adds no duplicates. The command prints what the file contains, how many rows are "
        "new, and which values were left out and why."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        formats = "; ".join(f"{format.name}: {format.title}" for format in FORMATS.values())
        parser.add_argument("file", type=Path)
        parser.add_argument("--project", required=True, metavar="SLUG")
        parser.add_argument(
            "--format",
            choices=["auto", *FORMATS],
            default="auto",
            help=f"The format of the file. auto, the default, detects it. {formats}.",
        )
        parser.add_argument(
            "--create-project", action="store_true", help="Create the project if it does not exist."
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="Run everything, and then roll it back."
        )
        parser.add_argument(
            "--reviewers",
            choices=[NEW, EXISTING],
            default=NEW,
            help="How to credit the rankings: new (the default) creates inactive users with the names in the file; "
            "existing credits the rankings to existing users with these names.",
        )

        parser.add_argument(
            "--map",
            action="append",
            default=[],
            metavar="MEANING=COLUMN",
            help="Set the meaning of a column, such as prompt=question or 'response=answer_*'. The option can be "
            f"repeated. Meanings: {'; '.join(f'{k}: {v}' for k, v in MEANINGS.items())}.",
        )
        parser.add_argument(
            "--encoding",
            choices=ENCODINGS,
            default=UTF8,
            help=f"The encoding of a text file (default: {UTF8}). Many Windows programs write windows-1252.",
        )
        parser.add_argument(
            "--any-criteria",
            action="store_true",
            help="Also store ratings, from 1 to 10, for criteria that the guideline does not have.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        path: Path = options["file"]
        if not path.is_file():
            raise CommandError(f"There is no file {path}.")
        try:
            with transaction.atomic():
                project = self._project(options)
                imported = self._import(path, project, options)
                if options["dry_run"]:
                    transaction.set_rollback(True)
        except UnclearColumns as unclear:
            raise CommandError(_asked(path, unclear)) from None
        except BadInput as error:
            named = "" if str(error).startswith(path.name) else f"{path.name}: "
            raise CommandError(f"{named}{error} Nothing was imported.") from None
        if not options["dry_run"]:
            refresh_statistics(imported.written)
        self._report(path, project, imported, options["dry_run"])

    def _import(self, path: Path, project: Project, options: dict[str, Any]) -> ImportResult:
        batch = FileImport.objects.create(
            project=project, name=storable(path.name)[:200], size=path.stat().st_size,
            state=FileImport.State.IMPORTING,
        )  # fmt: skip
        with as_utf8(path, options["encoding"]) as text:
            imported = import_file(
                text,
                file_import=batch.pk,
                project=project,
                format=FORMATS.get(options["format"]),
                mapping=Mapping.parse(options["map"]) if options["map"] else None,
                reviewers=options["reviewers"],
                any_criteria=options["any_criteria"],
            )
        FileImport.objects.filter(pk=batch.pk).update(
            state=FileImport.State.IMPORTED,
            format=imported.format.name,
            report=report(imported),
            finished_at=Now(),
        )
        self.batch = batch.pk
        audit(
            None, "file imported", project, file=storable(path.name), new=dict(imported.written.new)
        )
        return imported

    def _project(self, options: dict[str, Any]) -> Project:
        slug = options["project"]
        if project := Project.objects.filter(slug=slug).first():
            return project
        if not options["create_project"]:
            raise CommandError(f"There is no project {slug!r}. Pass --create-project to create it.")
        if slugify(slug) != slug or len(slug) > 60:
            raise CommandError(
                f"{slug!r} is not a valid slug. Use lower-case letters, digits and hyphens."
            )
        return Project.objects.create(slug=slug, name=slug.replace("-", " ").capitalize())

    def _report(self, path: Path, project: Project, imported: ImportResult, dry_run: bool) -> None:
        written, tally = imported.written, imported.tally

        def say(line: str) -> None:
            self.stdout.write(visible(storable(line)))

        say(f"{path.name}, {imported.format.title}, into {project.slug}")
        say("In the file: " + _listed(tally.read))
        say(f"{'':12}{'in the file':>12}{'known':>10}{'new':>10}")
        for name in TABLES:
            say(
                f"{name:12}{written.read[name]:>12}{written.known(name):>10}{written.new[name]:>10}"
            )
        for name, column in tally.columns.columns.items():
            empty = f", {column.empty} empty" if column.empty else ""
            say(f"Column {name}: {column.meaning} ({column.filled}{empty}; {column.example!r})")
        if written.held:
            say(f"Held: {written.held} new tasks, until a lead has checked their findings")
        for title, counts in (("Left out", tally.left_out), ("Changed", tally.changed)):
            for reason, count in sorted(counts.items()):
                if count:
                    say(f"{title}: {count} {reason}")
        if dry_run:
            self.stdout.write(self.style.WARNING("Dry run: nothing was saved."))
        else:
            say(f"Import {self.batch}. To undo it: manage.py undo_import {self.batch}")


def _asked(path: Path, unclear: UnclearColumns) -> str:
    """Return the questions about unclear columns, and the meanings recognised so far."""
    proposal = unclear.proposal
    questions = "\n".join(f"- {text}" for text in proposal.questions.values())
    recognised = " ".join(
        f"{meaning}={name}"
        for meaning, names in proposal.mapping.columns.items()
        for name in names
        if meaning not in ("metadata", "unused")
    )
    return (
        f"{path.name}: the meaning of some columns is unclear. Nothing was imported.\n{questions}\n"
        f"Pass --map MEANING=COLUMN. Recognised so far: {recognised or 'nothing'}."
    )


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "nothing"
