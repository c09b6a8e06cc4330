"""Tests of promoted adapters on a vLLM server, and of chats with them."""

import asyncio
import json
import os
import subprocess
import sys
from contextlib import aclosing
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.urls import reverse

from accounts.models import Role, Token
from config import checks
from finetune.models import Delivery
from finetune.release.delivering import deliver_due
from finetune.serving.names import served, served_together
from serving.address import VLLMServer
from serving.client import End, LanguageModel, Piece, Sampling, Start
from serving.errors import CannotLoad, NotAllowed, NotRunning, ServingError, TooLong
from serving.vllm import VLLMClient
from tests.finetune.factory import make_adapter, make_base, make_snapshot
from tests.finetune.release.vllm_server import BASE, vllm_server
from tests.reward.factory import make_project, make_user

pytestmark = pytest.mark.django_db
QUESTION = [{"role": "user", "content": "Hello?"}]


@pytest.fixture
def vllm(settings):
    with vllm_server("org/lamp-base") as server:
        settings.VLLM = VLLMServer(server.url, server.key)
        yield server


@pytest.fixture
def snapshot():
    return make_snapshot(make_project(slug="lamps"), prompts=3)


def adapter_of(base, snapshot):
    adapter = make_adapter(base, snapshot)
    Path(adapter.adapter_folder).mkdir(parents=True, exist_ok=True)
    return adapter


@pytest.fixture
def base(snapshot):
    return make_base(snapshot.project, base="org/lamp-base@abc")


@pytest.fixture
def promoted(base, snapshot):
    adapter = adapter_of(base, snapshot)
    adapter.promote(by=None, reason="A test.")
    return adapter


def events_of(server, model=BASE, messages=QUESTION, **sampling):
    async def ask():
        async with VLLMClient(server) as client:
            chat = client.chat(
                LanguageModel("x", vllm_name=model), messages, Sampling(**sampling), seconds=5
            )
            async with aclosing(chat) as events:
                return [event async for event in events]

    return asyncio.run(ask())


# --- loading --------------------------------------------------------------------------------------


def test_a_promoted_adapter_is_loaded_under_the_slug_and_swapped_by_the_next_promotion(
    vllm, promoted, base, snapshot
):
    [delivery] = deliver_due()
    assert delivery.text == "Loaded as lamps."
    assert vllm.adapters == {"lamps": promoted.adapter_folder}
    assert deliver_due() == [], "it is loaded once"
    assert list(Delivery.of_model(promoted)) == [delivery]
    following = adapter_of(base, snapshot)
    following.promote(by=None, reason="A test.")
    deliver_due()
    promoted.refresh_from_db()
    assert not Delivery.of_model(promoted), "its page no longer says that it is loaded"
    assert vllm.adapters == {"lamps": following.adapter_folder}
    base.promote(by=None)
    deliver_due()
    assert vllm.adapters == {}


def test_an_adapter_is_loaded_again_after_a_restart_of_the_server(vllm, promoted):
    deliver_due()
    assert served(promoted).vllm_name == "lamps"
    vllm.adapters.clear()
    [delivery] = deliver_due()
    assert delivery.delivered_at and vllm.adapters == {"lamps": promoted.adapter_folder}


def test_a_server_that_is_down_leaves_the_model_to_the_model_server(vllm, promoted, settings):
    deliver_due()
    settings.VLLM = VLLMServer("http://127.0.0.1:9", vllm.key)
    [delivery] = deliver_due()
    assert "vLLM at 127.0.0.1:9 cannot be reached" in delivery.error
    promoted.refresh_from_db()
    assert served(promoted).vllm_name == ""


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda vllm: setattr(vllm, "base", "org/other"), "but vLLM serves org/other"),
        (lambda vllm: setattr(vllm, "key", "another"), "status 401"),
        (
            lambda vllm: setattr(vllm, "load", lambda **body: (200, "Success")),
            "does not list lamps",
        ),
    ],
)
def test_an_adapter_that_cannot_be_loaded_is_reported(vllm, promoted, change, reason):
    change(vllm)
    [delivery] = deliver_due()
    assert reason in delivery.error and delivery.delivered_at is None


def test_a_missing_folder_is_reported_with_the_reason_of_the_server(vllm, promoted):
    Path(promoted.adapter_folder).rename(f"{promoted.adapter_folder}-moved")
    [delivery] = deliver_due()
    assert "No adapter found for" in delivery.error


# --- chats ----------------------------------------------------------------------------------------


def test_an_answer_has_the_events_of_the_model_server(vllm, settings):
    events = events_of(settings.VLLM, seed=3, top_k=5)
    assert events == [Start(7, 3), Piece("Good ", 1), Piece("morning", 2), End("stop", 2)]
    _, body = vllm.calls[-1]
    assert (body["seed"], body["top_k"], body["temperature"]) == (3, 5, 1.0)
    assert "max_tokens" not in body
    *_, end = events_of(settings.VLLM, max_tokens=1)
    assert end == End("length", 1)
    start, *_ = events_of(settings.VLLM)
    assert start.seed == vllm.calls[-1][1]["seed"], "a seed is chosen and reported"


@pytest.mark.parametrize(
    ("error", "question", "change"),
    [
        (CannotLoad, {"model": "none"}, {}),
        (TooLong, {"messages": [{"role": "user", "content": "x" * 3000}]}, {}),
        (NotAllowed, {}, {"key": "another"}),
        (NotRunning, {}, {"breaks_off": True}),
    ],
)
def test_errors_are_those_of_the_model_server(vllm, settings, error, question, change):
    for name, value in change.items():
        setattr(vllm, name, value)
    with pytest.raises(ServingError) as caught:
        events_of(settings.VLLM, **question)
    assert type(caught.value) is error


