"""Tests of the API over HTTP, with the real model server."""

import errno
import json
import os
import threading
from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from accounts.models import Role, Token, User
from config.env import BASE_DIR
from config.web.api import api
from labeling.models import Membership
from reward.models import RewardModel
from reward.scoring import model_server
from reward.training.score import Scorer
from serving.address import Server
from tests.finetune.factory import make_reward_model, make_snapshot
from tests.reward.factory import join, make_project, make_user
from tests.reward.scored import make_scorer_folder
from tests.serving.running import Running

pytestmark = pytest.mark.django_db

PROMPT = [{"role": "user", "content": "Which lamp?"}]
SNAPSHOT = BASE_DIR / "docs" / "openapi.json"


def conversation(text):
    return {"messages": [*PROMPT, {"role": "assistant", "content": text}]}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return [make_scorer_folder(folder / f"model-{n}", seed=n) for n in range(2)]


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with Running(tmp_path_factory.mktemp("server"), forked=True) as running:
        yield running


@pytest.fixture
def project(models, settings, tmp_path):
    """Return a project with a promoted model and no model server."""
    settings.MODEL_SERVER = Server(f"unix:{tmp_path}/none")
    project = make_project()
    snapshot = make_snapshot(project, prompts=1)
    make_reward_model(snapshot, path=str(models[0]), state=RewardModel.State.PROMOTED)
    return project


@pytest.fixture
def warm(project, running, settings):
    settings.MODEL_SERVER, settings.API_SCORE_SECONDS = running.server, 300
    return project


class Caller:
    def __init__(self, user):
        self.token, self.key = Token.issue(user=user, name="test")
        self.client = Client(enforce_csrf_checks=True)

    def post(self, where, body, **headers):
        headers = {"Authorization": f"Bearer {self.key}", **headers}
        body = body if isinstance(body, str) else json.dumps(body)
        return self.client.post(
            f"/api/v1/{where}", body, content_type="application/json", headers=headers
        )


@pytest.fixture
def caller(project):
    return Caller(make_user(Role.TRAINER))


def refused(answer, status, sentence):
    assert answer.status_code == status, answer.content
    assert answer["Content-Type"] == "application/problem+json"
    payload = answer.json()
    assert (payload["status"], payload["type"]) == (status, "about:blank") and payload["title"]
    assert sentence in payload["detail"], payload
    return payload


# --- scores --------------------------------------------------------------------------------------


def test_one_conversation_gives_one_score_and_a_list_gives_a_list_in_order(warm, caller, models):
    texts = ["The tall one.", "Red.", "x" * 600, "The tall one."]
    answer = caller.post("score", [conversation(text) for text in texts])
    payload = answer.json()
    assert answer.status_code == 200 and len(payload) == 4
    expected = Scorer(models[0]).judge([(PROMPT, [texts[0], texts[1]])])[0]
    assert [f["score"] for f in payload[:2]] == pytest.approx(expected.scores.tolist(), abs=1e-5)
    apart = [f["uncertainty"] for f in payload[:2]]
    assert apart == pytest.approx(expected.disagreements.tolist(), abs=1e-5)
    assert payload[2]["score"] is None and "512 tokens" in payload[2]["reason"]
    single = caller.post("score", conversation("Red.")).json()
    assert single["score"] == pytest.approx(payload[1]["score"], abs=1e-5)
    number = RewardModel.objects.get(project=warm).pk
    assert answer["Tiebreak-Reward-Model"] == str(number)


def test_best_of_n_reads_the_prompt_once(warm, caller, models):
    texts = ["The tall one.", "Red.", "x" * 600, "Both."]
    payload = caller.post("best-of-n", {"prompt": "Which lamp?", "responses": texts}).json()
    scores = payload["scores"]
    assert scores[2] is None and payload["best"] == max((0, 1, 3), key=lambda k: scores[k])
    head, tails = Scorer(models[0]).chat.encode(PROMPT, [texts[0], texts[1], texts[3]])
    assert payload["tokens_forwarded"] == len(head) + sum(map(len, tails))
    one_by_one = caller.post("score", [conversation(text) for text in texts]).json()
    assert scores[:2] == pytest.approx([s["score"] for s in one_by_one[:2]], abs=1e-5)
    nothing = {"prompt": PROMPT, "responses": ["x" * 600]}
    assert caller.post("best-of-n", nothing).json()["best"] is None


def test_a_newly_promoted_model_answers_from_then_on(warm, caller, models):
    first = caller.post("score", conversation("Red.")).json()
    snapshot = make_snapshot(warm, prompts=1)
    other = make_reward_model(snapshot, path=str(models[1]))
    assert caller.post(f"score?model={other.pk}", conversation("Red.")).json() != first
    assert caller.post("score", conversation("Red.")).json() == first
    other.promote(by=None)
    answer = caller.post("score", conversation("Red."))
    assert answer.json() != first and answer["Tiebreak-Reward-Model"] == str(other.pk)


