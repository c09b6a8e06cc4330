from typing import Any

from django.core.management import CommandParser

from finetune.management.models_named import model_named
from labeling.management.lookups import project_named
from reward.management.run_command import RunCommand


class Command(RunCommand):
    kind = "pull"
    description = """Add a model or an adapter of a hub to a project, with its files.

  manage.py pull_model lamps lamp-shop/lamps-dpo@v2

The revision is a branch, a tag or a commit. The files are compared with the hashes that the hub states.
Pickled weights are refused. HF_TOKEN gives access to gated and private models, and HF_ENDPOINT names
another hub."""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("project", metavar="PROJECT", help="the project's slug")
        parser.add_argument("repo", metavar="REPO", help="OWNER/NAME or OWNER/NAME@REVISION")
        parser.add_argument(
            "--base",
            type=int,
            metavar="NUMBER",
            help="the base of an adapter; default: the one that the adapter names",
        )
        super().add_arguments(parser)

    def inputs(self, options: dict[str, Any]) -> dict[str, Any]:
        base = options["base"]
        return {
            "project": project_named(options["project"]).pk,
            "base": None if base is None else model_named(base).pk,
        }

    def config(self, options: dict[str, Any]) -> dict[str, Any]:
        return {**super().config(options), "repo": options["repo"]}
