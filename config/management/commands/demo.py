import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management import BaseCommand, CommandError, CommandParser, call_command

from config.local.processes import FIRST_PORT, Services, scorers, wait_for_web, web, worker
from config.management.commands.local import chosen_port, interrupt
from demo import people
from demo.loop import PROMPTS, DemoError, Watcher, evaluation_of, run_loop
from demo.project import slug_of
from runs.services import InvalidConfig

FEWEST_PROMPTS = 20


class Command(BaseCommand):
    help = (
        "Run the whole loop on the demo project (sample answers, rank them with simulated reviewers, "
        "freeze, train a reward model, fine-tune with DPO, measure on held-out letters), then serve "
        "it. A second start finds everything done and only serves. The last line printed after the "
        "loop is one JSON object with the figures."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--exit", action="store_true", help="End after the loop.")
        parser.add_argument(
            "--seed", type=int, default=0, help="Another seed is another demo project. Default 0."
        )
        parser.add_argument(
            "--prompts",
            type=int,
            default=PROMPTS,
            help=f"How many letters, {FEWEST_PROMPTS} or more. Default {PROMPTS}; fewer is faster, and "
            "too few to show a better model.",
        )
        parser.add_argument("--port", type=int, default=FIRST_PORT, help="Where to serve, if free.")

    def handle(self, *, exit: bool, seed: int, prompts: int, port: int, **options: Any) -> None:
        if prompts < FEWEST_PROMPTS:
            raise CommandError(
                f"The demo needs {FEWEST_PROMPTS} letters or more, so that some can be held out; "
                f"got {prompts}."
            )
        started = time.monotonic()
        call_command("migrate", verbosity=0)
        port = chosen_port(port, self)
        signal.signal(signal.SIGTERM, interrupt)
        try:
            with Services([web(port), worker(), *scorers()]) as services:
                wait_for_web(port)
                self.stdout.write(f"Tiebreak is at http://127.0.0.1:{port}/ — watch it work there.")
                self.tell_sign_in()
                figures = self.figures(seed, prompts, services, started)
                if not exit:
                    self.tell_where_to_look(port, seed)
                    self.tell(figures)
                    services.watch()
            self.tell(figures)
        except KeyboardInterrupt:
            self.stdout.write("Stopped. Start again with `make demo`; nothing is lost.")
        except (DemoError, InvalidConfig, TimeoutError) as error:
            raise CommandError(str(error)) from None

    def tell(self, figures: dict[str, Any]) -> None:
        """The one line for programs, after everything that the services had to say."""
        self.stdout.write(json.dumps(figures))
        self.stdout.flush()

    def figures(
        self, seed: int, prompts: int, services: Services, started: float
    ) -> dict[str, Any]:
        """What the loop found, kept in a file so that a second start need not look again."""
        kept = settings.VAR_DIR / f"demo-{slug_of(seed)}.json"
        if kept.exists():
            figures = json.loads(kept.read_text())
            if evaluation_of(seed) == figures["evaluation"]:
                return figures
        figures = run_loop(seed, self.watcher(services), prompts)
        figures["seconds"] = round(time.monotonic() - started, 1)
        Path(kept).write_text(json.dumps(figures))
        return figures

    def watcher(self, services: Services) -> Watcher:
        lively = sys.stderr.isatty()

        def begin(title: str) -> None:
            print(("\r\x1b[K" if lively else "") + f"→ {title} …", file=sys.stderr, flush=True)

        def progress(share: float) -> None:
            if lively:
                filled = "█" * round(share * 30)
                print(f"\r\x1b[K  {filled:<30} {share:4.0%}", end="", file=sys.stderr, flush=True)

        return Watcher(begin=begin, progress=progress, idle=services.revive)

    def tell_sign_in(self) -> None:
        people.ensure_people()
        self.stdout.write("Sign in as (name, password, what they do):")
        for line in people.sign_in_lines():
            self.stdout.write(line)

    def tell_where_to_look(self, port: int, seed: int) -> None:
        site = f"http://127.0.0.1:{port}"
        self.stdout.write(
            f"\nRank:     {site}/p/{slug_of(seed)}/review/\nQuality:  {site}/p/{slug_of(seed)}/quality/\n"
            f"Models:   {site}/models/\nRuns:     {site}/runs/\nAdmin:    {site}/admin/\n"
            "Ctrl-C stops everything.\n"
        )
