"""Push runs, which put an adapter or a merged model into a repository of a hub."""

from collections.abc import Mapping
from typing import Any

from accounts.models import audit
from finetune.models import Model
from finetune.registry import own_model_of
from finetune.release.facts import base_on_hub, certificate_of, facts_of
from recipes.hub_names import MAIN, hub_name
from recipes.rundir import RunDir, write_json
from reward.run_files import read_report
from runs import storage
from runs.kinds import CannotRun
from runs.models import Run


def from_inputs(inputs: Mapping[str, Any]) -> dict[str, Any]:
    model = own_model_of(inputs)
    if model.run is None:
        raise CannotRun(
            f"{model} was not made by a run, so there is nothing to push. Push an adapter or a merged "
            "model."
        )
    base_of(model, inputs)
    return {"folder": model.adapter or model.base}


def base_of(model: Model, inputs: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the hub's `name` and `revision` of the base. Raises CannotRun if an adapter has none."""
    reference = str(inputs.get("base") or base_on_hub(model))
    if not reference:
        if not model.adapter:
            return None
        raise CannotRun(
            f"The base of {model} is a folder of this installation, which nobody else has. Name the "
            "same model on the hub as its base, or push the merged model instead."
        )
    name, _, revision = reference.partition("@")
    if inputs.get("base"):
        try:
            name, revision = hub_name(reference)
        except ValueError as problem:
            raise CannotRun(str(problem)) from None
    return {"name": name, "revision": None if revision in ("", MAIN) else revision}


def prepare(run: Run, run_dir: RunDir) -> dict[str, Any]:
    """Check the files of the model, and write the facts for its card and its certificate."""
    model = own_model_of(run.inputs)
    assert model.run is not None
    for folder in filter(None, (model.adapter, model.base)):
        storage.fetch(folder)
    if problem := storage.problem_of(model.run.artifacts.all(), digests=True):
        raise CannotRun(f"{problem} Restore it from a backup before you push the model.")
    write_json(run_dir.data / "release.json", facts_of(model, base_of(model, run.inputs)))
    certificate = certificate_of(model)
    if certificate:
        (run_dir.data / "certificate.json").write_text(certificate.text)
    return {"certificate": certificate.sha256 if certificate else None}


def finish(run: Run, run_dir: RunDir) -> dict[str, Any]:
    """Record the push in the audit trail, and return the repository and its commit."""
    report, model = read_report(run_dir), own_model_of(run.inputs)
    result = {name: report[name] for name in ("repo", "branch", "commit", "url")}
    audit(run.created_by, "model pushed", model, id=model.pk, run=run.pk, **result)
    return {"model": model.pk, **result, "files": len(report["files"])}


def figure(result: dict[str, Any]) -> str:
    return f"{result['repo']}@{result['branch']}" if "repo" in result else ""
