"""The facts about a model for its card on a hub, read from rows."""

import json
from pathlib import Path
from typing import Any

from finetune.evaluation import judges
from finetune.models import Certificate, Model
from reward.pages.views import version_lines
from runs import storage
from runs.models import Run, State


def facts_of(model: Model, base: dict[str, Any] | None) -> dict[str, Any]:
    """Return the facts as JSON values. `base` has the hub's `name` and `revision` of its base.

    This takes about ten queries, and three per evaluation.
    """
    steps = list(model.ancestry())
    unmerged = next((step for step in steps if step.adapter), model)
    snapshots = {step.snapshot_id: step for step in reversed(steps) if step.snapshot}
    guidelines = {
        name: None
        for step in snapshots.values()
        if step.snapshot
        for name, _ in version_lines(step.snapshot.counts)
    }
    return {
        "kind": "adapter" if model.adapter else "merged",
        "tags": [unmerged.run.kind] if unmerged.run else [],
        "base": base,
        "base_folder": unmerged.base_folder,
        "adapters": {step.adapter_folder: step.name for step in steps if step.adapter},
        "snapshots": [_snapshot(step) for step in snapshots.values()],
        "guidelines": list(guidelines),
        "agreement": agreement_of(unmerged),
        "evaluations": _evaluations(model),
        "certificate": _certificate(certificate_of(model)),
    }


def _snapshot(step: Model) -> dict[str, Any]:
    snapshot = step.snapshot
    assert snapshot is not None
    return {
        "name": f"{step.project.slug}-snapshot-{snapshot.content_hash[:12]}",
        "sha256": snapshot.content_hash,
        "prompts": snapshot.counts.get("prompts", 0),
        "rankings": snapshot.rankings,
        "reviewers": snapshot.counts.get("reviewers", 0),
        "simulated": snapshot.simulated,
        "model": step.name,
    }


def agreement_of(model: Model) -> dict[str, Any] | None:
    """Return the reviewers' agreement on held-out prompts from the report of the run, if it has one."""
    if not model.adapter:
        return None
    try:
        report = json.loads((Path(model.adapter_folder) / "report.json").read_text())
    except (OSError, ValueError):
        return None
    agreement = report.get("reviewer_agreement") if isinstance(report, dict) else None
    return agreement if isinstance(agreement, dict) else None


def _evaluations(model: Model) -> list[dict[str, str]]:
    rows = model.finished_evaluations().select_related("baseline", "project").order_by("-id")
    return [
        {
            "baseline": str(row.baseline),
            "conclusion": row.conclusions(),
            "judge": judges.title_of(row.judge),
            "win_rate": row.win_percent,
            "interval": row.interval_text,
        }
        for row in rows
    ]


def certificate_of(model: Model) -> Certificate | None:
    """Return the newest certificate of a model with the same weights."""
    rows = Certificate.objects.filter(model__in=model.same_weights(), project=model.project_id)
    return rows.select_related("project").order_by("-number").first()


def _certificate(row: Certificate | None) -> dict[str, Any] | None:
    if row is None:
        return None
    document = json.loads(row.text)
    promotion = document["content"]["promotion"]
    return {
        "number": row.number,
        "project": row.project.name,
        "date": f"{row.issued_at:%Y-%m-%d}",
        "sha256": row.sha256,
        "public_key": document["signature"]["public_key"],
        "doubts": promotion["doubts"],
        "reason": promotion["reason"],
    }


def base_on_hub(model: Model) -> str:
    """Return the hub's `name@revision` of the base that the weights change, or "" if none is known.

    For a base in a folder, it is the repository from which it was pulled or to which it was pushed.
    """
    unmerged = next((step for step in model.ancestry() if step.adapter), model)
    if not storage.is_folder(unmerged.base):
        return unmerged.base
    for row in Model.objects.filter(base=unmerged.base, adapter="").select_related("run"):
        if reference := hub_reference(row):
            return reference
    return ""


def hub_reference(model: Model) -> str:
    """Return the `name@commit` from which a model was pulled or to which it was last pushed, or ""."""
    pushes = Run.objects.filter(kind="push", state=State.SUCCEEDED, inputs__model=model.pk)
    run = model.run if model.run and model.run.kind == "pull" else pushes.order_by("-id").first()
    result = (run.result or {}) if run else {}
    return f"{result['repo']}@{result['commit']}" if {"repo", "commit"} <= result.keys() else ""
