"""The kind of run that trains a reward model."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from django.urls import reverse

from formatting.numbers import percent
from recipes.preferences.groups import PreferenceError, content_hash, read_groups
from recipes.rundir import RunDir
from recipes.settings import ConfigError
from reward.evaluation.figures import HEADLINE
from reward.forms import RewardInputs
from reward.models import RewardModel, Snapshot
from reward.references import ReferenceProblem, checked_reference
from reward.settings import RewardConfig
from runs import storage
from runs.kinds import CannotRun, RunKind, register
from runs.models import Run


def snapshot_of(inputs: dict[str, Any]) -> Snapshot:
    """Return the snapshot of a run. Raises CannotRun."""
    number: Any = inputs.get("snapshot")
    try:
        return Snapshot.objects.select_related("project").get(pk=number)
    except (Snapshot.DoesNotExist, TypeError, ValueError):
        raise CannotRun(f"There is no snapshot {number}.") from None


def put_snapshot(snapshot: Snapshot, run_dir: RunDir) -> dict[str, Any]:
    """Put the snapshot's file into the run directory, and check its hash, which reads it once.

    Raises CannotRun if the file is missing or has changed.
    """
    try:
        digest = content_hash(read_groups(snapshot.file))
    except PreferenceError as error:
        raise CannotRun(f"The file of snapshot {snapshot.pk} is unusable: {error}") from error
    if digest != snapshot.content_hash:
        raise CannotRun(
            f"{snapshot.file} has changed since it was frozen: its hash is {digest[:12]}, not "
            f"{snapshot.content_hash[:12]}. Restore it from a backup, or freeze a new snapshot."
        )
    link_or_copy(snapshot.file, run_dir.data / "preferences.parquet")
    return {"snapshot_hash": snapshot.content_hash}


def link_or_copy(source: Path, target: Path) -> None:
    """Link the file if the system allows it, since neither is changed later, or copy it."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def read_report(run_dir: RunDir) -> dict[str, Any]:
    """Return the report that the recipe wrote. Raises CannotRun if there is none."""
    path = run_dir.output / "report.json"
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError) as error:
        raise CannotRun(f"{path} cannot be read: {error}.") from None


def checked(config: dict[str, Any]) -> dict[str, Any]:
    """Return the config with the base in its stored form. Raises ConfigError."""
    try:
        return {**config, "base_model": checked_reference(config["base_model"])}
    except ReferenceProblem as problem:
        raise ConfigError({"base_model": str(problem)}) from None


def prepare(run: Run, run_dir: RunDir) -> dict[str, Any]:
    return put_snapshot(snapshot_of(run.inputs), run_dir)


def finish(run: Run, run_dir: RunDir) -> dict[str, Any]:
    snapshot, report = snapshot_of(run.inputs), read_report(run_dir)
    model, _ = RewardModel.objects.get_or_create(
        run=run,
        defaults={
            "name": f"{snapshot.project.slug}-reward-{run.pk}"[:120],
            "project": snapshot.project,
            "base": run.config["base_model"],
            "path": storage.stored(run_dir.output),
            "snapshot": snapshot,
            "report": report,
        },
    )
    return {"reward_model": model.pk, **headline(report)}


def headline(report: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of a report that lists of runs show."""
    return {
        name: {key: report[source].get(key) for key in ("value", "interval", "reason")}
        for name, source in HEADLINE.items()
        if isinstance(report.get(source), dict)
    }


def figure(result: dict[str, Any]) -> str:
    value = (result.get("accuracy") or {}).get("value")
    return "" if value is None else f"{percent(value)} accuracy"


def links(run: Run) -> list[tuple[str, str]]:
    model = RewardModel.objects.filter(run=run).first()
    return [(f"Report of {model}", reverse("reward-model", args=[model.pk]))] if model else []


SHARES = frozenset(
    {*HEADLINE, "reviewer_agreement"}
)  # older runs have reviewer_agreement in their results

REWARD = RunKind(
    name="reward",
    title="Reward model",
    description="Learns from rankings to score responses as the reviewers would.",
    config_class=RewardConfig,
    module="reward.training.train",
    prepare=prepare,
    finish=finish,
    project_of=lambda inputs: snapshot_of(inputs).project_id,
    inputs_form=RewardInputs,
    checked=checked,
    folders=frozenset({"base_model"}),
    figure=figure,
    shares=SHARES | {"test_accuracy", "train_agreement"},
    links=links,
    multi_gpu=True,
)


def register_kinds() -> None:
    register(REWARD)
