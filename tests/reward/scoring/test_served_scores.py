"""Tests of scores from the model server: equal results, its recovery from faults, and its limits."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from django.core.management import CommandError, call_command

from config.env import BASE_DIR
from config.local.processes import Services, model_server, model_servers
from reward.models import RewardModel
from reward.scoring import model_server as client
from reward.scoring.rows import ScoreRow
from reward.training.score import TOGETHER, Scorer
from reward.training.serving.loaded import ClientLeft, counting_tokens
from reward.training.serving.scoring import PART_CHARACTERS, Scoring
from reward.training.serving.service import RewardModels
from serving import address, errors
from serving.address import Server
from serving.client import BlockingClient, Conversation, Scores, score_request
from serving.server.engine import Engine, Limits
from tests.reward.scored import make_scorer_folder
from tests.serving.running import Running
from tests.worker import wait_until

pytestmark = [pytest.mark.torch, pytest.mark.processes]

PROMPT = [{"role": "user", "content": "Which lamp is the brightest of them all?"}]
LARGE = [(PROMPT, ["x" * 400] * 16)] * 128


def score(server: Server, model: Any, conversations: Any, seconds: float = 300) -> Scores:
    with BlockingClient(server) as connection:
        return connection.score(str(model), conversations, seconds)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    return [make_scorer_folder(folder / f"model-{n}", seed=n, heads=n + 2) for n in range(2)]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with Running(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="module")
def server(running: Running) -> Server:
    return running.server


def test_no_model_library_is_loaded_before_the_first_request(running: Running) -> None:
    process = psutil.Process(running.process.pid)
    assert process.memory_info().rss < 60e6
    assert not any("torch" in each.path for each in process.memory_maps())


def test_the_scores_equal_the_recipes_and_do_not_depend_on_the_batch(
    server: Server, models: list[Path]
) -> None:
    conversations = [(PROMPT, ["The tall one.", "x" * n]) for n in range(1, 6)] + [
        (PROMPT, ["Red."])
    ]
    expected = Scorer(models[0]).judge(conversations)
    together = score(server, models[0], conversations).verdicts
    for row, result, target in zip(conversations, together, expected, strict=True):
        assert result.scores == pytest.approx(target.scores.tolist(), abs=1e-5)
        assert result.uncertainties == pytest.approx(target.disagreements.tolist(), abs=1e-5)
        (alone,) = score(server, models[0], [row]).verdicts
        assert alone.scores == pytest.approx(result.scores, abs=1e-5)


def test_a_response_without_a_score_and_a_single_head_give_none(
    server: Server, tmp_path: Path
) -> None:
    model = make_scorer_folder(tmp_path / "model", heads=1)
    [verdict] = score(server, model, [(PROMPT, ["Red.", "x" * 600])]).verdicts
    assert verdict.scores[0] is not None and verdict.scores[1] is None
    assert verdict.uncertainties == [None, None]


def test_the_prompt_is_forwarded_once_for_all_its_responses(
    server: Server, models: list[Path]
) -> None:
    texts = ["one", "three", "seventeen"]
    head, tails = Scorer(models[0]).chat.encode(PROMPT, texts)
    assert len(head) > 40, "too short for this test"
    reply = score(server, models[0], [(PROMPT, texts)])
    assert reply.forwarded == len(head) + sum(map(len, tails))
    alone = score(server, models[0], [(PROMPT, [text]) for text in texts])
    assert alone.forwarded == reply.forwarded, "single responses to a prompt share it too"


def test_a_family_that_cannot_share_gets_the_prompt_with_each_response(tmp_path: Path) -> None:
    scorer = Scorer(make_scorer_folder(tmp_path / "model", trained_for="plain"))
    head, tails = scorer.chat.encode(PROMPT, ["one", "three"])
    with counting_tokens(scorer) as forwarded:
        scorer.judge([(PROMPT, ["one", "three"])])
    assert sum(forwarded) == 2 * len(head) + sum(map(len, tails))


def test_a_long_request_is_answered_in_parts_with_the_same_scores(
    server: Server, models: list[Path]
) -> None:
    texts = [f"{n} {'x' * 300}" for n in range(3 * TOGETHER + 1)]
    job = Scoring("model", [(PROMPT, texts), (PROMPT, ["99"])], until=0, emit=print)
    assert [len(responses) for _, _, responses in job.pieces] == [TOGETHER] * 3 + [1, 1]
    assert sum(map(len, texts)) < PART_CHARACTERS, "a part has several pieces"
    assert len(job.next_part()) == 4 + 1
    many = score(server, models[0], [(PROMPT, texts * 2), (PROMPT, ["99"])])
    [first] = score(server, models[0], [(PROMPT, texts[:5])]).verdicts
    assert many.verdicts[0].scores[:5] == pytest.approx(first.scores, abs=1e-5)
    assert len(many.verdicts[0].scores) == 2 * len(texts)
    assert len(many.verdicts[1].uncertainties) == 1 and many.limit == 512


def test_the_request_of_a_client_that_leaves_is_dropped(models: list[Path]) -> None:
    class Context:
        def time_remaining(self) -> float:
            return 60

    loads: list[None] = []
    engine = Engine(lambda: loads.append(None), Limits())
    request = score_request(str(models[0]), [(PROMPT, ["a"])])

    async def leave() -> None:
        call = asyncio.create_task(RewardModels(engine).Score(request, Context()))
        while not engine.jobs:
            await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    asyncio.run(leave())
    engine.start()
    wait_until(lambda: not engine.jobs)
    engine.stop()
    assert not loads, "torch is not even imported"


def test_work_for_a_disconnected_client_ends_at_the_next_forward_pass(models: list[Path]) -> None:
    scorer = Scorer(models[0], max_tokens=200)
    leaves = iter([False, False, True])
    with pytest.raises(ClientLeft), counting_tokens(scorer, lambda: next(leaves)) as passes:
        scorer.judge([(PROMPT, ["x" * n]) for n in range(1, 30)])
    assert len(passes) == 2


def test_a_request_ends_at_its_time_limit_and_the_server_answers_the_next_one(
    server: Server, models: list[Path]
) -> None:
    started = time.monotonic()
    with pytest.raises(errors.TooSlow):
        score(server, models[0], LARGE * 4, seconds=0.5)
    assert time.monotonic() - started < 30
    assert score(server, models[0], [(PROMPT, ["a"])], seconds=30).verdicts


def test_two_models_stay_in_memory(server: Server, models: list[Path], running: Running) -> None:
    first, second = (score(server, m, [(PROMPT, ["a", "b"])]).verdicts for m in models)
    assert first != second
    assert score(server, models[0], [(PROMPT, ["a", "b"])]).verdicts == first
    log = running.log.read_text()
    assert [log.count(f"{model} is loaded") for model in models] == [1, 1]


def test_a_folder_without_a_model_is_refused_and_the_next_request_is_answered(
    server: Server, models: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(errors.CannotLoad, match="not the output of a reward run"):
        score(server, tmp_path, [(PROMPT, ["a"])])
    assert score(server, models[0], [(PROMPT, ["a"])]).verdicts


@pytest.mark.parametrize(
    ("conversations", "reason"),
    [
        ([], "no conversations"),
        ([([], ["a"])], "no prompt"),
        ([(PROMPT, [])], "no responses"),
        ([([{"role": "", "content": "a"}], ["a"])], "no role"),
        ([(PROMPT, [3])], "not valid"),
        ([("nonsense", ["a"])], "not valid"),
        ([([{"role": "user"}], ["a"])], "not valid"),
        ([(PROMPT, ["\ud800"])], "not valid"),
    ],
)
def test_an_invalid_request_gets_a_sentence(
    server: Server, models: list[Path], conversations: list[Conversation], reason: str
) -> None:
    with pytest.raises(errors.Refused, match=reason):
        score(server, models[0], conversations)


def test_a_request_without_a_model_gets_a_sentence(server: Server) -> None:
    with pytest.raises(errors.Refused, match="names no model"):
        score(server, "", [(PROMPT, ["a"])])


# --- faults ---------------------------------------------------------------------------------------


def test_a_killed_server_is_restarted_by_its_supervisor(tmp_path: Path, settings: Any) -> None:
    settings.MODEL_SERVER = Server(f"unix:{tmp_path}/s")
    service, log = model_server(), tmp_path / "log"

    def answers() -> bool:
        services.revive()
        try:
            score(settings.MODEL_SERVER, tmp_path / "none", [])
        except errors.ServingError as error:
            return isinstance(error, errors.Refused)
        raise AssertionError("a request without conversations is refused")

    def process() -> psutil.Process:
        assert service.process
        family = psutil.Process(service.process.pid).children(recursive=True)
        return next(each for each in family if "finetune.training.serve" in each.cmdline())

    with log.open("a", buffering=1) as out, Services([service], out=out) as services:
        wait_until(answers, 60)
        first = process()
        first.kill()
        first.wait(10)
        wait_until(answers, 60)
        assert process().pid != first.pid
    assert "starting it again" in log.read_text()


def test_a_hanging_server_is_detected_before_the_time_limit(
    server: Server, running: Running, models: list[Path], settings: Any
) -> None:
    settings.MODEL_SERVER, settings.API_SCORE_SECONDS = server, 300
    process = psutil.Process(running.process.pid)
    process.suspend()
    try:
        for text in ("a", "x" * 1_000_000):
            started = time.monotonic()
            with pytest.raises(client.Unavailable, match="does not answer"):
                client.judge(RewardModel(path=str(models[0])), [ScoreRow(PROMPT, [text], True)])
            assert time.monotonic() - started < 30
    finally:
        process.resume()
    assert score(server, models[0], [(PROMPT, ["a"])]).verdicts


def test_a_busy_server_accepts_the_pings_of_waiting_clients(
    server: Server, models: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server with the default settings of gRPC disconnects a client after three pings."""
    often = {"grpc.keepalive_time_ms": 50}
    options = [(name, often.get(name, value)) for name, value in address.CLIENT_OPTIONS]
    monkeypatch.setattr(address, "CLIENT_OPTIONS", options)
    started = time.monotonic()
    assert len(score(server, models[0], LARGE[:32]).verdicts) == 32
    assert time.monotonic() - started > 0.3, "too short for this test"


