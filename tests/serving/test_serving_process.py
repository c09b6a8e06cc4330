"""Tests of the process of the model server: TLS, the token, health, idle memory and the reserve."""

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from config.env import BASE_DIR
from config.local.processes import model_server, model_servers
from serving.address import Server, WrongAddress, check_address
from serving.client import BlockingClient, Client, LanguageModel, Sampling
from serving.errors import NotAllowed, NotRunning
from tests.serving.certificates import make_certificate
from tests.serving.running import Running, end_of, text_of
from tests.serving.test_serving_chat import sampled_by_a_run
from tests.tiny import make_model

pytestmark = pytest.mark.processes
VARIABLE = "TIEBREAK_MODEL_SERVER_TOKEN"


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.05)


def free_address(host: str = "localhost") -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"{host}:{probe.getsockname()[1]}"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the files of a certificate for localhost, and of its key."""
    return make_certificate(tmp_path_factory.mktemp("tls"), "DNS:localhost")


@pytest.mark.torch
def test_with_tls_and_the_token_a_client_gets_the_answer_of_a_run(
    certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    base = make_model(tmp_path / "base")
    model, sampling = LanguageModel(str(base)), Sampling(seed=4, max_tokens=10)
    files = ["--certificate", str(certificate[0]), "--key", str(certificate[1])]
    server = Server(free_address(), "secret-token", str(certificate[0]))
    with Running(tmp_path, *files, server=server) as running:
        messages = [{"role": "user", "content": "Hi"}]
        with BlockingClient(server) as client:
            events = list(client.chat(model, messages, sampling))
        expected = sampled_by_a_run(base, None, "Hi", sampling)
        assert (text_of(events), end_of(events).tokens) == expected
        for token in ("", "wrong"):
            running.server = replace(server, token=token)
            with pytest.raises(NotAllowed, match=VARIABLE):
                running.ask(model, "Hi", sampling)
        plain = Server(server.address.replace("localhost", "127.0.0.1"), "secret-token")
        running.server = plain
        with pytest.raises(NotRunning):
            running.ask(model, "Hi", sampling)
        assert "secret-token" not in running.log.read_text() + repr(server)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["0.0.0.0:0"], "Set TIEBREAK_MODEL_SERVER_TOKEN"),
        (["unix:relative"], "absolute path"),
        (["unix:/" + "x" * 120], "too long for a socket"),
        (["nonsense"], "HOST:PORT"),
        (["localhost:99999"], "65535"),
    ],
)
def test_an_address_that_is_not_safe_is_refused(options: list[str], reason: str) -> None:
    line = [sys.executable, "-m", "finetune.training.serve", *options]
    ended = subprocess.run(line, cwd=BASE_DIR, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1 and reason in ended.stderr and "Traceback" not in ended.stderr


def test_a_network_address_needs_tls_on_both_sides(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "finetune.training.serve", "0.0.0.0:0"]
    ended = subprocess.run(
        line, cwd=BASE_DIR, capture_output=True, text=True, env={VARIABLE: "x"}, timeout=60
    )
    assert ended.returncode == 1 and "--certificate" in ended.stderr
    with pytest.raises(WrongAddress, match="TIEBREAK_MODEL_SERVER_CA"):
        Server("gpu.example.org:7010", "token").check()
    with pytest.raises(WrongAddress, match="cannot be read"):
        import grpc

        Server("gpu.example.org:7010", "token", str(tmp_path / "none.pem")).channel(grpc)
    with pytest.raises(WrongAddress, match="ASCII"):
        Server("localhost:5", "secret\u00e9").check()
    for address in ("[::1]:5", "127.0.0.1:5", "localhost:5", "unix:/a"):
        Server(address).check()


@pytest.mark.torch
def test_an_idle_server_frees_its_memory_and_still_answers(tmp_path: Path) -> None:
    base = make_model(tmp_path / "base")
    with Running(tmp_path, "--idle", "1") as running:
        process = psutil.Process(running.process.pid)
        before = process.memory_info().rss
        first = running.ask(LanguageModel(str(base)), "Hi", Sampling(seed=1, max_tokens=5))
        assert process.memory_info().rss > before + 50e6
        wait_until(lambda: "unloaded" in running.log.read_text())
        wait_until(lambda: process.memory_info().rss < before + 20e6)
        again = running.ask(LanguageModel(str(base)), "Hi", Sampling(seed=1, max_tokens=5))
        assert (text_of(again), end_of(again)) == (text_of(first), end_of(first))


def test_a_second_server_waits_in_reserve_until_the_first_ends(tmp_path: Path) -> None:
    with Running(tmp_path) as first:
        reserve = Running(tmp_path)
        with reserve.log.open("ab") as output:
            reserve.process = subprocess.Popen(
                reserve.command, cwd=BASE_DIR, env=reserve.environment, stdout=output, stderr=output
            )
        time.sleep(1)
        assert first.log.read_text().count("answers at") == 1
        first.process.terminate()
        first.process.wait(20)
        wait_until(lambda: first.log.read_text().count("answers at") == 2)
        reserve.wait()
        reserve.process.terminate()
        assert reserve.process.wait(20) == 0


def test_only_the_owner_can_connect_and_health_needs_no_token(tmp_path: Path) -> None:
    with Running(tmp_path, server=Server(f"unix:{tmp_path}/s", "secret")) as running:
        assert (tmp_path / "s").stat().st_mode & 0o077 == 0

        async def healthy() -> bool:
            async with Client(replace(running.server, token="")) as client:
                return await client.is_healthy()

        assert asyncio.run(healthy())


def test_the_settings_reach_the_server(settings) -> None:
    settings.MODEL_SERVER = Server("unix:/run/models.sock", "secret")
    settings.MODEL_SERVER_CERTIFICATE, settings.MODEL_SERVER_KEY = "/c.pem", "/k.pem"
    settings.MODEL_SERVER_IDLE_SECONDS, settings.MODEL_SERVER_MEMORY_MB = 61, 620
    settings.MODEL_SERVER_ADAPTERS, settings.MODEL_SERVER_STREAMS = 63, 64
    settings.MODEL_SERVER_WAITING, settings.MODEL_SERVER_MAX_TOKENS = 65, 66
    [service] = model_servers()
    line = " ".join(service.command)
    assert (
        "unix:/run/models.sock --idle 61 --memory 620 --adapters 63 --streams 64 --waiting 65 "
        "--max-tokens 66 --certificate /c.pem --key /k.pem"
    ) in line
    assert service.variables == {VARIABLE: "secret"} and "secret" not in line + repr(service)
    for elsewhere in ("gpu.example.org:7010", "unix:/" + "x" * 120):
        settings.MODEL_SERVER = Server(elsewhere)
        assert model_servers() == [], "manage.py local does without one"
    assert model_server().variables == {}


@pytest.mark.parametrize(
    "address", ["", "host", "host:", ":5", "host:x", "host:70000", "unix:", "unix:a"]
)
def test_a_wrong_address_is_refused(address: str) -> None:
    with pytest.raises(WrongAddress, match=r"\."):
        check_address(address)
