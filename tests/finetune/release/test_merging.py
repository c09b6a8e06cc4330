"""Tests of merge runs, and of the lineage of models through merges."""

import json
import shutil
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.db import IntegrityError, transaction
from django.urls import reverse

from accounts.models import Role
from finetune import merging, tuning
from finetune.engines.sampled_text import read_prompts
from finetune.evaluation import judges, runs
from finetune.forms.evaluation import EvaluateInputs
from finetune.forms.tuning import FinetuneInputs, MergeInputs
from finetune.lineage import trained_on
from finetune.models import Model, with_descendants
from finetune.registry import add_base, default_model
from finetune.removal.deletion import CannotDelete, delete
from finetune.removal.erasing import reach_of
from labeling.models import Prompt
from labeling.projects import archiving
from recipes.preferences.groups import content_hash, read_groups
from reward.preferences.snapshots import SnapshotFilter, freeze
from runs import execution, services
from runs.kinds import CannotRun
from runs.models import Artifact, Run, State
from runs.supervision import workspace
from tests.finetune.factory import (
    laid_out,
    make_adapter,
    make_base,
    make_evaluation,
    make_run,
    make_snapshot,
    publish,
)
from tests.reward.factory import make_project, make_user

pytestmark = pytest.mark.django_db

REPORT = {
    "kind": "merge",
    "share": 0.001,
    "merged_vs_tuned": 1e-5,
    "tuned_vs_base": 1e-2,
    "texts": 8,
}


@pytest.fixture(autouse=True)
def rule():
    judges.register("length", "The longer, the better", lambda messages, text: float(len(text)))
    yield
    judges._rules.pop("length")


@pytest.fixture
def snapshot():
    return make_snapshot(make_project(), prompts=30, test_fraction=0.5)


@pytest.fixture
def adapter(snapshot):
    return make_adapter(make_base(snapshot.project), snapshot)


def merged(adapter: Model) -> Model:
    """Return the model that a merge run creates, with the files that its recipe would publish."""
    inputs = {"project": adapter.project_id, "model": adapter.pk}
    run = make_run("merge", inputs=inputs, project=adapter.project)
    run_dir = laid_out(run)
    facts = merging.prepare(run, run_dir)
    report = {**REPORT, "inputs": {**run.inputs, **facts}}
    publish(run_dir, report, {"config.json": '{"model_type": "llama"}'})
    return Model.objects.get(pk=merging.finish(run, run_dir)["model"])


def ids(snapshot, split):
    return {g.group_id for g in read_groups(snapshot.file) if g.split == split}


def other_split(snapshot):
    """Freeze the same rankings with another split, so that trained prompts become held-out ones."""
    chosen = SnapshotFilter(test_fraction=0.5, seed=5)
    return freeze(project=snapshot.project, filter=chosen, by=None)


# --- the run ----------------------------------------------------------------------------------------


def test_the_merged_model_keeps_its_parent_and_snapshot(adapter, snapshot):
    model = merged(adapter)
    assert (model.parent, model.snapshot, model.adapter) == (adapter, snapshot, "")
    assert model.base == f"runs:{model.run_id}/output"
    assert model.is_merged and model.kind == "merged model"
    assert list(model.ancestry()) == [model, adapter, adapter.parent]


def test_the_database_refuses_a_second_model_of_a_merge(adapter):
    model = merged(adapter)
    with pytest.raises(IntegrityError), transaction.atomic():
        merging.finish(model.run, laid_out(model.run))
    assert Model.objects.filter(parent=adapter).count() == 1


def test_a_run_without_a_model_in_its_output_creates_none(adapter):
    run = make_run("merge", inputs={"model": adapter.pk})
    run_dir = laid_out(run)
    publish(run_dir, REPORT)
    with pytest.raises(CannotRun, match="holds no model"):
        merging.finish(run, run_dir)
    assert not Model.objects.filter(parent=adapter).exists()


def test_the_recipe_gets_the_snapshot_and_the_lineage(adapter, snapshot):
    run = make_run("merge", inputs={"model": adapter.pk})
    run_dir = laid_out(run)
    facts = merging.prepare(run, run_dir)
    assert (run_dir.data / "preferences.parquet").is_file()
    assert facts["snapshot_hash"] == snapshot.content_hash
    assert [row["model"] for row in facts["lineage"]] == [adapter.pk, adapter.parent_id]
    assert facts["lineage"][0]["snapshot_hash"] == snapshot.content_hash


