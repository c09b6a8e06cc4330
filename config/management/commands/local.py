import signal
from typing import Any

from django.conf import settings
from django.core.management import BaseCommand, CommandError, CommandParser, call_command

from config.local.processes import (
    FIRST_PORT,
    LAST_PORT,
    Services,
    free_port,
    scorers,
    wait_for_web,
    web,
    worker,
)


class Command(BaseCommand):
    help = (
        "Serve Tiebreak on this machine: a web server and a worker, with the PostgreSQL and Redis "
        "of DATABASE_URL and REDIS_URL, or its own under var/. Ctrl-C stops everything it started."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--port",
            type=int,
            default=FIRST_PORT,
            help="The next free one is used when it is taken.",
        )

    def handle(self, *, port: int, **options: Any) -> None:
        call_command("migrate", verbosity=0)
        port = chosen_port(port, self)
        signal.signal(signal.SIGTERM, interrupt)
        try:
            with Services([web(port), worker(), *scorers()]) as services:
                wait_for_web(port)
                self.stdout.write(f"Tiebreak is at http://127.0.0.1:{port}/ — Ctrl-C stops it.")
                self.stdout.write(f"Its data is under {settings.VAR_DIR}.")
                services.watch()
        except KeyboardInterrupt:
            self.stdout.write("Stopped.")
        except TimeoutError as error:
            raise CommandError(f"{error}.") from None


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def chosen_port(wanted: int, command: BaseCommand) -> int:
    if not 1 <= wanted <= LAST_PORT:
        raise CommandError(f"A port goes from 1 to {LAST_PORT}; got {wanted}.")
    try:
        port = free_port(wanted)
    except OSError as error:
        raise CommandError(f"{error}; choose another with --port.") from None
    if port != wanted:
        command.stdout.write(f"Port {wanted} is taken; using {port}.")
    return port
