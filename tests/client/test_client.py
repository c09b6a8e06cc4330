"""Tests of the Python client against the real server over HTTP."""

import inspect
import re
import subprocess
import sys
from datetime import timedelta

import httpx
import pytest
from django.utils import timezone

from accounts.models import Role, Scope, Token
from config.env import BASE_DIR
from config.web.api import api
from labeling.models import Membership, Project
from labeling.queue import slots
from labeling.rankings import recording
from labeling.rankings.content import Content
from runs.models import Run, State
from tests.labeling.world import key, make_member, make_user, one_each

SOURCE = BASE_DIR / "client" / "src"
sys.path.insert(0, str(SOURCE))

from tiebreak_client import (  # noqa: E402
    ApiError,
    Client,
    InvalidSignature,
    NotReachable,
    transport,
    types,
    verify,
)  # fmt: skip

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def client(live_server):
    user = make_user(Role.TRAINER)
    _, secret = Token.issue(user=user, name="client", scopes=Scope)
    with Client(live_server.url, secret, retries=1) as client:
        client.user = user
        yield client


def lamp(number):
    return {
        "id": f"lamp-{number}",
        "messages": [{"role": "user", "content": f"Which lamp, {number}?"}],
        "responses": [{"text": "Tall.", "model": "a"}, {"text": "Red.", "model": "b"}],
    }


def test_a_project_goes_from_tasks_to_rankings(client):
    project = client.create_project("Lamps", settings={"rankings_per_task": 1})
    slug = project["slug"]
    draft = client.draft_guideline(slug, "Be kind.")
    client.publish_guideline(slug, draft["number"])
    before = timezone.now() - timedelta(seconds=1)
    added = client.add_tasks(slug, (lamp(number) for number in range(3)))
    assert [answer["tasks"] for answer in added] == [{"read": 3, "new": 3}]
    row = Project.objects.get(slug=slug)
    reviewer = make_member(row)
    assert {m["username"] for m in client.members(slug)} == {
        client.user.username,
        reviewer.username,
    }
    for task in client.tasks(slug):
        slot = slots.claim(project=row, reviewer=reviewer)
        content = Content(one_each(slot.task))
        recording.submit(slot_id=slot.pk, reviewer=reviewer, content=content, idempotency_key=key())
        assert len(task["responses"]) == 2
    rankings = list(client.rankings(slug, since=before, limit=2))
    assert len(rankings) == 3 and rankings[0]["reviewer"] == reviewer.username
    assert list(client.rankings(slug, after=rankings[-1]["id"])) == []
    [task] = client.tasks(slug, external_id="lamp-1")
    assert client.withdraw_task(slug, task["id"], reason="Wrong.")["withdrawn"]
    snapshot = client.freeze(slug)
    assert client.snapshot(snapshot["id"])["rankings"] > 0
    assert client.snapshot_file(snapshot["id"])[:4] == b"PAR1"
    client.set_member(slug, reviewer.username, "reviewer")
    client.remove_member(slug, reviewer.username)
    assert client.change_project(slug, description="All.")["description"] == "All."
    assert Membership.objects.filter(project=row).count() == 1


def test_a_run_is_read_and_cancelled(client):
    run = Run.objects.create(kind="generate", created_by=client.user)
    assert [r["id"] for r in client.runs(state="queued")] == [run.pk]
    assert list(client.run_events(run.pk)) == []
    with pytest.raises(TimeoutError):
        client.wait_for_run(run.pk, timeout=0, interval=0)
    assert client.cancel_run(run.pk)["state"] == State.CANCELLED
    assert client.wait_for_run(run.pk)["state"] == "cancelled"
    with pytest.raises(ApiError) as refused:
        client.start_run("generate", inputs={"model": 1})
    assert refused.value.status == 422 and refused.value.errors[0]["at"].startswith("inputs")
    assert list(client.models()) == list(client.evaluations()) == list(client.reward_models()) == []


def test_a_repeated_request_has_one_effect_and_an_error_has_the_servers_sentence(client, settings):
    failures = [httpx.ConnectError("lost"), None, None]
    calls = []

    class Losing(httpx.BaseTransport):
        """A transport that loses the answer to the first request."""

        def __init__(self):
            self.inner = httpx.HTTPTransport()

        def handle_request(self, request):
            response = self.inner.handle_request(request)
            calls.append(request.headers.get("Idempotency-Key"))
            if failure := failures.pop(0):
                response.read()
                raise failure
            return response

    token = Token.issue(user=client.user, name="b", scopes=["admin", "read"])[1]
    url = client._base.removesuffix("/api/v1")
    with Client(url, token, retries=1, http=httpx.Client(transport=Losing())) as losing:
        losing.create_project("Once")
        assert Project.objects.filter(name="Once").count() == 1 and calls[0] == calls[1]
        with pytest.raises(ApiError, match="scope label"):
            losing.add_tasks("once", [lamp(1)])
    settings.API_REQUESTS_A_MINUTE = 1
    transport.LONGEST_WAIT = 0.0
    with pytest.raises(ApiError, match="limit is 1 requests"):
        list(client.projects())
        list(client.projects())
    with pytest.raises(NotReachable), Client("http://127.0.0.1:9", "x", retries=0) as nowhere:
        list(nowhere.projects())


