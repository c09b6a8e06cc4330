import json

import pytest
from django.core.management import CommandError, call_command
from django.db import IntegrityError
from django.urls import reverse

from accounts.models import AuditEntry
from config import checks
from finetune.endpoints import Endpoint, EndpointProblem, read_endpoints
from finetune.engines import served
from finetune.engines.sampled_text import read_prompts
from finetune.models import Model
from finetune.registry import add_served, default_model
from labeling.models import Response, Task
from reward.promotion import CannotMove
from runs import services
from runs.kinds import CannotRun
from runs.services import InvalidConfig
from tests.finetune.engines.openai_server import openai_server, status
from tests.finetune.factory import laid_out, make_base, make_run, make_snapshot
from tests.reward.factory import make_project, make_prompt
from tests.worker import celery_worker, runs_dir, wait_for_end, wait_until

__all__ = ["celery_worker", "runs_dir"]

HOSTED = 'url = "https://api.example.com/v1"\n'


@pytest.fixture
def declare(settings, tmp_path):
    """Return a function that writes the file of endpoints."""
    settings.ENDPOINTS = tmp_path / "endpoints.toml"

    def write(text):
        settings.ENDPOINTS.write_text(text)
        return settings.ENDPOINTS

    return write


@pytest.fixture
def hosted(declare):
    return declare(f'[hosted]\n{HOSTED}models = ["small-1", "org/large@2"]\n')


# --- declarations ---------------------------------------------------------------------------------


def test_an_endpoint_is_read_with_its_limits_and_defaults(declare):
    path = declare(
        f'[hosted]\n{HOSTED}key_variable = "HOSTED_KEY"\ninput_price = 1\nseeds = false\n'
        '[vllm]\nurl = "http://127.0.0.1:8000/v1/"\nconcurrency = 32\n'
    )
    endpoints = read_endpoints(path)
    assert endpoints["hosted"].key_variable == "HOSTED_KEY" and not endpoints["hosted"].seeds
    assert endpoints["hosted"].cost(2_000_000, 5) == 2.0
    assert endpoints["vllm"] == Endpoint(
        name="vllm", url="http://127.0.0.1:8000/v1", concurrency=32
    )
    assert endpoints["vllm"].cost(5, 5) is None
    for endpoint in endpoints.values():
        assert Endpoint.from_dict(json.loads(json.dumps(endpoint.to_dict()))) == endpoint


def test_without_a_file_there_are_no_endpoints(tmp_path):
    assert read_endpoints(tmp_path / "missing.toml") == {}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[", "cannot be read"),
        ("hosted = 3", "must be a table"),
        (f"[Hosted]\n{HOSTED}", "needs another name"),
        (f'["../x"]\n{HOSTED}', "needs another name"),
        ("[a]\nseeds = true", "has no url"),
        (f'[a]\n{HOSTED}key = "sk-1"', "unknown setting key"),
        ('[a]\nurl = "ftp://x/v1"', "must be an http or https address"),
        ('[a]\nurl = "https://user:pass@x/v1"', "must be an http or https address"),
        ('[a]\nurl = "https://x/v1?key=1"', "must be an http or https address"),
        ('[a]\nurl = "https://x:99999/v1"', "must be an http or https address"),
        ('[a]\nurl = "http://x y/v1"', "must be an http or https address"),
        ("[a]\nurl = 3", "must be an http or https address"),
        (f'[a]\n{HOSTED}key_variable = "sk-abc123"', "must be the name of an environment variable"),
        (f"[a]\n{HOSTED}concurrency = 0", "must be a whole number from 1 to 64"),
        (f"[a]\n{HOSTED}concurrency = true", "must be a whole number from 1 to 64"),
        (f'[a]\n{HOSTED}seconds = "5"', "must be a whole number from 1 to 3600"),
        (f"[a]\n{HOSTED}tries = 99", "must be a whole number from 1 to 20"),
        (f"[a]\n{HOSTED}input_price = -1", "must be a price"),
        (f"[a]\n{HOSTED}output_price = nan", "must be a price"),
        (f'[a]\n{HOSTED}seeds = "no"', "must be true or false"),
        (f'[a]\n{HOSTED}models = "small"', "must be a list of model names"),
        (f'[a]\n{HOSTED}models = ["a b"]', "must be a list of model names"),
        (f'[a]\n{HOSTED}max_tokens_name = "limit"', "must be max_tokens or max_completion_tokens"),
        (f'[a]\n{HOSTED}currency = ""', "must be a currency"),
    ],
)
def test_an_invalid_declaration_is_refused_with_its_reason(declare, text, sentence):
    path = declare(text)
    with pytest.raises(EndpointProblem, match=sentence):
        read_endpoints(path)
    assert [problem.id for problem in checks.endpoints_valid(None)] == ["tiebreak.E003"]


