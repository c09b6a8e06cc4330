from typing import Any

from django.core.management import CommandParser

from finetune.command_lines import DEFAULT_PAIRS
from finetune.management.models_named import model_named
from reward.management.run_command import RunCommand


class Command(RunCommand):
    kind = "measure_judge"
    description = """Measure how often an LLM judge agrees with the reviewers.

  manage.py measure_judge 7
  manage.py measure_judge 7 --limit 50

The model, on an endpoint, judges pairs of responses in both orders. The reference is the decisions
of leads and, if there are too few, the majority of rankings."""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("model", type=int, help="number of the model on an endpoint")
        parser.add_argument(
            "--limit",
            type=int,
            default=DEFAULT_PAIRS,
            help="maximum number of pairs (default %(default)s)",
        )
        super().add_arguments(parser)

    def inputs(self, options: dict[str, Any]) -> dict[str, Any]:
        model = model_named(options["model"])
        return {"project": model.project_id, "model": model.pk, "limit": options["limit"]}
