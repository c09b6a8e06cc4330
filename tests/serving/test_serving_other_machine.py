"""Tests of a model server on a machine of its own: a network namespace of Linux."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from reward.training.score import Scorer
from serving.address import Server
from serving.client import BlockingClient, LanguageModel, Sampling
from serving.errors import NotAllowed, NotRunning
from tests.reward.scored import make_scorer_folder
from tests.serving.adapters import make_adapter
from tests.serving.certificates import make_certificate
from tests.serving.running import Running, end_of, text_of
from tests.serving.test_serving_chat import sampled_by_a_run
from tests.tiny import make_model

pytestmark = [pytest.mark.torch, pytest.mark.processes]

PORT = 7010


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture
def machine() -> Iterator[tuple[str, str]]:
    """Return a network namespace and its address, which is reached only through a virtual cable."""
    number = os.getpid()
    name, ours, theirs = f"tiebreak-{number}", f"tb{number}a", f"tb{number}b"
    network = f"198.18.{number % 256}"  # reserved for tests of networks
    try:
        ip("netns", "add", name)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", "") or str(error)
        pytest.skip(f"network namespaces need root and iproute2: {reason.strip()}")
    try:
        ip("link", "add", ours, "type", "veth", "peer", "name", theirs, "netns", name)
        ip("addr", "add", f"{network}.1/30", "dev", ours)
        ip("link", "set", ours, "up")
        ip("-n", name, "addr", "add", f"{network}.2/30", "dev", theirs)
        ip("-n", name, "link", "set", theirs, "up")
        yield name, f"{network}.2"
    finally:
        ip("netns", "delete", name)  # this also deletes the cable


def test_a_second_machine_gets_the_same_models(machine: tuple[str, str], tmp_path: Path) -> None:
    base = make_model(tmp_path / "base")
    adapter = make_adapter(base, tmp_path / "adapter", seed=1)
    reward_model = make_scorer_folder(tmp_path / "reward")
    sampling = Sampling(temperature=1.0, top_p=0.95, seed=5, max_tokens=20)
    conversation = ([{"role": "user", "content": "Which lamp?"}], ["The tall one.", "Red."])
    name, host = machine
    certificate, key = make_certificate(tmp_path, f"IP:{host}")
    server = Server(f"{host}:{PORT}", "secret", str(certificate))
    options = ["--certificate", str(certificate), "--key", str(key)]
    running = Running(tmp_path, *options, server=server)
    running.command = ["ip", "netns", "exec", name, *running.command]
    with running:
        events = running.ask(LanguageModel(str(base), str(adapter)), "Hi", sampling)
        expected = sampled_by_a_run(base, adapter, "Hi", sampling)
        assert (text_of(events), end_of(events).tokens) == expected

        with BlockingClient(server) as client:
            [verdict] = client.score(str(reward_model), [conversation]).verdicts
        [target] = Scorer(reward_model).judge([conversation])
        assert verdict.scores == pytest.approx(target.scores.tolist(), abs=1e-5)

        refused = {
            Server(server.address, "wrong", str(certificate)): NotAllowed,
            Server(f"127.0.0.1:{PORT}", "secret"): NotRunning,  # it is not on this machine
        }
        for other, error in refused.items():
            with BlockingClient(other) as client, pytest.raises(error):
                client.score(str(reward_model), [conversation])
