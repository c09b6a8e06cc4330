from typing import Any

from django.conf import settings
from django.core.management import BaseCommand, CommandError

from config.local.processes import Services, scorer
from config.management.commands.local import interrupt_on_signals
from reward.scoring.wire import address


class Command(BaseCommand):
    help = (
        "Run the API's scorer, a process that loads the promoted reward model at the first request and "
        "unloads it when it is idle. If the process ends, it is restarted. manage.py local also runs a "
        "scorer; a second one waits as a reserve. Ctrl-C stops the command."
    )

    def handle(self, **options: Any) -> None:
        try:
            address(settings.SCORER_SOCKET)
        except ValueError as error:
            raise CommandError(str(error)) from None
        interrupt_on_signals()
        try:
            with Services([scorer()]) as services:
                self.stdout.write(f"The scorer answers at {settings.SCORER_SOCKET}.")
                services.watch()
        except KeyboardInterrupt:
            self.stdout.write("Stopped.")
