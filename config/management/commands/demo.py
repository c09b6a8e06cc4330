import json
import logging
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from django.conf import settings
from django.core.management import BaseCommand, CommandError, CommandParser, call_command

from config.local.processes import (
    FIRST_PORT,
    AlreadyRunning,
    Services,
    everything,
    only_one,
    wait_for_web,
)
from config.management.commands.local import chosen_port, interrupt_on_signals
from demo import people
from demo.loop import PROMPTS, DemoError, Watcher, evaluation_of, run_loop
from demo.progress import Steps
from demo.project import slug_of
from labeling.guidelines.versions import GuidelineError
from recipes.rundir import write_atomically
from runs.services import InvalidConfig

MIN_PROMPTS = 20
MAX_ROUNDS = 9
RUNS_AT_ONCE = 2
"""The loop trains the reward model and the language model at the same time."""


class Command(BaseCommand):
    help = (
        "Run the whole loop on the demo project, and then serve it. The loop samples answers, has "
        "simulated reviewers rank them, freezes a snapshot, trains a reward model, fine-tunes with DPO, "
        "evaluates on held-out letters and promotes the tuned model if it is proven better. If the "
        "demo is already finished, it is only served. With --exit, the last line of the output is a "
        "JSON object with the figures."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--exit", action="store_true", help="Exit after the loop instead of serving the demo."
        )
        parser.add_argument(
            "--seed",
            type=int,
            default=0,
            help="The seed of the demo (default: 0). Each seed has a demo project of its own.",
        )
        parser.add_argument(
            "--prompts",
            type=int,
            default=PROMPTS,
            help=f"The number of letters in a round, at least {MIN_PROMPTS} (default: {PROMPTS}). With fewer letters "
            "the demo is faster, but there are too few to show an improvement.",
        )
        parser.add_argument(
            "--rounds",
            type=int,
            default=1,
            help="The number of rounds of the loop (default: 1). Each further round samples answers to "
            "as many new letters from the promoted model, and continues to train it on their rankings.",
        )
        parser.add_argument(
            "--port",
            type=int,
            default=FIRST_PORT,
            help=f"The port on which to serve, or the next free one (default: {FIRST_PORT}).",
        )

    def handle(
        self, *, exit: bool, seed: int, prompts: int, rounds: int, port: int, **options: Any
    ) -> None:
        if prompts < MIN_PROMPTS:
            raise CommandError(
                f"The demo needs at least {MIN_PROMPTS} letters, so that some can be held out; "
                f"got {prompts}."
            )
        if not 1 <= rounds <= MAX_ROUNDS:
            raise CommandError(
                f"The number of rounds must be from 1 to {MAX_ROUNDS}; got {rounds}."
            )
        self.started = time.monotonic()
        self.steps = Steps(sys.stderr)
        interrupt_on_signals()
        log = settings.VAR_DIR / "demo.log"
        try:
            with only_one() as note_port, log.open("a") as output:
                log_to(output)
                port = chosen_port(port, self)
                note_port(port)
                self.run(port, seed, prompts, rounds, exit, output)
        except KeyboardInterrupt:
            self.steps.interrupt()
            self.stdout.write("Stopped. Start again with `make demo`; nothing is lost.")
        except AlreadyRunning as error:
            raise CommandError(str(error)) from None
        except (DemoError, GuidelineError, InvalidConfig, TimeoutError) as error:
            self.steps.interrupt()
            raise CommandError(f"{str(error).rstrip('.')}. The log is {log}.") from None

    def run(
        self, port: int, seed: int, prompts: int, rounds: int, exit: bool, output: TextIO
    ) -> None:
        """Run the loop unless it is finished, serve the demo unless it should exit, print the figures."""
        call_command("migrate", verbosity=0)
        people.ensure_people()
        figures = self.saved_figures(seed, rounds)
        if figures is None or not exit:
            processes = everything(port, runs_at_once=RUNS_AT_ONCE)
            with Services(processes, out=output, output=output.buffer) as services:
                wait_for_web(port)
                self.print_addresses(port, seed, output.name)
                if figures is None:
                    figures = self.figures(seed, prompts, rounds, services)
                    if not exit:
                        self.print_addresses(port, seed, output.name)
                if not exit:
                    services.watch()
        self.stdout.write(json.dumps(figures))

    def saved_figures(self, seed: int, rounds: int) -> dict[str, Any] | None:
        """Return the figures of an earlier loop on this database with as many rounds, or None."""
        path = figures_file(seed)
        figures = json.loads(path.read_text()) if path.exists() else None
        if not figures or evaluation_of(seed) != figures["evaluation"]:
            return None
        return figures if len(figures.get("rounds", ())) >= rounds else None

    def figures(self, seed: int, prompts: int, rounds: int, services: Services) -> dict[str, Any]:
        """Run the loop, save its figures for the next start, and return them."""
        figures = run_loop(seed, Watcher(self.steps, services.revive), prompts, rounds)
        figures["seconds"] = round(time.monotonic() - self.started, 1)
        write_atomically(figures_file(seed), json.dumps(figures))
        return figures

    def print_addresses(self, port: int, seed: int, log: str) -> None:
        site = f"http://127.0.0.1:{port}"
        self.stdout.write(
            f"\nTiebreak: {site}/\nRank:     {site}/p/{slug_of(seed)}/review/\n"
            f"Runs:     {site}/runs/\nLog:      {log}\n"
            "Sign in as (name, password, role):"
        )
        for line in people.sign_in_lines():
            self.stdout.write(line)
        self.stdout.write("Ctrl-C stops everything.\n\n")
        self.stdout.flush()


def figures_file(seed: int) -> Path:
    return settings.VAR_DIR / f"demo-{slug_of(seed)}.json"


def log_to(output: TextIO) -> None:
    """Write this process's log to the same file as the output of its services."""
    handler = logging.StreamHandler(output)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.getLogger().handlers = [handler]
    logging.captureWarnings(True)