def test_a_key_that_would_be_sent_in_clear_is_a_warning(declare):
    declare('[a]\nurl = "http://10.0.0.5/v1"\nkey_variable = "KEY"')
    assert [problem.id for problem in checks.endpoints_valid(None)] == ["tiebreak.W003"]
    for url in ("http://127.0.0.1:8000/v1", "http://[::1]:8000/v1", "https://10.0.0.5/v1"):
        declare(f'[a]\nurl = "{url}"\nkey_variable = "KEY"')
        assert checks.endpoints_valid(None) == []
    declare('[a]\nurl = "http://10.0.0.5/v1"')
    assert checks.endpoints_valid(None) == []


# --- models on endpoints --------------------------------------------------------------------------


@pytest.fixture
def model(db, hosted):
    row, _ = add_served(project=make_project(), endpoint="hosted", model="small-1", by=None)
    return row


@pytest.mark.django_db
def test_a_model_on_an_endpoint_is_added_once_and_recorded(model):
    again, new = add_served(project=model.project, endpoint="hosted", model="small-1", by=None)
    assert (again, new) == (model, False)
    assert (model.name, model.kind, model.base_folder) == (
        "small-1", "model on an endpoint", "hosted: small-1",
    )  # fmt: skip
    details = AuditEntry.objects.get(action="model added").details
    assert details["endpoint"] == "hosted"


@pytest.mark.django_db
def test_undeclared_endpoints_and_models_are_refused(hosted):
    project = make_project()
    for endpoint, name, sentence in (
        ("elsewhere", "small-1", "'elsewhere' is not declared. Declared endpoints: hosted"),
        ("http://169.254.169.254", "x", "is not declared"),
        ("hosted", "huge-9", "allows only these models: small-1, org/large@2"),
    ):
        with pytest.raises(EndpointProblem, match=sentence):
            add_served(project=project, endpoint=endpoint, model=name, by=None)
    assert not Model.objects.exists()


@pytest.mark.django_db
def test_a_model_on_an_endpoint_is_neither_promoted_nor_trained_nor_loaded(model):
    with pytest.raises(CannotMove, match="is on the endpoint hosted"):
        model.promote(by=None, reason="because")
    assert default_model(model.project) is None
    make_prompt(model.project)
    snapshot = make_snapshot(model.project, prompts=1)
    here = {"project": model.project_id, "model": model.pk}
    for kind, inputs in (
        ("generate", here),
        ("dpo", {**here, "snapshot": snapshot.pk}),
        ("merge", here),
    ):
        with pytest.raises(InvalidConfig, match="is on the endpoint hosted, so its weights"):
            services.start(kind, {}, None, inputs=inputs)


@pytest.mark.django_db(transaction=True)
def test_the_database_refuses_to_promote_a_model_on_an_endpoint(model):
    with pytest.raises(IntegrityError, match="model_on_endpoint_is_not_ours"):
        Model.objects.filter(pk=model.pk).update(state="promoted")


@pytest.mark.django_db
def test_a_model_of_our_own_cannot_be_asked(hosted):
    base = make_base(make_project())
    make_prompt(base.project)
    with pytest.raises(CannotRun, match="is not on an endpoint"):
        served.from_inputs({"project": base.project_id, "model": base.pk})


