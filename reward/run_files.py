"""The files that runs exchange with recipes: the snapshot as input, and the report as output.

The run kinds of `reward` and `finetune` use this module.
"""

import json
from collections.abc import Mapping
from typing import Any

from buckets import files
from recipes.preferences.groups import PreferenceError, content_hash, read_groups
from recipes.rundir import RunDir, link_or_copy
from reward.models import RewardModel, Snapshot
from runs.kinds import CannotRun


def snapshot_of(inputs: dict[str, Any]) -> Snapshot:
    """Return the snapshot that the inputs of a run name. Raises CannotRun if there is none."""
    number: Any = inputs.get("snapshot")
    try:
        return Snapshot.objects.select_related("project").get(pk=number)
    except (Snapshot.DoesNotExist, TypeError, ValueError):
        raise CannotRun(f"There is no snapshot {number}.") from None


def reward_model_of(inputs: Mapping[str, Any]) -> RewardModel:
    """Return the reward model that the inputs of a run name. Raises CannotRun if there is none."""
    number: Any = inputs.get("reward_model")
    try:
        return RewardModel.objects.select_related("project", "snapshot").get(pk=number)
    except (RewardModel.DoesNotExist, TypeError, ValueError):
        raise CannotRun(f"There is no reward model {number}.") from None


def put_snapshot(snapshot: Snapshot, run_dir: RunDir) -> dict[str, Any]:
    """Put the file of the snapshot into the run directory, and check its hash.

    The whole file is read once. Raises CannotRun if it is missing or has changed, and StorageError.
    """
    files.fetch(snapshot.location)
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


def read_report(run_dir: RunDir) -> dict[str, Any]:
    """Return the report that the recipe wrote. Raises CannotRun if there is none."""
    path = run_dir.output / "report.json"
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError) as error:
        raise CannotRun(f"{path} cannot be read: {error}.") from None
