"""Requests to an OpenAI-shaped server with faults. There is no model, so no test needs torch itself."""

import json
import signal
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

from finetune.endpoints import Endpoint
from finetune.engines import remote
from finetune.engines.remote import Question, Sampling, ask_all, retry_after
from recipes.errors import RecipeError, Stopped
from recipes.rundir import RunDir
from recipes.stopping import StopSignal
from reward.preferences.erasing import Erasure, clean_folder
from tests.finetune.engines.openai_server import (
    answer,
    completion,
    cut_off,
    endless,
    openai_server,
    raw,
    slow,
    status,
)

SAMPLING = Sampling(0.7, 0.9, 32)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.01)
    monkeypatch.setenv("A_TEST_KEY", "sk-secret-key")


@pytest.fixture
def server():
    with openai_server() as server:
        yield server


@pytest.fixture
def run_dir(tmp_path):
    return RunDir.create(tmp_path / "run", {"kind": "ask"})


def questions(count=1):
    return [
        Question(f"{n}/0", [{"role": "user", "content": f"question {n}"}], n) for n in range(count)
    ]


def asked(server, run_dir, count=1, stop=None, **limits):
    limits = {"tries": 3, "seconds": 5, "key_variable": "A_TEST_KEY", **limits}
    return ask_all(
        questions(count),
        endpoint=Endpoint(name="fake", url=server.url, **limits),
        model="tiny",
        sampling=SAMPLING,
        run_dir=run_dir,
        name="responses",
        stop=stop or StopSignal(),
    )


def texts(replies):
    return {key: reply.text for key, reply in replies.replies.items()}


def messages(run_dir):
    return " ".join(event["text"] for event in run_dir.events() if event["event"] == "message")


def test_a_request_has_the_chat_the_sampling_the_seed_and_the_key(server, run_dir):
    replies = asked(server, run_dir)
    (request,) = server.requests
    assert request["path"] == "/v1/chat/completions"
    assert request["headers"]["Authorization"] == "Bearer sk-secret-key"
    assert request["body"] == {
        "model": "tiny",
        "messages": [{"role": "user", "content": "question 0"}],
        "temperature": 0.7,
        "top_p": 0.9,
        "max_tokens": 32,
        "seed": 0,
    }
    reply = replies.replies["0/0"]
    assert (reply.text, reply.truncated, reply.prompt_tokens, reply.tokens) == (
        "a reply",
        False,
        10,
        4,
    )


def test_an_endpoint_without_seeds_gets_none_and_can_rename_the_limit(server, run_dir):
    asked(server, run_dir, seeds=False, max_tokens_name="max_completion_tokens")
    (body,) = server.bodies
    assert "seed" not in body and "max_tokens" not in body
    assert body["max_completion_tokens"] == 32


def test_no_more_requests_run_at_the_same_time_than_allowed(server, run_dir):
    server.seconds = 0.05
    asked(server, run_dir, count=12, concurrency=3)
    assert server.most_running == 3 and len(server.requests) == 12


def test_all_replies_arrive_with_their_own_question(server, run_dir):
    server.replies = lambda body: body["messages"][0]["content"].upper()
    replies = asked(server, run_dir, count=20)
    assert texts(replies) == {f"{n}/0": f"QUESTION {n}" for n in range(20)}


@pytest.mark.parametrize(
    "fault",
    [
        status(500),
        status(408),
        cut_off,
        endless,
        raw(b'{"choices": ['),
        raw(b"[" * 100_000),
        raw(b"<html>gateway</html>"),
        answer([]),
        answer({"choices": []}),
        answer({"choices": ["x"]}),
        answer({"choices": [{"message": "text"}]}),
        answer(completion(None)),
        answer(completion(["a", "list"])),
        raw(b"\x1f\x8b\x08", Content_Encoding="gzip"),
    ],
)
def test_a_request_that_failed_for_once_is_repeated(server, run_dir, fault):
    server.faults = [fault]
    replies = asked(server, run_dir, response_kb=100)
    assert texts(replies) == {"0/0": "a reply"}
    assert (replies.usage.requests, replies.usage.failed) == (2, 1)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (endless, "larger than 100 kB"),
        (raw(b"{"), "not valid JSON"),
        (answer({}), "not a chat completion"),
        (status(500, "out of order"), "status 500 (out of order)"),
    ],
)
def test_a_question_whose_attempts_all_fail_is_counted_with_its_reason(
    server, run_dir, fault, reason
):
    server.faults = [fault] * 3
    replies = asked(server, run_dir, count=2, concurrency=1, response_kb=100)
    assert set(replies.replies) == {"1/0"}
    assert "3 attempts" in replies.missing["0/0"] and reason in replies.missing["0/0"]


