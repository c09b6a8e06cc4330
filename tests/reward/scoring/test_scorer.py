"""Tests of the scorer process: its answers, and its recovery from faults."""

import os
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import psutil
import pytest
from django.core.management import CommandError, call_command

from config.env import BASE_DIR
from config.local.processes import Service, Services, scorers
from reward.models import RewardModel
from reward.scoring import scorer as client
from reward.scoring.rows import ScoreRow
from reward.scoring.wire import address, receive, send
from reward.training.score import TOGETHER as TOGETHER_IN_SCORE
from reward.training.score import Scorer
from reward.training.serve import (
    PART_CHARACTERS,
    READERS,
    TOGETHER,
    Listener,
    Request,
    RoundRobin,
    answer,
)
from reward.training.serving.cache import ClientLeft, counting_tokens
from tests.reward.scored import make_scorer_folder
from tests.worker import wait_until

PROMPT = [{"role": "user", "content": "Which lamp is the brightest of them all?"}]


class Running:
    """The scorer under its supervisor, and a way to ask it."""

    def __init__(self, folder, *options):
        self.socket, self.log = folder / "scorer.sock", folder / "log"
        line = [sys.executable, "-m", "reward.training.serve", str(self.socket), *options]
        script = 'exec "$@" 2>>"$LOG"'
        self.service = Service("scorer", ["env", f"LOG={self.log}", "sh", "-c", script, "-", *line])

    def __enter__(self):
        self.services = Services([self.service], out=self.log.open("a", buffering=1)).__enter__()
        self.wait()
        return self

    def __exit__(self, *exc):
        self.services.__exit__(*exc)

    def wait(self):
        wait_until(self.answers, 20, lambda: self.log.read_text())

    def answers(self):
        self.services.revive()
        try:
            return self.ask("", [], seconds=-1)["error"] == "late"
        except OSError:
            return False

    def ask(self, model, conversations, seconds=300):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(300)
            connection.connect(address(self.socket))
            request = {"model": str(model), "conversations": conversations, "seconds": seconds}
            send(connection, request)
            return receive(connection)

    def process(self):
        """Has no command line for a moment when it restarts."""
        watchdog = psutil.Process(self.service.process.pid)
        return wait_until(lambda: next(filter(serves, watchdog.children(recursive=True)), None))


def serves(process):
    return "reward.training.serve" in process.cmdline()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return [make_scorer_folder(folder / f"model-{n}", seed=n, heads=n + 2) for n in range(2)]


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with Running(tmp_path_factory.mktemp("scorer")) as scorer:
        yield scorer


def test_no_model_library_is_loaded_before_the_first_request(running):
    assert running.process().memory_info().rss < 40e6
    assert running.socket.stat().st_mode & 0o077 == 0, "nobody else may connect"


def test_the_scores_equal_the_recipes_and_do_not_depend_on_the_batch(running, models):
    conversations = [[PROMPT, ["The tall one.", "x" * n]] for n in range(1, 6)] + [
        [PROMPT, ["Red."]]
    ]
    expected = Scorer(models[0]).judge([(prompt, texts) for prompt, texts in conversations])
    together = running.ask(models[0], conversations)["verdicts"]
    for row, result, target in zip(conversations, together, expected, strict=True):
        assert result["scores"] == pytest.approx(target.scores.tolist(), abs=1e-5)
        assert result["uncertainties"] == pytest.approx(target.disagreements.tolist(), abs=1e-5)
        (alone,) = running.ask(models[0], [row])["verdicts"]
        assert alone["scores"] == pytest.approx(result["scores"], abs=1e-5)


def test_the_prompt_is_forwarded_once_for_all_its_responses(running, models):
    texts = ["one", "three", "seventeen"]
    head, tails = Scorer(models[0]).chat.encode(PROMPT, texts)
    assert len(head) > 40, "too short for this test"
    reply = running.ask(models[0], [[PROMPT, texts]])
    assert reply["forwarded"] == len(head) + sum(map(len, tails))
    alone = running.ask(models[0], [[PROMPT, [text]] for text in texts])
    assert alone["forwarded"] == reply["forwarded"], "single responses to a prompt share it too"


def test_a_family_that_cannot_share_gets_the_prompt_with_each_response(tmp_path):
    scorer = Scorer(make_scorer_folder(tmp_path / "model", trained_for="plain"))
    head, tails = scorer.chat.encode(PROMPT, ["one", "three"])
    with counting_tokens(scorer) as shown:
        scorer.judge([(PROMPT, ["one", "three"])])
    assert sum(shown) == 2 * len(head) + sum(map(len, tails))