def test_requests_during_an_idle_restart_are_answered(tmp_path: Path, models: list[Path]) -> None:
    with Running(tmp_path, "--idle", "0.1") as running:
        before = score(running.server, models[0], [(PROMPT, ["a"])])
        wait_until(lambda: "unloaded" in running.log.read_text(), 20)
        assert score(running.server, models[0], [(PROMPT, ["a"])]) == before
        assert running.process.poll() is None, "the process id stays"


def test_a_request_beyond_the_memory_limit_is_refused_and_the_server_restarts(
    tmp_path: Path, models: list[Path]
) -> None:
    with Running(tmp_path, "--memory", "500") as running:
        with pytest.raises(errors.TooLarge, match="500 MB"):
            score(running.server, models[0], [(PROMPT, ["x" * 400] * 16)] * 600)
        wait_until(lambda: "restarting" in running.log.read_text(), 20)
        running.wait()


@pytest.mark.parametrize("megabytes", ["499", "-1", "many"])
def test_a_memory_limit_without_room_for_the_libraries_is_refused(megabytes: str) -> None:
    line = [sys.executable, "-m", "finetune.training.serve", "localhost:0", "--memory", megabytes]
    ended = subprocess.run(line, cwd=BASE_DIR, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2 and "from 500 on" in ended.stderr


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (errors.Busy("x"), "Too many requests are waiting for scores"),
        (errors.TooSlow("x"), "longer than 30 seconds"),
        (errors.TooLarge("x"), "does not have enough memory"),
        (errors.NotRunning("secret.example.org"), r"manage\.py model_server"),
        (errors.NotAllowed("x"), "cannot be used; see the server's log"),
        (errors.CannotLoad("/secret/folder"), "cannot be used; see the server's log"),
    ],
)
def test_each_error_becomes_a_sentence_without_details_of_the_machine(
    error: errors.ServingError, reason: str
) -> None:
    with pytest.raises((client.Unavailable, client.CannotScore), match=reason) as problem:
        raise client.problem_of(error)
    assert "secret" not in str(problem.value)


