from pathlib import Path
from typing import Any

from django.core.management import BaseCommand, CommandParser

from reward.management.recipe_process import reward_model_numbered, run_module

DTYPES = ("float32", "bfloat16", "float16")


class Command(BaseCommand):
    help = (
        "Merge a reward model into one plain folder, an AutoModelForSequenceClassification with one "
        "label that any tool loads. Several heads become their mean. Nothing is written unless "
        "adapter and merged model give the same scores."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("model", type=int, help="the number of the reward model")
        parser.add_argument("out", type=Path, help="the folder to make")
        parser.add_argument("--dtype", choices=DTYPES, default="float32", help="how to save it")
        parser.add_argument("--dry-run", action="store_true", help="say what would be merged")

    def handle(self, **options: Any) -> None:
        found, out = reward_model_numbered(options["model"]), options["out"].absolute()
        if options["dry_run"]:
            return self.stdout.write(f"{found}: {found.folder} and {found.base} into {out}.")
        run_module("merge", str(found.folder_to_load()), str(out), "--dtype", options["dtype"])
        return self.stdout.write(f"{found} is merged into {out}.")
