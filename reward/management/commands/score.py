from pathlib import Path
from typing import Any

from django.core.management import BaseCommand, CommandError, CommandParser

from labeling.importing.files.encodings import ENCODINGS, UTF8
from reward.management.recipe_process import stream_module
from reward.models import RewardModel
from reward.scoring.columns import columns_of
from reward.scoring.input_files import readable
from reward.scoring.promoted import NoModel, scoring_model
from reward.scoring.rows import RowsError, is_parquet, parse_file_row, survey


class Command(BaseCommand):
    help = (
        "Score the rows of a file with a reward model: JSON, CSV, Excel or Parquet of {messages}, {prompt, "
        "response} or {prompt, responses}. Each row gets score and uncertainty, or scores and "
        "uncertainties. All rows are checked first. A file appears only when it is complete."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path, help="a file in any format that import_data reads")
        parser.add_argument(
            "--encoding", choices=ENCODINGS, default=UTF8, help="encoding of a text file"
        )
        parser.add_argument(
            "--out", type=Path, metavar="FILE",
            help="the file to write: Parquet if its name ends in .parquet, otherwise JSON lines; default: "
            "JSON lines on stdout",
        )  # fmt: skip
        parser.add_argument(
            "--model", metavar="MODEL",
            help="the number of a reward model, or the folder of a run or of its output; default: the "
            "promoted reward model",
        )  # fmt: skip
        parser.add_argument(
            "--project", default="", metavar="SLUG", help="use this project's promoted model"
        )
        parser.add_argument("--force", action="store_true", help="replace the file if it exists")
        parser.add_argument(
            "--dry-run", action="store_true", help="check all rows without scoring them"
        )

    def handle(self, **options: Any) -> None:
        source, out = options["file"].absolute(), options["out"]
        name, folder = model_named(options["model"], options["project"])
        if out and out.exists() and not options["force"]:
            raise CommandError(f"{out} exists. Choose another file, or replace it with --force.")
        if out and not out.absolute().parent.is_dir():
            raise CommandError(f"There is no folder {out.absolute().parent}.")
        try:
            with readable(source, options["encoding"], parse_file_row) as path:
                counts = survey(path)
                if out and is_parquet(out):
                    columns_of(path)
                if options["dry_run"]:
                    return self.stdout.write(
                        f"{name} would score {counts['responses']} responses of "
                        f"{counts['rows']} rows."
                    )
                target = str(out.absolute()) if out else "-"
                counts = stream_module("score_rows", folder, str(path), target, out=self.stdout)
        except RowsError as error:
            raise CommandError(str(error)) from None
        return self.report(name, counts, out)

    def report(self, name: str, counts: dict[str, int], out: Path | None) -> None:
        unread = counts["responses"] - counts["scored"]
        text = f"{name} scored {counts['scored']} responses of {counts['rows']} rows"
        text += f" into {out}." if out else "."
        if unread:
            text += f" {unread} are too long for the model or incomplete, and have no score."
        (self.stdout if out else self.stderr).write(text)


def model_named(reference: str | None, project: str) -> tuple[str, str]:
    """Return the name and the folder of the model. Raises CommandError if there is none."""
    if reference and project:
        raise CommandError("Name a model or a project, not both.")
    if reference and not reference.isdigit():
        folder = Path(reference).absolute()
        if not folder.is_dir():
            raise CommandError(f"{reference} is neither the number of a reward model nor a folder.")
        return folder.name, str(folder)
    try:
        model = scoring_model(
            RewardModel.objects.all(),
            number=int(reference) if reference else None,
            project=project,
        )
    except NoModel as error:
        raise CommandError(f"{error} Use --model or --project.") from None
    return model.name, str(model.folder_to_load())
