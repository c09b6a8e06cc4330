"""Fine-tuning runs of all methods, from the snapshot that they read to the adapter they create."""

from collections.abc import Mapping
from typing import Any

from finetune.lineage import trained_on, without_trained
from finetune.models import Model
from finetune.registry import own_model_of
from formatting.glossary import label_of
from formatting.numbers import percent
from recipes.preferences.groups import read_groups, write_groups
from recipes.rundir import RunDir
from reward.evaluation.figures import main_figures
from reward.run_files import put_snapshot, read_report, snapshot_of
from reward.scoring import scores
from runs import storage
from runs.kinds import CannotRun
from runs.models import Run


def from_inputs(inputs: Mapping[str, Any]) -> dict[str, Any]:
    snapshot, model = snapshot_of(dict(inputs)), own_model_of(inputs)
    if model.project_id != snapshot.project_id:
        raise CannotRun(
            f"The model {model} belongs to {model.project}, the snapshot to {snapshot.project}. "
            "Add the model to the snapshot's project first."
        )
    return {"model": model.base, "adapter": model.adapter or None}


def from_rewarded_inputs(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a method that needs a reward model. Raises CannotRun."""
    reward_model, snapshot = scores.model_of(inputs), snapshot_of(dict(inputs))
    if reward_model.project_id != snapshot.project_id:
        raise CannotRun(
            f"The reward model {reward_model} belongs to {reward_model.project}, the snapshot to "
            f"{snapshot.project}. Choose a reward model of the snapshot's project."
        )
    return {**from_inputs(inputs), "reward_model": reward_model.path}


def prepare(run: Run, run_dir: RunDir) -> dict[str, Any]:
    """Put the snapshot into the run directory, without held-out prompts that the model has learned.

    If the model was fine-tuned before on another split, it may have been trained on some of the
    held-out prompts. Figures on these prompts would be too high.
    """
    if "reward_model" in run.inputs:
        scores.model_of(run.inputs).folder_to_load()
    facts = put_snapshot(snapshot_of(run.inputs), run_dir)
    trained = trained_on([own_model_of(run.inputs)])
    if not trained:
        return facts
    path = run_dir.data / "preferences.parquet"
    groups = list(read_groups(path))
    remaining = without_trained(groups, trained)
    left_out = len(groups) - len(remaining)
    if left_out:
        # The file is a hard link to the snapshot's. write_groups replaces it by a new file, so the
        # snapshot does not change.
        write_groups(path, remaining)
        run_dir.message(
            f"{left_out} held-out prompts are left out, because the model was trained on them before.",
            level="warning",
        )
    return {**facts, "seen_in_training": left_out}


def finish(run: Run, run_dir: RunDir) -> dict[str, Any]:
    snapshot, parent, report = (
        snapshot_of(run.inputs),
        own_model_of(run.inputs),
        read_report(run_dir),
    )
    if not (run_dir.output / "adapter_config.json").exists():
        raise CannotRun(f"{run_dir.output} holds no adapter.")
    model = Model.objects.create(
        run=run,
        name=f"{parent.name[:90]}-{run.kind[:20]}-{run.pk}",
        project=snapshot.project,
        base=parent.base,
        adapter=storage.stored(run_dir.output),
        snapshot=snapshot,
        parent=parent,
    )
    return {
        "model": model.pk,
        **main_figures(report),
        **likelihood_figures(report),
        **{name: report[name] for name in ("pairs", "prompts", "score_change") if name in report},
    }


def likelihood_figures(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the likelihood of the best held-out responses, for the result of the run."""
    figures = report.get("likelihood") or {}
    names = {"before": "nll_per_token_before", "after": "nll_per_token", "change": "nll_change"}
    return {
        name: figures[key]
        for key, name in names.items()
        if key in figures and figures[key]["value"] is not None
    }


def figure(result: dict[str, Any]) -> str:
    """Return the main figure of a run as text.

    It is the held-out accuracy. For plain chats it is the change in likelihood, and for
    methods with a reward model the change of its mean score.
    """
    scored = (result.get("score_change") or {}).get("value")
    if scored is not None:
        return f"{scored:+.3f} reward"
    value = (result.get("accuracy") or {}).get("value")
    if value is not None:
        return f"{percent(value)} {label_of('accuracy')}"
    change = (result.get("nll_change") or {}).get("value")
    return "" if change is None else f"{change:+.3f} nats per token"
