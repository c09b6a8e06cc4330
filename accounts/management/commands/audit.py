import json
from argparse import ArgumentTypeError
from datetime import UTC, datetime
from typing import Any

from django.core.management import BaseCommand, CommandParser

from accounts.models import AuditEntry


def day(text: str) -> datetime:
    """Return the beginning of a day, in UTC."""
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not a date; use YYYY-MM-DD.") from None


class Command(BaseCommand):
    help = "Export the audit trail, oldest entry first, as one JSON object per line."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--since", type=day, help="only entries of this day (UTC) or later")
        parser.add_argument("--user", help="only actions of this account")
        parser.add_argument("--action", help='only this action, such as "model promoted"')

    def handle(
        self, *, since: datetime | None, user: str | None, action: str | None, **options: Any
    ) -> None:
        entries = AuditEntry.objects.select_related("user").order_by("pk")
        if since:
            entries = entries.filter(at__gte=since)
        if user:
            entries = entries.filter(user__username=user)
        if action:
            entries = entries.filter(action=action)
        for entry in entries.iterator():
            row = {
                "id": entry.pk,
                "at": entry.at.astimezone(UTC).isoformat(),
                "user": entry.user.username if entry.user else None,
                "action": entry.action,
                "subject": entry.subject,
                "details": entry.details,
            }
            self.stdout.write(json.dumps(row, ensure_ascii=False))
