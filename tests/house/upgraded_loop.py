"""Migrate the database of a release, and then claim, rank, freeze and read the pages.

    DATABASE_URL=… manage.py shell -c "from tests.house.upgraded_loop import main; main()"

The last line is a JSON object. The files of the release's snapshots and runs are missing.
"""

import json
import re
from collections.abc import Iterator
from html import unescape

from django.conf import settings
from django.core.management import call_command
from django.db import connection
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from accounts.models import User
from labeling.models import GuidelineConfirmation, Membership, Project, Ranking, Slot
from labeling.queue import slots
from labeling.rankings import recording
from labeling.rankings.content import Content
from reward.preferences.snapshots import SnapshotFilter, freeze
from tests.labeling.world import key, one_each

MAX_PAGES = 60
LINK = re.compile(r'<a [^>]*?href="(/[^"#]*)')
NOT_READ = re.compile(r"/logout|/delete/|/download|/archive/|/report/|/card/|/export|/data/erase/")
"""Addresses that change something, or that are files, some of which are missing."""


def rankings() -> dict[int, str]:
    """Return the tiers of each ranking by its id, as they are stored."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT id, tiers::text FROM labeling_ranking ORDER BY id")
        return dict(cursor.fetchall())


def rank_a_task(reviewer: User) -> Ranking:
    """Claim a task of a project in which the reviewer has not worked, and submit a ranking."""
    free = Slot.objects.filter(ranking=None, reviewer=None)
    project = Project.objects.filter(tasks__slots__in=free, archived_at=None).first()
    assert project and project.current_version
    Membership.objects.create(project=project, user=reviewer)
    GuidelineConfirmation.objects.create(version=project.current_version, reviewer=reviewer)
    client = Client(HTTP_HOST="localhost")
    client.force_login(reviewer)
    page = client.get(reverse("review", args=[project.slug]))
    assert page.status_code == 200, page.content
    slot = slots.claim(project=project, reviewer=reviewer)
    assert slot and f'value="{slot.pk}"' in page.content.decode()
    content = Content(one_each(slot.task))
    recording.submit(slot_id=slot.pk, reviewer=reviewer, idempotency_key=key(), content=content)
    return Ranking.objects.get(reviewer=reviewer)


def read_pages(client: Client) -> Iterator[str]:
    """Follow the links from the start page, one of each form first, and yield each address."""
    waiting, seen = ["/", "/admin/"], {"/", "/admin/"}
    while waiting:
        address = waiting.pop(0)
        reply = client.get(address, follow=True)
        assert reply.status_code == 200, f"{address}: {reply.status_code}"
        yield address
        for link in map(unescape, LINK.findall(reply.content.decode(errors="replace"))):
            form = re.sub(r"\d+|(?<=/p/)[-\w]+|\?.*", "0", link)
            if form not in seen and not NOT_READ.search(link) and len(seen) < MAX_PAGES:
                seen.add(form)
                waiting.append(link)


def main() -> None:
    call_command("migrate", verbosity=0)
    settings.ALLOWED_HOSTS = ["localhost"]
    before = rankings()
    reviewer = User.objects.create(username="new-reviewer")
    ranking = rank_a_task(reviewer)
    after = rankings()
    assert {pk: after.get(pk) for pk in before} == before
    assert after.keys() - before.keys() == {ranking.pk}
    administrator = User.objects.create(
        username="new-administrator", is_superuser=True, last_login=timezone.now()
    )
    snapshot = freeze(project=ranking.task.project, filter=SnapshotFilter(), by=administrator)
    client = Client(HTTP_HOST="localhost")
    client.force_login(administrator)
    print(
        json.dumps(
            {
                "rankings_before": len(before),
                "snapshot_rankings": snapshot.counts["used"],
                "pages": len(list(read_pages(client))),
            }
        )
    )