# --- access -----------------------------------------------------------------------------------------


def test_a_request_needs_a_token_and_a_session_does_not_count(warm, caller):
    for key in ("", "Bearer", "Bearer nonsense", "Bearer \u00e9", f"Basic {caller.key}"):
        answer = caller.post("score", conversation("a"), Authorization=key)
        refused(answer, 401, "Authorization: Bearer KEY")
        assert answer["WWW-Authenticate"] == "Bearer"
    client = Client()
    client.force_login(caller.token.user)
    answer = client.post("/api/v1/score", conversation("a"), content_type="application/json")
    refused(answer, 401, "The request has none.")


def test_leads_can_use_models_of_their_projects_and_reviewers_cannot(warm, models):
    lead, reviewer = Caller(make_user(Role.LEAD)), Caller(make_user())
    join(warm, reviewer.token.user)
    for stranger in (lead, reviewer):
        refused(stranger.post("score", conversation("a")), 404, "No reward model is promoted")
        number = RewardModel.objects.get(project=warm).pk
        refused(stranger.post(f"score?model={number}", conversation("a")), 404, "no reward model")
    join(warm, lead.token.user, Membership.Role.LEAD)
    assert lead.post("score", conversation("a")).status_code == 200


def test_the_project_must_be_named_if_several_have_a_model(warm, caller, models):
    other = make_project()
    snapshot = make_snapshot(other, prompts=1)
    make_reward_model(snapshot, path=str(models[1]), state=RewardModel.State.PROMOTED)
    refused(caller.post("score", conversation("a")), 404, warm.slug)
    assert caller.post(f"score?project={other.slug}", conversation("a")).status_code == 200
    refused(caller.post("score?project=none", conversation("a")), 404, "'none'")


# --- what is refused ---------------------------------------------------------------------------------


TWO = [conversation("a"), {"messages": [*PROMPT, {"role": "user", "content": 3}]}]


@pytest.mark.parametrize(
    ("where", "body", "place", "sentence"),
    [
        ("score", {}, "messages", "Field required"),
        ("score", [], "body", "at least 1 item"),
        ("score", [conversation("a")] * 257, "body", "at most 256 items"),
        ("score", TWO, "1.messages.1.content", "valid string"),
        ("score", [*TWO[:1], {"messages": PROMPT * 2}], "1.messages", "do not end with an answer"),
        ("score", {"messages": PROMPT * 2}, "messages", "do not end with an answer"),
        ("score", {**conversation("a"), "modle": 1}, "modle", "Extra inputs"),
        ("score", conversation("\ud800"), "messages", ""),
        ("score?model=x", conversation("a"), "query.model", "integer"),
        ("best-of-n", {"prompt": "a", "responses": []}, "responses", "at least 1 item"),
        ("best-of-n", {"prompt": "a", "responses": ["b"] * 65}, "responses", "at most 64 items"),
        ("best-of-n", {"prompt": [], "responses": ["b"]}, "prompt", "neither text nor a list"),
    ],
)
def test_an_invalid_request_is_refused_with_the_position_of_the_error(
    caller, where, body, place, sentence
):
    first = refused(caller.post(where, body), 422, sentence)["errors"][0]
    assert sentence in first["what"] and first["at"].startswith(place)
    caller.token.refresh_from_db()
    assert caller.token.spent == 0, "it costs nothing"


def test_a_body_that_is_too_large_or_not_json_gets_an_error(caller, settings):
    refused(caller.post("score", "{"), 400, "not valid JSON")
    refused(caller.post("nowhere", {}), 404, "no such address")
    answer = caller.client.get("/api/v1/score")
    refused(answer, 405, "Use POST")
    assert answer["Allow"] == "POST"
    refused(caller.post("score", conversation("x" * 2_700_000)), 413, "2.5 MB")


def test_the_responses_of_a_token_per_minute_are_limited(warm, caller, settings):
    settings.API_RESPONSES_A_MINUTE = 3
    body = {"prompt": "a", "responses": ["b", "c", "d"]}
    assert caller.post("best-of-n", body).status_code == 200
    answer = caller.post("score", conversation("a"))
    if answer.status_code == 200:  # a minute ended during the test
        caller.post("best-of-n", body)
        answer = caller.post("best-of-n", body)
    refused(answer, 429, "limit is 3 responses per token and minute")
    assert 0 < int(answer["Retry-After"]) <= 60


def test_a_request_with_too_much_text_is_refused_before_it_is_charged(caller, settings):
    settings.API_CHARACTERS = 100
    answer = caller.post("score", conversation("a" * 101))
    refused(answer, 413, "characters; the limit per request is 100")
    answer = caller.post("best-of-n", {"prompt": "a" * 60, "responses": ["b" * 30, "c" * 30]})
    refused(answer, 413, "120 characters")
    caller.token.refresh_from_db()
    assert (caller.token.spent, caller.token.busy_until) == (0, None)


