"""A chat page with all of its servers: the web, the live server, and a model server with tiny models."""

import string
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from serving.client import BlockingClient, LanguageModel, Sampling
from tests.finetune.chat.live import live
from tests.serving.adapters import make_adapter
from tests.serving.running import Running
from tests.tiny import make_model

__all__ = ["live"]

LETTER_SCALE = 100.0
"""The factor on the weights of letters. It makes every other token practically impossible."""


@pytest.fixture(scope="package")
def speller(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny model that writes one letter per token and never ends an answer."""
    folder = make_model(tmp_path_factory.mktemp("speller"), max_position_embeddings=4096)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder)
    letters = AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids(
        list(string.ascii_lowercase)
    )
    factors = torch.zeros(len(model.lm_head.weight), 1)
    factors[letters] = LETTER_SCALE
    model.lm_head.weight.data *= factors
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="package")
def adapter_of_speller(speller: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an adapter that lets the model write other letters."""
    return make_adapter(speller, tmp_path_factory.mktemp("adapter"), seed=1)


@pytest.fixture(scope="package")
def running(speller: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Run a model server that has loaded the model, so that no test waits for torch."""
    with Running(tmp_path_factory.mktemp("server")) as running:
        warm_up(running, speller)
        yield running


def warm_up(running: Running, folder: Path) -> None:
    with BlockingClient(running.server) as client:
        messages = [{"role": "user", "content": "Hello?"}]
        list(client.chat(LanguageModel(str(folder)), messages, Sampling(max_tokens=1)))


@pytest.fixture
def chatting(settings: Any, running: Running, live: int) -> Running:
    """Let the pages use the live server and the model server. Return the model server."""
    settings.MODEL_SERVER = running.server
    settings.LIVE_PORT = live
    policy = deepcopy(settings.CONTENT_SECURITY_POLICY)
    policy["DIRECTIVES"]["connect-src"].append(f"ws://localhost:{live}")
    settings.CONTENT_SECURITY_POLICY = policy
    return running
