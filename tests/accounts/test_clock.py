"""Tests of the database's clock on a machine whose own clock is wrong."""

from datetime import timedelta

import pytest
from django.utils import timezone

from accounts.models import audit
from database import clock
from labeling.rankings import recording, skip, undo
from labeling.rankings.content import Content
from tests.labeling.world import key, make_member, make_project, make_task, one_each

pytestmark = pytest.mark.django_db


@pytest.fixture
def ten_minutes_slow(monkeypatch):
    """Set this machine's clock ten minutes back."""
    real = timezone.now
    monkeypatch.setattr(timezone, "now", lambda: real() - timedelta(minutes=10))
    monkeypatch.setattr(clock, "_measured_at", -clock.MEASURED_EVERY)
    monkeypatch.setattr(clock, "_ahead", timedelta())  # so that it is restored with the measurement


def test_now_is_the_database_time_on_a_machine_with_a_slow_clock(ten_minutes_slow):
    assert clock.now() - timezone.now() == pytest.approx(
        timedelta(minutes=10), abs=timedelta(seconds=5)
    )


def test_the_offset_is_measured_once_a_minute(django_assert_num_queries):
    clock.now()
    with django_assert_num_queries(0):
        clock.now()


def test_the_undo_window_does_not_depend_on_the_web_servers_clock(ten_minutes_slow):
    from labeling.queue import slots

    project = make_project()
    task, reviewer = make_task(project), make_member(project)
    slot = slots.claim(project=project, reviewer=reviewer)
    submission = recording.submit(
        slot_id=slot.pk, reviewer=reviewer, idempotency_key=key(), content=Content(one_each(task))
    )
    left = undo.undo_seconds(submission.ranking)
    assert 0 < left <= undo.UNDO_FOR.total_seconds()
    back = undo.undo(ranking=submission.ranking, reviewer=reviewer, draft={})
    assert back.leased_until - clock.now() <= timedelta(minutes=project.lease_minutes)
    slots.skip(slot_id=back.pk, project=project, reviewer=reviewer, reason="unclear", note="")
    assert skip.newest(project, reviewer) is not None


def test_the_audit_trail_has_the_database_time(ten_minutes_slow):
    assert audit(None, "tested", "clocks").at - timezone.now() == pytest.approx(
        timedelta(minutes=10), abs=timedelta(seconds=5)
    )
