"""Tests of the audit trail: it cannot be changed, and it can be exported."""

import json
from datetime import UTC, datetime
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import IntegrityError, transaction

from accounts.models import AuditEntry, audit
from labeling.removal.erasing import unfrozen
from tests.labeling.world import make_user

pytestmark = pytest.mark.django_db


@pytest.fixture
def entry() -> AuditEntry:
    return audit(make_user(), "model promoted", "Model #1", reason="ü")


@pytest.mark.parametrize(
    "change",
    [
        lambda entries: entries.update(action="model archived"),
        lambda entries: entries.update(details={}),
        lambda entries: entries.update(user=None),
        lambda entries: entries.delete(),
    ],
)
def test_the_database_refuses_to_change_or_delete_an_entry(entry, change):
    with pytest.raises(IntegrityError, match="cannot be changed or deleted"), transaction.atomic():
        change(AuditEntry.objects.filter(pk=entry.pk))
    assert AuditEntry.objects.get().details == {"reason": "ü"}


def test_an_erasure_may_change_only_the_texts(entry):
    entries = AuditEntry.objects.filter(pk=entry.pk)
    with unfrozen():
        entries.update(subject="[erased]", details={})
    assert AuditEntry.objects.get().subject == "[erased]"
    for fields in ({"action": "x"}, {"at": datetime(2020, 1, 1, tzinfo=UTC)}, {"user": None}):
        with pytest.raises(IntegrityError), unfrozen():
            entries.update(**fields)
    with pytest.raises(IntegrityError), unfrozen():
        entries.delete()


def exported(*options: str) -> list[dict[str, Any]]:
    out = StringIO()
    call_command("audit", *options, stdout=out)
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_entries_are_exported_and_filtered(entry):
    other = audit(None, "sign-in failed", "joe")
    first, second = exported()
    assert first == {
        "id": entry.pk, "at": entry.at.astimezone(UTC).isoformat(), "user": entry.user.username,
        "action": "model promoted", "subject": "Model #1", "details": {"reason": "ü"},
    }  # fmt: skip
    assert (second["id"], second["user"]) == (other.pk, None)
    assert exported("--action", "sign-in failed") == [second]
    assert exported("--user", entry.user.username) == [first]
    assert exported("--since", "2999-01-01") == []
    assert len(exported("--since", "2020-01-01")) == 2


def test_a_wrong_date_is_refused():
    with pytest.raises(CommandError, match="'1 May' is not a date; use YYYY-MM-DD"):
        exported("--since", "1 May")
