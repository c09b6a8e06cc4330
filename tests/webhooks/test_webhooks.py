"""Tests of webhooks with a real HTTP server: events, signatures, retries, the log and its pages."""

import base64
import hashlib
import hmac
import json
import threading
from datetime import timedelta

import pytest
from django.db import connection
from django.db.models.functions import Now
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from labeling.models import Membership, Slot
from labeling.queue import slots
from labeling.rankings import recording
from labeling.rankings.content import Content
from labeling.tasks import announce_finished_projects
from runs.models import State
from runs.tasks import send_notices
from tests.api.caller import Caller, refused
from tests.finetune.factory import make_reward_model, make_snapshot
from tests.labeling.world import key, make_member, make_project, make_task, make_user, one_each
from tests.runs.test_lifecycle import in_state
from tests.runs.test_notices import Receiver
from webhooks import endpoints, http, sending
from webhooks.models import Delivery, Endpoint, Event
from webhooks.tasks import forget_deliveries, send_webhooks

pytestmark = pytest.mark.django_db


@pytest.fixture(scope="module")
def receiver():
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def listening(receiver, settings):
    """Return an endpoint of a new project that gets all events at the receiver."""
    settings.WEBHOOK_PRIVATE = True
    receiver.status = 204
    receiver.requests.clear()
    project = make_project(rankings_per_task=1)
    lead = make_member(project, Membership.Role.LEAD)
    return endpoints.add(
        project=project,
        url=f"http://127.0.0.1:{receiver.server_port}/hook",
        events=Event.values,
        finished=False,
        by=lead,
    )


def submit(project, reviewer, task):
    slot = slots.claim(project=project, reviewer=reviewer)
    content = Content(one_each(task))
    return recording.submit(
        slot_id=slot.pk, reviewer=reviewer, content=content, idempotency_key=key()
    ).ranking


def received(receiver):
    return [json.loads(body) for _, body in receiver.requests]


def test_each_event_reaches_the_endpoint_once(listening, receiver):
    project = listening.project
    task = make_task(project)
    ranking = submit(project, make_member(project), task)
    announce_finished_projects()
    announce_finished_projects()
    run = in_state(State.SUCCEEDED, finished_at=Now(), project=project)
    in_state(State.SUCCEEDED, finished_at=Now() - timedelta(hours=1), project=project)
    in_state(State.SUCCEEDED, finished_at=Now(), project=make_project())
    send_notices()
    send_notices()
    model = make_reward_model(make_snapshot(project, prompts=1))
    model.promote(by=None)
    send_webhooks()
    send_webhooks()
    contents = {content["type"]: content["data"] for content in received(receiver)}
    assert len(receiver.requests) == 4 and set(contents) == set(Event.values)
    assert contents["ranking.submitted"] == {"ranking": ranking.pk, "task": task.pk}
    assert contents["project.finished"] == {"project": project.slug}
    assert contents["run.ended"]["run"] == run.pk
    assert contents["model.promoted"]["model"] == model.pk
    assert set(Delivery.objects.values_list("status", flat=True)) == {204}


def test_a_project_can_be_finished_again(listening, receiver):
    project, reviewer = listening.project, make_member(listening.project)
    announce_finished_projects()
    assert not Delivery.objects.exists(), "a project without tasks is not finished"
    for _ in range(2):
        task = make_task(project)
        announce_finished_projects()
        submit(project, reviewer, task)
        announce_finished_projects()
    finished = Delivery.objects.filter(event=Event.PROJECT_FINISHED)
    assert finished.count() == 2
    assert not Slot.objects.filter(project=project, ranking=None).exists()


def test_a_revision_is_announced_too(listening):
    project, reviewer = listening.project, make_member(listening.project)
    task = make_task(project)
    first = submit(project, reviewer, task)
    again = Content(one_each(task)[::-1])
    second = recording.revise(
        ranking=first, reviewer=reviewer, content=again, idempotency_key=key()
    ).ranking
    subjects = set(Delivery.objects.values_list("subject", flat=True))
    assert subjects == {str(first.pk), str(second.pk)}


def test_a_submission_costs_no_statement_more_for_webhooks(listening):
    def statements():
        project, reviewer = listening.project, make_member(listening.project)
        task = make_task(project)
        slot = slots.claim(project=project, reviewer=reviewer)
        content = Content(one_each(task))
        with CaptureQueriesContext(connection) as queries:
            recording.submit(
                slot_id=slot.pk, reviewer=reviewer, content=content, idempotency_key=key()
            )
        return len(queries)

    with_listener = statements()
    assert Delivery.objects.count() == 1
    Endpoint.objects.update(active=False)
    assert statements() == with_listener and Delivery.objects.count() == 1


