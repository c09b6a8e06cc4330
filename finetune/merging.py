"""Merge runs, in which an adapter and its base become one model, which keeps its lineage."""

from collections.abc import Mapping
from typing import Any

from finetune.models import Model
from finetune.registry import own_model_of
from formatting.numbers import percent
from recipes.rundir import RunDir
from reward.run_files import put_snapshot, read_report
from runs import storage
from runs.kinds import CannotRun
from runs.models import Run


def from_inputs(inputs: Mapping[str, Any]) -> dict[str, Any]:
    model = own_model_of(inputs)
    if not model.adapter:
        raise CannotRun(f"{model} is not an adapter, so there is nothing to merge.")
    return {"model": model.base, "adapter": model.adapter}


def prepare(run: Run, run_dir: RunDir) -> dict[str, Any]:
    """Put the snapshot of the adapter into the run directory.

    The merged model is compared with base and adapter on its held-out prompts.
    """
    model = own_model_of(run.inputs)
    hashes = put_snapshot(model.snapshot, run_dir) if model.snapshot else {}
    return {**hashes, "lineage": lineage_of(model)}


def lineage_of(model: Model) -> list[dict[str, Any]]:
    """Return the adapters and merged models from this model down to the base, for the report.

    The report is part of the folder, so `finetune.registry` recognises a copy of the folder.
    """
    return [
        {
            "model": step.pk,
            "name": step.name,
            "run": str(step.run.request_id) if step.run else None,
            "snapshot": step.snapshot_id,
            "snapshot_hash": step.snapshot.content_hash if step.snapshot else None,
        }
        for step in model.ancestry()
    ]


def finish(run: Run, run_dir: RunDir) -> dict[str, Any]:
    """Create the row of the merged model, a base with a parent and the snapshot of the parent."""
    adapter, report = own_model_of(run.inputs), read_report(run_dir)
    if not (run_dir.output / "config.json").exists():
        raise CannotRun(f"{run_dir.output} holds no model.")
    model = Model.objects.create(
        run=run,
        name=f"{adapter.name[:100]}-merged-{run.pk}",
        project=adapter.project,
        base=storage.stored(run_dir.output),
        snapshot=adapter.snapshot,
        parent=adapter,
    )
    names = ("share", "merged_vs_tuned", "tuned_vs_base", "texts", "notes")
    return {"model": model.pk, **{name: report[name] for name in names if name in report}}


def figure(result: dict[str, Any]) -> str:
    share = result.get("share")
    return "" if share is None else f"{percent(share)} of the adapter's effect lost"
