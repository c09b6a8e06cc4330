"""Tests of pushing models to a hub and pulling them from one, against a real HTTP server."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from django.core.management import CommandError, call_command
from django.urls import reverse

from accounts.models import AuditEntry, Role
from finetune import merging
from finetune.models import Model
from finetune.registry import add_base
from finetune.release import pulling, pushing
from finetune.release.facts import base_on_hub, facts_of
from recipes.hub_names import hub_name
from recipes.rundir import RunDir
from runs import execution, services, storage
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
from tests.finetune.release.hub_server import problems_of, running_hub
from tests.reward.factory import make_project, make_user

pytestmark = pytest.mark.django_db

AGREEMENT = {"value": 0.85, "interval": [0.8, 0.9], "pairs": 40, "prompts": 20, "reason": None}


@pytest.fixture
def hub(monkeypatch):
    with running_hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", "hf_writer")
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):  # benchmarks set it when imported
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        yield server


@pytest.fixture
def snapshot():
    return make_snapshot(make_project(), prompts=8, test_fraction=0.5)


@pytest.fixture
def adapter(snapshot):
    model = make_adapter(make_base(snapshot.project), snapshot, name="lamps-dpo")
    publish(laid_out(model.run), {"reviewer_agreement": AGREEMENT})
    return model


# --- names ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reference",
    ["", "name", "a/b/c", "a//b", "../b", "a/..", "a/b@", "a/b@../x", "a/b@x y", "a/b.git", "-a/b",
     "a/b--c", "a /b", "é/b", "a/" + "b" * 100, "https://hub/a/b", "a/b@x@y"],
)  # fmt: skip
def test_a_name_that_the_hub_would_refuse_is_refused_with_a_sentence(reference):
    with pytest.raises(ValueError, match=r"is not (the name of a repository|a revision)"):
        hub_name(reference)


def test_a_name_has_a_repository_and_a_revision():
    assert hub_name(" lamps/dpo ") == ("lamps/dpo", "main")
    assert hub_name("lamps/dpo@feature/x-1") == ("lamps/dpo", "feature/x-1")
    assert str(hub_name("lamps/dpo")) == "lamps/dpo"


# --- the run ----------------------------------------------------------------------------------------


def test_the_push_command_plans_a_private_repository(capsys, adapter):
    call_command("push_model", str(adapter.pk), "lamps/dpo@v2", "--dry-run")
    plan = json.loads(capsys.readouterr().out)
    assert plan["config"] == {
        "folder": adapter.adapter,
        "repo": "lamps/dpo@v2",
        "private": True,
        "replace": False,
        "license": "unknown",
        "dataset": "",
    }
    assert not Run.objects.filter(kind="push").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["dpo"], "is not the name of a repository"),
        (["lamps/dpo@" + "a" * 40], "A commit cannot be changed"),
        (["lamps/dpo", "--set", "license=GPL 3!"], "is not the identifier of a licence"),
        (["lamps/dpo", "--set", "dataset=lamps/x@v1"], "Leave out the revision"),
        (["lamps/dpo", "--base", "../x"], "is not the name of a repository"),
    ],
)
def test_a_push_with_a_wrong_setting_is_refused_with_a_sentence(adapter, arguments, sentence):
    with pytest.raises(CommandError, match=sentence):
        call_command("push_model", str(adapter.pk), *arguments, "--dry-run")


def test_only_a_model_of_a_run_with_a_base_that_others_have_is_pushed(adapter, snapshot, tmp_path):
    with pytest.raises(CannotRun, match="was not made by a run"):
        pushing.from_inputs({"model": adapter.parent_id})
    Model.objects.filter(pk=adapter.pk).update(base=str(tmp_path))
    with pytest.raises(CannotRun, match="is a folder of this installation"):
        pushing.from_inputs({"model": adapter.pk})
    assert pushing.from_inputs({"model": adapter.pk, "base": "org/tiny@v1"})
    adapter.refresh_from_db()
    base = pushing.base_of(adapter, {"base": "org/tiny@v1"})
    assert base == {"name": "org/tiny", "revision": "v1"}


def test_a_file_that_was_altered_after_the_run_is_not_pushed(adapter):
    artifacts = workspace.artifacts(adapter.run, workspace.run_dir_of(adapter.run))
    Artifact.objects.bulk_create(artifacts)
    (Path(adapter.adapter_folder) / "report.json").write_text("{}")
    run = make_run("push", inputs={"model": adapter.pk, "base": ""})
    with pytest.raises(CannotRun, match="was altered after the run published it"):
        pushing.prepare(run, laid_out(run))


def test_a_trainer_starts_a_push_from_the_page_of_the_model(client, adapter):
    client.force_login(make_user(Role.TRAINER))
    launch = f"{reverse('run-launch', args=['push'])}?model={adapter.pk}"
    assert (
        f'href="{launch}">Push to a hub</a>' in client.get(reverse("model", args=[adapter.pk])).text
    )
    assert client.get(launch).context["launch"].inputs["model"].value() == str(adapter.pk)
    base = client.get(reverse("model", args=[adapter.parent_id])).text
    assert "Push to a hub" not in base
    assert client.get(reverse("run-launch", args=["pull"])).status_code == 200


def test_the_facts_have_the_origin_the_evaluations_and_the_certificate(adapter, snapshot):
    make_evaluation(adapter, verdicts=[1.0] * 11)
    adapter.promote(by=None, reason="The first one.")
    facts = facts_of(adapter, {"name": "org/tiny", "revision": None})
    assert facts["agreement"] == AGREEMENT
    assert facts["snapshots"][0]["sha256"] == snapshot.content_hash
    assert facts["evaluations"][0]["baseline"] == str(adapter.parent)
    certificate = adapter.certificates.get()
    assert facts["certificate"]["sha256"] == certificate.sha256
    assert facts["certificate"]["reason"] == "The first one."
    run = make_run("push", inputs={"model": adapter.pk, "base": ""})
    run_dir = laid_out(run)
    assert pushing.prepare(run, run_dir) == {"certificate": certificate.sha256}
    assert (run_dir.data / "certificate.json").read_text() == certificate.text


# --- the hub ----------------------------------------------------------------------------------------


def pushed(adapter: Model, folder: Path, path: Path, repo: str = "lamps/dpo", **config) -> RunDir:
    """Push the files of a folder as an adapter, in this process."""
    from finetune.training.release.push import push
    from recipes.stopping import StopSignal

    shutil.rmtree(path, ignore_errors=True)
    settings = {"folder": str(folder), "repo": repo, **config}
    run_dir = RunDir.create(path, {"kind": "push", "config": settings, "inputs": {}})
    facts = facts_of(adapter, {"name": "org/tiny", "revision": "v1"})
    (run_dir.data / "release.json").write_text(json.dumps(facts))
    push(run_dir, StopSignal())
    return run_dir


def pulled(path: Path, repo: str) -> RunDir:
    from finetune.training.release.pull import pull
    from recipes.stopping import StopSignal

    shutil.rmtree(path, ignore_errors=True)
    run_dir = RunDir.create(path, {"kind": "pull", "config": {"repo": repo}})
    pull(run_dir, StopSignal())
    return run_dir


@pytest.fixture
def folder(tmp_path, adapter):
    """Return the folder of a real adapter, with the files that its run publishes."""
    from recipes.publishing.card import front_matter
    from tests.finetune.training import training_runs
    from tests.tiny import make_model, make_tokenizer

    base = make_model(tmp_path / "tiny")
    (base / "generation_config.json").write_text('{"max_new_tokens": 9}')
    Model.objects.filter(pk__in=[adapter.pk, adapter.parent_id]).update(base=str(base))
    adapter.refresh_from_db()
    folder = training_runs.make_adapter(tmp_path / "adapter", base, scale=1.0)
    make_tokenizer(True).save_pretrained(folder)
    report = {"model": str(base), "config": {"model": str(base)}, "reviewer_agreement": AGREEMENT}
    (folder / "report.json").write_text(json.dumps(report))
    front = front_matter({"library_name": "peft", "tags": ["dpo"]}, str(base))
    code = f'PeftModel.from_pretrained(AutoModel("{base}"), "PATH_OF_THIS_FOLDER")'
    (folder / "README.md").write_text(f"{front}# LoRA adapter\n\n`{base}`\n\n{code}\n")
    return folder


@pytest.mark.torch
def test_a_pushed_adapter_is_complete_private_and_names_no_path(hub, adapter, folder, tmp_path):
    from huggingface_hub import ModelCard

    run_dir = pushed(adapter, folder, tmp_path / "run", license="apache-2.0")
    repo = hub.repos["lamps/dpo"]
    files = repo.files()
    assert repo.private
    assert {
        "adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "tokenizer_config.json",
        "chat_template.jinja", "generation_config.json", "README.md", "report.json",
    } <= files.keys()  # fmt: skip
    weights = (folder / "adapter_model.safetensors").read_bytes()
    assert files["adapter_model.safetensors"] == weights
    config = json.loads(files["adapter_config.json"])
    assert (config["base_model_name_or_path"], config["revision"]) == ("org/tiny", "v1")
    for name in ("README.md", "report.json", "adapter_config.json"):
        assert str(tmp_path) not in files[name].decode(), name
    card = ModelCard(files["README.md"].decode())
    front = card.data.to_dict()
    assert front["base_model"] == "org/tiny" and front["library_name"] == "peft"
    assert front["license"] == "apache-2.0" and {"dpo", "lora", "tiebreak"} <= set(front["tags"])
    assert front["tiebreak"]["snapshots"] == [adapter.snapshot.content_hash]
    assert front["datasets"][0].endswith(adapter.snapshot.content_hash[:12])
    assert list(problems_of(front)) == []
    assert 'AutoModel("org/tiny"), "lamps/dpo")' in card.text
    assert "Pairwise agreement of reviewers: 85.0% (95% interval" in card.text
    assert "The model has not been promoted" in card.text
    report = json.loads((run_dir.output / "report.json").read_text())
    assert report["commit"] == repo.branches["main"]
    assert (folder / "adapter_config.json").stat().st_nlink == 1
    assert "hf_writer" not in (run_dir.path / "events.jsonl").read_text()


@pytest.mark.torch
def test_a_pushed_adapter_is_pulled_with_the_same_files(hub, adapter, folder, tmp_path):
    pushed(adapter, folder, tmp_path / "run")
    hub.repos["lamps/dpo"].files()
    output = pulled(tmp_path / "pull", "lamps/dpo").output
    record = json.loads((output / "hub.json").read_text())
    assert record["commit"] == hub.repos["lamps/dpo"].branches["main"]
    for name, data in hub.repos["lamps/dpo"].files().items():
        assert (output / name).read_bytes() == data
    assert not (output / ".cache").exists()


@pytest.mark.torch
def test_a_push_refuses_existing_files_until_replace_is_set(hub, adapter, folder, tmp_path):
    from recipes.errors import RecipeError

    repo = hub.add("lamps/dpo", {"old.txt": b"old"}, private=True)
    with pytest.raises(RecipeError, match="already has files"):
        pushed(adapter, folder, tmp_path / "run")
    assert repo.files() == {"old.txt": b"old"}
    pushed(adapter, folder, tmp_path / "run", replace=True)
    assert "old.txt" not in repo.files() and "README.md" in repo.files()
    main = repo.branches["main"]
    repo.commit("main", {"other.txt": b"other"})
    pushed(adapter, folder, tmp_path / "run", repo="lamps/dpo@v2")
    assert "other.txt" not in repo.files("v2") and "README.md" in repo.files("v2")
    assert repo.branches["main"] != main and repo.files() == {"other.txt": b"other"}
    with pytest.raises(RecipeError, match="already has files"):
        pushed(adapter, folder, tmp_path / "run", repo="lamps/dpo@v2")


@pytest.mark.torch
def test_a_push_refuses_a_public_repository_and_a_missing_or_wrong_token(
    hub, adapter, folder, tmp_path, monkeypatch
):
    from recipes.errors import RecipeError

    hub.add("lamps/dpo", {})
    with pytest.raises(RecipeError, match="is public"):
        pushed(adapter, folder, tmp_path / "run")
    for token, sentence in [
        ("", "HF_TOKEN is not set"),
        ("hf_wrong", "The hub refused HF_TOKEN"),
        ("hf_other", "It needs write access"),
    ]:
        monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(RecipeError, match=sentence):
            pushed(adapter, folder, tmp_path / "run", private=False)
    with pytest.raises(RecipeError, match="It needs write access to the repositories of lamps"):
        pushed(adapter, folder, tmp_path / "run", repo="lamps/new")
    assert hub.repos["lamps/dpo"].files() == {} and set(hub.repos) == {"lamps/dpo"}


@pytest.mark.torch
def test_a_push_ends_with_a_sentence_without_network_or_if_the_hub_stores_other_bytes(
    hub, adapter, folder, tmp_path, monkeypatch
):
    from recipes.errors import RecipeError

    hub.damage["adapter_model.safetensors"] = b"other"
    with pytest.raises(RecipeError, match="other content than the pushed files: adapter_model"):
        pushed(adapter, folder, tmp_path / "run")
    with pytest.raises(RecipeError, match=r"Invalid metadata in README.md"):
        pushed(adapter, folder, tmp_path / "run", repo="lamps/x", license="no-such-licence")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(RecipeError, match="cannot be reached"):
        pushed(adapter, folder, tmp_path / "run")
    (folder / "adapter_model.safetensors").write_bytes(b"rubbish")
    with pytest.raises(RecipeError, match="is not a valid safetensors file"):
        pushed(adapter, folder, tmp_path / "run")


@pytest.mark.torch
def test_a_pull_refuses_pickled_gated_unknown_and_damaged_models(hub, tmp_path, monkeypatch):
    import numpy as np
    from safetensors.numpy import save

    from recipes.errors import RecipeError

    weights = save({"w": np.zeros(2, "float32")})
    config = b'{"model_type": "llama"}'
    hub.add("a/pickled", {"config.json": config, "pytorch_model.bin": b"\x80"})
    hub.add("a/gated", {"config.json": config, "model.safetensors": weights}, gated=True)
    hub.add("a/private", {"config.json": config, "model.safetensors": weights}, private=True)
    hub.add("a/rubbish", {"config.json": config, "model.safetensors": b"\x00" * 20})
    hub.add("a/empty", {"README.md": b"#"})
    hub.add("a/list", {"config.json": b"[]", "model.safetensors": weights})
    index = b'{"weight_map": {"w": "model.safetensors", "lost": "model-2.safetensors"}}'
    sharded = {"config.json": config, "model.safetensors": weights}
    hub.add("a/sharded", {**sharded, "model.safetensors.index.json": index})
    for repo, sentence in [
        ("a/pickled", "only pickled weights"),
        ("a/gated", "is gated. Accept its conditions"),
        ("a/private", "has no repository a/private, or the token may not see it"),
        ("a/none", "has no repository a/none"),
        ("a/gated@nope", "has no revision 'nope'"),
        ("a/rubbish", "is not a valid safetensors file"),
        ("a/empty", "has no weights in safetensors"),
        ("a/list", "config.json is not valid JSON"),
        ("a/sharded", "1 weights are missing, the first is lost"),
    ]:
        with pytest.raises(RecipeError, match=sentence):
            pulled(tmp_path / "pull", repo)
        assert not (tmp_path / "pull" / "output").exists()
    hub.add("a/mixed", {**sharded, "pytorch_model.bin": b"\x80", "modeling.py": b"1/0"})
    output = pulled(tmp_path / "pull", "a/mixed").output
    assert {path.name for path in output.iterdir()} == {
        "config.json",
        "model.safetensors",
        "hub.json",
    }
    hub.damage["config.json"] = b'{"model_type": "gpt2!"}'
    assert len(hub.damage["config.json"]) == len(config)
    with pytest.raises(RecipeError, match=r"config.json differs from the hash"):
        pulled(tmp_path / "pull", "a/mixed")


# --- end to end -------------------------------------------------------------------------------------


@pytest.mark.torch
def test_a_model_is_pushed_and_pulled_back_into_another_project(hub, adapter, folder):
    trainer, target = make_user(Role.TRAINER), Path(adapter.adapter_folder)
    shutil.rmtree(target)
    shutil.copytree(folder, target)
    artifacts = workspace.artifacts(adapter.run, workspace.run_dir_of(adapter.run))
    Artifact.objects.bulk_create(artifacts)
    adapter.promote(by=trainer, reason="The first one.")
    inputs = {"project": adapter.project_id, "model": adapter.pk, "base": "org/tiny"}
    run = services.start("push", {"repo": "lamps/dpo@v1"}, trainer, inputs=inputs, send=False)
    ended = execution.run_now(run.pk)
    assert ended.state == State.SUCCEEDED, ended.error
    assert ended.result["commit"] == hub.repos["lamps/dpo"].branches["v1"]
    files = hub.repos["lamps/dpo"].files("v1")
    assert files["certificate.json"].decode() == adapter.certificates.get().text
    assert AuditEntry.objects.filter(action="model pushed").count() == 1
    front = yaml.safe_load(files["README.md"].decode().split("---")[1])
    assert front["tiebreak"]["certificate"] == adapter.certificates.get().sha256

    project = make_project()
    base, _ = add_base(project=project, base="org/tiny", by=None)
    inputs = {"project": project.pk, "base": None}
    run = services.start("pull", {"repo": "lamps/dpo@v1"}, trainer, inputs=inputs, send=False)
    ended = execution.run_now(run.pk)
    assert ended.state == State.SUCCEEDED, ended.error
    model = Model.objects.get(pk=ended.result["model"])
    assert (model.project, model.parent, model.base) == (project, base, "org/tiny")
    assert model.adapter == f"runs:{run.pk}/output"
    assert adapter.pk in model.same_weights()
    assert storage.problem_of(run.artifacts.all(), digests=True) is None


# --- rows of pulled models --------------------------------------------------------------------------


def pull_run(project, files: dict[str, str], base: Model | None = None) -> tuple[Run, RunDir]:
    run = make_run("pull", inputs={"project": project.pk, "base": base.pk if base else None})
    run_dir = laid_out(run)
    record = {"repo": "a/b", "revision": "main", "commit": "c" * 40, "files": {}}
    publish(run_dir, {}, {"hub.json": json.dumps(record), **files})
    return run, run_dir


def adapter_config(**fields) -> dict[str, str]:
    config = {"peft_type": "LORA", "base_model_name_or_path": "org/new", **fields}
    return {"adapter_config.json": json.dumps(config)}


def test_the_base_of_a_pulled_adapter_is_added_if_the_project_does_not_have_it(snapshot):
    project = snapshot.project
    run, run_dir = pull_run(project, adapter_config(revision="v3"))
    report = {"inputs": {"snapshot_hash": snapshot.content_hash}}
    (run_dir.output / "report.json").write_text(json.dumps(report))
    model = Model.objects.get(pk=pulling.finish(run, run_dir)["model"])
    assert model.base == "org/new@v3" and model.parent.base == "org/new@v3"
    assert model.snapshot == snapshot and model.name == "b-ccccccc"


@pytest.mark.parametrize(
    "name", ["/etc", "../../etc", "runs:1/output", "demo/tiny_model", "", None]
)
def test_a_pulled_adapter_cannot_name_a_folder_of_this_machine(snapshot, name):
    run, run_dir = pull_run(snapshot.project, adapter_config(base_model_name_or_path=name))
    with pytest.raises(CannotRun, match="Choose the base when you pull the adapter"):
        pulling.finish(run, run_dir)
    base = make_base(snapshot.project)
    run, run_dir = pull_run(snapshot.project, adapter_config(base_model_name_or_path=name), base)
    assert Model.objects.get(pk=pulling.finish(run, run_dir)["model"]).parent == base


def test_pulled_models_that_cannot_be_used_are_refused(snapshot, adapter):
    run, run_dir = pull_run(snapshot.project, adapter_config(peft_type="IA3"))
    with pytest.raises(CannotRun, match="type IA3, not LORA"):
        pulling.finish(run, run_dir)
    run, run_dir = pull_run(snapshot.project, {"config.json": '{"model_type": "bert"}'})
    with pytest.raises(CannotRun, match="cannot generate text"):
        pulling.finish(run, run_dir)
    with pytest.raises(CannotRun, match="is not a base model or a merged model of"):
        pulling.from_inputs({"project": snapshot.project_id, "base": adapter.pk})


def test_a_pulled_merged_model_keeps_its_lineage_and_its_name_on_the_hub(adapter, snapshot):
    report = {"inputs": {"lineage": merging.lineage_of(adapter)}}
    run, run_dir = pull_run(snapshot.project, {"config.json": '{"model_type": "llama"}'})
    (run_dir.output / "report.json").write_text(json.dumps(report))
    run.result = pulling.finish(run, run_dir)
    run.save()
    model = Model.objects.get(pk=run.result["model"])
    assert model.is_merged and model.parent == adapter and model.snapshot == snapshot
    tuned = make_adapter(model, snapshot)
    assert base_on_hub(tuned) == f"a/b@{'c' * 40}"