def test_a_slow_stream_ends_at_the_time_limit(server, run_dir):
    server.faults = [slow]
    began = time.monotonic()
    replies = asked(server, run_dir, seconds=1, tries=1)
    assert time.monotonic() - began < 3
    assert replies.missing == {"0/0": "1 attempts: it did not answer within 1 s"}


def test_a_refused_prompt_is_left_out_without_a_second_attempt(server, run_dir):
    server.faults = [status(400, "context too long")]
    replies = asked(server, run_dir, count=2, concurrency=1)
    assert len(server.requests) == 2
    assert replies.missing == {"0/0": "it answered with status 400 (context too long)"}
    assert replies.missing_figures()[0]["count"] == 1


@pytest.mark.parametrize("fault", [answer(completion("", "content_filter")), answer(
    {"choices": [{"message": {"content": None, "refusal": "I cannot"}, "finish_reason": "stop"}]}
)])  # fmt: skip
def test_a_refusal_of_the_model_is_left_out(server, run_dir, fault):
    server.faults = [fault]
    replies = asked(server, run_dir)
    assert "refused" in replies.missing["0/0"] and len(server.requests) == 1


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (
            status(401, "Incorrect API key provided: sk-secret-key"),
            r"\(Incorrect API key .*\[key\]",
        ),
        (status(404), "Check the address and the model's name"),
        (status(302, Location="http://169.254.169.254/"), "status 302"),
        (status(429, "no money", error_code="insufficient_quota"), "no money"),
    ],
)
def test_an_error_of_the_whole_endpoint_ends_the_run(server, run_dir, fault, sentence):
    server.fault = fault
    with pytest.raises(RecipeError, match=sentence) as error:
        asked(server, run_dir, count=3, concurrency=1)
    assert "sk-secret-key" not in str(error.value)
    assert len(server.requests) == 1


def test_the_key_is_written_nowhere(server, run_dir):
    server.faults = [status(500, "debug: Authorization: Bearer sk-secret-key")]
    asked(server, run_dir, count=3)
    files = [path for path in run_dir.path.rglob("*") if path.is_file()]
    assert len(files) >= 4
    assert not any(b"sk-secret-key" in path.read_bytes() for path in files)


def test_a_server_that_never_answers_ends_the_run_and_keeps_the_replies(server, run_dir):
    server.faults = [None, None]
    server.fault = status(500)
    with pytest.raises(RecipeError, match=r"5 times in a row.*The 2 replies so far are kept"):
        asked(server, run_dir, count=20, concurrency=1, tries=1)
    assert len(server.requests) == 7
    server.fault = None
    assert len(asked(server, run_dir, count=20).replies) == 20
    assert len(server.requests) == 7 + 18


def test_a_port_where_nobody_listens_is_named(run_dir, server):
    server.listener.server_close()
    with pytest.raises(RecipeError, match="connection failed"):
        asked(server, run_dir, count=9, tries=1)


def test_retry_after_is_honoured_by_all_requests(server, run_dir):
    server.faults = [None, status(429, Retry_After="1")]
    server.seconds = 0.1
    replies = asked(server, run_dir, count=6, concurrency=2)
    assert len(replies.replies) == 6
    times = [request["at"] - server.requests[0]["at"] for request in server.requests]
    assert max(times[:2]) < 0.5
    assert min(times[3:]) >= 1.0  # the third may have been on its way


def test_a_server_that_asks_to_wait_for_days_ends_the_run(server, run_dir):
    server.fault = status(429, Retry_After="900000")
    with pytest.raises(RecipeError, match="asks to wait 900000 s"):
        asked(server, run_dir)


def test_retry_after_can_be_seconds_milliseconds_or_a_date():
    now = datetime(2026, 11, 30, 8, 0, tzinfo=UTC)
    date = (now + timedelta(seconds=90)).strftime("%a, %d %b %Y %H:%M:%S GMT")
    past = (now - timedelta(seconds=90)).strftime("%a, %d %b %Y %H:%M:%S GMT")
    for headers, seconds in (
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": date}, 90.0),
        ({"retry-after": past}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "soon"}, None),
        ({}, None),
    ):
        assert retry_after(headers, now) == seconds, headers


