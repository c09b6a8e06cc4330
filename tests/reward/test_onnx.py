"""Tests of the runs that export reward models to ONNX. tests/reward/training has those of the recipe."""

import io
import json
import tarfile
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.urls import reverse

from accounts.models import Role
from labeling.projects import archiving
from recipes.preferences.groups import read_groups
from reward import onnx
from runs.models import Artifact, Run
from runs.supervision import workspace
from tests.finetune.factory import laid_out, make_reward_model, make_run, make_snapshot, publish
from tests.reward.factory import make_project, make_user

pytestmark = pytest.mark.django_db

REPORT = {"difference": 2e-6, "tolerance": 1e-4, "texts": 8, "longest": 512}


@pytest.fixture
def model():
    return make_reward_model(make_snapshot(make_project(), prompts=3))


def exported(model) -> Run:
    """Return a finished export of the model, with the files that the recipe would publish."""
    run = make_run("onnx", inputs={"reward_model": model.pk}, project=model.project)
    run_dir = laid_out(run)
    onnx.prepare(run, run_dir)
    publish(run_dir, REPORT, {"model.onnx": "graph", "README.md": "# Reward model for ONNX"})
    run.result = onnx.finish(run, run_dir)
    run.save()
    Artifact.objects.bulk_create(workspace.artifacts(run, run_dir))
    return run


def test_the_recipe_gets_the_snapshot_for_its_comparison(model):
    run = exported(model)
    groups = list(read_groups(workspace.run_dir_of(run).data / "preferences.parquet"))
    assert len(groups) == 3
    assert run.result == {"reward_model": model.pk, **REPORT}
    assert onnx.figure(run.result) == "scores equal to 2e-06"


def test_the_command_starts_an_export_and_has_a_dry_run(model, capsys):
    call_command("export_onnx", str(model.pk), "--dry-run")
    plan = json.loads(capsys.readouterr().out)
    assert plan == {
        "kind": "onnx",
        "config": {"reward_model": model.path},
        "inputs": {"reward_model": model.pk},
    }
    assert not Run.objects.filter(kind="onnx").exists()
    call_command("export_onnx", str(model.pk), "--no-wait")
    assert Run.objects.get(kind="onnx").project == model.project
    with pytest.raises(CommandError, match="no reward model 999"):
        call_command("export_onnx", "999")


def test_a_trainer_starts_an_export_from_the_page_and_downloads_its_files(client, model):
    client.force_login(make_user(Role.TRAINER))
    page = client.get(reverse("reward-model", args=[model.pk])).text
    launch = f"{reverse('run-launch', args=['onnx'])}?reward_model={model.pk}"
    assert f'href="{launch}">Export to ONNX</a>' in page
    form = client.get(launch)
    assert form.context["launch"].inputs["reward_model"].value() == str(model.pk)
    address = reverse("reward-model-onnx", args=[model.pk])
    assert "was not exported to ONNX" in client.get(address, follow=True).text
    run = exported(model)
    page = client.get(reverse("reward-model", args=[model.pk])).text
    assert f'<dt>ONNX</dt><dd><a href="{reverse("run", args=[run.pk])}">' in page
    assert f'href="{address}" download' in page
    with tarfile.open(fileobj=io.BytesIO(client.get(address).getvalue())) as archive:
        names = {Path(name).name for name in archive.getnames()}
    assert {"model.onnx", "README.md", "report.json"} <= names
    page = client.get(reverse("run", args=[run.pk])).text
    assert reverse("reward-model", args=[model.pk]) in page


def test_models_of_archived_projects_are_not_offered(client, model):
    archiving.archive(project=model.project, by=None)
    client.force_login(make_user(Role.TRAINER))
    page = client.get(reverse("run-launch", args=["onnx"])).text
    assert "No reward models yet: train one first" in page
