"""The base of commands that start a run."""

import json
import threading
from argparse import RawDescriptionHelpFormatter
from typing import Any

from django.core.management import BaseCommand, CommandError, CommandParser, call_command
from django.db import connection

from labeling.management.lookups import project_named
from recipes.presets import Preset
from recipes.settings import Option
from reward.models import Snapshot
from runs import execution, kinds, preflight, services
from runs.models import Forecast, Run, State
from runs.services import InvalidConfig
from runs.templatetags.runs import duration, memory

EXIT_NOT_SUCCEEDED = 2

ENDING = """

The run is queued for a worker, and this command shows its messages until it ends. Ctrl-C stops this
command, not the run. Status: 0 succeeded, 1 nothing was started, 2 failed or cancelled.
"""


class RunCommand(BaseCommand):
    """A command that starts a run.

    Subclasses set `kind` and `description`, and define the arguments and the inputs.
    """

    kind: str
    description: str

    def create_parser(self, *args: Any, **kwargs: Any) -> CommandParser:
        self.help = self.description + ENDING + self._settings()
        return super().create_parser(*args, formatter_class=RawDescriptionHelpFormatter, **kwargs)

    def _settings(self) -> str:
        presets = [_help_of_preset(preset) for preset in self._presets()]
        settings = [_help_of(option) for option in self._options()]
        return "\n".join(
            [
                *(["\nPresets:", *presets] if presets else []),
                "\nSettings for --set, with their defaults:",
                *settings,
            ]
        )

    def _presets(self) -> list[Preset]:
        return kinds.get(self.kind).config_class.presets()

    def _options(self) -> list[Option]:
        kind = kinds.get(self.kind)
        taken = kind.decided | kind.arguments
        return [o for o in kind.config_class.options() if o.name not in taken]

    def add_arguments(self, parser: CommandParser) -> None:
        if presets := [preset.name for preset in self._presets()]:
            parser.add_argument(
                "--preset", choices=presets, default="",
                help="settings for a goal, which --set changes; default: none",
            )  # fmt: skip
        parser.add_argument(
            "--set", action="append", default=[], metavar="NAME=VALUE", dest="assignments",
            help="a setting of the recipe; may be repeated",
        )  # fmt: skip
        parser.add_argument("--title", default="", help="title of the run")
        how = parser.add_mutually_exclusive_group()
        how.add_argument("--no-wait", action="store_true", help="queue the run and exit")
        how.add_argument(
            "--foreground", action="store_true", help="run in this process, without a worker"
        )
        how.add_argument(
            "--dry-run",
            action="store_true",
            help="check and print everything without starting the run",
        )

        if kinds.get(self.kind).forecast:
            how.add_argument(
                "--forecast",
                action="store_true",
                help="measure and print the memory, time and cost of the run without starting it",
            )

    def inputs(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return the inputs of the run. Raises CommandError if the options are not valid."""
        raise NotImplementedError

    def config(self, options: dict[str, Any]) -> dict[str, Any]:
        return settings_from(options["assignments"], [option.name for option in self._options()])

    def handle(self, **options: Any) -> None:
        config, inputs = self.config(options), self.inputs(options)
        preset = options.get("preset", "")
        try:
            if options["dry_run"]:
                checked = services.checked(self.kind, config, inputs, preset)
                return self.stdout.write(
                    json.dumps({"kind": self.kind, "config": checked, "inputs": inputs}, indent=2)
                )
            if options.get("forecast"):
                return self.forecast(services.checked(self.kind, config, inputs, preset), inputs)
            run = services.start(
                self.kind, config, None,
                inputs=inputs, preset=preset, title=options["title"], send=not options["foreground"],
            )  # fmt: skip
        except InvalidConfig as error:
            raise CommandError(_sentences(error)) from None
        self.stdout.write(f"Run {run.pk} is queued.")
        if options["foreground"]:
            self.run_in_foreground(run)
        elif not options["no_wait"]:
            call_command("runs", "watch", str(run.pk), stdout=self.stdout)
        return None

    def forecast(self, config: dict[str, Any], inputs: dict[str, Any]) -> None:
        """Print the forecast of a run. Raises CommandError with status 2 if the run does not fit."""
        row = preflight.measured_now(self.kind, config, inputs)
        if row.state == Forecast.State.FAILED:
            raise CommandError(row.error)
        if row.state in (Forecast.State.QUEUED, Forecast.State.MEASURING):
            raise CommandError("A worker is measuring this run. Repeat the command in a minute.")
        predicted = preflight.outcome(row, config)
        if predicted:
            self.stdout.write(sentence_about(predicted))
            if predicted.fits:
                return
        self.stdout.write("The run does not fit into memory. It would fit with:")
        for change in preflight.changes_for(row, config, now=True):
            values = ", ".join(f"--set {name}={value}" for name, value in change.values.items())
            self.stdout.write(f"  {values}: {sentence_about(change.outcome)}")
        raise CommandError("Nothing was started.", returncode=EXIT_NOT_SUCCEEDED)

    def run_in_foreground(self, run: Run) -> None:
        watcher = threading.Thread(target=self._watch, args=(run.pk,), daemon=True)
        watcher.start()
        try:
            finished = execution.run_now(run.pk)
        except KeyboardInterrupt:
            raise CommandError(
                f"Run {run.pk} is cancelled.", returncode=EXIT_NOT_SUCCEEDED
            ) from None
        watcher.join(timeout=5)
        if finished.state != State.SUCCEEDED:
            raise CommandError(finished.error or f"The run {finished.state}.", returncode=2)

    def _watch(self, run_id: int) -> None:
        try:
            call_command("runs", "watch", str(run_id), stdout=self.stdout)
        except SystemExit:
            pass  # the run did not succeed; the main thread reports it
        finally:
            connection.close()


def sentence_about(predicted: Any) -> str:
    """Return the memory, time and cost of a forecast as a sentence."""
    of = f" of {memory(predicted.capacity_mb)}" if predicted.capacity_mb else ""
    cost = preflight.cost_text(predicted.seconds)
    return (
        f"Peak memory {memory(predicted.memory_mb)}{of} on one {predicted.device}, "
        f"time {duration(predicted.seconds)}{f', cost {cost}' if cost else ''}."
    )


def settings_from(assignments: list[str], names: list[str]) -> dict[str, str]:
    """Return the values of NAME=VALUE assignments.

    If a name is unknown, CommandError is raised with a list of the valid names.
    """
    values = {}
    for pair in assignments:
        name, equals, value = pair.partition("=")
        if not equals:
            raise CommandError(f"--set {pair} has no value; write --set NAME=VALUE.")
        if name not in names:
            raise CommandError(f"Unknown setting {name!r}. The settings are: {', '.join(names)}.")
        values[name] = value
    return values


def _sentences(error: InvalidConfig) -> str:
    return "\n".join(
        text if name == "inputs" else f"{name}: {text}" for name, text in error.errors.items()
    )


def _help_of_preset(preset: Preset) -> str:
    values = ", ".join(f"{name}={value}" for name, value in preset.values.items())
    return f"  {preset.name}\n      {preset.description} It sets {values}.".replace("%", "%%")


def _help_of(option: Option) -> str:
    default = "" if option.default is None else str(option.default)
    choices = f" One of {', '.join(map(str, option.choices))}." if option.choices else ""
    return f"  {option.name}={default}\n      {option.help}{choices}".replace("%", "%%")


# --- lookups -------------------------------------------------------------------------------------


def add_snapshot_arguments(parser: CommandParser) -> None:
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--snapshot", type=int, metavar="NUMBER", help="the rankings to use")
    which.add_argument("--project", metavar="SLUG", help="use this project's newest snapshot")


def snapshot_named(options: dict[str, Any]) -> Snapshot:
    """Return the snapshot of --snapshot, or the newest snapshot of --project.

    Raises CommandError if there is none.
    """
    if options["snapshot"] is not None:
        snapshot = Snapshot.objects.filter(pk=options["snapshot"]).first()
        if snapshot is None:
            raise CommandError(f"There is no snapshot {options['snapshot']}.")
        return snapshot
    project = project_named(options["project"])
    snapshot = Snapshot.objects.filter(project=project).order_by("-id").first()
    if snapshot is None:
        text = f"{project} has no snapshot. Create one: manage.py snapshot {project.slug}"
        raise CommandError(text)
    return snapshot
