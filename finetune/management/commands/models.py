import json
from argparse import RawDescriptionHelpFormatter
from typing import Any

from django.core.management import BaseCommand, CommandError, CommandParser

from finetune import promotion, registry
from finetune.management.models_named import model_named
from finetune.models import Model
from reward.management.run_command import project_named
from reward.promotion import CannotMove, archive, restore
from reward.references import ReferenceProblem, checked_reference


class Command(BaseCommand):
    help = """The models of projects: bases that were added and adapters that were made.

  list       All of them, or one project's, as a table or with --json one JSON object a line.
  add        Add a base to a project: a folder, a hub name, or name@revision.
  promote    Let a model answer by default. One that was never evaluated, or not told apart from
             its baseline, is refused unless --despite-doubts.
  archive    Take a model out of the choices.
  restore    Put an archived one back.

Status: 0 done, 1 nothing was changed."""

    def create_parser(self, *args: Any, **kwargs: Any) -> CommandParser:
        return super().create_parser(*args, formatter_class=RawDescriptionHelpFormatter, **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
        listing = verbs.add_parser("list", help="all models")
        listing.add_argument("--project", metavar="SLUG")
        listing.add_argument("--json", action="store_true", help="one JSON object a line")
        add = verbs.add_parser("add", help="add a base")
        add.add_argument("project", metavar="PROJECT", help="the project's slug")
        add.add_argument("base", metavar="MODEL", help="a folder, a hub name, or name@revision")
        add.add_argument("--name", default="", help="by default the last part of MODEL")
        for name, help in (
            ("promote", "answer by default"),
            ("archive", "take out of the choices"),
            ("restore", "put back"),
        ):
            verbs.add_parser(name, help=help).add_argument("model", type=int, metavar="NUMBER")
        verbs.choices["promote"].add_argument("--despite-doubts", action="store_true")
        for name in ("add", "promote", "archive", "restore"):
            verbs.choices[name].add_argument(
                "--dry-run", action="store_true", help="check, and change nothing"
            )

    def handle(self, *, verb: str, **options: Any) -> None:
        try:
            getattr(self, verb)(options)
        except (ReferenceProblem, CannotMove) as error:
            raise CommandError(str(error)) from None

    def list(self, options: dict[str, Any]) -> None:
        models = Model.objects.select_related("project").order_by("project", "id")
        if options["project"]:
            models = models.filter(project=project_named(options["project"]))
        for model in models:
            row = {
                "model": model.pk,
                "name": model.name,
                "project": model.project.slug,
                "state": model.state,
                "base": model.base,
                "adapter": model.adapter,
            }
            text = json.dumps(row) if options["json"] else "  ".join(map(str, row.values())).strip()
            self.stdout.write(text)

    def add(self, options: dict[str, Any]) -> None:
        project, base = project_named(options["project"]), checked_reference(options["base"])
        if options["dry_run"]:
            return self.stdout.write(f"{base} can be added to {project}.")
        model, new = registry.add_base(project=project, base=base, name=options["name"], by=None)
        what = "is added to" if new else "is there already in"
        return self.stdout.write(f"Model {model.pk}, {model}, {what} {project}.")

    def promote(self, options: dict[str, Any]) -> None:
        model, insists = model_named(options["model"]), options["despite_doubts"]
        doubts = promotion.doubts(model)
        if options["dry_run"]:
            return self.stdout.write(" ".join(doubts) or f"Nothing speaks against {model}.")
        promotion.promote(model=model, by=None, despite_doubts=insists)
        return self.stdout.write(f"{model} is promoted.")

    def archive(self, options: dict[str, Any]) -> None:
        self._move(archive, "is archived", options)

    def restore(self, options: dict[str, Any]) -> None:
        self._move(restore, "is a candidate", options)

    def _move(self, verb: Any, done: str, options: dict[str, Any]) -> None:
        model = model_named(options["model"])
        if not options["dry_run"]:
            verb(model, by=None)
        self.stdout.write(f"{model} {'is ' + model.state if options['dry_run'] else done}.")
