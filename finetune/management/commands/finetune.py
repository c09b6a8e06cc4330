from typing import Any

from django.core.management import CommandError, CommandParser

from finetune.management.models_named import model_named
from finetune.models import Model
from finetune.registry import bases_of
from reward.management.run_command import RunCommand, add_snapshot_arguments, snapshot_named


class Command(RunCommand):
    kind = "dpo"
    description = """Fine-tune a LoRA adapter on a snapshot by DPO.

  manage.py finetune --project lamps
  manage.py finetune --snapshot 3 --model 1 --set beta=0.2 --set epochs=2 --no-wait"""

    def add_arguments(self, parser: CommandParser) -> None:
        add_snapshot_arguments(parser)
        parser.add_argument(
            "--model", type=int, metavar="NUMBER",
            help="the base model; default: the only one in the project",
        )  # fmt: skip
        super().add_arguments(parser)

    def inputs(self, options: dict[str, Any]) -> dict[str, Any]:
        snapshot = snapshot_named(options)
        number = options["model"]
        model = only_base(snapshot.project) if number is None else model_named(number)
        return {"project": snapshot.project_id, "snapshot": snapshot.pk, "model": model.pk}


def only_base(project: Any) -> Model:
    """Return the project's only base; merged models count only if there is no other."""
    bases = list(bases_of(project)[:2])
    if bases and (len(bases) == 1 or bases[1].is_merged > bases[0].is_merged):
        return bases[0]
    problem = "several bases" if bases else "no base"
    raise CommandError(f"{project} has {problem}; choose a model with --model NUMBER.")
