import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts.models import User
from formatting.numbers import percent
from labeling.models import Project
from labeling.quality import measures
from labeling.statistics import bradley_terry
from labeling.statistics.agreement import PAIRWISE, Agreement
from labeling.statistics.bias import Meter

MEASURES = {
    "pairwise": PAIRWISE.lower(),
    "exact": "exact agreement, ties included",
    "tau": "Kendall's tau-b",
    "alpha": "Krippendorff's alpha, ordinal",
    "nominal": "Krippendorff's alpha, nominal",
}


class Command(BaseCommand):
    help = (
        "Say how far the reviewers of a project agree, whom to trust, what sways them, how the "
        "models stand, and how clear the consensus is. Intervals are 95 %."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--project", required=True, metavar="SLUG")
        parser.add_argument(
            "--tasks",
            type=int,
            default=measures.TASKS_AT_MOST,
            help=(
                "the largest number of tasks to read, newest rankings first; "
                f"{measures.TASKS_AT_MOST:,} by default, as on the pages"
            ),
        )
        parser.add_argument("--json", action="store_true", help="one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        project = Project.objects.filter(slug=options["project"]).first()
        if project is None:
            raise CommandError(f"There is no project {options['project']!r}.")
        if options["tasks"] < 1:
            raise CommandError("--tasks must be 1 or more.")
        found = report(project, options["tasks"])
        if options["json"]:
            self.stdout.write(json.dumps(found))
        else:
            self._say(project, found)

    def _say(self, project: Project, found: dict[str, Any]) -> None:
        say = self.stdout.write
        say(f"{project.slug}: {found['sample']}")
        say("Agreement")
        for name, title in MEASURES.items():
            say(f"  {title:40}{_figure(found['agreement'][name])}")
        say(
            f"  {'disputed tasks':40}{found['disputed']} of {found['tasks']}, at a usual "
            f"disagreement of {percent(found['usual_disagreement'])}"
        )
        for name in ("criteria", "versions", "weeks"):
            self._part(name, found[name])
        say("Reviewers: how often they are right about a pair, a tie counting half")
        for one in found["reviewers"]:
            say(f"  {one['reviewer']:40}{_figure(one['quality'])}, {one['rankings']} rankings")
        say("All reviewers")
        say(f"  {'shown earlier wins more often':40}{_figure(found['position_bias'])}")
        say(f"  {'longer wins more often':40}{_figure(found['length_bias'])}")
        say("Models")
        for one in found["models"]["models"]:
            low, high = one["interval"]
            say(f"  {one['model']:40}{one['rating']:.0f} ({low:.0f} to {high:.0f}) {one['note']}")
        if found["models"]["reason"]:
            say(f"  {found['models']['reason']}")
        say(
            f"Consensus: of {found['consensus']['tasks']} tasks, {found['consensus']['clear']} have "
            "an order more probable than all others together"
        )

    def _part(self, name: str, rows: dict[str, Any]) -> None:
        if rows:
            self.stdout.write(f"By {name}, alpha")
        for label, found in rows.items():
            self.stdout.write(f"  {label:40}{_figure(found.get('alpha', found))}")


def _figure(found: dict[str, Any]) -> str:
    if found["value"] is None:
        return str(found["reason"])
    low, high = found["interval"]
    return f"{found['value']:.4f} ({low:.4f} to {high:.4f})"


def report(project: Project, tasks: int) -> dict[str, Any]:
    """Everything that the quality page shows, as JSON has it."""
    agreed = measures.quality_of(project, tasks_at_most=tasks)
    parts = measures.parts_of(project, tasks_at_most=tasks)
    people = measures.people_of(project, tasks_at_most=tasks)
    consensus = measures.consensus_in(project, tasks_at_most=tasks)
    board = measures.board_of(project, tasks_at_most=tasks)
    names = dict(
        User.objects.filter(pk__in=[one.id for one in people.reviewers]).values_list(
            "pk", "username"
        )
    )
    return {
        "project": project.slug,
        "sample": agreed.sample,
        "tasks": agreed.tasks,
        "capped": agreed.capped,
        "agreement": agreed.measures.as_json(),
        "disputed": len(agreed.disputes),
        "differing": len(agreed.differing),
        "usual_disagreement": agreed.usual,
        "criteria": {name: found.as_json() for name, found in parts.criteria},
        "versions": {
            str(part.label or "none"): part.agreement.as_json() for part in parts.versions
        },
        "weeks": {part.label.isoformat(): part.agreement.as_json() for part in parts.weeks},
        "reviewers": [_reviewer(one, names[one.id]) for one in people.reviewers],
        "position_bias": people.position.as_json(),
        "won_by_place": [place.as_json() for place in people.places],
        "length_bias": people.length.as_json(),
        "models": bradley_terry.as_json(board.board),
        "consensus": {
            "tasks": len(consensus.verdicts),
            "clear": consensus.clear,
            "orders": [
                {
                    "task": verdict.task_id,
                    "tiers": verdict.tiers,
                    "probability": verdict.probability,
                    "best_probability": verdict.best_probability,
                    "rankings": verdict.rankings,
                }
                for verdict in consensus.verdicts
            ],
        },
    }


def _reviewer(one: measures.Reviewer, name: str) -> dict[str, Any]:
    meters: dict[str, Meter] = {
        "position_bias": one.position,
        "length_bias": one.length,
        "speed": one.speed,
        "as_shown": one.as_shown,
    }
    found = one.reliability
    trust = (
        Agreement(None, None, None, 0, "Met no other reviewer.")
        if found is None
        else Agreement(found.quality, found.low, found.high, found.pairs)
    )
    return {
        "reviewer": name,
        "rankings": one.rankings,
        "quality": trust.as_json(),
        "right": found and found.right,
        "tie": found and found.tie,
        "tie_of_tie": found and found.tie_of_tie,
        "ties": one.ties,
        "agreement": one.agreement.as_json(),
        **{name: meter.as_json() for name, meter in meters.items()},
    }