def test_a_request_is_signed_as_standard_webhooks_says(listening, receiver):
    submit(listening.project, make_member(listening.project), make_task(listening.project))
    send_webhooks()
    [(headers, body)] = receiver.requests
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    secret = base64.b64decode(listening.secret.removeprefix("whsec_"))
    digest = base64.b64encode(hmac.new(secret, content, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{digest}"
    assert headers["webhook-id"] == f"msg_{Delivery.objects.get().key.hex}"
    assert listening.secret not in json.dumps(list(Endpoint.objects.values()), default=str)


def test_a_failed_delivery_is_retried_for_a_day_and_can_be_sent_again(listening, receiver):
    submit(listening.project, make_member(listening.project), make_task(listening.project))
    receiver.status = 500
    send_webhooks()
    send_webhooks()
    delivery = Delivery.objects.get()
    assert (delivery.state, delivery.attempts, delivery.status) == ("Retrying", 1, 500)
    assert len(receiver.requests) == 1 and "status 500" in delivery.error
    old = timezone.now() - timedelta(hours=25)
    Delivery.objects.update(next_attempt_at=Now(), created_at=old)
    send_webhooks()
    delivery.refresh_from_db()
    assert delivery.state == "Failed"
    send_webhooks()
    assert len(receiver.requests) == 2
    receiver.status = 200
    assert sending.send_again(delivery)
    send_webhooks()
    delivery.refresh_from_db()
    assert (delivery.state, delivery.error) == ("Delivered", "")
    assert len({headers["webhook-id"] for headers, _ in receiver.requests}) == 1
    Delivery.objects.update(created_at=timezone.now() - timedelta(days=31))
    forget_deliveries()
    assert not Delivery.objects.exists()


def test_an_endpoint_that_fails_does_not_delay_the_others(listening, receiver):
    broken = endpoints.add(
        project=listening.project, url="http://127.0.0.1:9/x", events=[Event.RANKING_SUBMITTED],
        finished=False, by=listening.created_by,
    )  # fmt: skip
    for _ in range(2):
        submit(listening.project, make_member(listening.project), make_task(listening.project))
    assert send_webhooks() == 3, "one attempt at the broken one"
    assert broken.deliveries.filter(attempts=0).count() == 1
    assert listening.deliveries.exclude(sent_at=None).count() == 2


def test_an_endpoint_that_is_down_gets_few_attempts(listening, receiver):
    reviewer = make_member(listening.project)
    for _ in range(sending.MOST_FAILING + 2):
        submit(listening.project, reviewer, make_task(listening.project))
    receiver.status = 500
    for _ in range(sending.MOST_FAILING + 2):
        send_webhooks()
    assert len(receiver.requests) == sending.MOST_FAILING
    receiver.status = 204
    first = listening.deliveries.earliest("pk")
    Delivery.objects.filter(pk=first.pk).update(next_attempt_at=Now())
    send_webhooks()
    assert listening.deliveries.exclude(sent_at=None).count() == 3, "that one, and the new ones"


def test_an_endpoint_that_is_gone_is_paused(listening, receiver):
    submit(listening.project, make_member(listening.project), make_task(listening.project))
    receiver.status = 410
    send_webhooks()
    listening.refresh_from_db()
    assert not listening.active


def test_private_addresses_are_refused_unless_a_setting_allows_them(listening, settings, receiver):
    settings.WEBHOOK_PRIVATE = False
    lead = Caller(listening.created_by)
    where = f"projects/{listening.project.slug}/webhooks"
    for url in ("http://127.0.0.1/", "http://localhost/", "http://[::1]/", "http://10.1.2.3/a"):
        new = {"url": url, "events": ["run.ended"]}
        refused(lead.post(where, new), 422, "private address")
    refused(lead.post(where, {"url": "ftp://a.example", "events": ["run.ended"]}), 422, "http")
    submit(listening.project, make_member(listening.project), make_task(listening.project))
    send_webhooks()
    assert receiver.requests == [] and "private address" in Delivery.objects.get().error
    with pytest.raises(http.NotSent):
        http.checked_address("localhost", 80, private=False)


def test_the_api_manages_webhooks(listening):
    lead = Caller(listening.created_by)
    where = f"projects/{listening.project.slug}/webhooks"
    new = {"url": "https://hooks.example.org/a", "events": ["run.ended"]}
    added = lead.post(where, new).json()
    assert added["secret"].startswith("whsec_")
    refused(lead.post(where, new), 409, "already has")
    assert "secret" not in json.dumps(lead.get(where).json())
    one = f"{where}/{added['id']}"
    assert not lead.ask("PATCH", f"v1/{one}", {"active": False}).json()["active"]
    assert lead.ask("DELETE", f"v1/{one}").status_code == 204
    submit(listening.project, make_member(listening.project), make_task(listening.project))
    [delivery] = lead.get(f"{where}/{listening.pk}/deliveries").json()["items"]
    again = f"{where}/{listening.pk}/deliveries/{delivery['id']}/redeliver"
    assert lead.post(again).json()["state"] == "Waiting"
    other = make_project()
    make_member(other, Membership.Role.LEAD)
    refused(Caller(make_user("lead")).get(where), 404)
    refused(Caller(make_member(listening.project)).get(where), 403)


def test_a_lead_adds_a_webhook_on_its_page_and_sees_the_secret_once(listening):
    client = Client()
    client.force_login(listening.created_by)
    where = f"/p/{listening.project.slug}/webhooks/"
    url = "https://hooks.example.org/a"
    page = client.post(where, {"url": url, "events": ["run.ended"]})
    endpoint = Endpoint.objects.get(url=url)
    assert endpoint.secret in page.content.decode()
    one = f"{where}{endpoint.pk}/"
    assert "whsec_" not in client.get(one).content.decode()
    before = endpoint.secret
    page = client.post(f"{one}change/", {"to": "secret"})
    endpoint.refresh_from_db()
    assert endpoint.secret != before and endpoint.secret in page.content.decode()
    client.post(f"{one}change/", {"to": "pause"})
    assert "Paused" in client.get(one).content.decode()
    submit(listening.project, make_member(listening.project), make_task(listening.project))
    send_webhooks()
    delivery = listening.deliveries.get()
    client.post(f"{where}{listening.pk}/{delivery.pk}/redeliver/")
    delivery.refresh_from_db()
    assert delivery.state == "Waiting"
    assert client.post(f"{one}change/", {"to": "no"}).status_code == 400
    client.post(f"{one}change/", {"to": "remove"})
    assert not Endpoint.objects.filter(pk=endpoint.pk).exists()
    assert client.post(where, {"url": "ftp://a", "events": []}).status_code == 422
