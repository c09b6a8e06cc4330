"""The base of commands that list models and change their state."""

import json
from argparse import RawDescriptionHelpFormatter
from typing import Any

from django.core.management import BaseCommand, CommandError, CommandParser

from labeling.management.lookups import project_named
from reward.promotion import CannotMove, Promotable, move


class ModelCommand(BaseCommand):
    """A command for a kind of model. Subclasses set `help`, `model` and `columns`."""

    model: Any
    columns: tuple[str, ...]

    def create_parser(self, *args: Any, **kwargs: Any) -> CommandParser:
        return super().create_parser(*args, formatter_class=RawDescriptionHelpFormatter, **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        self.verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
        listing = self.verbs.add_parser("list", help="all models")
        listing.add_argument("--project", metavar="SLUG")
        listing.add_argument("--json", action="store_true", help="one JSON object per line")
        for name, help in (
            ("promote", "make it the default of its project"),
            ("archive", "remove it from the choices"),
            ("restore", "make it a candidate again"),
        ):
            verb = self.verbs.add_parser(name, help=help)
            verb.add_argument("model", type=int, metavar="NUMBER")
            self.add_dry_run(verb)
        self.verbs.choices["promote"].add_argument(
            "--reason",
            default="",
            metavar="TEXT",
            help="promote a model with doubts anyway; the audit trail records the reason",
        )

    def add_dry_run(self, verb: CommandParser) -> None:
        verb.add_argument("--dry-run", action="store_true", help="check without changing anything")

    def handle(self, *, verb: str, **options: Any) -> None:
        try:
            getattr(self, verb)({**options, "verb": verb})
        except CannotMove as error:
            raise CommandError(str(error)) from None

    def list(self, options: dict[str, Any]) -> None:
        models = self.model.objects.select_related("project").order_by("project", "id")
        if options["project"]:
            models = models.filter(project=project_named(options["project"]))
        for model in models:
            row = {"model": model.pk, "name": model.name, "project": model.project.slug}
            row |= {name: getattr(model, name) for name in self.columns}
            text = json.dumps(row) if options["json"] else "  ".join(map(str, row.values())).strip()
            self.stdout.write(text)

    def promote(self, options: dict[str, Any]) -> None:
        model = self.named(options["model"])
        if options["dry_run"]:
            self.stdout.write(" ".join(model.all_doubts()) or f"{model} can be promoted.")
        else:
            self._move(model, options)

    def archive(self, options: dict[str, Any]) -> None:
        self._move_or_show(options)

    def restore(self, options: dict[str, Any]) -> None:
        self._move_or_show(options)

    def _move_or_show(self, options: dict[str, Any]) -> None:
        model = self.named(options["model"])
        if options["dry_run"]:
            self.stdout.write(f"{model} is {model.state}.")
        else:
            self._move(model, options)

    def _move(self, model: Promotable, options: dict[str, Any]) -> None:
        reason = options.get("reason", "")
        self.stdout.write(move(model, options["verb"], by=None, reason=reason))

    def named(self, number: int) -> Any:
        """Return the model with this number.

        Raises CommandError if there is none. Its text lists the existing models.
        """
        return model_named(self.model, number)


def model_named(model: Any, number: int) -> Any:
    row = model.objects.select_related("project").filter(pk=number).first()
    if row:
        return row
    rows = ", ".join(f"{m.pk} ({m})" for m in model.objects.order_by("id")[:20]) or "none"
    raise CommandError(f"There is no {model._meta.verbose_name} {number}. Existing models: {rows}.")
