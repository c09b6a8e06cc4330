"""The files that runs and recipes exchange: the snapshot as input, and the report as output.

Run kinds of `reward` and `finetune` use it.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from recipes.preferences.groups import PreferenceError, content_hash, read_groups
from recipes.rundir import RunDir
from reward.models import Snapshot
from runs.kinds import CannotRun


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
