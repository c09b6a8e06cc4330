"""Tests of times and days in the browser's time zone, or in the server's."""

import re
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from django.template import Context, Template
from django.urls import reverse
from django.utils import timezone

from accounts.zones import BrowserZone, is_of_browser
from config.env import BASE_DIR
from labeling.models import Ranking
from labeling.queue import slots
from labeling.rankings import recording
from labeling.rankings.content import Content
from labeling.reviewing import progress
from reward.preferences.filters import SnapshotFilter
from tests.clients import signed_in
from tests.labeling.world import key, make_member, make_project, make_task, one_each

AT = datetime(2026, 11, 3, 23, 30, tzinfo=UTC)


def seen(rf, cookie, respond):
    request = rf.get("/")
    if cookie is not None:
        request.COOKIES["timezone"] = cookie
    return BrowserZone(respond)(request)


def shown(request):
    return Template("{% load moments %}{{ at|moment }}").render(Context({"at": AT}))


def test_times_are_in_the_browsers_zone(rf):
    text = seen(rf, "Asia/Tokyo", shown)
    assert ">4 Nov, 08:30</time>" in text
    assert 'title="4 Nov 2026, 08:30 JST"' in text
    assert 'datetime="2026-11-03T23:30:00+00:00"' in text


@pytest.mark.parametrize(
    "cookie", [None, "", "Mars/Base", "../../etc/passwd", "/etc/localtime", "x" * 9999, "\0"]
)
def test_without_a_valid_zone_times_name_the_servers_zone(rf, cookie):
    assert ">3 Nov, 23:30 UTC</time>" in seen(rf, cookie, shown)


def test_a_requests_zone_does_not_affect_the_next_request(rf):
    def fail(request):
        raise ValueError

    with pytest.raises(ValueError):
        seen(rf, "Asia/Tokyo", fail)
    assert not is_of_browser()
    assert timezone.get_current_timezone() == timezone.get_default_timezone()


def test_no_page_shows_a_time_without_a_zone():
    for page in (BASE_DIR / "templates").rglob("*.html"):
        for result in re.findall(r"\|date:\S*\"([^\"]*)\"", page.read_text()):
            assert "H:i" not in result or result.endswith("T"), f"{page}: use |moment for {result}"


def page_of(reviewer, project, zone=None):
    client = signed_in(reviewer)
    if zone:
        client.cookies["timezone"] = zone
    return client.get(reverse("review-history", args=[project.slug])).content.decode()


@pytest.mark.django_db
def test_today_is_the_users_day(monkeypatch):
    project = make_project()
    make_task(project)
    reviewer = make_member(project)
    slot = slots.claim(project=project, reviewer=reviewer)
    recording.submit(
        slot_id=slot.pk,
        reviewer=reviewer,
        idempotency_key=key(),
        content=Content(one_each(slot.task)),
    )
    sent = datetime(2026, 11, 3, 22, 0, tzinfo=UTC)
    monkeypatch.setattr(timezone, "now", lambda: datetime(2026, 11, 3, 23, 30, tzinfo=UTC))
    from django.db import connection

    with connection.cursor() as cursor:  # rankings are immutable, so the test bypasses the trigger
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute("UPDATE labeling_ranking SET created_at = %s", [sent])
        cursor.execute("SET LOCAL session_replication_role = DEFAULT")
    assert Ranking.objects.get().created_at == sent
    assert "1 today." in page_of(reviewer, project)
    assert "1 today." in page_of(reviewer, project, "America/Los_Angeles")
    assert "0 today." in page_of(reviewer, project, "Europe/Zurich"), "it is after midnight there"
    assert ">3 Nov, 23:00</time>" in page_of(reviewer, project, "Europe/Zurich")


@pytest.mark.django_db
def test_counts_of_today_are_cached_per_zone():
    project = make_project()
    make_task(project)
    reviewer = make_member(project)
    slot = slots.claim(project=project, reviewer=reviewer)
    ranking = recording.submit(
        slot_id=slot.pk,
        reviewer=reviewer,
        idempotency_key=key(),
        content=Content(one_each(slot.task)),
    ).ranking
    progress.after_ranking(project, reviewer, ranking)
    cached = len(progress._counts)
    with timezone.override(ZoneInfo("Pacific/Kiritimati")):
        progress.after_ranking(project, reviewer, ranking)
    assert len(progress._counts) == cached + 1


def test_the_dates_of_a_snapshot_do_not_depend_on_the_zone():
    chosen = SnapshotFilter(since=AT.date(), until=AT.date())
    with timezone.override(ZoneInfo("Asia/Tokyo")):
        assert chosen.covers(AT, None)