def test_a_long_text_counts_as_several_responses(caller):
    caller.post("score", conversation("a" * 5_000))
    caller.token.refresh_from_db()
    assert caller.token.spent == 3
    caller.post("best-of-n", {"prompt": "a", "responses": ["b"] * 4})
    caller.token.refresh_from_db()
    assert caller.token.spent == 7


def test_a_token_has_one_request_at_a_time(caller, monkeypatch):
    inner = []

    def judge(model, rows):
        if not inner:
            inner.append(caller.post("score", conversation("second")))
            inner.append(Caller(make_user(Role.TRAINER)).post("score", conversation("third")))
        raise model_server.Unavailable("No server.", retry_after=1)

    monkeypatch.setattr(model_server, "judge", judge)
    refused(caller.post("score", conversation("first")), 503, "No server.")
    refused(inner[0], 429, "one at a time")
    assert inner[0]["Retry-After"] == "1"
    refused(inner[1], 503, "No server.")
    caller.token.refresh_from_db()
    assert caller.token.busy_until is None


def test_the_turn_of_a_dead_process_expires(caller):
    past = timezone.now() - timedelta(seconds=1)
    Token.objects.filter(pk=caller.token.pk).update(busy_until=past)
    refused(caller.post("score", conversation("first")), 503, "model server")


def test_without_a_model_server_the_response_has_a_retry_time(caller):
    answer = caller.post("score", conversation("a"))
    refused(answer, 503, "manage.py model_server")
    assert int(answer["Retry-After"]) > 0


def test_waiting_for_scores_times_out(warm, caller, settings):
    settings.API_SCORE_SECONDS = 0.001
    answer = caller.post("score", conversation("a"))
    refused(answer, 503, "longer than 0.001 seconds")
    assert answer["Retry-After"]


def test_the_number_of_waiting_requests_is_limited(warm, caller, settings):
    settings.API_AT_ONCE = 987
    model_server._waiting[987] = threading.BoundedSemaphore(1)
    with model_server._waiting[987]:
        answer = caller.post("score", conversation("a"))
        refused(answer, 503, "already waiting for other scores")
        assert answer["Retry-After"] == "1"
    assert caller.post("score", conversation("a")).status_code == 200


def test_only_the_log_names_the_folder_of_an_unusable_model(warm, caller, caplog):
    RewardModel.objects.filter(project=warm).update(path="/srv/secret/place")
    text = refused(caller.post("score", conversation("a")), 500, "cannot be used")
    assert "secret" not in json.dumps(text) and "/srv/secret/place" in caplog.text


# --- its document --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "status"), [(errno.ENOSPC, 507), (errno.EACCES, 503)])
def test_a_storage_fault_is_explained_in_a_sentence(caller, monkeypatch, settings, number, status):
    def fail(*_):
        raise OSError(number, os.strerror(number), str(settings.VAR_DIR / "file"))

    monkeypatch.setattr("reward.scoring.model_server.judge", fail)
    caller.client.raise_request_exception = False
    text = refused(caller.post("score", conversation("Red.")), status, str(settings.VAR_DIR))
    assert "\n" not in text["detail"]
    User.objects.update(is_superuser=True)  # so that the account still sees the project
    monkeypatch.setattr("accounts.models.User.can_lead", False)
    text = refused(caller.post("score", conversation("Red.")), status, "Ask the operator")
    assert str(settings.VAR_DIR) not in text["detail"]


def test_the_committed_openapi_document_is_up_to_date(client):
    payload = json.dumps(client.get("/api/v1/openapi.json").json(), indent=2, sort_keys=True) + "\n"
    if os.environ.get("TIEBREAK_PIN_OPENAPI"):
        SNAPSHOT.write_text(payload)
    assert SNAPSHOT.read_text() == payload, "TIEBREAK_PIN_OPENAPI=1 regenerates it"


def test_every_operation_and_limit_is_documented():
    text = (BASE_DIR / "docs" / "api.md").read_text()
    for path, operations in api.get_openapi_schema(path_prefix="/api/v1/")["paths"].items():
        for method in operations:
            assert f"`{method.upper()} {path}`" in text
    for fact in (
        "256",
        "64",
        "2.5 MB",
        "429",
        "503",
        "Retry-After",
        "TIEBREAK_API_RESPONSES_A_MINUTE",
        "TIEBREAK_API_REQUESTS_A_MINUTE",
        "Idempotency-Key",
        "RateLimit-Remaining",
    ):
        assert fact in text


def test_the_api_has_no_page_with_external_scripts(client):
    assert client.get("/api/v1/docs").status_code == 404
    assert "script-src 'self'" in client.get("/api/v1/openapi.json")["Content-Security-Policy"]