def test_only_an_adapter_can_be_merged(adapter):
    assert merging.from_inputs({"model": adapter.pk}) == {
        "model": adapter.base,
        "adapter": adapter.adapter,
    }
    with pytest.raises(CannotRun, match="is not an adapter, so there is nothing to merge"):
        merging.from_inputs({"model": adapter.parent_id})
    assert list(MergeInputs().fields["model"].queryset) == [adapter]


def test_the_command_plans_the_same_run(capsys, adapter):
    call_command("merge", str(adapter.pk), "--set", "output_dtype=bfloat16", "--dry-run")
    plan = json.loads(capsys.readouterr().out)
    assert plan["kind"] == "merge" and plan["inputs"]["model"] == adapter.pk
    assert plan["config"] == {
        "model": adapter.base,
        "adapter": adapter.adapter,
        "output_dtype": "bfloat16",
    }
    with pytest.raises(CommandError, match="is not an adapter"):
        call_command("merge", str(adapter.parent_id), "--dry-run")
    assert not Run.objects.filter(kind="merge").exists()


def test_a_trainer_starts_a_merge_from_the_page_of_the_adapter(client, adapter):
    client.force_login(make_user(Role.TRAINER))
    page = client.get(reverse("model", args=[adapter.pk])).text
    launch = f"{reverse('run-launch', args=['merge'])}?model={adapter.pk}"
    assert f'href="{launch}">Merge</a>' in page
    form = client.get(launch)
    assert form.context["launch"].inputs["model"].value() == str(adapter.pk)
    base_page = client.get(reverse("model", args=[adapter.parent_id])).text
    assert ">Merge</a>" not in base_page


def test_the_page_of_a_merged_model_shows_its_lineage_and_offers_its_files(client, adapter):
    model = merged(adapter)
    Artifact.objects.bulk_create(workspace.artifacts(model.run, workspace.run_dir_of(model.run)))
    client.force_login(make_user(Role.TRAINER))
    page = client.get(reverse("model", args=[model.pk])).text
    assert "A merged model of" in page
    assert "download>Model <span" in page
    for ancestor in (adapter, adapter.parent):
        assert f'href="{reverse("model", args=[ancestor.pk])}"' in page
    assert "merged</span>" in client.get(reverse("models")).text


def test_the_page_of_an_adapter_lists_the_models_made_from_it(client, adapter, snapshot):
    client.force_login(make_user(Role.TRAINER))
    address = reverse("model", args=[adapter.pk])
    assert "No models were made from it." in client.get(address).text
    model = merged(adapter)
    continued = make_adapter(adapter, snapshot)
    page = client.get(address)
    assert page.context["children"] == [continued, model]
    assert f'href="{reverse("model", args=[model.pk])}"' in page.text


@pytest.mark.torch
@pytest.mark.usefixtures("forked_recipes")
def test_a_merge_run_creates_a_model_that_can_be_fine_tuned_and_merged_again(tmp_path):
    from tests.finetune.training import training_runs
    from tests.tiny import make_model

    project, trainer = make_project(), make_user(Role.TRAINER)
    snapshot = make_snapshot(project, prompts=6, test_fraction=0.4)
    folder = make_model(tmp_path / "tiny")
    model, _ = add_base(project=project, base=str(folder), by=trainer)
    adapter = make_adapter(model, snapshot)
    training_runs.make_adapter(Path(adapter.adapter_folder), folder, scale=1.0)
    inputs = {"project": project.pk, "model": adapter.pk}
    run = services.start("merge", {}, trainer, inputs=inputs, send=False)
    ended = execution.run_now(run.pk)
    assert ended.state == State.SUCCEEDED, ended.error
    assert ended.result["share"] < 1e-3
    result = Model.objects.get(parent=adapter)
    inputs = {"snapshot": snapshot.pk, "model": result.pk}
    assert tuning.from_inputs(inputs) == {"model": result.base, "adapter": None}
    report = json.loads((Path(result.base_folder) / "report.json").read_text())
    assert report["inputs"]["lineage"][0]["snapshot_hash"] == snapshot.content_hash


# --- lineage ----------------------------------------------------------------------------------------


def evaluation_of(candidate, baseline, snapshot):
    inputs = {
        "project": candidate.project_id,
        "candidate": candidate.pk,
        "baseline": baseline.pk,
        "snapshot": snapshot.pk,
        "judge": "length",
    }
    run = make_run("evaluate", inputs=inputs, config={"seed": 0})
    return run, laid_out(run)


