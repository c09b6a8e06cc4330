from typing import Any

from django.core.management import CommandParser

from reward.management.recipe_process import reward_model_numbered
from reward.management.run_command import RunCommand


class Command(RunCommand):
    kind = "onnx"
    description = """Export a reward model to ONNX, so that onnxruntime can score responses without torch.

  manage.py export_onnx 3
  manage.py export_onnx 3 --foreground

The output has the graph, the tokenizer and a README with code that scores. It is published only if a
new process computes the same scores from these files with onnxruntime."""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("model", type=int, help="number of the reward model")
        super().add_arguments(parser)

    def inputs(self, options: dict[str, Any]) -> dict[str, Any]:
        return {"reward_model": reward_model_numbered(options["model"]).pk}