# --- the command ----------------------------------------------------------------------------------


def test_a_path_too_long_for_a_socket_is_refused_with_a_sentence(
    tmp_path: Path, settings: Any
) -> None:
    settings.MODEL_SERVER = Server(f"unix:{tmp_path}/{'x' * 120}")
    with pytest.raises(CommandError, match="TIEBREAK_MODEL_SERVER"):
        call_command("model_server")
    assert model_servers() == [], "manage.py local does without one"


def test_the_command_starts_a_server_without_secrets_and_stops_it(tmp_path: Path) -> None:
    variables = {"TIEBREAK_MODEL_SERVER": f"unix:{tmp_path}/s", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "manage.py", "model_server"],
        cwd=BASE_DIR,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout and "The model server answers at" in process.stdout.readline()
    children = wait_until(lambda: psutil.Process(process.pid).children(recursive=True)[1:])
    wait_until((tmp_path / "s").exists)
    assert "DATABASE_URL" in os.environ and "DATABASE_URL" not in children[0].environ()
    process.terminate()
    assert "Stopped" in process.stdout.read() and process.wait(20) == 0
    assert not psutil.wait_procs(children, timeout=10)[1]


# --- texts ----------------------------------------------------------------------------------------


def test_a_text_that_cannot_fit_is_not_even_tokenized(
    models: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
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
