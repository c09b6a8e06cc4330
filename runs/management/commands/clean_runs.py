import json
from argparse import RawDescriptionHelpFormatter
from typing import Any

from django.core.management import BaseCommand, CommandError, CommandParser
from django.template.defaultfilters import filesizeformat

from runs.disk import cleaning
from runs.disk.cleaning import DAYS, Policy, Removal
from runs.models import Run
from runs.templatetags.runs import run_name


class Command(BaseCommand):
    help = """Remove files of runs that nothing needs any more.

Removes checkpoints and other working files of runs that succeeded, of failed and cancelled runs that
ended some time ago, and of archived runs. With --published, it also removes the published files of
archived runs, except those that a model needs which is promoted, not archived or has a certificate.
Runs that have not ended are never touched. The settings, input, log, report and model card of each run
are kept.

Status: 0 if all was removed, 2 if some runs were left alone, with the reasons."""

    def create_parser(self, *args: Any, **kwargs: Any) -> CommandParser:
        return super().create_parser(*args, formatter_class=RawDescriptionHelpFormatter, **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "runs", nargs="*", type=int, metavar="RUN", help="Clean up only these runs."
        )
        parser.add_argument(
            "--days",
            type=int,
            default=DAYS,
            help="Keep the checkpoints of failed and cancelled runs for this number of days after the "
            f"end (default: {DAYS}).",
        )
        parser.add_argument(
            "--published",
            action="store_true",
            help="Also remove the published files of archived runs that nothing needs.",
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="List what would be removed, and remove nothing."
        )
        parser.add_argument(
            "--json", action="store_true", help="Print JSON objects instead of text."
        )

    def handle(self, *, runs: list[int], days: int, published: bool, **options: Any) -> None:
        if days < 0:
            raise CommandError("--days must be 0 or more.")
        chosen = Run.objects.filter(pk__in=runs) if runs else Run.objects.all()
        if missing := sorted(set(runs) - set(chosen.values_list("pk", flat=True))):
            raise CommandError(f"There is no run {missing[0]}. `runs list` lists runs.")
        policy = Policy(days=days, published=published)
        removals = cleaning.plan(chosen, policy)
        total = sum(removal.total for removal in removals)
        if options["dry_run"]:
            for removal in removals:
                self.say(described(removal), line(removal), options["json"])
            summary: dict[str, Any] = {
                "runs": sum(bool(r.total) for r in removals),
                "bytes": total,
                "dry_run": True,
            }
            self.say(summary, f"Would free {filesizeformat(total)}.", options["json"])
            return
        outcome = cleaning.clean([r.run for r in removals if r.total], policy, by=None)
        for reason in outcome.skipped:
            self.stderr.write(reason)
        summary = {"runs": outcome.runs, "bytes": outcome.bytes, "skipped": outcome.skipped}
        text = f"Removed files of {outcome.runs} runs, {filesizeformat(outcome.bytes)}."
        self.say(summary, text, options["json"])
        if outcome.skipped:
            raise SystemExit(2)

    def say(self, data: dict[str, Any], text: str, as_json: bool) -> None:
        self.stdout.write(json.dumps(data, ensure_ascii=False) if as_json else text)


def described(removal: Removal) -> dict[str, Any]:
    return {
        "run": removal.run.pk,
        "working": removal.working,
        "published": removal.published,
        "kept": removal.kept,
    }


def line(removal: Removal) -> str:
    parts = [
        f"#{removal.run.pk}",
        run_name(removal.run),
        f"working files {filesizeformat(removal.working)}" if removal.working else "",
        f"published files {filesizeformat(removal.published)}" if removal.published else "",
        f"published files kept: {removal.kept}" if removal.kept else "",
    ]
    return "  ".join(part for part in parts if part)