def test_prompts_trained_through_a_merged_base_are_left_out_of_evaluations(adapter, snapshot):
    other = other_split(snapshot)
    base = merged(make_adapter(merged(adapter), snapshot))
    candidate = make_adapter(base, other)
    run, run_dir = evaluation_of(candidate, base, other)
    counts = runs.prepare(run, run_dir)
    written = {prompt.prompt_id for prompt in read_prompts(run_dir.data / "prompts.parquet")}
    assert written == ids(other, "test") - ids(snapshot, "train")
    assert counts["seen_in_training"] == len(ids(other, "test") & ids(snapshot, "train")) > 0


def test_an_evaluation_is_refused_if_all_prompts_were_trained_through_a_merged_base(snapshot):
    everything = freeze(project=snapshot.project, filter=SnapshotFilter(test_fraction=0.0), by=None)
    base = merged(make_adapter(make_base(snapshot.project), everything))
    run, run_dir = evaluation_of(make_adapter(base, snapshot), base, snapshot)
    with pytest.raises(CannotRun, match="no held-out prompt that the models were not trained on"):
        runs.prepare(run, run_dir)


def test_held_out_prompts_that_the_base_learned_are_left_out_of_fine_tuning(adapter, snapshot):
    other = other_split(snapshot)
    inputs = {"snapshot": other.pk, "model": merged(adapter).pk}
    run = make_run("dpo", inputs=inputs)
    run_dir = laid_out(run)
    facts = tuning.prepare(run, run_dir)
    written = list(read_groups(run_dir.data / "preferences.parquet"))
    trained = ids(other, "test") & ids(snapshot, "train")
    assert {g.group_id for g in written if g.split == "test"} == ids(other, "test") - trained
    assert {g.group_id for g in written if g.split == "train"} == ids(other, "train")
    assert facts["seen_in_training"] == len(trained) > 0
    [message] = [e for e in run_dir.events() if e["event"] == "message"]
    assert message["level"] == "warning" and message["text"].startswith(f"{len(trained)} held-out")
    assert content_hash(read_groups(other.file)) == other.content_hash


def test_fine_tuning_of_a_base_without_history_reads_the_snapshot_itself(adapter, snapshot):
    run = make_run("dpo", inputs={"snapshot": snapshot.pk, "model": adapter.parent_id})
    run_dir = laid_out(run)
    assert tuning.prepare(run, run_dir) == {"snapshot_hash": snapshot.content_hash}
    assert (run_dir.data / "preferences.parquet").samefile(snapshot.file)


def test_a_copy_of_a_merged_folder_added_as_a_base_keeps_the_lineage(tmp_path, adapter, snapshot):
    copy = shutil.copytree(merged(adapter).base_folder, tmp_path / "copy")
    added, new = add_base(project=snapshot.project, base=str(copy), by=None)
    assert new and added.parent == adapter and added.snapshot == snapshot
    assert trained_on([added]) == ids(snapshot, "train")


def test_a_merged_folder_added_to_another_project_keeps_the_lineage(adapter, snapshot):
    added, new = add_base(project=make_project(), base=merged(adapter).base_folder, by=None)
    assert new and added.parent == adapter and added.snapshot is None
    assert trained_on([added]) == ids(snapshot, "train")


@pytest.mark.parametrize(
    "report",
    [
        "not JSON",
        "[]",
        '{"inputs": {}}',
        '{"inputs": {"lineage": [{"run": "7"}]}}',
        '{"inputs": {"lineage": [{"run": null}]}}',
        '{"inputs": {"lineage": [{"run": "00000000-0000-4000-8000-000000000000"}]}}',
    ],
)
def test_a_folder_whose_report_names_no_run_of_this_installation_is_a_base(tmp_path, report):
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "report.json").write_text(report)
    added, _ = add_base(project=make_project(), base=str(folder), by=None)
    assert added.parent is None and added.kind == "base model"


def test_the_folder_of_a_merged_model_is_not_added_a_second_time(adapter):
    model = merged(adapter)
    assert add_base(project=model.project, base=model.base_folder, by=None) == (model, False)


def test_a_merged_model_can_be_fine_tuned_but_is_not_the_default_base(adapter, snapshot):
    model = merged(adapter)
    inputs = {"snapshot": snapshot.pk, "model": model.pk}
    assert tuning.from_inputs(inputs) == {"model": model.base, "adapter": None}
    assert model in FinetuneInputs().fields["model"].queryset
    assert default_model(model.project) == adapter.parent


