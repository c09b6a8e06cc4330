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
        "Show the order of a project's waiting tasks; order them by how much a reward model that has "
        "scored them would learn from ranking them; or undo that. Priorities and the tasks of the random "
        "stream are unchanged. Status: 0 done, 1 nothing was changed."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("project", metavar="PROJECT", help="the project's slug")
        what = parser.add_mutually_exclusive_group()
        what.add_argument("--model", type=int, metavar="NUMBER", help="order by this reward model")
        what.add_argument("--undo", action="store_true", help="undo the current order")
        parser.add_argument(
            "--random-share", type=float, metavar="SHARE",
            help="with --model: share of prompts in the random stream, whose tasks are never ordered; it "
            "cannot be changed later (default: 0.2)",
        )  # fmt: skip
        parser.add_argument("--dry-run", action="store_true", help="Check without writing.")
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
            return self.stdout.write(json.dumps(as_json(order)))
        return self.stdout.write(sentence(order))

    def _done(self, project: Any, options: dict[str, Any]) -> QueueOrder | None:
        if options["undo"]:
            if queue.undo(project=project, by=None) is None:
                raise queue.CannotOrder(
                    f"The tasks of {project} are not ordered, so there is nothing to undo."
                )
            return None
        if options["model"] is None:
            return QueueOrder.objects.filter(project=project, undone_at=None).first()
        model = reward_model_numbered(options["model"])
        if model.project_id != project.pk:
            raise CommandError(f"{model} belongs to {model.project}, not to {project}.")
        return queue.put_in_order(model=model, by=None, share=options["random_share"])


def as_json(order: QueueOrder | None) -> dict[str, Any] | None:
    if order is None:
        return None
    return {"order": order.pk, "reward_model": order.reward_model_id, **order.counts}


def sentence(order: QueueOrder | None) -> str:
    if order is None:
        return (
            "The tasks are not ordered by a model. They come in the order in which they were added."
        )
    counts = order.counts
    return (
        f"Ordered by {order.reward_model}: {counts['ordered']} tasks. Unchanged: "
        f"{counts['random_stream']} of the random stream, {counts['unscored']} without scores."
    )
