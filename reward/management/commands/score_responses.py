from typing import Any

from django.core.management import CommandError, CommandParser

from labeling.management.lookups import project_named
from reward.management.run_command import RunCommand
from reward.models import RewardModel


class Command(RunCommand):
    kind = "score"
    description = """Score all responses of a project with its reward model, except those already scored.

  manage.py score_responses --project lamps
  manage.py score_responses --model 3 --order --foreground"""

    def add_arguments(self, parser: CommandParser) -> None:
        which = parser.add_mutually_exclusive_group(required=True)
        which.add_argument("--model", type=int, metavar="NUMBER", help="the reward model")
        which.add_argument(
            "--project",
            metavar="SLUG",
            help="use the promoted reward model of this project or, without one, the newest",
        )
        parser.add_argument(
            "--order", action="store_true",
            help="after the scoring, order the waiting tasks by expected information",
        )  # fmt: skip
        parser.add_argument(
            "--random-share", type=float, metavar="SHARE",
            help="share of prompts in the random stream, whose tasks are never ordered; it cannot be changed "
            "later (default: 0.2)",
        )  # fmt: skip
        super().add_arguments(parser)

    def inputs(self, options: dict[str, Any]) -> dict[str, Any]:
        number = options["model"]
        if number is None:
            number = model_for(options["project"]).pk
        return {
            "reward_model": number,
            "order": options["order"],
            "random_share": options["random_share"],
        }


def model_for(slug: str) -> RewardModel:
    """Return the promoted model of a project or, without one, the newest that is not archived.

    Raises CommandError if the project has no reward model.
    """
    project = project_named(slug)
    models = RewardModel.objects.filter(project=project).exclude(state="archived")
    model = models.order_by("-state", "-id").first()
    if model is None:
        raise CommandError(f"{project} has no reward model. Train one: manage.py train_reward")
    return model
