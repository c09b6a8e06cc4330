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
"""Format names of earlier versions, which mean K-wise rows in this type of file."""


class Command(BaseCommand):
    help = (
        "Write preference data to a file for other tools: a snapshot, or the current rankings of a "
        "project. Formats: "
        + "; ".join(f"{name}: {text}" for name, text in FORMATS.items())
        + "; parquet and jsonl: kwise in this type of file. The file's ending selects JSON lines or "
        "Parquet. The card NAME.about.md next to it counts everything left out. An interrupted export "
        "resumes when it is started again. The last line printed is one JSON object with the counts. "
        "Status: 0 done, 1 nothing was written."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        add_snapshot_arguments(parser)
        parser.add_argument("file", type=Path, help="the file to write, which must not exist")
        parser.add_argument("--format", choices=[*FORMATS, *OLD_NAMES], help="default: kwise")
        parser.add_argument(
            "--ties",
            choices=TIES,
            default="half",
            help="in pairs and unpaired. "
            + "; ".join(f"{name}: {text}" for name, text in TIES.items()),
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
            help="in pairs: the maximum number of training pairs per prompt, the clearest first; 0 for all. "
            "With the defaults, the pairs of the test split are those that fine-tuning runs report on",
        )
        parser.add_argument(
            "--keep-identical",
            action="store_true",
            help="in pairs: keep pairs of two responses with the same text",
        )
        parser.add_argument("--split", choices=SPLITS, help="only this split")
        parser.add_argument(
            "--reviewers",
            choices=["pseudonyms", "names"],
            default="pseudonyms",
            help="how full records name the reviewers; all other formats have pseudonyms",
        )
        parser.add_argument("--force", action="store_true", help="replace the file if it exists")
        parser.add_argument(
            "--restart",
            action="store_true",
            help="start again instead of resuming an interrupted export",
        )
        parser.add_argument("--dry-run", action="store_true", help="Count without writing.")

    def handle(self, *, file: Path, **options: Any) -> None:
        export, file = self.export(options), with_ending(file, options["format"])
        if file.exists() and not options["force"] and not options["dry_run"]:
            raise CommandError(f"{file} exists already. Name another file, or add --force.")
        if not options["dry_run"] and not file.absolute().parent.is_dir():
            raise CommandError(f"There is no folder {file.absolute().parent}.")
        summary: dict[str, Any] = {"file": str(file), "format": options["format"] or export.form}
        try:
            if options["dry_run"]:
                counts = export.count()
            else:
                counts = export.write(file, restart=options["restart"], resumed=self.resumed)
                audit(None, "data exported", export.project, file=file.name, format=export.form)
                summary["about"] = str(path_of(file))
        except (ExportError, PreferenceError, OSError) as error:
            raise CommandError(str(error)) from None
        self.stdout.write(json.dumps({**summary, "ties": export.pairs.ties, **counts}))

    def resumed(self, counts: dict[str, int]) -> None:
        self.stdout.write(f"Resuming an interrupted export after {counts['rows']} rows.")

    def export(self, options: dict[str, Any]) -> Export:
        form = options["format"] or "kwise"
        form = "kwise" if form in OLD_NAMES else form
        if form == "full" and (options["snapshot"] is not None or options["split"]):
            raise CommandError("Full records hold a whole project: use --project and no --split.")
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
    """Return the options of pairs. Raises CommandError if a number is out of range."""
    if not 0 <= options["min_margin"] <= 1 or options["max_pairs"] < 0:
        raise CommandError("--min-margin takes a number from 0 to 1, --max-pairs 0 or more.")
    return PairOptions(
        ties=options["ties"],
        keep_identical=options["keep_identical"],
        min_margin=options["min_margin"],
        max_per_prompt=options["max_pairs"] or None,
    )


def with_ending(file: Path, form: str | None) -> Path:
    """Return the file. Raises CommandError if its name has the wrong ending."""
    if file.suffix in SUFFIXES and OLD_NAMES.get(form or "", file.suffix) == file.suffix:
        return file
    if form in OLD_NAMES:
        raise CommandError(f"{file.name} must end in {OLD_NAMES[form]} to be --format {form}.")
    raise CommandError(
        f"{file.name} has an unknown ending. End its name in {' or '.join(SUFFIXES)}, and choose its "
        f"content with --format: {', '.join(FORMATS)}."
    )
