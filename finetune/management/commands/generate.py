from typing import Any

from django.core.management import CommandError, CommandParser

from finetune.engines.generation import ALL, NEW
from finetune.management.models_named import model_named
from finetune.models import Model
from finetune.registry import default_model
from labeling.management.lookups import project_named
from labeling.models import Project
from reward.management.run_command import RunCommand


class Command(RunCommand):
    kind = "generate"
    description = """Sample responses to a project's prompts and queue them for review.

  manage.py generate lamps
  manage.py generate lamps --model 4 --prompts all --set samples_per_prompt=6

Identical responses to a prompt count as one; a prompt with fewer than two different ones gets no
task."""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("project", metavar="PROJECT", help="the project's slug")
        parser.add_argument(
            "--model", type=int, metavar="NUMBER",
            help="the model; default: the promoted one, or the first base",
        )  # fmt: skip
        parser.add_argument(
            "--prompts", choices=[NEW, ALL], default=NEW,
            help="new: prompts without a task (default); all: every prompt",
        )  # fmt: skip
        parser.add_argument("--limit", type=int, help="maximum number of prompts")
        parser.add_argument(
            "--no-tasks", action="store_true", help="store the responses without queueing tasks"
        )
        parser.add_argument("--rankings-wanted", type=int, choices=range(1, 10), metavar="1..9")
        super().add_arguments(parser)

    def inputs(self, options: dict[str, Any]) -> dict[str, Any]:
        project = project_named(options["project"])
        model = self.chosen_model(project, options["model"])
        return {
            "project": project.pk,
            "model": model.pk,
            "prompts": options["prompts"],
            "limit": options["limit"],
            "tasks": not options["no_tasks"],
            "rankings_wanted": options["rankings_wanted"],
        }

    def chosen_model(self, project: Project, number: int | None) -> Model:
        """Return the model with this number, or the default one. Raises CommandError."""
        model = default_model(project) if number is None else model_named(number)
        if model is None:
            raise CommandError(f"{project} has no model. Add one: manage.py models add")
        return model
