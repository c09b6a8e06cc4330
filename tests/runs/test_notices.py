"""Tests of notices about runs that have ended, with a real HTTP server and Django's outbox."""

import base64
import hashlib
import hmac
import json
import threading
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from socket import getaddrinfo

import pytest
from django.core import mail
from django.core.exceptions import ImproperlyConfigured
from django.db.models.functions import Now
from django.utils import timezone

from accounts.models import Role, User
from config.notices import check_webhook, mail_server
from runs.models import Notice, Run, State
from runs.notices import sending
from runs.notices.message import url_of
from runs.tasks import send_notices
from tests.runs.test_lifecycle import in_state
from webhooks import http
from webhooks.addresses import is_public
from webhooks.http import NotSent

SECRET = "a secret of at least 24 characters"


class Receiver(HTTPServer):
    """A server that records requests and answers with `status`."""

    status = 204

    def __init__(self):
        self.requests: list[tuple[dict, bytes]] = []
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        assert isinstance(self.server, Receiver)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((dict(self.headers), body))
        self.send_response(self.server.status)
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments):
        pass


@pytest.fixture
def receiver(settings):
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    settings.WEBHOOK_URL = f"http://localhost:{server.server_port}/hook?a=b"
    settings.WEBHOOK_SECRET = SECRET
    settings.WEBHOOK_PRIVATE = True
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def user(db):
    return User.objects.create_user(
        "ada", email="ada@example.org", role=Role.TRAINER, all_projects=True
    )


def ended(state=State.FAILED, **fields) -> Run:
    return in_state(state, finished_at=Now(), **fields)


@pytest.mark.django_db
def test_nothing_is_sent_without_a_configuration():
    ended()
    send_notices()
    assert not Notice.objects.exists() and mail.outbox == []


def test_the_person_who_started_a_run_gets_one_e_mail(settings, user):
    settings.EMAIL_URL, settings.SITE_URL = "smtp://localhost", "https://rank.example.org"
    run = ended(title="Lamps\r\nBcc: x@example.org", created_by=user, error="It broke.")
    in_state(State.RUNNING, created_by=user)
    ended()  # nobody started it
    send_notices()
    send_notices()
    [message] = mail.outbox
    assert message.to == ["ada@example.org"]
    assert message.subject == "Lamps Bcc: x@example.org: failed"
    assert (
        "It broke." in message.body and f"https://rank.example.org/runs/{run.pk}/" in message.body
    )


@pytest.mark.django_db
@pytest.mark.parametrize("site", ["https://example.org", "https://example.org/tiebreak"])
def test_the_link_in_a_notice_has_the_prefix_of_the_path_once(settings, site):
    settings.SITE_URL, settings.PATH_PREFIX = site, "/tiebreak"
    assert url_of(Run(pk=7)) == "https://example.org/tiebreak/runs/7/"


def test_only_failed_runs_cause_notices_if_the_setting_says_so(settings, user):
    settings.EMAIL_URL, settings.NOTIFY = "smtp://localhost", "failed"
    for state in (State.SUCCEEDED, State.CANCELLED, State.FAILED):
        ended(state, created_by=user)
    send_notices()
    assert [message.subject.rpartition(": ")[2] for message in mail.outbox] == ["failed"]


def test_a_run_that_ends_again_causes_another_notice(settings, user):
    settings.EMAIL_URL = "smtp://localhost"
    run = ended(created_by=user)
    send_notices()
    Run.objects.filter(pk=run.pk).update(finished_at=Now() + timedelta(seconds=1))
    send_notices()
    assert len(mail.outbox) == 2


def test_runs_from_before_the_configuration_cause_no_notice(settings, user):
    settings.EMAIL_URL = "smtp://localhost"
    ended(created_by=user)
    Run.objects.update(finished_at=Now() - timedelta(hours=7))
    send_notices()
    assert mail.outbox == []


@pytest.mark.parametrize("secret", [SECRET, "whsec_" + base64.b64encode(b"k" * 24).decode()])
def test_a_webhook_request_is_signed(receiver, settings, user, secret):
    settings.WEBHOOK_SECRET = secret
    run = ended(created_by=user, error="<b>It broke.</b>")
    send_notices()
    send_notices()
    [(headers, body)] = receiver.requests
    key = b"k" * 24 if secret.startswith("whsec_") else secret.encode()
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    digest = base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{digest}"
    assert headers["Host"] == settings.WEBHOOK_URL.split("/")[2]
    data = json.loads(body)
    assert data["type"] == "run.failed" and data["data"]["run"] == run.pk
    assert data["data"]["started_by"] == "ada" and data["data"]["error"] == "<b>It broke.</b>"


