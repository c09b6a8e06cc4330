from typing import Any

from django.core.management import CommandParser

from reward.management.run_command import RunCommand, add_snapshot_arguments, snapshot_named


class Command(RunCommand):
    kind = "reward"
    description = """Train a reward model from a snapshot.

  manage.py train_reward --project lamps --base Qwen/Qwen3-0.6B
  manage.py train_reward --snapshot 3 --base /models/tiny --set epochs=3 --foreground"""

    def add_arguments(self, parser: CommandParser) -> None:
        add_snapshot_arguments(parser)
        parser.add_argument(
            "--base", required=True, metavar="MODEL", help="a folder, a hub name, or name@revision"
        )
        super().add_arguments(parser)

    def inputs(self, options: dict[str, Any]) -> dict[str, Any]:
        return {"snapshot": snapshot_named(options).pk}

    def config(self, options: dict[str, Any]) -> dict[str, Any]:
        return {**super().config(options), "base_model": options["base"]}
