from typing import Any

from django.core.management import CommandError, CommandParser

from finetune import registry
from finetune.models import Model
from finetune.registry import checked_base
from labeling.management.lookups import project_named
from reward.management.model_command import ModelCommand
from reward.references import ReferenceProblem


class Command(ModelCommand):
    help = """Manage the models of projects: base models and the adapters trained on them.

  list       All models, or one project's, as a table or with --json as one JSON object per line.
  add        Add a base to a project: a folder, a hub name, or name@revision.
  promote    Make a model the default of its project. A fine-tuned model that is not proven
             better, as the project's policy asks, needs --reason.
  archive    Remove a model from the choices.
  restore    Restore an archived model.

Exit status: 0 done, 1 nothing was changed."""

    model = Model
    columns = ("state", "base", "adapter")

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        add = self.verbs.add_parser("add", help="add a base")
        add.add_argument("project", metavar="PROJECT", help="the project's slug")
        add.add_argument("base", metavar="MODEL", help="a folder, a hub name, or name@revision")
        add.add_argument("--name", default="", help="default: the last part of MODEL")
        self.add_dry_run(add)

    def add(self, options: dict[str, Any]) -> None:
        project = project_named(options["project"])
        try:
            base = checked_base(options["base"])
        except ReferenceProblem as problem:
            raise CommandError(str(problem)) from None
        if options["dry_run"]:
            return self.stdout.write(f"{base} can be added to {project}.")
        model, new = registry.add_base(project=project, base=base, name=options["name"], by=None)
        what = "was added to" if new else "is already in"
        return self.stdout.write(f"Model {model.pk}, {model}, {what} {project}.")
