from typing import Any

from django.conf import settings
from django.core.management import BaseCommand, CommandError

from config.local.processes import Services, scorer
from config.management.commands.local import interrupt_on_signals
from reward.scoring.wire import address


class Command(BaseCommand):
    help = (
        "Keep the promoted reward model warm for the API: a process that loads it when the first "
        "score is asked for, and unloads it when nobody asks any more. It is started again when it "
        "dies. manage.py local runs one too; a second waits in reserve. Ctrl-C stops it."
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
