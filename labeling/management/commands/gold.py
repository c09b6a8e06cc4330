import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction

from labeling.gold import constraints
from labeling.gold import shares as gold_shares
from labeling.gold.shares import Share
from labeling.models import Adjudication, Gold, Project, Ranking, Task


class Command(BaseCommand):
    help = (
        "Show a project's gold, the tasks whose answer is known: how often each is answered right, "
        "and by whom. Make gold of a task from what was ranked or adjudicated, or retire it."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--project", required=True, metavar="SLUG")
        parser.add_argument("--json", action="store_true", help="one JSON object")
        parser.add_argument("--retire", type=int, metavar="GOLD", help="stop giving it out")
        parser.add_argument("--make", type=int, metavar="TASK", help="make gold of this task")
        parser.add_argument(
            "--ranking",
            type=int,
            metavar="NUMBER",
            help="with --make: what this ranking of the task says is what is known; without it, "
            "what was adjudicated",
        )
        parser.add_argument(
            "--purpose",
            choices=Gold.Purpose.values,
            default=Gold.Purpose.CHECK.value,
            help="with --make: among real work (the default), before it, or in training",
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="do everything, then take it all back"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        project = Project.objects.filter(slug=options["project"]).first()
        if project is None:
            raise CommandError(f"There is no project {options['project']!r}.")
        with transaction.atomic():
            if options["make"] is not None:
                self._make(project, options)
            if options["retire"] is not None:
                self._retire(project, options["retire"])
            self._show(project, as_json=options["json"])
            transaction.set_rollback(options["dry_run"])
        if options["dry_run"] and not options["json"]:
            self.stdout.write(self.style.WARNING("A dry run: nothing was kept."))

    def _make(self, project: Project, options: dict[str, Any]) -> None:
        task = Task.objects.filter(project=project, pk=options["make"]).first()
        if task is None:
            raise CommandError(f"There is no task {options['make']} in {project.slug}.")
        said = self._known(task, options["ranking"])
        try:
            constraints.make(
                task=task,
                constraints=constraints.constraints_from(said.tiers, said.cut),
                purpose=options["purpose"],
            )
        except constraints.GoldError as error:
            raise CommandError(f"No gold was made. {error}") from None

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
        one = Gold.objects.filter(project=project, pk=number).first()
        if one is None:
            raise CommandError(f"There is no gold {number} in {project.slug}.")
        if not constraints.retire(gold=one, by=None):
            raise CommandError(f"Gold {number} was retired before.")

    def _show(self, project: Project, *, as_json: bool) -> None:
        shares = gold_shares.shares(project)
        golds = list(Gold.objects.filter(project=project).order_by("pk"))
        if as_json:
            said = {
                "project": project.slug,
                "gold": [_as_json(one, shares.by_gold[one.pk]) for one in golds],
                "reviewers": {
                    user.username: _figures(share) for user, share in shares.by_reviewer.items()
                },
            }
            self.stdout.write(json.dumps(said))
            return
        self.stdout.write(f"{len(golds)} gold tasks in {project.slug}")
        for one in golds:
            state = "retired" if one.retired_at else one.purpose
            self.stdout.write(
                f"{one.pk:>8}  task {one.task_id:<8} {state:14}{_line(shares.by_gold[one.pk])}"
            )
        for user, share in sorted(shares.by_reviewer.items(), key=lambda item: item[1].percent):
            self.stdout.write(f"{user.username:>24} {'':14}{_line(share)}")


def _line(share: Share) -> str:
    if not share.asked:
        return "no answers"
    low, high = share.interval
    suspect = ", suspect: most get it wrong" if share.suspect else ""
    return f"{share.right} of {share.asked} right, {low}% to {high}%{suspect}"


def _figures(share: Share) -> dict[str, Any]:
    low, high = share.bounds
    return {"right": share.right, "asked": share.asked, "low": low, "high": high}


def _as_json(one: Gold, share: Share) -> dict[str, Any]:
    return {
        "id": one.pk,
        "task": one.task_id,
        "purpose": one.purpose,
        "retired": one.retired_at is not None,
        "constraints": one.constraints,
        "suspect": share.suspect,
        **_figures(share),
    }