def test_a_stopped_run_ends_within_a_second_and_asks_only_for_the_rest(server, run_dir):
    server.faults = [None] * 5
    server.fault = slow
    stop = StopSignal()
    threading.Timer(0.5, lambda: setattr(stop, "requested", True)).start()
    began = time.monotonic()
    with pytest.raises(Stopped):
        asked(server, run_dir, count=8, concurrency=2, stop=stop, seconds=60)
    assert time.monotonic() - began < 2
    server.fault = None
    before = len(server.requests)
    assert len(asked(server, run_dir, count=8).replies) == 8
    assert len(server.requests) - before == 3


def test_a_run_without_missing_replies_sends_nothing(server, run_dir):
    first = asked(server, run_dir, count=5)
    again = asked(server, run_dir, count=5)
    assert len(server.requests) == 5
    assert again.replies == first.replies and again.usage == first.usage


def test_a_damaged_line_of_the_journal_is_asked_again(server, run_dir):
    asked(server, run_dir, count=5, concurrency=1)
    journal = run_dir.checkpoints / ".responses.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b"a reply", b"another")
    journal.write_bytes(b"".join(lines)[:-20])  # the last line is torn
    replies = asked(server, run_dir, count=5, concurrency=1)
    assert [body["messages"][0]["content"] for body in server.bodies[5:]] == [
        "question 1",
        "question 4",
    ]
    assert texts(replies) == {f"{n}/0": "a reply" for n in range(5)}
    assert "2 lines of .responses.jsonl are damaged" in messages(run_dir)


def test_the_journal_of_an_erased_response_is_cleaned(server, run_dir):
    server.replies = lambda body: f"a long reply to {body['messages'][0]['content']}"
    asked(server, run_dir, count=3, concurrency=1)
    text = "a long reply to question 1"
    assert clean_folder(run_dir.path, Erasure("1", False, frozenset([7]), (text,)))
    files = [path for path in run_dir.path.rglob("*") if path.is_file()]
    assert not any(text.encode() in path.read_bytes() for path in files)
    assert len(asked(server, run_dir, count=1).replies) == 2
    assert len(server.requests) == 3


def test_tokens_and_cost_of_failed_requests_count_too(server, run_dir):
    server.faults = [answer(completion(None)), answer(completion("x", usage=None))]
    replies = asked(
        server, run_dir, count=2, concurrency=1, input_price=1000.0, output_price=2500.0
    )
    usage = replies.usage
    assert (usage.requests, usage.failed, usage.unreported) == (3, 1, 1)
    assert (usage.prompt_tokens, usage.tokens) == (20, 8)
    endpoint = Endpoint(name="fake", url=server.url, input_price=1000.0, output_price=2500.0)
    assert usage.figures(endpoint)["cost"] == pytest.approx(0.04)
    assert "at least 0.0400 USD" in messages(run_dir)


@pytest.mark.parametrize("count", [-1, True, "12", 1.5, 10**12, None])
def test_impossible_token_counts_are_not_believed(server, run_dir, count):
    usage = {"prompt_tokens": count, "completion_tokens": 4}
    server.faults = [answer(completion("x", usage=usage))]
    replies = asked(server, run_dir)
    assert replies.usage.unreported == 1 and replies.usage.prompt_tokens == 0


def test_half_surrogates_are_replaced(server, run_dir):
    server.faults = [raw(json.dumps(completion("a \ud800 b 😀")).encode())]
    assert texts(asked(server, run_dir)) == {"0/0": "a \ufffd b 😀"}


def test_a_missing_key_is_named_before_anything_is_sent(server, run_dir, monkeypatch):
    monkeypatch.delenv("A_TEST_KEY")
    with pytest.raises(RecipeError, match=r"A_TEST_KEY.*is not set"):
        asked(server, run_dir)
    assert not server.requests


def test_sigterm_is_noticed_while_requests_wait(server, run_dir):
    server.fault = slow
    stop = StopSignal()
    old = signal.getsignal(signal.SIGTERM)
    stop.listen()
    try:
        threading.Timer(0.3, lambda: signal.raise_signal(signal.SIGTERM)).start()
        with pytest.raises(Stopped):
            asked(server, run_dir, stop=stop, seconds=60)
    finally:
        signal.signal(signal.SIGTERM, old)