@pytest.mark.django_db
def test_the_form_offers_endpoints_by_name_and_no_address(client, admin, hosted):
    client.force_login(admin)
    project = make_project()
    page = client.get(reverse("add-model")).content.decode()
    assert '<option value="hosted">' in page and "api.example.com" not in page
    values = {"project": project.pk, "endpoint": "hosted", "base": "small-1"}
    evil = client.post(reverse("add-model"), {**values, "endpoint": "http://127.0.0.1/"})
    assert "Select a valid choice" in evil.content.decode()
    unknown = client.post(reverse("add-model"), {**values, "base": "huge-9"})
    assert "allows only these models" in unknown.content.decode()
    assert not Model.objects.exists()
    answer = client.post(reverse("add-model"), values)
    model = Model.objects.get()
    assert answer.url == reverse("model", args=[model.pk])
    page = client.get(answer.url).content.decode()
    assert "Ask for responses" in page and "Models on endpoints cannot be promoted" in page
    assert "Fine-tune" not in page
    again = client.post(reverse("add-model"), values).content.decode()
    assert "already has this model" in again


@pytest.mark.django_db
def test_without_endpoints_the_form_has_no_field_for_them(client, admin, declare):
    client.force_login(admin)
    assert "OpenAI" not in client.get(reverse("add-model")).content.decode()
    declare("[")  # an invalid file: `manage.py check` reports it, and pages still work
    assert client.get(reverse("add-model")).status_code == 200


@pytest.mark.django_db
def test_the_launch_form_offers_only_models_on_endpoints(client, admin, model):
    client.force_login(admin)
    make_base(model.project)
    page = client.get(reverse("run-launch", args=["ask"])).content.decode()
    assert page.count(f'<option value="{model.pk}"') == 1
    assert "base-" not in page
    other = client.get(reverse("run-launch", args=["generate"])).content.decode()
    assert f'<option value="{model.pk}"' not in other


@pytest.mark.django_db
def test_the_commands_add_and_ask_a_model(hosted, capsys):
    project = make_project()
    make_prompt(project)
    with pytest.raises(CommandError, match="no model on an endpoint"):
        call_command("ask", project.slug, "--dry-run")
    with pytest.raises(CommandError, match="is not declared"):
        call_command("models", "add", project.slug, "small-1", "--endpoint", "x")
    call_command("models", "add", project.slug, "small-1", "--endpoint", "hosted")
    call_command("ask", project.slug, "--dry-run", "--set", "samples_per_prompt=2")
    printed = capsys.readouterr().out
    assert '"endpoint": "hosted"' in printed and '"model": "small-1"' in printed
    call_command("models", "add", project.slug, "org/large@2", "--endpoint", "hosted")
    with pytest.raises(CommandError, match="several models on endpoints"):
        call_command("ask", project.slug, "--dry-run")


# --- runs -----------------------------------------------------------------------------------------


def prepared(model):
    make_prompt(model.project)
    run = make_run("ask", inputs={"project": model.project_id, "model": model.pk})
    run_dir = laid_out(run)
    return run, run_dir, served.prepare(run, run_dir)


@pytest.mark.django_db
def test_the_run_directory_has_the_declaration_without_the_key(model, declare, monkeypatch):
    monkeypatch.setenv("HOSTED_KEY", "sk-secret")
    declare(f'[hosted]\n{HOSTED}key_variable = "HOSTED_KEY"')
    run, run_dir, facts = prepared(model)
    assert facts == {"prompts_written": 1, "endpoint_url": "https://api.example.com/v1"}
    assert len(read_prompts(run_dir.data / "prompts.parquet")) == 1
    text = (run_dir.data / "endpoint.json").read_text()
    assert "HOSTED_KEY" in text and "sk-secret" not in text
    assert served.variables(run, run_dir) == {"HOSTED_KEY": "sk-secret"}


