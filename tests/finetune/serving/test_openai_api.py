"""Tests of the OpenAI-compatible API with the `openai` client, a live server and a real tiny model."""

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import uvicorn
from django.core.asgi import get_asgi_application

from accounts.models import Role, Token
from finetune.model_page.usage import api_code
from finetune.models import Model
from labeling.models import Project
from serving.address import Server
from serving.client import LanguageModel, Sampling
from tests.finetune.factory import make_base
from tests.reward.factory import join, make_project, make_user
from tests.serving.running import Running, end_of, text_of
from tests.tiny import make_model

pytestmark = [
    pytest.mark.torch,
    pytest.mark.processes,
    pytest.mark.django_db(transaction=True),
]

HI = [{"role": "user", "content": "Hi"}]

ENDLESS: dict[str, Any] = {"messages": HI, "temperature": 0, "max_tokens": 4000}
"""An answer that the random model repeats without an end."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("base"), max_position_embeddings=4096)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with Running(tmp_path_factory.mktemp("server"), forked=True) as running:
        yield running


@pytest.fixture
def project() -> Project:
    return make_project()


@pytest.fixture
def promoted(project: Project, folder: Path) -> Model:
    return make_base(project, base=str(folder), state=Model.State.PROMOTED)


@pytest.fixture
def asgi() -> Iterator[str]:
    """Serve the site with uvicorn, as the live server does, and return its address."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(
            uvicorn.Config(get_asgi_application(), lifespan="off", log_level="warning")
        )
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.fixture(params=["asgi", "live_server"])
def site(request: pytest.FixtureRequest) -> str:
    """Return the address of each kind of server: the live one, and an ordinary one with threads."""
    server: Any = request.getfixturevalue(request.param)
    return server if isinstance(server, str) else server.url


def client_of(user: Any, site: str) -> openai.OpenAI:
    _, key = Token.issue(user=user, name="test")
    return openai.OpenAI(base_url=f"{site}/v1", api_key=key, max_retries=0)


@pytest.fixture
def client(site: str) -> openai.OpenAI:
    return client_of(make_user(Role.TRAINER), site)


@pytest.fixture
def served(promoted: Model, running: Running, settings: Any) -> Model:
    settings.MODEL_SERVER = running.server
    return promoted


def test_the_client_lists_models_and_gets_the_answer_of_the_model_server(
    client: openai.OpenAI, served: Model, running: Running, folder: Path
) -> None:
    slug = served.project.slug
    assert [model.id for model in client.models.list()] == [slug, f"{slug}/{served.pk}"]
    assert client.models.retrieve(f"{slug}/{served.pk}").owned_by == slug
    for name in (slug, f"{slug}/{served.pk}"):
        answer = client.chat.completions.create(
            model=name, messages=HI, seed=3, max_tokens=20, temperature=0.9
        )
        events = running.ask(
            LanguageModel(str(folder)), "Hi", Sampling(temperature=0.9, seed=3, max_tokens=20)
        )
        choice = answer.choices[0]
        assert choice.message.content == text_of(events) != ""
        assert choice.finish_reason == end_of(events).reason == "length"
        assert answer.usage and answer.usage.completion_tokens == 20
        assert answer.usage.prompt_tokens == 5, "user, H, i, end, assistant"
        assert answer.model == name


def test_a_stream_arrives_in_pieces_and_counts_its_tokens(
    client: openai.OpenAI, served: Model
) -> None:
    arguments: dict[str, Any] = {
        "model": served.project.slug, "messages": HI, "seed": 3, "max_completion_tokens": 200,
    }  # fmt: skip
    whole = client.chat.completions.create(**arguments)
    times, texts, usage, reason = [], [], None, None
    for chunk in client.chat.completions.create(
        **arguments, stream=True, stream_options={"include_usage": True}
    ):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts.append(choice.delta.content or "")
            reason = choice.finish_reason or reason
            times.append(time.monotonic())
    assert "".join(texts) == whole.choices[0].message.content
    assert (usage, reason) == (whole.usage, whole.choices[0].finish_reason)
    # Tokens of the tiny model are so fast that one message has several of them.
    assert len([text for text in texts if text]) > 1 and times[-1] > times[0]


def test_a_client_that_leaves_ends_the_generation(
    client: openai.OpenAI, promoted: Model, settings: Any, tmp_path: Path
) -> None:
    """With room for one answer, the next one can only be written because the first one ended."""
    with Running(tmp_path, "--streams", "1", "--waiting", "1", forked=True) as running:
        settings.MODEL_SERVER = running.server
        slug = promoted.project.slug
        stream = client.chat.completions.create(model=slug, **ENDLESS, stream=True)
        for count, _ in enumerate(stream):
            if count == 5:
                break
        stream.close()
        started = time.monotonic()
        client.chat.completions.create(model=slug, messages=HI, max_tokens=1)
        assert time.monotonic() - started < 5


