from typing import Any

from django.core.management import CommandParser

from finetune.management.models_named import model_named
from reward.management.run_command import RunCommand


class Command(RunCommand):
    kind = "merge"
    description = """Add an adapter to the weights of its base model, as a new model.

  manage.py merge 7
  manage.py merge 7 --set output_dtype=bfloat16

The new model can be fine-tuned again, and its files load without PEFT. It keeps the adapter's
lineage, so evaluations leave out the prompts that the adapter was trained on. It is created only if
a new process that loads it predicts what base and adapter predict."""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("model", type=int, help="number of the adapter to merge")
        super().add_arguments(parser)

    def inputs(self, options: dict[str, Any]) -> dict[str, Any]:
        model = model_named(options["model"])
        return {"project": model.project_id, "model": model.pk}