@pytest.mark.django_db
@pytest.mark.parametrize("status", [500, 302, 404])
def test_a_refused_webhook_is_retried_later_and_the_run_is_unchanged(receiver, status):
    receiver.status = status
    run = ended()
    send_notices()
    notice = Notice.objects.get()
    assert notice.sent_at is None and f"status {status}" in notice.error
    assert 20 < (notice.next_attempt_at - timezone.now()).total_seconds() < 31
    send_notices()
    assert len(receiver.requests) == 1  # it is not due yet, and the redirect was not followed
    receiver.status = 200
    Notice.objects.update(next_attempt_at=Now())
    send_notices()
    notice.refresh_from_db()
    assert notice.sent_at and notice.error == "" and notice.attempts == 2
    run.refresh_from_db()
    assert run.state == State.FAILED


@pytest.mark.django_db
def test_a_notice_that_another_worker_sends_is_left_alone(receiver):
    ended()
    sending.create(["webhook"])
    Notice.objects.update(leased_until=Now() + timedelta(minutes=1), attempts=1)
    send_notices()
    assert receiver.requests == []
    Notice.objects.update(leased_until=Now() - timedelta(seconds=1))
    send_notices()
    assert len(receiver.requests) == 1


@pytest.mark.django_db
def test_a_private_address_is_refused_unless_it_is_allowed(receiver, settings):
    settings.WEBHOOK_PRIVATE = False
    ended()
    send_notices()
    assert receiver.requests == []
    assert "private address" in Notice.objects.get().error


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.0.0.1", "169.254.169.254", "192.168.1.1", "0.0.0.0", "100.64.0.1", "224.0.0.1",
     "::1", "fe80::1", "fc00::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1",
     "2002:7f00:1::", "2001:0:7f00:1::", "fec0::1", "::"],
)  # fmt: skip
def test_each_kind_of_private_address_is_recognised(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::1", "64:ff9b::5db8:d822"])
def test_a_public_address_is_accepted(address):
    assert is_public(address)


def test_the_request_goes_to_the_address_that_was_checked(receiver, settings, monkeypatch):
    lookups = []

    def changing(host, port, *arguments, **options):
        lookups.append(host)
        names = {"hooks.example.org": "127.0.0.1" if lookups == [host] else "192.0.2.1"}
        return getaddrinfo(names.get(host, host), port, *arguments, **options)

    monkeypatch.setattr(http.socket, "getaddrinfo", changing)
    url = f"http://hooks.example.org:{receiver.server_port}/"
    assert http.post(url, b"{}", {}, private=True) == 204
    assert lookups[0] == "hooks.example.org" and "hooks.example.org" not in lookups[1:]
    assert receiver.requests[0][0]["Host"] == f"hooks.example.org:{receiver.server_port}"


def test_an_unreachable_webhook_is_a_sentence():
    with pytest.raises(NotSent, match="cannot be reached"):
        http.post("http://127.0.0.1:1/", b"", {}, private=True)
    with pytest.raises(NotSent, match="has no address"):
        http.post("http://no-such-host.invalid/", b"", {}, private=True)


@pytest.mark.parametrize(
    ("url", "secret"),
    [("ftp://x", SECRET), ("https://user:pw@x", SECRET), ("http://", SECRET), ("https://x:0", SECRET),
     ("https://[::1", SECRET), ("https://x/#a", SECRET), ("https://x", "short"),
     ("https://x", "whsec_" + "!" * 30)],
)  # fmt: skip
def test_a_wrong_webhook_is_refused_when_the_site_starts(url, secret):
    with pytest.raises(ImproperlyConfigured, match="TIEBREAK_WEBHOOK"):
        check_webhook(url, secret)


def test_the_address_of_a_mail_server_is_read():
    server = mail_server("smtp://me:p%40ss@mail.example.org")
    assert (server.host, server.port, server.user) == ("mail.example.org", 587, "me")
    assert server.password == "p@ss" and server.starttls and not server.tls
    assert mail_server("smtps://mail.example.org").port == 465
    assert not mail_server("smtp://localhost:25").starttls
    for wrong in ("mail.example.org", "http://x", "smtp://", "smtp://x:y:z", "smtp://x/path"):
        with pytest.raises(ImproperlyConfigured, match="TIEBREAK_EMAIL_URL"):
            mail_server(wrong)