def test_the_signature_of_a_webhook_is_checked(client):
    from webhooks.http import signature

    slug = client.create_project("Lamps")["slug"]
    hook = client.add_webhook(slug, "https://hooks.example.org/", ["run.ended"])
    body, now = b"{}", "1700000000"
    headers = {
        "Webhook-Id": "a",
        "webhook-timestamp": now,
        "webhook-signature": "v1,no " + signature(hook["secret"], "a", now, body),
    }
    verify(body, headers, hook["secret"], now=1_700_000_010)
    for changed, at in ((b"{ }", 1_700_000_010), (body, 1_700_000_400)):
        with pytest.raises(InvalidSignature):
            verify(changed, headers, hook["secret"], now=at)
    assert not client.set_webhook_active(slug, hook["id"], False)["active"]
    assert list(client.deliveries(slug, hook["id"])) == []
    client.remove_webhook(slug, hook["id"])
    assert list(client.webhooks(slug)) == []


def test_the_types_have_the_fields_of_the_openapi_document():
    schemas = api.get_openapi_schema(path_prefix="/api/v1/")["components"]["schemas"]
    same = {
        "ProjectItem": "Project", "ProjectDetail": "ProjectDetail", "Member": "Member",
        "TaskItem": "Task", "Added": "Added", "RankingItem": "Ranking", "RunItem": "Run",
        "RunDetail": "RunDetail", "EventItem": "RunEvent", "SnapshotDetail": "SnapshotDetail",
        "LanguageModelDetail": "LanguageModelDetail", "RewardModelDetail": "RewardModelDetail",
        "EvaluationDetail": "EvaluationDetail", "VersionDetail": "GuidelineVersionDetail",
        "NewWebhookItem": "NewWebhook", "DeliveryItem": "Delivery", "Score": "Score", "Best": "Best",
    }  # fmt: skip
    for schema, name in same.items():
        fields = set(getattr(types, name).__annotations__)
        assert fields == set(schemas[schema]["properties"]), name


def test_the_client_has_a_method_for_every_operation():
    sent = set()

    def record(request):
        sent.add(f"{request.method} {request.url.path}")
        return httpx.Response(200, json={"items": [], "next": None, "state": "failed"})

    values = {"slug": "a", "project": "a", "action": "promote", "items": [{}], "conversations": []}
    with Client(
        "http://a", "b", http=httpx.Client(transport=httpx.MockTransport(record))
    ) as client:
        for name, method in inspect.getmembers(Client, inspect.isfunction):
            if name.startswith("_") or name in dir(transport.Transport):
                continue
            required = [
                parameter
                for parameter in inspect.signature(method).parameters.values()
                if parameter.default is parameter.empty
                and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
                and parameter.name != "self"
            ]
            numbers = {p.name: 1 for p in required if p.annotation is int}
            texts = {p.name: "a" for p in required if p.annotation is str}
            others = {p.name: {} for p in required}
            given = {**others, **numbers, **texts, **values}
            answer = getattr(client, name)(**{p.name: given[p.name] for p in required})
            if inspect.isgenerator(answer):
                list(answer)
    for path, operations in api.get_openapi_schema(path_prefix="/")["paths"].items():
        pattern = re.sub(r"\\{\w+\\}", r"[^/]+", re.escape(path))
        for method in operations:
            matching = [
                one for one in sent if re.fullmatch(f"{method.upper()} /api/v1{pattern}", one)
            ]
            assert matching, f"{method} {path}"


def test_the_client_is_typed_and_needs_only_httpx():
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); before = set(sys.modules); import tiebreak_client;"
        "print(*sorted({m.partition('.')[0] for m in set(sys.modules) - before}"
        " - set(sys.stdlib_module_names)))"
    )
    command = [sys.executable, "-c", program, str(SOURCE)]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert "django" not in loaded and {"httpx", "tiebreak_client"} <= set(loaded)
    assert (SOURCE / "tiebreak_client" / "py.typed").exists()
