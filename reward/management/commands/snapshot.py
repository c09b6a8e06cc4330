import json
from datetime import date
from typing import Any

from django.core.management import BaseCommand, CommandError, CommandParser

from accounts.models import User
from labeling.management.lookups import project_named
from labeling.models import GuidelineVersion, Project
from labeling.statistics.agreement import in_words
from reward.preferences.filters import REASONS, SOURCES, FilterError, SnapshotFilter
from reward.preferences.snapshots import SnapshotError, freeze, survey


class Command(BaseCommand):
    help = (
        "Freeze a project's current rankings into a snapshot, and count the rankings left out by reason. "
        "The same filter over the same rankings gives the same snapshot. "
        "Status: 0 done, 1 nothing was frozen."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("project", metavar="PROJECT", help="the project's slug")
        parser.add_argument(
            "--source",
            action="append",
            choices=SOURCES,
            help="use only rankings from this source; may be repeated",
        )
        parser.add_argument(
            "--guideline-version", action="append", type=int, metavar="NUMBER", dest="versions",
            help="use only rankings under this version of the guideline; may be repeated",
        )  # fmt: skip
        parser.add_argument(
            "--reviewer",
            action="append",
            metavar="USERNAME",
            help="use only rankings by this reviewer; may be repeated",
        )
        parser.add_argument("--since", type=day, metavar="YYYY-MM-DD", help="first day")
        parser.add_argument("--until", type=day, metavar="YYYY-MM-DD", help="last day, included")
        parser.add_argument(
            "--min-seconds", type=float, default=0.0, metavar="SECONDS",
            help="leave out rankings made on the review page in less active time, in seconds",
        )  # fmt: skip
        parser.add_argument(
            "--comparisons", action="store_true", help="include rankings from blind comparisons"
        )
        parser.add_argument(
            "--adjudicated", action="store_true",
            help="replace the rankings of disputed tasks by the lead's decisions",
        )  # fmt: skip
        parser.add_argument(
            "--relabelled", action="store_true",
            help="replace the first rankings of relabelled tasks by those under the later guideline",
        )  # fmt: skip
        parser.add_argument(
            "--weigh-reviewers", action="store_true",
            help="weight rankings by their reviewer's agreement with others",
        )  # fmt: skip
        parser.add_argument(
            "--chats", action="store_true",
            help="also freeze imported prompts with one response and no task, as examples for finetune --method "
            "sft",
        )  # fmt: skip
        parser.add_argument(
            "--test",
            type=float,
            default=0.2,
            metavar="SHARE",
            help="share of prompts to hold out (default: 0.2)",
        )
        parser.add_argument("--seed", type=int, default=0, help="seed of the split (default: 0)")
        parser.add_argument("--dry-run", action="store_true", help="Count without writing.")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, **options: Any) -> None:
        project = project_named(options["project"])
        try:
            filter = filter_from(project, options)
            if options["dry_run"]:
                counts, number = survey(project=project, filter=filter).to_dict(), None
            else:
                snapshot = freeze(project=project, filter=filter, by=None)
                counts, number = snapshot.counts, snapshot.pk
        except FilterError as error:
            raise CommandError(" ".join(error.errors.values())) from None
        except SnapshotError as error:
            raise CommandError(str(error)) from None
        if options["json"]:
            more = (
                {}
                if number is None
                else {"hash": snapshot.content_hash, "file": str(snapshot.file)}
            )
            self.stdout.write(json.dumps({"snapshot": number, **more, "counts": counts}))
            return
        for line in summary(counts):
            self.stdout.write(line)
        if number is not None:
            self.stdout.write(f"Snapshot {number}: {snapshot.file}")


def day(text: str) -> date:
    return date.fromisoformat(text)


def filter_from(project: Project, options: dict[str, Any]) -> SnapshotFilter:
    """Return the filter that the options describe. Raises CommandError and FilterError."""
    return SnapshotFilter(
        sources=tuple(options["source"] or SOURCES),
        guideline_versions=version_ids(project, options["versions"]),
        reviewers=reviewer_ids(options["reviewer"]),
        since=options["since"],
        until=options["until"],
        min_active_seconds=options["min_seconds"],
        include_comparisons=options["comparisons"],
        adjudicated=options["adjudicated"],
        relabelled=options["relabelled"],
        weigh_reviewers=options["weigh_reviewers"],
        chats=options["chats"],
        test_fraction=options["test"],
        seed=options["seed"],
    )


def version_ids(project: Project, numbers: list[int] | None) -> tuple[int, ...] | None:
    if not numbers:
        return None
    versions = GuidelineVersion.objects.filter(guideline__project=project)
    ids = dict(versions.values_list("number", "pk"))
    if unknown := set(numbers) - set(ids):
        existing = ", ".join(map(str, sorted(ids))) or "none"
        raise CommandError(
            f"There is no version {min(unknown)} of the guideline. Published versions: {existing}."
        )
    return tuple(ids[number] for number in numbers)


def reviewer_ids(usernames: list[str] | None) -> tuple[int, ...] | None:
    if not usernames:
        return None
    ids = dict(User.objects.filter(username__in=usernames).values_list("username", "pk"))
    if unknown := sorted(set(usernames) - set(ids)):
        raise CommandError(f"There is no user {unknown[0]!r}.")
    return tuple(ids.values())


def summary(counts: dict[str, Any]) -> list[str]:
    lines = [f"{counts['considered']} rankings of the project"]
    lines += [
        f"  - {counts['left_out'][key]}  {sentence}"
        for key, sentence in REASONS.items()
        if key in counts["left_out"]
    ]
    if counts["outcomes"]:
        lines.append(f"  + {counts['outcomes']}  decisions of disputes, replacing rankings")
    total = counts["used"] + counts["outcomes"]
    lines.append(
        f"{total} ranking{'s' * (total != 1)} used, {counts['simulated']} of them simulated"
    )
    if chats := counts.get("chats"):
        lines.append(f"  + {chats}  chats without rankings")
    lines += [
        f"  {name}: {split.get('prompts', 0)} prompts, {split.get('rankings', 0)} rankings, "
        f"{split.get('pairs', 0)} strict pairs, {split.get('ties', 0)} ties"
        for name, split in counts["splits"].items()
    ]
    lines.append(in_words(counts["pairwise_agreement"]))
    return lines
