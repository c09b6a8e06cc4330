import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts.models import User
from formatting.numbers import percent
from labeling.management.lookups import project_named
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
        "Show the agreement, reliability and biases of a project's reviewers, the leaderboard of "
        "its models, and the certainty of the consensus. Intervals are 95%."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--project", required=True, metavar="SLUG", help="The slug of the project."
        )
        parser.add_argument(
            "--tasks",
            type=int,
            default=measures.MAX_TASKS,
            help=(
                "The maximum number of tasks to include, most recently ranked first. The default, "
                f"{measures.MAX_TASKS:,}, is the number that the quality page uses."
            ),
        )
        parser.add_argument(
            "--json", action="store_true", help="Print one JSON object instead of text."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        project = project_named(options["project"])
        if options["tasks"] < 1:
            raise CommandError("--tasks must be 1 or more.")
        figures = report(project, options["tasks"])
        if options["json"]:
            self.stdout.write(json.dumps(figures))
        else:
            self._say(project, figures)

    def _say(self, project: Project, figures: dict[str, Any]) -> None:
        say = self.stdout.write
        say(f"{project.slug}: {figures['sample']}")
        say("Agreement")
        for name, title in MEASURES.items():
            say(f"  {title:40}{_figure(figures['agreement'][name])}")
        say(
            f"  {'disputed tasks':40}{figures['disputed']} of {figures['tasks']}, at a typical "
            f"disagreement of {percent(figures['usual_disagreement'])}"
        )
        for name in ("criteria", "versions", "weeks"):
            self._part(name, figures[name])
        say("Reviewers: share of pairs ranked correctly, ties counting half")
        for row in figures["reviewers"]:
            say(f"  {row['reviewer']:40}{_figure(row['quality'])}, {row['rankings']} rankings")
        say("All reviewers")
        say(f"  {'shown earlier wins more often':40}{_figure(figures['position_bias'])}")
        say(f"  {'longer wins more often':40}{_figure(figures['length_bias'])}")
        say("Models")
        for row in figures["models"]["models"]:
            low, high = row["interval"]
            say(f"  {row['model']:40}{row['rating']:.0f} ({low:.0f} to {high:.0f}) {row['note']}")
        if figures["models"]["reason"]:
            say(f"  {figures['models']['reason']}")
        say(
            f"Consensus: of {figures['consensus']['tasks']} tasks, {figures['consensus']['clear']} have "
            "an order with a probability above one half"
        )

    def _part(self, name: str, rows: dict[str, Any]) -> None:
        if rows:
            self.stdout.write(f"By {name}, alpha")
        for label, figure in rows.items():
            self.stdout.write(f"  {label:40}{_figure(figure.get('alpha', figure))}")


def _figure(figure: dict[str, Any]) -> str:
    if figure["value"] is None:
        return str(figure["reason"])
    low, high = figure["interval"]
    return f"{figure['value']:.4f} ({low:.4f} to {high:.4f})"


def report(project: Project, tasks: int) -> dict[str, Any]:
    """Return the figures of the quality page as values for JSON."""
    agreed = measures.quality_of(project, tasks_at_most=tasks)
    parts = measures.parts_of(project, tasks_at_most=tasks)
    people = measures.people_of(project, tasks_at_most=tasks)
    consensus = measures.consensus_in(project, tasks_at_most=tasks)
    board = measures.board_of(project, tasks_at_most=tasks)
    names = dict(
        User.objects.filter(pk__in=[reviewer.id for reviewer in people.reviewers]).values_list(
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
        "differing": len(agreed.disagreements),
        "usual_disagreement": agreed.usual,
        "criteria": {name: figure.as_json() for name, figure in parts.criteria},
        "versions": {
            str(part.label or "none"): part.agreement.as_json() for part in parts.versions
        },
        "weeks": {part.label.isoformat(): part.agreement.as_json() for part in parts.weeks},
        "reviewers": [_reviewer(reviewer, names[reviewer.id]) for reviewer in people.reviewers],
        "position_bias": people.position.as_json(),
        "won_by_place": [position.as_json() for position in people.places],
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


def _reviewer(reviewer: measures.Reviewer, name: str) -> dict[str, Any]:
    meters: dict[str, Meter] = {
        "position_bias": reviewer.position,
        "length_bias": reviewer.length,
        "speed": reviewer.speed,
        "as_shown": reviewer.as_shown,
    }
    reliability = reviewer.reliability
    trust = (
        Agreement(None, None, None, 0, "No tasks shared with other reviewers.")
        if reliability is None
        else Agreement(reliability.quality, reliability.low, reliability.high, reliability.pairs)
    )
    return {
        "reviewer": name,
        "rankings": reviewer.rankings,
        "quality": trust.as_json(),
        "right": reliability and reliability.right,
        "tie": reliability and reliability.tie,
        "tie_of_tie": reliability and reliability.tie_of_tie,
        "ties": reviewer.ties,
        "agreement": reviewer.agreement.as_json(),
        **{name: meter.as_json() for name, meter in meters.items()},
    }
