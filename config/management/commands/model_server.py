from typing import Any

from django.conf import settings
from django.core.management import BaseCommand, CommandError

from config.local.processes import Services, model_server
from config.management.commands.local import interrupt_on_signals
from serving.address import WrongAddress, check_address


class Command(BaseCommand):
    help = (
        "Run the model server, a process that answers chats with language models and scores responses "
        "with reward models. It loads a model at the first request for it. If the process ends, it is restarted. manage.py "
        "local also runs one. Ctrl-C stops the command."
    )

    def handle(self, **options: Any) -> None:
        address = settings.MODEL_SERVER.address
        try:
            check_address(address)
        except WrongAddress as error:
            raise CommandError(str(error)) from None
        interrupt_on_signals()
        try:
            with Services([model_server()]) as services:
                self.stdout.write(f"The model server answers at {address}.")
                services.watch()
        except KeyboardInterrupt:
            self.stdout.write("Stopped.")
