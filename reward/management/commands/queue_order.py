import json
from typing import Any

from django.core.management import BaseCommand, CommandError, CommandParser
from django.db import transaction

from labeling.management.lookups import project_named
from reward.management.recipe_process import reward_model_numbered
from reward.models import QueueOrder
from reward.ordering import queue


class Command(BaseCommand):
    help = (
        "Say in which order a project's waiting tasks come; put them in the order of what ranking "
        "them would teach a reward model that has scored them; or take that back. Priorities stay, "
        "and so do the tasks of the random stream. Status: 0 done, 1 the queue is as it was."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("project", metavar="PROJECT", help="the project's slug")
        what = parser.add_mutually_exclusive_group()
        what.add_argument("--model", type=int, metavar="NUMBER", help="order by this reward model")
        what.add_argument("--put-back", action="store_true", help="take the order in force back")
        parser.add_argument(
            "--random-share", type=float, metavar="SHARE",
            help="with --model: of prompts that are never put in order; fixed the first time "
            "(default: 0.2)",
        )  # fmt: skip
        parser.add_argument("--dry-run", action="store_true", help="do everything, then undo it")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, **options: Any) -> None:
        project = project_named(options["project"])
        try:
            with transaction.atomic():
                order = self._done(project, options)
                transaction.set_rollback(options["dry_run"])
        except queue.CannotOrder as error:
            raise CommandError(str(error)) from None
        if options["json"]:
            return self.stdout.write(json.dumps(told(order)))
        return self.stdout.write(sentence(order))

    def _done(self, project: Any, options: dict[str, Any]) -> QueueOrder | None:
        if options["put_back"]:
            if queue.put_back(project=project, by=None) is None:
                raise queue.CannotOrder(f"No order of {project} is in force.")
            return None
        if options["model"] is None:
            return QueueOrder.objects.filter(project=project, undone_at=None).first()
        model = reward_model_numbered(options["model"])
        if model.project_id != project.pk:
            raise CommandError(f"{model} belongs to {model.project}, not to {project}.")
        return queue.put_in_order(model=model, by=None, share=options["random_share"])


def told(order: QueueOrder | None) -> dict[str, Any] | None:
    if order is None:
        return None
    return {"order": order.pk, "reward_model": order.reward_model_id, **order.counts}


def sentence(order: QueueOrder | None) -> str:
    if order is None:
        return "Waiting tasks come as they were added; no order is in force."
    counts = order.counts
    return (
        f"Ordered by {order.reward_model}: {counts['ordered']} tasks. Left as they were: "
        f"{counts['random_stream']} of the random stream, {counts['unscored']} without scores."
    )
