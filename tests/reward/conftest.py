from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def folders(request: Any, tmp_path: Path) -> None:
    """Store snapshots and runs in the test's folder; recipes alone need no settings."""
    if request.node.get_closest_marker("django_db") is None:
        return
    settings = request.getfixturevalue("settings")
    settings.SNAPSHOTS_DIR = tmp_path / "snapshots"
    settings.RUNS_DIR = tmp_path / "runs"