def test_requests_of_disconnected_clients_are_dropped(models):
    requests, reply = [], {"verdicts": [], "limit": 512, "forwarded": 0}
    cache = type(
        "ModelCache", (), {"answer": lambda *request, **options: requests.append(options) or reply}
    )
    for leaves in (True, False):
        ours, theirs = socket.socketpair()
        request = Request(ours, "model", [], time.monotonic() + 60)
        if leaves:
            theirs.close()
        answer(cache(), request)
        assert len(requests) == (0 if leaves else 1)
    assert receive(theirs) == reply
    theirs.close()


def test_work_for_a_disconnected_client_ends_at_the_next_forward_pass(models):
    scorer = Scorer(models[0], max_tokens=200)
    stays = iter([False, False, True])
    with pytest.raises(ClientLeft), counting_tokens(scorer, lambda: next(stays)) as passes:
        scorer.judge([(PROMPT, ["x" * n]) for n in range(1, 30)])
    assert len(passes) == 2


def test_the_time_limit_covers_the_whole_reply(tmp_path, settings):
    settings.SCORER_SOCKET, settings.SCORER_SECONDS = tmp_path / "slow", 1

    def drip(server):
        connection, _ = server.accept()
        receive(connection)
        message = b"\x00\x00\x00\x40"
        try:
            for index in range(20):
                connection.sendall(message[index : index + 1] or b" ")
                time.sleep(0.5)
        except OSError:
            pass
        connection.close()

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(settings.SCORER_SOCKET))
        server.listen()
        thread = threading.Thread(target=drip, args=(server,))
        thread.start()
        started = time.monotonic()
        with pytest.raises(client.Unavailable, match="longer than 1 seconds"):
            client.judge(RewardModel(path="m"), [])
        assert time.monotonic() - started < 2
        thread.join()


def test_another_model_replaces_the_first(running, models):
    first, second = (running.ask(m, [[PROMPT, ["a", "b"]]])["verdicts"] for m in models)
    assert first != second
    assert running.ask(models[0], [[PROMPT, ["a", "b"]]])["verdicts"] == first
    assert running.log.read_text().count("is loaded") >= 3, "one model stays, by default"


def test_a_folder_without_a_model_is_refused_and_the_next_request_is_answered(
    running, models, tmp_path
):
    refused = running.ask(tmp_path, [[PROMPT, ["a"]]])
    assert refused["error"] == "model" and "not the output of a reward run" in refused["text"]
    assert running.ask(models[0], [["nonsense", 3]])["error"] == "failed"
    assert "verdicts" in running.ask(models[0], [[PROMPT, ["a"]]])


def test_an_invalid_request_gets_an_error(running):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address(running.socket))
        send(connection, {"model": "x"})
        assert receive(connection)["error"] == "failed"


def test_a_killed_scorer_is_restarted(running, models):
    process = running.process()
    process.kill()
    process.wait(10)
    running.wait()
    assert running.process().pid != process.pid
    assert "starting it again" in running.log.read_text()


def test_a_hanging_scorer_is_detected_before_the_time_limit(running, models, settings):
    settings.SCORER_SOCKET, settings.SCORER_SECONDS = running.socket, 300
    process = running.process()
    process.suspend()
    try:
        with pytest.raises(client.Unavailable, match="does not answer"):
            client.judge(RewardModel(path=str(models[0])), [])
        large = [ScoreRow(PROMPT, ["x" * 1_000_000], many=False)]
        with pytest.raises(client.Unavailable, match="does not answer"):
            client.judge(RewardModel(path=str(models[0])), large)
    finally:
        process.resume()
    assert "verdicts" in running.ask(models[0], [[PROMPT, ["a"]]])


def test_a_busy_scorer_answers_a_ping_and_the_client_waits(tmp_path, settings, monkeypatch):
    """Nobody takes the request from the queue until the client has pinged twice."""
    monkeypatch.setattr(client, "SILENT_SECONDS", 0.05)
    settings.SCORER_SOCKET, settings.SCORER_SECONDS = tmp_path / "socket", 60
    pings = []
    ping = client.answers_ping
    monkeypatch.setattr(client, "answers_ping", lambda path: pings.append(1) or ping(path))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        server.listen()
        listener = Listener(server, waiting=1)
        listener.open()

        def answer_late():
            wait_until(lambda: len(pings) >= 2)
            send(listener.next(5).connection, {"verdicts": [], "limit": 9, "forwarded": 0})

        thread = threading.Thread(target=answer_late)
        thread.start()
        assert client.judge(RewardModel(path="m"), []).limit == 9
        thread.join()
        listener.close()


