from pathlib import Path
from typing import Any

import pytest

from tests.tiny import make_model


@pytest.fixture(autouse=True)
def folders(request: Any, tmp_path: Path) -> None:
    """Snapshots and runs of a test lie in its own folder; recipes alone need no settings."""
    if request.node.get_closest_marker("django_db") is None:
        return
    settings = request.getfixturevalue("settings")
    settings.SNAPSHOTS_DIR = tmp_path / "snapshots"
    settings.RUNS_DIR = tmp_path / "runs"


@pytest.fixture(scope="module")
def one_thread() -> None:
    """The models are so small that threads only wait for each other."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny llama, which tests only read."""
    return make_model(tmp_path_factory.mktemp("models") / "tiny")
