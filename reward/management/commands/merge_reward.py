import subprocess
import sys
from typing import Any

from django.conf import settings
from django.core.management import BaseCommand, CommandError, CommandParser

from reward.models import RewardModel

DTYPES = ("float32", "bfloat16", "float16")


class Command(BaseCommand):
    help = (
        "Merge a reward model into one plain folder, an AutoModelForSequenceClassification with one "
        "label that any tool loads. Several heads become their mean. Nothing is written unless "
        "adapter and merged model give the same scores."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("model", type=int, help="the number of the reward model")
        parser.add_argument("out", help="the folder to make")
        parser.add_argument("--dtype", choices=DTYPES, default="float32", help="how to save it")
        parser.add_argument("--dry-run", action="store_true", help="say what would be merged")

    def handle(self, **options: Any) -> None:
        found = RewardModel.objects.filter(pk=options["model"]).first()
        if found is None:
            raise CommandError(f"There is no reward model {options['model']}.")
        if options["dry_run"]:
            return self.stdout.write(
                f"{found}: {found.path} and {found.base} into {options['out']}."
            )
        command = [sys.executable, "-m", "reward.training.merge", found.path, options["out"]]
        ended = subprocess.run(  # torch stays out of this process
            [*command, "--dtype", options["dtype"]],
            cwd=settings.BASE_DIR,
            capture_output=True,
            text=True,
        )
        if ended.returncode:
            raise CommandError((ended.stderr.strip() or "The merge failed.").splitlines()[-1])
        return self.stdout.write(f"{found} is merged into {options['out']}.")