@pytest.mark.django_db
def test_a_waiting_run_ends_when_its_endpoint_was_changed(model, declare, monkeypatch):
    run, run_dir, _ = prepared(model)
    assert served.variables(run, run_dir) == {}
    for text, sentence in (
        ('[hosted]\nurl = "https://other.example.com/v1"', "has another address"),
        (f'[hosted]\n{HOSTED}key_variable = "HOSTED_KEY"', "HOSTED_KEY.*is not set"),
        ("", "is not declared"),
    ):
        declare(text)
        with pytest.raises(CannotRun, match=sentence):
            served.variables(run, run_dir)


@pytest.fixture
def fake():
    with openai_server() as server:
        server.replies = lambda body: f"reply {body['seed']}"
        yield server


def start(fake, declare, monkeypatch, prompts=3, **options):
    monkeypatch.setenv("A_TEST_KEY", "sk-secret-key")
    limits = "".join(f"{name} = {value}\n" for name, value in options.items())
    declare(f'[fake]\nurl = "{fake.url}"\nkey_variable = "A_TEST_KEY"\ninput_price = 100\n{limits}')
    project = make_project()
    for _ in range(prompts):
        make_prompt(project)
    model, _ = add_served(project=project, endpoint="fake", model="tiny", by=None)
    inputs = {"project": project.pk, "model": model.pk, "tasks": True}
    return services.start("ask", {"samples_per_prompt": 2}, None, inputs=inputs)


def test_a_worker_asks_the_server_and_queues_the_responses(
    celery_worker, runs_dir, fake, declare, monkeypatch
):
    fake.faults = [status(429, Retry_After="0"), status(500)]
    run = start(fake, declare, monkeypatch)
    celery_worker()
    wait_for_end(run, 60)
    assert run.state == "succeeded", run.error
    assert {request["headers"]["Authorization"] for request in fake.requests} == {
        "Bearer sk-secret-key"
    }
    assert Task.objects.count() == 3 and Response.objects.count() == 6
    assert run.result["responses"] == 6
    usage = run.result["usage"]
    assert (usage["requests"], usage["failed_requests"]) == (8, 2)
    assert (usage["prompt_tokens"], usage["response_tokens"]) == (60, 24)
    assert (usage["cost"], usage["currency"]) == (0.006, "USD")
    response = Response.objects.first()
    assert response.model_name == "tiny" and response.text == f"reply {response.seed}"
    assert response.sampling["endpoint"] == "fake"
    files = [path for path in (runs_dir / str(run.pk)).rglob("*") if path.is_file()]
    assert not any(b"sk-secret-key" in path.read_bytes() for path in files)


def test_a_killed_worker_does_not_ask_again_for_what_has_arrived(
    celery_worker, runs_dir, fake, declare, monkeypatch
):
    fake.seconds = 0.2
    run = start(fake, declare, monkeypatch, prompts=20, concurrency=1)
    first = celery_worker()
    journal = runs_dir / str(run.pk) / "checkpoints" / ".responses.jsonl"
    wait_until(lambda: journal.exists() and journal.read_bytes().count(b"\n") >= 8, 60)
    first.kill()
    fake.seconds = 0
    celery_worker()
    wait_for_end(run, 60)
    assert run.state == "succeeded" and run.attempt == 2
    assert len(fake.requests) <= 41  # one request was on its way when the worker was killed
    assert run.result["responses"] == 40


def test_a_cancelled_run_stops_at_once_and_resumes(
    celery_worker, runs_dir, fake, declare, monkeypatch
):
    fake.seconds = 0.2
    run = start(fake, declare, monkeypatch, prompts=20, concurrency=1)
    celery_worker()
    wait_until(lambda: len(fake.requests) >= 4, 60)
    assert services.cancel(run, None)
    wait_for_end(run, 10)
    assert run.state == "cancelled"
    sent = len(fake.requests)
    assert sent < 30
    assert services.restart_label(run) == "Continue from the last checkpoint"
    fake.seconds = 0
    services.restart(run, None)
    wait_until(lambda: run.refresh_from_db() or run.state == "succeeded", 60)
    assert len(fake.requests) <= 41