def test_a_server_that_is_not_running_is_named():
    with pytest.raises(NotRunning, match=r"does not answer at 127\.0\.0\.1:9"):
        events_of(VLLMServer("http://127.0.0.1:9", "k"))


def test_the_api_answers_with_the_adapter_on_vllm(vllm, promoted, client):
    folder = Path(promoted.adapter_folder)
    record = {"chat_template_kwargs": {"enable_thinking": False}, "chat_date": "2026-01-01"}
    (folder / "chat.json").write_text(json.dumps(record))
    deliver_due()
    _, key = Token.issue(user=make_user(Role.TRAINER), name="t")
    headers = {"Authorization": f"Bearer {key}"}
    body = {"model": "lamps", "messages": QUESTION, "seed": 1}
    address = reverse("openai-chat")
    answer = client.post(address, body, content_type="application/json", headers=headers).json()
    assert answer["choices"][0]["message"]["content"] == "Good morning"
    assert answer["usage"]["total_tokens"] == 9
    _, sent = vllm.calls[-1]
    assert sent["model"] == "lamps" and sent["chat_template_kwargs"] == {"enable_thinking": False}
    body["model"] = f"lamps/{promoted.parent_id}"
    client.post(address, body, content_type="application/json", headers=headers)
    assert vllm.calls[-1][1]["model"] == BASE
    body |= {"model": "lamps", "stream": True}
    stream = client.post(address, body, content_type="application/json", headers=headers)
    assert b'"content": "morning"' in stream.getvalue()


def test_candidates_and_other_bases_stay_on_the_model_server(vllm, promoted, base, snapshot):
    deliver_due()
    assert served(base).vllm_name == BASE
    assert served(adapter_of(base, snapshot)).vllm_name == ""
    assert served(make_base(snapshot.project)).vllm_name == ""


def test_models_that_are_compared_in_a_chat_are_answered_by_the_same_server(
    vllm, promoted, base, snapshot
):
    deliver_due()
    together = served_together([promoted, base])
    assert [model.vllm_name for model in together] == ["lamps", BASE]
    together = served_together([adapter_of(base, snapshot), base])
    assert [model.vllm_name for model in together] == ["", ""]


# --- the command and the check --------------------------------------------------------------------

FAKE = """#!{python}
import json, os, sys
print(json.dumps([sys.argv[1:], dict(os.environ)]))
"""


def test_the_command_starts_vllm_with_its_key_and_without_other_secrets(
    promoted, settings, tmp_path, monkeypatch, capsys
):
    settings.VLLM = VLLMServer("http://127.0.0.1:8100", "secret-1")
    promoted.run.config = {"lora_r": 24}
    promoted.run.save()
    program = tmp_path / "vllm"
    program.write_text(FAKE.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setenv("DATABASE_URL", "postgresql://secret")
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    ran = []

    def run(file, line, environment):
        ran.append(subprocess.run(line, env=environment, capture_output=True, text=True))

    monkeypatch.setattr(os, "execvpe", run)
    call_command("serve_vllm", "lamps", "--executable", str(program), "--options=--dtype float32")
    arguments, environment = json.loads(ran[0].stdout)
    assert arguments == [
        "serve", "org/lamp-base", "--revision", "abc", "--host", "127.0.0.1", "--port", "8100",
        "--served-model-name", "lamps-base", "--enable-lora", "--max-loras", "4",
        "--max-lora-rank", "32", "--dtype", "float32",
    ]  # fmt: skip
    assert environment["VLLM_API_KEY"] == "secret-1"
    assert environment["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "True"
    assert environment["VLLM_CPU_KVCACHE_SPACE"] == "1" and "DATABASE_URL" not in environment
    call_command("serve_vllm", "lamps", "--dry-run")
    output = capsys.readouterr().out
    assert "vllm serve org/lamp-base" in output and "secret-1" not in output


def test_the_command_explains_what_is_missing(promoted, settings, tmp_path):
    with pytest.raises(CommandError, match="TIEBREAK_VLLM_URL is not set"):
        call_command("serve_vllm", "lamps")
    settings.VLLM = VLLMServer("http://127.0.0.1:8100", "k")
    with pytest.raises(CommandError, match="cannot be started"):
        call_command("serve_vllm", "lamps", "--executable", str(tmp_path / "none"))
    settings.VLLM = VLLMServer("http://0.0.0.0:8100", "k")
    with pytest.raises(CommandError, match="public"):
        call_command("serve_vllm", "lamps", "--dry-run")


@pytest.mark.parametrize(
    ("url", "key", "expected"),
    [
        ("", "", []),
        ("http://127.0.0.1:8100", "k", []),
        ("https://vllm.internal", "k", []),
        ("http://127.0.0.1:8100", "", ["tiebreak.E006"]),
        ("http://8.8.8.8:8100", "k", ["tiebreak.E006"]),
        ("http://[::]:8100", "k", ["tiebreak.E006"]),
        ("ftp://127.0.0.1", "k", ["tiebreak.E006"]),
        ("http://127.0.0.1:99999", "k", ["tiebreak.E006"]),
        ("http://127.0.0.1:8100/v1", "k", ["tiebreak.E006"]),
        ("http://10.0.0.5:8100", "k", ["tiebreak.W005"]),
    ],
)
def test_the_check_refuses_public_servers_and_those_without_a_key(settings, url, key, expected):
    settings.VLLM = VLLMServer(url, key)
    assert [row.id for row in checks.vllm_not_public(None)] == expected
    assert not Delivery.objects.exists()
