from typing import Any

from django.core.management import CommandError, CommandParser

from finetune.management.models_named import model_named
from finetune.models import Model
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
    bases = list(Model.objects.filter(project=project, adapter="").exclude(state="archived")[:2])
    if len(bases) == 1:
        return bases[0]
    problem = "several bases" if bases else "no base"
    raise CommandError(f"{project} has {problem}; choose a model with --model NUMBER.")
