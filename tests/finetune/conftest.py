from pathlib import Path
from typing import Any

import pytest

from tests.tiny import make_model


@pytest.fixture(autouse=True)
def folders(request: Any, tmp_path: Path) -> None:
    """Store snapshots and runs in the test's folder; recipes alone need no settings."""
    if request.node.get_closest_marker("django_db") is None:
        return
    settings = request.getfixturevalue("settings")
    settings.SNAPSHOTS_DIR = tmp_path / "snapshots"
    settings.RUNS_DIR = tmp_path / "runs"


@pytest.fixture(scope="module")
def one_thread() -> None:
    """Use one thread, because the models are too small for several."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny llama, which tests must not change."""
    return make_model(tmp_path_factory.mktemp("models") / "tiny")
