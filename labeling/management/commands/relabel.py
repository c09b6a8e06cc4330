import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction

from labeling.disputes.relabeling import CannotRelabel, Interval, comparison, draw
from labeling.management.lookups import project_named
from labeling.models import Project, RelabelSample
from labeling.statistics.agreement import Agreement

# The keys in the JSON output are kept from an earlier release. These are the titles in the text output.
TITLES = {
    "gained, task by task": "mean gain per task",
    "how far the consensus moved": "movement of the consensus",
    "how far two reviewers were apart before": "distance between two reviewers before",
}


class Command(BaseCommand):
    help = (
        "After a guideline change, have a random sample of the tasks ranked under an earlier "
        "version ranked again. Without --size, show the results of the newest sample so far. "
        "Exit status: 0 on success, 1 if no sample was drawn or there is none to show."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--project", required=True, metavar="SLUG", help="The slug of the project."
        )
        parser.add_argument(
            "--size", type=int, metavar="N", help="Draw a sample of this number of tasks."
        )
        parser.add_argument(
            "--before",
            type=int,
            metavar="V",
            help="The number of the version under which the tasks were ranked (default: the one "
            "before the current version).",
        )
        parser.add_argument(
            "--after",
            type=int,
            metavar="V",
            help="The number of the current version. Any other number is refused, as a safeguard.",
        )
        parser.add_argument(
            "--seed",
            type=int,
            default=0,
            help="The seed of the random sample (default: 0). The same seed selects the same tasks.",
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="Draw the sample, and then roll it back."
        )
        parser.add_argument(
            "--json", action="store_true", help="Print one JSON object instead of text."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        project = project_named(options["project"])
        if options["size"] is None:
            self._show(project, options)
        else:
            self._draw(project, options)

    def _draw(self, project: Project, options: dict[str, Any]) -> None:
        chosen = {name: options[name] for name in ("size", "before", "after", "seed")}
        try:
            with transaction.atomic():
                sample = draw(project=project, by=None, **chosen)
                summary = {
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
            self.stdout.write(json.dumps(summary))
            return
        would = "would be" if options["dry_run"] else "are"
        self.stdout.write(
            f"{summary['tasks']} tasks ranked under version {summary['before']} {would} ranked again "
            f"under version {summary['after']}: {summary['rankings']} rankings."
        )

    def _show(self, project: Project, options: dict[str, Any]) -> None:
        sample = RelabelSample.objects.filter(project=project).first()
        if sample is None:
            raise CommandError(f"{project} has no sample yet. Draw one with --size.")
        result = comparison(sample)
        figures: dict[str, Agreement | Interval] = {
            "pairwise agreement before": result.before,
            "pairwise agreement after": result.after,
            "gained, task by task": result.gain,
            "how far the consensus moved": result.consensus_shift,
            "how far two reviewers were apart before": result.distance_before,
            "self-consistency": result.self_consistency,
        }
        if options["json"]:
            counts = {
                "tasks": result.tasks,
                "finished": result.finished,
                "wanted": result.requested,
                "made": result.completed,
            }
            values = {
                name: [figure.value, figure.low, figure.high] for name, figure in figures.items()
            }
            self.stdout.write(json.dumps({"sample": sample.pk, **counts, **values}))
            return
        self.stdout.write(
            f"Sample {sample.pk}, version {sample.before.number} to {sample.after.number}: "
            f"{result.completed} of {result.requested} rankings made, {result.finished} of {result.tasks} "
            "tasks compared"
        )
        for name, figure in figures.items():
            self.stdout.write(f"  {TITLES.get(name, name)}: {_formatted(figure)}")


def _formatted(figure: Agreement | Interval) -> str:
    if figure.value is None:
        return "not available yet"
    if figure.low is None or figure.high is None:
        return f"{figure.value:.3f} (one task)"
    return f"{figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f})"
