import json

import pytest
from django.core.management import CommandError, call_command

from accounts.models import AuditEntry
from finetune.evaluation import judges
from finetune.models import Model
from runs.models import Run
from tests.finetune.factory import (
    make_base,
    make_reward_model,
    make_snapshot,
    model_folder,
)
from tests.reward.factory import make_project, make_prompt

pytestmark = pytest.mark.django_db


def planned(capsys, *command) -> dict:
    call_command(*command, "--dry-run")
    return json.loads(capsys.readouterr().out)


def test_generate_lets_the_promoted_model_answer(capsys, project, adapter):
    make_prompt(project)
    plan = planned(capsys, "generate", project.slug, "--set", "temperature=0.5")
    assert plan["inputs"]["model"] == adapter.parent_id
    assert plan["config"]["temperature"] == 0.5 and plan["config"]["adapter"] is None
    Model.objects.filter(pk=adapter.pk).update(state="promoted")
    plan = planned(capsys, "generate", project.slug)
    assert plan["config"]["adapter"] == adapter.adapter
    assert not Run.objects.filter(kind="generate").exists()


def test_a_limit_below_one_is_refused_with_a_sentence(project, adapter):
    make_prompt(project)
    judge = f"reward_model:{make_reward_model(adapter.snapshot).pk}"
    evaluate = ("evaluate", str(adapter.pk), "--judge", judge)
    for command in (("generate", project.slug), evaluate):
        with pytest.raises(CommandError, match="limit must be 1 or more prompts; it is -1"):
            call_command(*command, "--limit", "-1", "--dry-run")


def test_finetune_takes_the_newest_snapshot_and_the_only_base(capsys, project, adapter):
    plan = planned(capsys, "finetune", "--project", project.slug)
    assert plan["inputs"]["snapshot"] == adapter.snapshot_id
    assert plan["config"]["model"] == adapter.parent.base
    make_base(project)
    with pytest.raises(CommandError, match="has several bases; choose a model"):
        call_command("finetune", "--project", project.slug)


def test_finetune_takes_the_promoted_reward_model_for_methods_that_need_one(
    capsys, project, adapter
):
    finetune = ("finetune", "--project", project.slug)
    with pytest.raises(CommandError, match="has no reward model"):
        call_command(*finetune, "--method", "online", "--dry-run")
    promoted = make_reward_model(adapter.snapshot, state="promoted")
    newest = make_reward_model(adapter.snapshot)
    plan = planned(capsys, *finetune, "--method", "online", "--set", "rounds=2")
    assert plan["inputs"]["reward_model"] == promoted.pk
    assert plan["config"]["reward_model"] == promoted.path and plan["config"]["rounds"] == 2
    plan = planned(capsys, *finetune, "--method", "online", "--reward-model", str(newest.pk))
    assert plan["config"]["reward_model"] == newest.path
    with pytest.raises(CommandError, match="The method dpo uses no reward model"):
        call_command(*finetune, "--reward-model", str(newest.pk), "--dry-run")
    elsewhere = make_reward_model(make_snapshot(make_project(), prompts=2))
    with pytest.raises(CommandError, match="Choose a reward model of the snapshot's project"):
        call_command(*finetune, "--method", "online", "--reward-model", str(elsewhere.pk))


def test_evaluate_compares_with_the_candidates_base_model(capsys, adapter):
    judge = judges.of_reward_model(make_reward_model(adapter.snapshot)).name
    plan = planned(capsys, "evaluate", str(adapter.pk), "--judge", judge, "--limit", "5")
    assert plan["inputs"]["baseline"] == adapter.parent_id
    assert plan["inputs"]["snapshot"] == adapter.snapshot_id
    assert plan["inputs"]["limit"] == 5
    assert (plan["inputs"]["order"], plan["inputs"]["regression"]) == ("", True)
    options = ("--comparisons", "--order", "uncertain", "--no-regression")
    plan = planned(capsys, "evaluate", str(adapter.pk), "--judge", judge, *options)
    assert (plan["inputs"]["order"], plan["inputs"]["regression"]) == ("uncertain", False)
    with pytest.raises(CommandError, match=judge):
        call_command("evaluate", str(adapter.pk), "--judge", "help")
    with pytest.raises(CommandError, match="No judge is called"):
        call_command("evaluate", str(adapter.pk), "--judge", "nobody", "--no-wait")


def test_no_wait_queues_and_leaves(capsys, adapter):
    call_command("finetune", "--snapshot", str(adapter.snapshot_id), "--no-wait", "--title", "x")
    run = Run.objects.get(kind="dpo", state="queued")
    assert run.title == "x" and f"Run {run.pk} is queued." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (["generate", "nowhere"], "There is no project 'nowhere'"),
        (["generate", "PROJECT", "--model", "0"], "There is no model 0"),
        (["generate", "PROJECT", "--set", "color=red"], "Unknown setting 'color'. The settings are: .*samples_per_prompt, "),
        (["generate", "PROJECT", "--set", "seed"], "has no value"),
        (["finetune", "--project", "PROJECT", "--set", "beta=-1"], "beta: Must be at least"),
        (["evaluate", "0", "--judge", "x"], "There is no model 0"),
    ],
)  # fmt: skip
def test_an_error_is_explained_and_starts_nothing(project, adapter, command, sentence):
    make_prompt(project)
    before = Run.objects.count()
    with pytest.raises(CommandError, match=sentence):
        call_command(*[project.slug if word == "PROJECT" else word for word in command])
    assert Run.objects.count() == before


def test_models_are_added_listed_promoted_and_archived(capsys, project, tmp_path):
    folder = str(model_folder(tmp_path / "tiny"))
    call_command("models", "add", project.slug, folder, "--dry-run")
    assert not Model.objects.exists()
    call_command("models", "add", project.slug, folder)
    model = Model.objects.get()
    call_command("models", "promote", str(model.pk), "--dry-run")
    call_command("models", "list", "--project", project.slug, "--json")
    last = capsys.readouterr().out.splitlines()[-1]
    assert json.loads(last)["state"] == "candidate"
    call_command("models", "promote", str(model.pk))
    with pytest.raises(CommandError, match="Promote another one first"):
        call_command("models", "archive", str(model.pk))
    with pytest.raises(CommandError, match="There is no folder"):
        call_command("models", "add", project.slug, str(tmp_path / "nothing"))


def test_a_doubtful_model_is_promoted_only_for_a_reason(adapter):
    with pytest.raises(CommandError, match="never been evaluated"):
        call_command("models", "promote", str(adapter.pk))
    call_command("models", "promote", str(adapter.pk), "--reason", "Urgent.")
    call_command("models", "list")
    assert Model.objects.get(pk=adapter.pk).state == "promoted"
    assert AuditEntry.objects.get(action="promoted").details["reason"] == "Urgent."


@pytest.mark.django_db(transaction=True)
def test_a_local_run_prints_its_progress_and_failure(adapter, capsys):
    adapter.snapshot.file.unlink()
    with pytest.raises(CommandError, match="is unusable") as caught:
        call_command("finetune", "--snapshot", str(adapter.snapshot_id), "--foreground")
    assert caught.value.returncode == 2
    assert "failed" in capsys.readouterr().out
