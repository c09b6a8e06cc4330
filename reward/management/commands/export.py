import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.core.management import BaseCommand, CommandError, CommandParser

from reward.exports import FORMATS, export
from reward.filters import SnapshotFilter
from reward.management.run_command import add_snapshot_arguments, project_named, snapshot_named
from reward.preference import SPLITS, Group, PreferenceError, read_groups
from reward.snapshots import Account, groups_of


class Command(BaseCommand):
    help = (
        "Write preference data to a file for other tools: a snapshot, or a project's rankings as "
        "they are now. Formats: "
        + "; ".join(f"{name} ({what})" for name, what in FORMATS.items())
        + ". In pairs, all rankings of a prompt decide together, a tie counting half each way; two "
        "responses of which neither has won more give no line. Reviewers are pseudonyms. The last "
        "line printed is one JSON object with the counts. Status: 0 done, 1 nothing was written."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        add_snapshot_arguments(parser)
        parser.add_argument("file", type=Path, help="where to write; must not exist")
        parser.add_argument(
            "--format", choices=FORMATS, help="by default what the file's ending says"
        )
        parser.add_argument("--split", choices=SPLITS, help="only this side of the split")
        parser.add_argument("--force", action="store_true", help="replace the file if it exists")
        parser.add_argument("--dry-run", action="store_true", help="count, and write nothing")

    def handle(self, *, file: Path, **options: Any) -> None:
        form = options["format"] or form_of(file)
        if file.exists() and not options["force"] and not options["dry_run"]:
            raise CommandError(f"{file} exists already. Name another file, or add --force.")
        if not options["dry_run"] and not file.absolute().parent.is_dir():
            raise CommandError(f"There is no folder {file.absolute().parent}.")
        groups = (g for g in self.groups(options) if options["split"] in (None, g.split))
        target = None if options["dry_run"] else file
        try:
            counts = export(groups, path=target, form=form)
        except (PreferenceError, OSError) as error:
            raise CommandError(str(error)) from None
        self.stdout.write(json.dumps({"file": str(file), "format": form, **counts}))

    def groups(self, options: dict[str, Any]) -> Iterator[Group]:
        if options["snapshot"] is not None:
            return read_groups(snapshot_named(options).file)
        project = project_named(options["project"])
        return groups_of(project, SnapshotFilter(), Account())


def form_of(file: Path) -> str:
    if file.suffix in {".parquet", ".jsonl"}:
        return file.suffix[1:]
    raise CommandError(f"What should {file.name} be? Add --format: {', '.join(FORMATS)}.")
