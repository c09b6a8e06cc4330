import json
from pathlib import Path
from typing import Any

from django.core.management import BaseCommand, CommandError, CommandParser

from accounts.models import audit
from labeling.management.lookups import project_named
from recipes.preferences.pairs import PairOptions
from reward.management.run_command import add_snapshot_arguments, snapshot_named
from reward.preferences.exports import (
    FORMATS,
    SPLITS,
    SUFFIXES,
    TIES,
    Export,
    ExportError,
    PreferenceError,
)
from reward.preferences.exports.card import path_of

OLD_NAMES = {"parquet": ".parquet", "jsonl": ".jsonl"}
"""Formats that name a kind of file: K-wise rows in it."""


class Command(BaseCommand):
    help = (
        "Write preference data to a file for other tools: a snapshot, or a project's rankings as "
        "they are now. Formats: "
        + "; ".join(f"{name}: {what}" for name, what in FORMATS.items())
        + "; parquet and jsonl: kwise in such a file. The file's ending says whether it is JSON "
        "lines or Parquet; next to it, NAME.about.md says what it is and what was left out. An export "
        "that was cut off goes on where it was when it is started again. The last line printed is "
        "one JSON object with the counts. Status: 0 done, 1 nothing was written."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        add_snapshot_arguments(parser)
        parser.add_argument("file", type=Path, help="where to write; must not exist")
        parser.add_argument("--format", choices=[*FORMATS, *OLD_NAMES], help="by default kwise")
        parser.add_argument(
            "--ties",
            choices=TIES,
            default="half",
            help="in pairs and unpaired. "
            + "; ".join(f"{name}: {what}" for name, what in TIES.items()),
        )
        defaults = PairOptions()
        parser.add_argument(
            "--min-margin",
            type=float,
            default=defaults.min_margin,
            metavar="MARGIN",
            help="in pairs: leave out training pairs with a smaller margin, from 0 to 1",
        )
        parser.add_argument(
            "--max-pairs",
            type=int,
            default=defaults.max_per_prompt,
            metavar="N",
            help="in pairs: the most training pairs of one prompt, the clearest first; 0 for all. "
            "The defaults give the pairs that a DPO run trains on with its default settings",
        )
        parser.add_argument(
            "--keep-identical",
            action="store_true",
            help="in pairs: keep pairs of two responses with the same text",
        )
        parser.add_argument("--split", choices=SPLITS, help="only this side of the split")
        parser.add_argument(
            "--reviewers",
            choices=["pseudonyms", "names"],
            default="pseudonyms",
            help="what full records call them; every other format has pseudonyms",
        )
        parser.add_argument("--force", action="store_true", help="replace the file if it exists")
        parser.add_argument(
            "--restart", action="store_true", help="do not go on with an export that was cut off"
        )
        parser.add_argument("--dry-run", action="store_true", help="count, and write nothing")

    def handle(self, *, file: Path, **options: Any) -> None:
        export, file = self.export(options), with_ending(file, options["format"])
        if file.exists() and not options["force"] and not options["dry_run"]:
            raise CommandError(f"{file} exists already. Name another file, or add --force.")
        if not options["dry_run"] and not file.absolute().parent.is_dir():
            raise CommandError(f"There is no folder {file.absolute().parent}.")
        said: dict[str, Any] = {"file": str(file), "format": options["format"] or export.form}
        try:
            if options["dry_run"]:
                counts = export.count()
            else:
                counts = export.write(file, restart=options["restart"], resumed=self.resumed)
                audit(None, "data exported", export.project, file=file.name, format=export.form)
                said["about"] = str(path_of(file))
        except (ExportError, PreferenceError, OSError) as error:
            raise CommandError(str(error)) from None
        self.stdout.write(json.dumps({**said, "ties": export.pairs.ties, **counts}))

    def resumed(self, counts: dict[str, int]) -> None:
        self.stdout.write(f"Going on with an export that was cut off, after {counts['rows']} rows.")

    def export(self, options: dict[str, Any]) -> Export:
        form = options["format"] or "kwise"
        form = "kwise" if form in OLD_NAMES else form
        if form == "full" and (options["snapshot"] is not None or options["split"]):
            raise CommandError("Full records are of a whole project: name --project and no split.")
        names = options["reviewers"] == "names"
        if names and form != "full":
            raise CommandError("Only full records can name reviewers: add --format full.")
        snapshot = snapshot_named(options) if options["snapshot"] is not None else None
        project = snapshot.project if snapshot else project_named(options["project"])
        return Export(
            project=project, snapshot=snapshot, form=form, pairs=pair_options(options),
            split=options["split"], names=names,
        )  # fmt: skip


def pair_options(options: dict[str, Any]) -> PairOptions:
    """Return the options of pairs. Raises CommandError for a number out of range."""
    if not 0 <= options["min_margin"] <= 1 or options["max_pairs"] < 0:
        raise CommandError("--min-margin takes a number from 0 to 1, --max-pairs 0 or more.")
    return PairOptions(
        ties=options["ties"],
        keep_identical=options["keep_identical"],
        min_margin=options["min_margin"],
        max_per_prompt=options["max_pairs"] or None,
    )


def with_ending(file: Path, form: str | None) -> Path:
    """The file, whose name must end in what it is to be. Raises CommandError."""
    if file.suffix in SUFFIXES and OLD_NAMES.get(form or "", file.suffix) == file.suffix:
        return file
    if form in OLD_NAMES:
        raise CommandError(f"{file.name} must end in {OLD_NAMES[form]} to be --format {form}.")
    raise CommandError(
        f"What should {file.name} be? End its name in {' or '.join(SUFFIXES)}; "
        f"what is in it says --format: {', '.join(FORMATS)}. Add --format to choose."
    )
