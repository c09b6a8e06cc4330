import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any

from django.core.management import CommandError, CommandParser

from finetune.management.models_named import model_named
from finetune.methods.method import all_methods, method_named
from finetune.models import Model
from finetune.registry import bases_of
from reward.management.commands.score_responses import model_for
from reward.management.run_command import RunCommand, add_snapshot_arguments, snapshot_named


class Command(RunCommand):
    kind = "dpo"
    description = """Fine-tune a LoRA adapter on a snapshot.

  manage.py finetune --project lamps
  manage.py finetune --snapshot 3 --model 1 --set beta=0.2 --set epochs=2 --no-wait
  manage.py finetune --method dpo --help"""

    def create_parser(self, *args: Any, **kwargs: Any) -> CommandParser:
        self.kind = method_in(sys.argv) or self.kind  # the help lists the settings of the method
        return super().create_parser(*args, **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        add_snapshot_arguments(parser)
        parser.add_argument(
            "--method", choices=[method.name for method in all_methods()], default="dpo",
            help="how to learn from the rankings; default: dpo",
        )  # fmt: skip
        parser.add_argument(
            "--model", type=int, metavar="NUMBER",
            help="the base model, or the adapter to continue from; default: the only base of the "
            "project",
        )  # fmt: skip
        parser.add_argument(
            "--reward-model", type=int, metavar="NUMBER",
            help="the reward model that scores samples, for methods that need one; default: the "
            "project's promoted one, or its newest",
        )  # fmt: skip
        super().add_arguments(parser)

    def handle(self, **options: Any) -> None:
        self.kind = options["method"]
        super().handle(**options)

    def inputs(self, options: dict[str, Any]) -> dict[str, Any]:
        snapshot = snapshot_named(options)
        number = options["model"]
        model = only_base(snapshot.project) if number is None else model_named(number)
        inputs = {"project": snapshot.project_id, "snapshot": snapshot.pk, "model": model.pk}
        number = options["reward_model"]
        if method_named(self.kind).reward_model:
            return {**inputs, "reward_model": number or model_for(snapshot.project.slug).pk}
        if number is not None:
            raise CommandError(f"The method {self.kind} uses no reward model. Leave it out.")
        return inputs


def method_in(arguments: Sequence[str]) -> str | None:
    """Return the method that is named on the command line, or None if it is not a known one."""
    parser = ArgumentParser(add_help=False)
    parser.add_argument("--method")
    name = parser.parse_known_args(list(arguments))[0].method
    return name if name in {method.name for method in all_methods()} else None


def only_base(project: Any) -> Model:
    """Return the only base of the project. Merged models count only if there is no other base."""
    bases = list(bases_of(project)[:2])
    if bases and (len(bases) == 1 or bases[1].is_merged > bases[0].is_merged):
        return bases[0]
    problem = "several bases" if bases else "no base"
    raise CommandError(f"{project} has {problem}; choose a model with --model NUMBER.")
