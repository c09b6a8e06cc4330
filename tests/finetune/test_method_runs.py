"""Tests of SFT, KTO, GRPO and RLOO from the launch form or command, through the worker, to pages and evaluation."""

import io
import json

import pytest
from django.core.management import call_command
from django.test import Client
from django.urls import reverse

from accounts.models import Role
from finetune.evaluation import judges
from finetune.models import Model
from finetune.registry import add_base
from labeling.importing.reading import import_file
from labeling.models import Task
from labeling.rankings.content import Content
from labeling.rankings.recording import record
from reward.preferences.snapshots import SnapshotFilter, freeze
from runs import execution, services
from runs.models import Run, State
from tests.finetune.factory import make_reward_model
from tests.reward.factory import make_project, make_prompt, make_task, make_user
from tests.reward.scored import make_scorer_folder
from tests.tiny import make_model

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("forked_recipes")]
SMALL = {
    "batch_size": 4, "micro_batch_size": 4, "lora_r": 2, "lora_alpha": 4, "epochs": 1,
    "sample_prompts": 2, "sample_tokens": 4,
}  # fmt: skip


@pytest.fixture
def trainer():
    return make_user(Role.TRAINER)


@pytest.fixture
def client(trainer):
    client = Client()
    client.force_login(trainer)
    return client


@pytest.fixture
def base(project, trainer, tmp_path):
    model, _ = add_base(project=project, base=str(make_model(tmp_path / "tiny")), by=trainer)
    return model


@pytest.fixture
def rule():
    judges.register("count-b", "The more b, the better", lambda messages, text: text.count("b"))
    yield "count-b"
    judges._rules.pop("count-b")


@pytest.fixture
def snapshot(project):
    """Freeze 16 prompts, ranked by one reviewer with a line below the first response."""
    reviewer = make_user()
    for number in range(16):
        make_task(make_prompt(project, f"Question {number}?"), ["bbbb", "ab", "aaaaa"])
    for task in Task.objects.all():
        ids = [[r.pk] for r in sorted(task.responses.all(), key=lambda r: -r.text.count("b"))]
        content = Content(ids, cut=1)
        record(task=task, reviewer=reviewer, source="import", content=content)
    return freeze(project=project, filter=SnapshotFilter(test_fraction=0.4), by=None)


def run(kind, config, inputs, by):
    begun = services.start(kind, config, by, inputs=inputs, send=False)
    ended = execution.run_now(begun.pk)
    assert ended.state == State.SUCCEEDED, ended.error
    return ended


@pytest.mark.parametrize("kind", ["sft", "kto"])
def test_a_run_leads_to_a_model_with_pages_and_an_evaluation(
    project, snapshot, base, trainer, client, rule, kind
):
    page = client.get(reverse("run-launch", args=[kind])).content.decode()
    assert {"sft": "Smallest margin", "kto": "Weight of acceptable responses"}[kind] in page
    inputs = {"project": project.pk, "snapshot": snapshot.pk, "model": base.pk}
    ended = run(kind, {**SMALL, "evaluations": 1}, inputs, trainer)
    tuned = Model.objects.get(run=ended)
    assert tuned.name.endswith(f"-{kind}-{ended.pk}")
    assert tuned.parent == base and tuned.snapshot == snapshot
    assert ended.result["nll_per_token"]["value"] > 0
    assert ended.result["nll_change"]["interval"][0] <= ended.result["nll_change"]["value"]
    shown = client.get(reverse("run", args=[ended.pk])).content.decode()
    assert "change in nats per token" in shown and "% held-out accuracy" not in shown
    assert client.get(reverse("model", args=[tuned.pk])).status_code == 200
    assert "% held-out accuracy" in client.get(reverse("runs")).content.decode()
    judged = {**inputs, "candidate": tuned.pk, "baseline": base.pk, "judge": rule}
    del judged["model"]
    assert run("evaluate", {"max_new_tokens": 4}, judged, trainer).result["win_rate"]


@pytest.mark.parametrize("kind", ["grpo", "rloo"])
def test_a_run_with_rewards_leads_to_a_model_with_pages_and_an_evaluation(
    project, snapshot, base, trainer, client, rule, tmp_path, kind
):
    scorer = make_scorer_folder(tmp_path / "scorer", heads=1)
    reward_model = make_reward_model(snapshot, path=str(scorer))
    page = client.get(reverse("run-launch", args=[kind])).content.decode()
    assert "Clip range" in page and "Optimizer steps" in page and "Tokens per forward" not in page
    inputs = {"project": project.pk, "snapshot": snapshot.pk, "model": base.pk}
    config = {**SMALL, "steps": 2, "samples_per_prompt": 2, "max_new_tokens": 4, "evaluations": 1}
    ended = run(kind, config, {**inputs, "reward_model": reward_model.pk}, trainer)
    tuned = Model.objects.get(run=ended)
    assert tuned.name.endswith(f"-{kind}-{ended.pk}")
    assert tuned.parent == base and tuned.snapshot == snapshot
    assert ended.result["score_change"]["interval"]
    shown = client.get(reverse("run", args=[ended.pk])).content.decode()
    assert "KL to the original model, nats per token" in shown and "Before training" in shown
    assert client.get(reverse("model", args=[tuned.pk])).status_code == 200
    judged = {**inputs, "candidate": tuned.pk, "baseline": base.pk, "judge": rule}
    del judged["model"]
    assert run("evaluate", {"max_new_tokens": 4}, judged, trainer).result["win_rate"]


def test_imported_chats_become_an_adapter_by_two_commands(project, base, tmp_path):
    path = tmp_path / "chats.jsonl"
    rows = [
        {"messages": [
            {"role": "user", "content": f"Question {n}?"}, {"role": "assistant", "content": "b" * 9},
        ]}
        for n in range(16)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    import_file(path, project=project)
    call_command("snapshot", project.slug, "--chats", "--test", "0.4", stdout=io.StringIO())
    settings = [f"--set={name}={value}" for name, value in SMALL.items()]
    call_command(
        "finetune", "--project", project.slug, "--method", "sft", "--no-wait", *settings,
        "--set=learning_rate=0.01", stdout=io.StringIO(),
    )  # fmt: skip
    ended = execution.run_now(Run.objects.get().pk)
    assert ended.state == State.SUCCEEDED, ended.error
    assert ended.result["accuracy"]["value"] is None
    assert ended.result["nll_change"]["value"] < 0
    assert Model.objects.get(run=ended).snapshot.counts["chats"] == 16


def test_kto_without_a_line_fails_with_a_sentence(project, base, trainer):
    make_project()
    reviewer = make_user()
    task = make_task(make_prompt(project), ["bbbb", "aaaa"])
    first, second = task.responses.all()
    content = Content([[first.pk], [second.pk]])
    record(task=task, reviewer=reviewer, source="import", content=content)
    frozen = freeze(project=project, filter=SnapshotFilter(test_fraction=0.0), by=None)
    inputs = {"project": project.pk, "snapshot": frozen.pk, "model": base.pk}
    ended = execution.run_now(services.start("kto", SMALL, trainer, inputs=inputs, send=False).pk)
    assert ended.state == State.FAILED
    assert "1 prompts: no ranking has an unacceptable line" in ended.error
