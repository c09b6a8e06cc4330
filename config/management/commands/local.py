import signal
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.core.management import BaseCommand, CommandError, CommandParser, call_command

from config.local.processes import (
    FIRST_PORT,
    LAST_PORT,
    AlreadyRunning,
    Services,
    everything,
    free_port,
    only_one,
    wait_for_web,
)


class Command(BaseCommand):
    help = (
        "Serve Tiebreak on this machine, with a web server and a worker. They use the PostgreSQL and Redis "
        "in DATABASE_URL and REDIS_URL, or local ones under var/. Ctrl-C stops everything."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--port",
            type=int,
            default=FIRST_PORT,
            help=f"The port on which to serve, or the next free one (default: {FIRST_PORT}).",
        )

    def handle(self, *, port: int, **options: Any) -> None:
        interrupt_on_signals()
        try:
            with only_one() as note_port:
                self.serve(port, note_port)
        except KeyboardInterrupt:
            self.stdout.write("Stopped.")
        except AlreadyRunning as error:
            raise CommandError(str(error)) from None
        except TimeoutError as error:
            raise CommandError(f"{error}.") from None

    def serve(self, wanted_port: int, note_port: Callable[[int], None]) -> None:
        port = chosen_port(wanted_port, self)
        note_port(port)
        call_command("migrate", verbosity=0)
        with Services(everything(port)) as services:
            wait_for_web(port)
            self.stdout.write(f"Tiebreak is at http://127.0.0.1:{port}/ — Ctrl-C stops it.")
            self.stdout.write(f"Its data is under {settings.VAR_DIR}.")
            services.watch()


def interrupt_on_signals() -> None:
    """Raise KeyboardInterrupt on SIGTERM and SIGINT.

    The handler for SIGINT is set explicitly, because a shell without job control starts background jobs
    with SIGINT ignored.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def chosen_port(requested: int, command: BaseCommand) -> int:
    if not 1 <= requested <= LAST_PORT:
        raise CommandError(f"A port is a number from 1 to {LAST_PORT}; got {requested}.")
    try:
        port = free_port(requested)
    except OSError as error:
        raise CommandError(f"{error}. Choose another port with --port.") from None
    if port != requested:
        command.stdout.write(f"Port {requested} is taken, so port {port} is used.")
    return port
