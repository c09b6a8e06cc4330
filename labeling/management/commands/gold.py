import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction

from labeling.gold import constraints, making
from labeling.gold import shares as gold_shares
from labeling.gold.shares import Share
from labeling.management.lookups import project_named
from labeling.models import Adjudication, Gold, Project, Ranking, Task


class Command(BaseCommand):
    help = (
        "Show a project's gold, which are tasks with a known answer, with the share of right answers to each "
        "task and by each reviewer. Create gold from a ranking or an adjudicated order, or retire it."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--project", required=True, metavar="SLUG", help="The slug of the project."
        )
        parser.add_argument(
            "--json", action="store_true", help="Print one JSON object instead of text."
        )
        parser.add_argument(
            "--retire",
            type=int,
            metavar="GOLD",
            help="Retire the gold with this number, so that reviewers no longer get it.",
        )
        parser.add_argument(
            "--make", type=int, metavar="TASK", help="Create gold from the task with this number."
        )
        parser.add_argument(
            "--ranking",
            type=int,
            metavar="NUMBER",
            help="With --make: derive the known answer from the ranking with this number. By default, it is "
            "derived from the adjudicated order.",
        )
        parser.add_argument(
            "--purpose",
            choices=Gold.Purpose.values,
            default=Gold.Purpose.CHECK.value,
            help="With --make: check gives the gold among real tasks (the default), qualification before "
            "real work, and training with feedback.",
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="Run everything, and then roll it back."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        project = project_named(options["project"])
        with transaction.atomic():
            if options["make"] is not None:
                self._make(project, options)
            if options["retire"] is not None:
                self._retire(project, options["retire"])
            self._show(project, as_json=options["json"])
            transaction.set_rollback(options["dry_run"])
        if options["dry_run"] and not options["json"]:
            self.stdout.write(self.style.WARNING("Dry run: nothing was saved."))

    def _make(self, project: Project, options: dict[str, Any]) -> None:
        task = Task.objects.filter(project=project, pk=options["make"]).first()
        if task is None:
            raise CommandError(f"There is no task {options['make']} in {project.slug}.")
        order = self._known(task, options["ranking"])
        try:
            making.make(
                task=task,
                constraints=constraints.constraints_from(order.tiers, order.cut),
                purpose=options["purpose"],
            )
        except making.GoldError as error:
            raise CommandError(f"No gold was created. {error}") from None

    def _known(self, task: Task, number: int | None) -> Ranking | Adjudication:
        if number is None:
            adjudicated = Adjudication.objects.filter(task=task).first()
            if adjudicated is None:
                raise CommandError(f"{task} was not adjudicated. Pass --ranking NUMBER.")
            return adjudicated
        ranking = task.rankings.filter(pk=number).first()
        if ranking is None:
            raise CommandError(f"There is no ranking {number} of {task}.")
        return ranking

    def _retire(self, project: Project, number: int) -> None:
        gold = Gold.objects.filter(project=project, pk=number).first()
        if gold is None:
            raise CommandError(f"There is no gold {number} in {project.slug}.")
        if not making.retire(gold=gold, by=None):
            raise CommandError(f"Gold {number} was already retired.")

    def _show(self, project: Project, *, as_json: bool) -> None:
        shares = gold_shares.shares(project)
        golds = list(Gold.objects.filter(project=project).order_by("pk"))
        if as_json:
            summary = {
                "project": project.slug,
                "gold": [_as_json(gold, shares.by_gold[gold.pk]) for gold in golds],
                "reviewers": {
                    user.username: _figures(share) for user, share in shares.by_reviewer.items()
                },
            }
            self.stdout.write(json.dumps(summary))
            return
        self.stdout.write(f"{len(golds)} gold tasks in {project.slug}")
        for gold in golds:
            state = "retired" if gold.retired_at else gold.purpose
            self.stdout.write(
                f"{gold.pk:>8}  task {gold.task_id:<8} {state:14}{_line(shares.by_gold[gold.pk])}"
            )
        for user, share in sorted(shares.by_reviewer.items(), key=lambda item: item[1].percent):
            self.stdout.write(f"{user.username:>24} {'':14}{_line(share)}")


def _line(share: Share) -> str:
    if not share.asked:
        return "no answers"
    low, high = share.interval
    suspect = ", suspect: most answers are wrong" if share.suspect else ""
    return f"{share.right} of {share.asked} right, {low}% to {high}%{suspect}"


def _figures(share: Share) -> dict[str, Any]:
    low, high = share.bounds
    return {"right": share.right, "asked": share.asked, "low": low, "high": high}


def _as_json(gold: Gold, share: Share) -> dict[str, Any]:
    return {
        "id": gold.pk,
        "task": gold.task_id,
        "purpose": gold.purpose,
        "retired": gold.retired_at is not None,
        "constraints": gold.constraints,
        "suspect": share.suspect,
        **_figures(share),
    }