def test_an_adapter_and_its_merged_model_have_the_same_doubts(adapter):
    model = merged(adapter)
    model.project.promotion_policy = "judge"
    model.project.save()
    assert "never been evaluated" in model.doubts()[0]
    make_evaluation(adapter, verdicts=[1.0] * 11)
    model.refresh_from_db()
    assert model.doubts() == []
    make_evaluation(model, verdicts=[0.0] * 30, baseline=adapter.parent)
    assert "worse than" in model.doubts()[0] and "worse than" in adapter.doubts()[0]


def test_a_merged_model_can_replace_its_promoted_adapter_and_the_reverse(adapter):
    model = merged(adapter)
    adapter.promote(by=None, reason="The first one.")
    assert model.promote(by=None) == adapter
    adapter.refresh_from_db()
    assert adapter.promote(by=None) == model


# --- evaluations across a merge ---------------------------------------------------------------------


def evaluated(candidate, baseline, snapshot):
    return runs.from_inputs(evaluation_of(candidate, baseline, snapshot)[0].inputs)


def test_an_adapter_on_a_merged_base_is_compared_with_the_adapter_before_the_merge(
    adapter, snapshot
):
    base = merged(adapter)
    candidate = make_adapter(base, snapshot)
    assert evaluated(candidate, adapter, snapshot) == {
        "model": base.base,
        "adapter": candidate.adapter,
        "baseline_model": adapter.base,
        "baseline_adapter": adapter.adapter,
        "reference_model": adapter.base,
        "reward_model": None,
    }


def test_a_merged_model_is_compared_with_its_base(client, adapter, snapshot):
    model = merged(adapter)
    assert model.default_baseline() == adapter.parent == model.root()
    assert adapter.parent.default_baseline() is None
    inputs = {"candidate": model.pk, "judge": "length"}
    form = EvaluateInputs(inputs)
    assert form.is_valid(), form.errors
    assert form.inputs()["baseline"] == adapter.parent_id
    config = evaluated(model, adapter.parent, snapshot)
    assert (config["model"], config["adapter"]) == (model.base, None)
    assert config["baseline_model"] == adapter.base
    client.force_login(make_user(Role.TRAINER))
    page = client.get(reverse("model", args=[model.pk])).text
    assert f"{reverse('run-launch', args=['evaluate'])}?candidate={model.pk}" in page


def test_the_form_offers_all_models_with_the_same_root_as_baselines(adapter, snapshot):
    model = merged(adapter)
    candidate = make_adapter(model, snapshot)
    make_base(adapter.project)
    form = EvaluateInputs(initial={"candidate": candidate.pk})
    assert set(form.fields["baseline"].queryset) == {model, adapter, adapter.parent}
    assert set(form.fields["candidate"].queryset) == {model, adapter, candidate}


def test_the_command_compares_a_merged_model_with_its_base(capsys, adapter):
    model = merged(adapter)
    call_command("evaluate", str(model.pk), "--judge", "length", "--dry-run")
    assert json.loads(capsys.readouterr().out)["inputs"]["baseline"] == adapter.parent_id


# --- removal ----------------------------------------------------------------------------------------


def test_erasing_names_the_models_made_from_a_trained_one(adapter, snapshot):
    model = merged(adapter)
    later = make_adapter(model, make_snapshot(snapshot.project, prompts=1))
    prompt = Prompt.objects.get(pk=int(min(ids(snapshot, "train"), key=int)))
    assert set(reach_of(prompt).models) == {adapter, model, later}


def test_descendants_include_models_of_every_generation(adapter):
    model = merged(adapter)
    again = merged(make_adapter(model, adapter.snapshot))
    family = with_descendants([adapter])
    assert family == [adapter, model, again.parent, again]
    assert with_descendants([]) == []


def test_a_project_whose_merged_model_is_used_elsewhere_cannot_be_deleted(adapter):
    project, elsewhere = adapter.project, make_project()
    add_base(project=elsewhere, base=merged(adapter).base_folder, by=None)
    archiving.archive(project=project, by=None)
    with pytest.raises(CannotDelete, match="is based on a model of this one"):
        delete(project=project, by=None)


def test_a_deleted_project_takes_its_merged_models_and_their_files(
    adapter, django_capture_on_commit_callbacks
):
    model = merged(adapter)
    folder = Path(model.base_folder)
    assert folder.is_dir()
    archiving.archive(project=adapter.project, by=None)
    with django_capture_on_commit_callbacks(execute=True):
        delete(project=adapter.project, by=None)
    assert not Model.objects.filter(pk=model.pk).exists() and not folder.exists()
