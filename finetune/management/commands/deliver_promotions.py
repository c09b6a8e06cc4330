from typing import Any

from django.core.management import BaseCommand, CommandError, CommandParser

from finetune.release import delivering


class Command(BaseCommand):
    help = (
        "Deliver the promoted model of each project to the configured services now, without waiting for "
        "the time of the next attempt. A worker does this every 30 seconds. Exit status: 0 everything is "
        "delivered, 1 a delivery failed or no service is configured."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="print what would be delivered")

    def handle(self, **options: Any) -> None:
        services = [name for name, each in delivering.SERVICES.items() if each.is_configured()]
        if not services:
            raise CommandError(
                "No service is configured. Set MLFLOW_TRACKING_URI or TIEBREAK_VLLM_URL."
            )
        if options["dry_run"]:
            for certificate in delivering.newest_promotions():
                for service in services:
                    done = certificate.deliveries.filter(
                        service=service, delivered_at__isnull=False
                    )
                    state = "delivered" if done.exists() else "waiting"
                    self.stdout.write(f"{certificate.model} to {service.label}: {state}.")
            return
        deliveries = delivering.deliver_due(at_once=True)
        for delivery in deliveries:
            self.stdout.write(f"{delivery}: {delivery.text}")
        if any(delivery.error for delivery in deliveries):
            raise CommandError("A delivery failed.")
        if not deliveries:
            self.stdout.write("Everything is delivered.")