def test_an_idle_scorer_frees_its_memory_and_still_answers(tmp_path, models):
    with Running(tmp_path, "--idle", "1", "--models", "2") as scorer:
        before = scorer.process().pid
        for model in (*models, *models):
            assert "verdicts" in scorer.ask(model, [[PROMPT, ["a"]]])
        assert scorer.log.read_text().count("is loaded") == 2, "both stay"
        wait_until(lambda: "unloaded" in scorer.log.read_text(), 20)
        scorer.wait()
        wait_until(lambda: scorer.process().memory_info().rss < 40e6)
        assert scorer.process().pid == before


def test_a_request_beyond_the_memory_limit_is_refused_and_the_scorer_restarts(tmp_path, models):
    with Running(tmp_path, "--memory", "400") as scorer:
        before = scorer.process().pid
        reply = scorer.ask(models[0], [[PROMPT, ["x" * 400] * 16] for _ in range(128)])
        assert "verdicts" in reply or "400 MB" in reply["text"]
        wait_until(lambda: "restarting" in scorer.log.read_text(), 20)
        scorer.wait()
        assert scorer.process().pid == before


def test_a_request_beyond_the_queue_limit_is_refused(tmp_path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        server.listen()
        listener = Listener(server, waiting=1)
        listener.open()
        asking = [socket.socket(socket.AF_UNIX) for _ in range(2)]
        for connection in asking:
            connection.settimeout(10)
            connection.connect(str(tmp_path / "socket"))
            send(connection, {"model": "m", "conversations": [], "seconds": 5})
            wait_until(lambda: listener.requests.full())
        assert receive(asking[1])["error"] == "busy"
        assert listener.requests.get().model == "m"
        for connection in asking:
            connection.close()


def test_a_second_scorer_waits_in_reserve_until_the_first_ends(tmp_path):
    with Running(tmp_path) as first:
        again = Service("second", [*first.process().cmdline()])
        with Services([again]):
            assert first.process().is_running()
            wait_until(lambda: psutil.Process(again.process.pid).children())
            first.services.__exit__()
            first.services.services = []
            wait_until(first.answers)
            assert not again.ended()


def test_a_path_too_long_for_a_socket_is_refused_with_a_sentence(tmp_path, settings):
    with pytest.raises(ValueError, match="TIEBREAK_SCORER_SOCKET"):
        address(tmp_path / ("x" * 120))
    with pytest.raises(CommandError, match="TIEBREAK_SCORER_SOCKET"):
        settings.SCORER_SOCKET = tmp_path / ("x" * 120)
        call_command("scorer")
    assert scorers() == [], "manage.py local does without one"


def test_the_settings_reach_the_scorer(settings):
    settings.SCORER_IDLE_SECONDS, settings.SCORER_MEMORY_MB = 61, 62
    settings.SCORER_MODELS, settings.SCORER_WAITING = 63, 64
    line = " ".join(scorers()[0].command)
    assert f"{settings.SCORER_SOCKET} --idle 61 --memory 62 --models 63 --waiting 64" in line


def test_the_command_starts_a_scorer_without_secrets_and_stops_it(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "manage.py", "scorer"],
        cwd=BASE_DIR,
        env={**os.environ, "TIEBREAK_SCORER_SOCKET": str(tmp_path / "s"), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert "The scorer answers at" in process.stdout.readline()
    children = wait_until(lambda: psutil.Process(process.pid).children(recursive=True)[1:])
    wait_until((tmp_path / "s").exists)
    assert "DATABASE_URL" in os.environ and "DATABASE_URL" not in children[0].environ()
    process.terminate()
    assert "Stopped" in process.stdout.read() and process.wait(20) == 0
    assert not psutil.wait_procs(children, timeout=10)[1]


def test_a_closed_listener_keeps_accepted_connections_and_leaves_the_rest_pending(tmp_path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        server.listen()
        listener = Listener(server, waiting=3)
        listener.open()
        early, late = (socket.socket(socket.AF_UNIX) for _ in range(2))
        early.connect(str(tmp_path / "socket"))
        wait_until(lambda: listener.readers._value < READERS)
        send(early, {"model": "early", "conversations": [], "seconds": 5})
        listener.close()
        late.connect(str(tmp_path / "socket"))
        send(late, {"model": "late", "conversations": [], "seconds": 5})
        assert listener.next(0.1).model == "early"
        assert listener.next(0.1) is None
        again = Listener(server, waiting=3)
        again.open()
        assert again.next(5).model == "late"
        again.close()
        early.close()
        late.close()


# --- turns ----------------------------------------------------------------------------------------


class Waiting:
    """Stands for the listener: new requests arrive when the test says so."""

    def __init__(self):
        self.requests = []

    def next(self, seconds):
        return self.requests.pop(0) if self.requests else None


class Echo:
    """Stands for the model: a response's score is its first number."""

    def __init__(self):
        self.asked = []

    def answer(self, model, conversations, *, stop):
        self.asked.append(model)
        scores = [[float(text.split()[0]) for text in texts] for _, texts in conversations]
        verdicts = [{"scores": score, "uncertainties": score} for score in scores]
        return {"verdicts": verdicts, "limit": 512, "forwarded": sum(map(len, scores))}


@pytest.fixture
def ask():
    connections = []

    def asked(model, conversations):
        pair = socket.socketpair()
        connections.extend(pair)
        return pair[1], Request(pair[0], model, conversations, time.monotonic() + 60)

    yield asked
    for connection in connections:
        connection.close()


def work(turns, model):
    request = turns.next(0)
    if not answer(model, request):
        turns.put_back(request)


def test_a_short_request_waits_for_one_part_of_a_long_one(ask):
    listener, model = Waiting(), Echo()
    turns = RoundRobin(listener)
    long = [ask("long", [[PROMPT, [f"{n} {'x' * PART_CHARACTERS}"]] for n in range(20)])[1]]
    listener.requests = [*long]
    for _ in range(3):
        work(turns, model)
    client, short = ask("short", [[PROMPT, ["7"]]])
    listener.requests = [short]
    for _ in range(2):
        work(turns, model)
    assert receive(client)["verdicts"][0]["scores"] == [7.0]
    assert model.asked.count("long") <= 4


def test_long_requests_take_turns_and_are_not_starved_by_new_ones(ask):
    listener, model = Waiting(), Echo()
    turns = RoundRobin(listener)
    texts = [f"{n} {'x' * PART_CHARACTERS}" for n in range(5)]
    clients = {}
    for name in ("first", "second"):
        clients[name], request = ask(name, [[PROMPT, [text]] for text in texts])
        listener.requests.append(request)
    for _ in range(30):
        listener.requests.append(ask("short", [[PROMPT, ["7"]]])[1])
        work(turns, model)
    for connection in clients.values():
        result = receive(connection)["verdicts"]
        assert [verdict["scores"] for verdict in result] == [[float(n)] for n in range(5)]
    order = [name for name in model.asked if name != "short"]
    assert set(order[1:4]) == {"first", "second"}


def test_a_request_answered_in_parts_gets_the_same_scores(ask):
    client, request = ask("model", [[PROMPT, [str(n) for n in range(40)]], [PROMPT, ["99"]]])
    assert TOGETHER == TOGETHER_IN_SCORE
    assert [len(texts) for _, _, texts in request.pieces] == [16, 16, 8, 1]
    while not answer(Echo(), request):
        pass
    reply = receive(client)
    assert reply["verdicts"][0]["scores"] == list(map(float, range(40)))
    assert reply["verdicts"][1]["uncertainties"] == [99.0]
    assert (reply["forwarded"], reply["limit"]) == (41, 512)


def test_a_text_that_cannot_fit_is_not_even_tokenized(models, monkeypatch):
    scorer = Scorer(models[0])
    read = []
    encode = scorer.chat.encode
    monkeypatch.setattr(scorer.chat, "encode", lambda p, rs: read.append(list(rs)) or encode(p, rs))
    (verdict,) = scorer.judge([(PROMPT, ["x" * 200_000, "Red."])])
    assert read == [["Red."]]
    assert (
        np.isnan(verdict.scores[0])
        and verdict.scores[1] == scorer.judge([(PROMPT, ["Red."])])[0].scores[0]
    )
    assert np.isnan(
        scorer.judge([([{"role": "user", "content": "x" * 200_000}], ["a"])])[0].scores[0]
    )
    assert len(read) == 2
