from pathlib import Path
from typing import Any

from django.core.management import BaseCommand, CommandParser

from reward.management.recipe_process import reward_model_numbered, run_module

DTYPES = ("float32", "bfloat16", "float16")


class Command(BaseCommand):
    help = (
        "Merge a reward model into a plain folder, an AutoModelForSequenceClassification with one label "
        "that any tool can load. Several heads become their mean. Nothing is written unless the merged "
        "model gives the same scores as adapter and base."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("model", type=int, help="the number of the reward model")
        parser.add_argument("out", type=Path, help="the folder to create")
        parser.add_argument(
            "--dtype", choices=DTYPES, default="float32", help="precision of the saved weights"
        )
        parser.add_argument("--dry-run", action="store_true", help="print what would be merged")

    def handle(self, **options: Any) -> None:
        model, out = reward_model_numbered(options["model"]), options["out"].absolute()
        if options["dry_run"]:
            return self.stdout.write(f"{model}: {model.folder} and {model.base} into {out}.")
        run_module("merge", str(model.folder_to_load()), str(out), "--dtype", options["dtype"])
        return self.stdout.write(f"{model} is merged into {out}.")