def test_errors_have_the_form_of_openai(client: openai.OpenAI, served: Model, site: str) -> None:
    create: Any = client.chat.completions.create
    slug = served.project.slug
    for name in ("none", "no/1", f"{slug}/x", f"{slug}/{2**70}", "\x00", "../etc", "é"):
        with pytest.raises(openai.NotFoundError) as missing:
            create(model=name, messages=HI)
    assert missing.value.code == "model_not_found" and missing.value.param == "model"
    with pytest.raises(openai.BadRequestError, match="at most 4096") as long:
        create(model=slug, messages=[{"role": "user", "content": "x" * 5000}])
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="at most 4096"):
        create(model=slug, messages=[{"role": "user", "content": "x" * 5000}], stream=True)
    with pytest.raises(openai.AuthenticationError) as key:
        openai.OpenAI(base_url=f"{site}/v1", api_key="tb_wrong", max_retries=0).models.list()
    assert key.value.code == "invalid_api_key"
    with pytest.raises(openai.NotFoundError, match="no such address"):
        client.embeddings.create(model=slug, input="x")


def test_the_slug_is_the_promoted_model_and_reviewers_have_none(
    client: openai.OpenAI, served: Model, site: str, folder: Path
) -> None:
    slug = served.project.slug
    Model.objects.filter(pk=served.pk).update(state=Model.State.CANDIDATE)
    assert [model.id for model in client.models.list()] == [f"{slug}/{served.pk}"]
    with pytest.raises(openai.NotFoundError, match="PROJECT/NUMBER"):
        client.models.retrieve(slug)
    Model.objects.filter(pk=served.pk).update(state=Model.State.ARCHIVED)
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve(f"{slug}/{served.pk}")
    Model.objects.filter(pk=served.pk).update(state=Model.State.PROMOTED)
    reviewer = make_user()
    join(served.project, reviewer)
    stranger = client_of(reviewer, site)
    assert list(stranger.models.list()) == []
    with pytest.raises(openai.NotFoundError):
        stranger.chat.completions.create(model=slug, messages=HI)  # type: ignore[arg-type]


def test_limits_are_per_token(client: openai.OpenAI, served: Model, settings: Any) -> None:
    create: Any = client.chat.completions.create
    settings.API_CHARACTERS, settings.API_RESPONSES_A_MINUTE = 10, 2
    with pytest.raises(openai.APIStatusError, match="limit is 10") as large:
        create(model=served.project.slug, messages=[{"role": "user", "content": "x" * 11}])
    assert large.value.status_code == 413
    with pytest.raises(openai.RateLimitError, match="answers per token and minute"):
        for _ in range(4):  # the minute may change once
            create(model=served.project.slug, messages=HI, max_tokens=1)
    settings.API_RESPONSES_A_MINUTE, settings.API_STREAMS = 1000, 0
    with pytest.raises(openai.RateLimitError, match="answers in progress"):
        create(model=served.project.slug, messages=HI, max_tokens=1)


def test_without_a_model_server_the_error_names_the_command(
    client: openai.OpenAI, promoted: Model, settings: Any, tmp_path: Path
) -> None:
    settings.MODEL_SERVER = Server(f"unix:{tmp_path}/none")
    for stream in (False, True):
        with pytest.raises(openai.InternalServerError, match=r"manage\.py model_server") as error:
            client.chat.completions.create(
                model=promoted.project.slug,
                messages=HI,
                stream=stream,  # type: ignore[arg-type]
            )
        assert error.value.status_code == 503 and error.value.response.headers["Retry-After"]


def test_a_killed_model_server_ends_the_stream_with_an_error_and_the_next_answer_works(
    client: openai.OpenAI, promoted: Model, settings: Any, tmp_path: Path
) -> None:
    with Running(tmp_path, forked=True) as running:
        settings.MODEL_SERVER = running.server
        stream = client.chat.completions.create(
            model=promoted.project.slug,
            messages=HI,
            seed=2,
            max_tokens=4000,
            stream=True,  # type: ignore[arg-type]
        )
        with pytest.raises(openai.APIError, match="not running"):
            for count, _ in enumerate(stream):
                if count == 3:
                    running.process.kill()
        with running:  # its supervisor starts it again
            answer = client.chat.completions.create(
                model=promoted.project.slug,
                messages=HI,
                max_tokens=3,  # type: ignore[arg-type]
            )
        assert answer.usage and answer.usage.completion_tokens


def test_the_code_on_the_page_of_a_model_asks_the_model(
    client: openai.OpenAI, served: Model, site: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for model in (served, make_base(served.project, base=served.base)):
        code = api_code(model, f"{site}/v1").replace("tb_…", client.api_key)
        exec(code.replace("messages=", "max_tokens=5, messages="), {})
        assert capsys.readouterr().out
