"""Pull runs, which add a model of a hub to a project, with its files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accounts.models import audit
from finetune.engines.generation import project_of
from finetune.models import Model
from finetune.registry import add_base, generation_problem, merged_adapter, own_model_of
from finetune.release.facts import hub_reference
from labeling.models import Project
from recipes.rundir import RunDir
from reward.models import Snapshot
from reward.references import ReferenceProblem, checked_reference, config_of
from runs import storage
from runs.kinds import CannotRun
from runs.models import Run


def from_inputs(inputs: Mapping[str, Any]) -> dict[str, Any]:
    project = project_of(inputs)
    if inputs.get("base") is not None:
        base = own_model_of(inputs, "base")
        if base.project_id != project.pk or base.adapter:
            raise CannotRun(f"{base} is not a base model or a merged model of {project}.")
    return {}


def prepare(run: Run, run_dir: RunDir) -> dict[str, Any]:
    return {}


def finish(run: Run, run_dir: RunDir) -> dict[str, Any]:
    """Create the row of the pulled model: an adapter on its base, or a base."""
    record = json.loads((run_dir.output / "hub.json").read_text())
    adapter = (run_dir.output / "adapter_config.json").exists()
    fields = _adapter_fields(run, run_dir.output) if adapter else _base_fields(run, run_dir.output)
    model = Model.objects.create(
        run=run,
        name=f"{record['repo'].rpartition('/')[2][:100]}-{record['commit'][:7]}",
        project=project_of(run.inputs),
        **fields,
    )
    result = {name: record[name] for name in ("repo", "revision", "commit")}
    audit(run.created_by, "model pulled", model, id=model.pk, run=run.pk, **result)
    return {"model": model.pk, **result, "files": len(record["files"])}


def figure(result: dict[str, Any]) -> str:
    return f"{result['repo']}@{result['commit'][:7]}" if "repo" in result else ""


def _base_fields(run: Run, output: Path) -> dict[str, Any]:
    base = storage.stored(output)
    problem = generation_problem(config_of(str(output)) or {})
    if problem:
        raise CannotRun(
            f"The pulled model {problem}. Pull a decoder, such as a Llama or Qwen model."
        )
    parent = merged_adapter(base)
    own = parent is not None and parent.project_id == project_of(run.inputs).pk
    return {"base": base, "parent": parent, "snapshot": parent.snapshot if parent and own else None}


def _adapter_fields(run: Run, output: Path) -> dict[str, Any]:
    config = json.loads((output / "adapter_config.json").read_text())
    if config.get("peft_type") != "LORA":
        raise CannotRun(f"The adapter is of the type {config.get('peft_type')}, not LORA.")
    base = base_of(run, config)
    snapshot = _snapshot(base.project, output)
    return {
        "base": base.base,
        "adapter": storage.stored(output),
        "parent": base,
        "snapshot": snapshot,
    }


def base_of(run: Run, config: Mapping[str, Any]) -> Model:
    """Return the base of a pulled adapter: the chosen one, or the one that its configuration names.

    A base of the hub that the project does not have is added. Raises CannotRun if none fits.
    """
    if run.inputs.get("base") is not None:
        return own_model_of(run.inputs, "base")
    project = project_of(run.inputs)
    name, revision = str(config.get("base_model_name_or_path") or ""), config.get("revision")
    reference = f"{name}@{revision}" if revision and revision != "main" else name
    bases = project.models.filter(adapter="", endpoint="").select_related("run").order_by("id")
    for base in bases:
        if reference in (base.base, hub_reference(base)):
            return base
    try:
        checked = checked_reference(reference)
    except ReferenceProblem:
        checked = ""
    if not checked or storage.is_folder(checked):
        raise CannotRun(
            f"The adapter was trained on {name or 'a base that it does not name'}, which is not a model "
            "on the hub. Choose the base when you pull the adapter."
        )
    return add_base(project=project, base=checked, by=run.created_by)[0]


def _snapshot(project: Project, output: Path) -> Snapshot | None:
    """Return the project's snapshot that the report of the adapter names, or None."""
    try:
        digest = json.loads((output / "report.json").read_text())["inputs"]["snapshot_hash"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    if not isinstance(digest, str):
        return None
    return Snapshot.objects.filter(project=project, content_hash=digest).order_by("id").first()
