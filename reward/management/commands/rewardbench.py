import json
from pathlib import Path
from typing import Any

from django.core.management import BaseCommand, CommandError, CommandParser

from formatting.numbers import percent
from labeling.importing.files.encodings import ENCODINGS, UTF8
from reward.management.recipe_process import reward_model_numbered, run_module
from reward.scoring.input_files import readable
from reward.scoring.rewardbench_rows import read_row
from reward.scoring.rows import RowsError


class Command(BaseCommand):
    help = (
        "Evaluate a reward model on a file in RewardBench's format: JSON, CSV, Excel or Parquet with prompt, "
        "chosen and rejected, as pairs or best-of-N."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("model", type=int, help="the number of the reward model")
        parser.add_argument("file", type=Path, help="a file in any format that import_data reads")
        parser.add_argument(
            "--encoding", choices=ENCODINGS, default=UTF8, help="encoding of a text file"
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, **options: Any) -> None:
        model = reward_model_numbered(options["model"])
        try:
            with readable(options["file"].absolute(), options["encoding"], read_row) as path:
                output = run_module("rewardbench", str(model.folder_to_load()), str(path))
        except RowsError as error:
            raise CommandError(str(error)) from None
        figures = {**json.loads(output.splitlines()[-1]), "file": options["file"].name}
        if options["json"]:
            return self.stdout.write(json.dumps(figures))
        for row in [*figures["subsets"], {"subset": "All rows", **figures["accuracy"]}]:
            self.stdout.write(_line(row))
        if figures["left_out"]:
            self.stdout.write(
                f"{figures['left_out']} rows are left out: too long for the model, or not only text."
            )
        return None


def _line(row: dict[str, Any]) -> str:
    if row["value"] is None:
        return f"{row['subset']}: {row['reason']}"
    low, high = map(percent, row["interval"])
    return f"{row['subset']}: {percent(row['value'])} ({low} to {high}) of {row['rows']} rows"
