import json
import sys
import time
from argparse import RawDescriptionHelpFormatter
from collections.abc import Collection
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management import BaseCommand, CommandError, CommandParser
from django.db import connection

from runs import kinds, live, services
from runs.catalog import notes
from runs.catalog.notes import CannotArchive, parse_tags, save_notes
from runs.models import ENDED, Priority, Run, State
from runs.templatetags.runs import duration, run_name

EXIT_NOT_SUCCEEDED = 2
WATCH_SECONDS = 1.0
PRIORITIES = {priority.label.lower(): priority for priority in reversed(Priority)}
LISTING = ("project", "kind", "state", "tag", "search", "archived", "limit")


class Command(BaseCommand):
    help = """List, watch, cancel, requeue and prioritise runs.

  list       List the newest runs that are not archived. --project, --kind, --state, --tag,
             --search and --archived filter the list.
  show       Show a run's state, progress, settings, result and last messages.
  watch      Print a run's messages and progress until it ends. Ctrl-C does not stop the run.
  cancel     Cancel a run. A running one writes a checkpoint first.
  requeue    Put a failed or cancelled run back into the queue. It resumes from its last
             checkpoint, and its attempts are counted from 0 again.
  archive    Leave a run that has ended out of lists. Its files are kept.
  unarchive  Show an archived run in lists again.
  note       Replace the tags (--tags) or the notes (--notes) of a run.
  priority   Change the priority of a queued run: low, normal or high.

show and watch exit with status 2 if the run failed or was cancelled.
--json prints one JSON object per line."""

    def create_parser(self, *args: Any, **kwargs: Any) -> CommandParser:
        return super().create_parser(*args, formatter_class=RawDescriptionHelpFormatter, **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
        listing = verbs.add_parser("list", help="List the newest runs.")
        listing.add_argument(
            "--kind",
            choices=[kind.name for kind in kinds.all_kinds()],
            help="List only runs of this kind.",
        )
        listing.add_argument(
            "--state", choices=State.values, help="List only runs that are in this state."
        )
        listing.add_argument(
            "--project", metavar="SLUG", help="List only runs of the project with this slug."
        )
        listing.add_argument(
            "--search",
            metavar="TEXT",
            help="List only runs whose name, number or user matches the text.",
        )
        listing.add_argument("--tag", metavar="TAG", help="List only runs with this tag.")
        listing.add_argument("--archived", action="store_true", help="List only archived runs.")
        listing.add_argument(
            "--limit", type=int, default=20, help="The maximum number of runs (default: 20)."
        )
        for name, help in (
            ("show", "Show a run."),
            ("watch", "Follow a run until it ends."),
            ("cancel", "Cancel a run."),
            ("requeue", "Continue a failed or cancelled run."),
            ("archive", "Archive a run that has ended."),
            ("unarchive", "Restore a run from the archive."),
            ("note", "Change the tags and the notes of a run."),
        ):
            verb = verbs.add_parser(name, help=help)
            verb.add_argument("run", type=int, help="The number of the run.")
        note = verbs.choices["note"]
        note.add_argument("--tags", metavar="TAG,TAG", help="The tags, separated by commas.")
        note.add_argument("--notes", metavar="TEXT", help="The notes.")
        priority = verbs.add_parser("priority", help="Change the priority of a queued run.")
        priority.add_argument("run", type=int, help="The number of the run.")
        priority.add_argument(
            "level",
            choices=PRIORITIES,
            help="Workers execute runs with a higher priority first.",
        )
        for verb in verbs.choices.values():
            verb.add_argument(
                "--json", action="store_true", help="Print JSON objects instead of text."
            )

    def handle(self, *, verb: str, **options: Any) -> None:
        self.as_json = options["json"]
        if verb == "list":
            return self.list(**{name: options[name] for name in LISTING})
        run = Run.objects.select_related("created_by", "project").filter(pk=options["run"]).first()
        if run is None:
            raise CommandError(f"There is no run {options['run']}. `runs list` lists runs.")
        arguments = {name: options[name] for name in ("tags", "notes") if verb == "note"}
        if verb == "priority":
            arguments = {"level": options["level"]}
        getattr(self, verb)(run, **arguments)
        return None

    def list(
        self,
        *,
        search: str | None,
        limit: int,
        archived: bool,
        tag: str | None,
        **exact: str | None,
    ) -> None:
        names = {"project": "project__slug"}
        chosen: dict[str, Any] = {names.get(k, k): value for k, value in exact.items() if value}
        if tag:
            chosen["tags__contains"] = [tag]
        runs = Run.objects.exclude(archived_at=None) if archived else Run.objects.in_use()
        runs = runs.filter(**chosen).select_related("created_by", "project")
        if search:
            runs = runs.matching(search, kinds=kinds.names_with_title(search))
        runs = runs[: max(0, limit)]
        for run in runs:
            self.say(described(run), line(run))
        if not runs and not self.as_json:
            filtered = chosen or search or archived
            self.stdout.write("No run matches." if filtered else "Nothing has run yet.")

    def show(self, run: Run) -> None:
        more = {
            "config": run.config,
            "inputs": run.inputs,
            "result": run.result,
            "messages": [event.data.get("text", "") for event in live.messages(run)][-10:],
        }
        self.say({**described(run), **more}, line(run))
        if not self.as_json:
            for name, value in more.items():
                self.stdout.write(f"{name}: {json.dumps(value, indent=2, ensure_ascii=False)}")
        self.exit_as(run)

    def watch(self, run: Run) -> None:
        number, shares = 0, live.shares_of(run)
        while True:
            run.refresh_from_db()
            ended = run.state in ENDED
            for event in run.events.filter(number__gt=number).order_by("number"):
                number = event.number
                data = {"at": event.at.isoformat(), "event": event.event, **event.data}
                self.say(data, event_text(event.event, event.data, shares))
            if ended:
                break
            connection.close()
            time.sleep(WATCH_SECONDS)
        self.say(described(run), line(run))
        self.exit_as(run)

    def cancel(self, run: Run) -> None:
        if not services.cancel(run, None):
            raise CommandError(services.why_not_cancelled(run))
        self.after(run, "is being cancelled" if run.state == State.RUNNING else "is cancelled")

    def requeue(self, run: Run) -> None:
        if not services.restart(run, None):
            text = f"Run {run.pk} is {run.state}. Only a failed or cancelled run can be continued."
            raise CommandError(text)
        self.after(run, "is in the queue again")

    def archive(self, run: Run) -> None:
        try:
            notes.archive(run, by=None)
        except CannotArchive as problem:
            raise CommandError(str(problem)) from None
        self.after(run, "is archived")

    def unarchive(self, run: Run) -> None:
        notes.unarchive(run, by=None)
        self.after(run, "is not archived")

    def note(self, run: Run, *, tags: str | None, notes: str | None) -> None:
        if tags is None and notes is None:
            raise CommandError("Give --tags, --notes or both.")
        try:
            new_tags = run.tags if tags is None else parse_tags(tags)
        except ValidationError as problem:
            raise CommandError(problem.messages[0]) from None
        save_notes(run, tags=new_tags, notes=run.notes if notes is None else notes, by=None)
        self.after(run, f"has the tags {', '.join(new_tags) or '–'}")

    def priority(self, run: Run, *, level: str) -> None:
        if not services.set_priority(run, PRIORITIES[level], None):
            text = f"Run {run.pk} is {run.state}. Only the priority of a queued run can change."
            raise CommandError(text)
        self.after(run, f"has the priority {level}")

    def after(self, run: Run, what: str) -> None:
        run.refresh_from_db()
        self.say(described(run), f"Run {run.pk} {what}.")

    def say(self, data: dict[str, Any], text: str) -> None:
        if self.as_json:
            self.stdout.write(json.dumps(data, ensure_ascii=False))
        elif text:
            self.stdout.write(text)
        self.stdout.flush()

    def exit_as(self, run: Run) -> None:
        if run.state in (State.FAILED, State.CANCELLED):
            sys.exit(EXIT_NOT_SUCCEEDED)


def described(run: Run) -> dict[str, Any]:
    return {
        "run": run.pk,
        "kind": run.kind,
        "title": run.title,
        "project": run.project.slug if run.project else None,
        "state": run.state,
        "priority": run.get_priority_display().lower(),
        "attempt": run.attempt,
        "step": run.step,
        "total_steps": run.total_steps,
        "started_by": run.created_by.username if run.created_by else None,
        "created_at": run.created_at.isoformat(),
        "seconds": live.seconds_taken(run),
        "error": run.error,
        "tags": run.tags,
        "notes": run.notes,
        "archived": run.archived_at is not None,
        "figure": live.figure(run),
    }


def line(run: Run) -> str:
    steps = f"step {run.step} of {run.total_steps}" if run.total_steps else ""
    parts = [f"#{run.pk}", run.state, run_name(run), steps, duration(live.seconds_taken(run))]
    return "  ".join(part for part in [*parts, live.figure(run), run.error] if part)


def event_text(event: str, data: dict[str, Any], shares: Collection[str]) -> str:
    if event in ("message", "stage"):
        return str(data.get("text", ""))
    if event == "progress":
        numbers = "  ".join(
            f"{name} {live.format_value(value, share=name in shares)}"
            for name, value in live.curves_of(data).items()
        )
        return f"step {data.get('step')} of {data.get('total')}  {numbers}"
    return ""
