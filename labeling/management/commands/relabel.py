import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction

from labeling.disputes.relabeling import CannotRelabel, Interval, comparison, draw
from labeling.models import Project, RelabelSample
from labeling.statistics.agreement import Agreement


class Command(BaseCommand):
    help = (
        "After a guideline change: give a random sample of the tasks that were ranked under an "
        "earlier version out again. Without --size: say what the newest sample shows so far. "
        "Status: 0 done, 1 nothing was drawn or there is nothing to show."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--project", required=True, metavar="SLUG")
        parser.add_argument("--size", type=int, metavar="N", help="how many tasks to draw")
        parser.add_argument(
            "--before", type=int, metavar="V", help="the version they were ranked under"
        )
        parser.add_argument(
            "--after", type=int, metavar="V", help="the version in force, to make sure of it"
        )
        parser.add_argument("--seed", type=int, default=0, help="of the draw (default: 0)")
        parser.add_argument("--dry-run", action="store_true", help="draw, then take it back")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        project = Project.objects.filter(slug=options["project"]).first()
        if project is None:
            raise CommandError(f"There is no project {options['project']!r}.")
        if options["size"] is None:
            self._show(project, options)
        else:
            self._draw(project, options)

    def _draw(self, project: Project, options: dict[str, Any]) -> None:
        chosen = {name: options[name] for name in ("size", "before", "after", "seed")}
        try:
            with transaction.atomic():
                sample = draw(project=project, by=None, **chosen)
                told = {
                    "sample": None if options["dry_run"] else sample.pk,
                    "tasks": sample.tasks.count(),
                    "rankings": sum(sample.tasks.values_list("copy__rankings_wanted", flat=True)),
                    "before": sample.before.number,
                    "after": sample.after.number,
                }
                if options["dry_run"]:
                    transaction.set_rollback(True)
        except CannotRelabel as error:
            raise CommandError(str(error)) from None
        if options["json"]:
            self.stdout.write(json.dumps(told))
            return
        would = "would be" if options["dry_run"] else "are"
        self.stdout.write(
            f"{told['tasks']} tasks ranked under version {told['before']} {would} given out again "
            f"under version {told['after']}: {told['rankings']} rankings."
        )

    def _show(self, project: Project, options: dict[str, Any]) -> None:
        sample = RelabelSample.objects.filter(project=project).first()
        if sample is None:
            raise CommandError(f"{project} has no sample yet. Draw one with --size.")
        found = comparison(sample)
        figures: dict[str, Agreement | Interval] = {
            "pairwise agreement before": found.before,
            "pairwise agreement after": found.after,
            "gained, task by task": found.gained,
            "how far the consensus moved": found.moved,
            "how far two reviewers were apart before": found.by_chance,
            "self-consistency": found.same_person,
        }
        if options["json"]:
            counts = {
                name: getattr(found, name) for name in ("tasks", "finished", "wanted", "made")
            }
            values = {name: [one.value, one.low, one.high] for name, one in figures.items()}
            self.stdout.write(json.dumps({"sample": sample.pk, **counts, **values}))
            return
        self.stdout.write(
            f"Sample {sample.pk}, version {sample.before.number} to {sample.after.number}: "
            f"{found.made} of {found.wanted} rankings made, {found.finished} of {found.tasks} "
            "tasks compared"
        )
        for name, one in figures.items():
            self.stdout.write(f"  {name}: {_told(one)}")


def _told(one: Agreement | Interval) -> str:
    if one.value is None:
        return "not known yet"
    if one.low is None or one.high is None:
        return f"{one.value:.3f} (one task)"
    return f"{one.value:.3f} ({one.low:.3f} to {one.high:.3f})"
