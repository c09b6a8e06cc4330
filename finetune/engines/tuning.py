"""Fine-tuning runs of all methods, from the snapshot they read to the adapter they create."""

from collections.abc import Mapping
from typing import Any

from django.urls import reverse

from finetune.engines.generation import model_of
from finetune.models import Model
from formatting.numbers import percent
from recipes.rundir import RunDir
from reward.evaluation.figures import main_figures
from reward.run_files import put_snapshot, read_report, snapshot_of
from runs import storage
from runs.kinds import CannotRun
from runs.models import Run


def from_inputs(inputs: Mapping[str, Any]) -> dict[str, Any]:
    snapshot, model = snapshot_of(dict(inputs)), model_of(inputs)
    if model.project_id != snapshot.project_id:
        raise CannotRun(
            f"The model {model} belongs to {model.project}, the snapshot to {snapshot.project}. "
            "Add the model to the snapshot's project first."
        )
    return {"model": model.base, "adapter": model.adapter or None}


def prepare(run: Run, run_dir: RunDir) -> dict[str, Any]:
    return put_snapshot(snapshot_of(run.inputs), run_dir)


def finish(run: Run, run_dir: RunDir) -> dict[str, Any]:
    snapshot, parent, report = snapshot_of(run.inputs), model_of(run.inputs), read_report(run_dir)
    if not (run_dir.output / "adapter_config.json").exists():
        raise CannotRun(f"{run_dir.output} holds no adapter.")
    model, _ = Model.objects.get_or_create(
        run=run,
        defaults={
            "name": f"{parent.name[:90]}-{run.kind[:20]}-{run.pk}",
            "project": snapshot.project,
            "base": parent.base,
            "adapter": storage.stored(run_dir.output),
            "snapshot": snapshot,
            "parent": parent,
        },
    )
    return {
        "model": model.pk,
        **main_figures(report),
        **{name: report[name] for name in ("pairs", "prompts") if name in report},
    }


def figure(result: dict[str, Any]) -> str:
    value = (result.get("accuracy") or {}).get("value")
    return "" if value is None else f"{percent(value)} of held-out pairs"


def links(run: Run) -> list[tuple[str, str]]:
    model = Model.objects.filter(run=run).first()
    return [(f"The model {model}", reverse("model", args=[model.pk]))] if model else []
