from typing import Any

from django.core.management import CommandParser

from finetune.management.models_named import model_named
from reward.management.run_command import RunCommand


class Command(RunCommand):
    kind = "push"
    description = """Put an adapter or a merged model into a repository of a hub.

  manage.py push_model 7 lamp-shop/lamps-dpo
  manage.py push_model 7 lamp-shop/lamps-dpo@v2 --set license=apache-2.0 --set private=false

HF_TOKEN must be set where the run is executed, with write access. HF_ENDPOINT names another hub. A new
repository is private. The model card has the origin of the training data, the evaluations and the
certificate of the promotion, which is also pushed."""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("model", type=int, help="number of the model to push")
        parser.add_argument("repo", metavar="REPO", help="OWNER/NAME or OWNER/NAME@BRANCH")
        parser.add_argument(
            "--base",
            default="",
            metavar="NAME",
            help="the hub name of the base, if the base is a folder of this installation",
        )
        super().add_arguments(parser)

    def inputs(self, options: dict[str, Any]) -> dict[str, Any]:
        model = model_named(options["model"])
        return {"project": model.project_id, "model": model.pk, "base": options["base"]}

    def config(self, options: dict[str, Any]) -> dict[str, Any]:
        return {**super().config(options), "repo": options["repo"]}
