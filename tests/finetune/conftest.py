from pathlib import Path

import pytest

from accounts.models import Role, User
from finetune.models import Model
from labeling.models import Project
from runs.supervision import supervisor
from tests.finetune.factory import make_adapter, make_base, make_snapshot
from tests.forks import ForkedChild
from tests.reward.conftest import folders, people, project
from tests.reward.factory import make_user
from tests.tiny import make_model

__all__ = ["folders", "people", "project"]


@pytest.fixture(scope="module")
def one_thread() -> None:
    """Use one thread, because the models are too small for several."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny llama, which tests must not change."""
    return make_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def forked_recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fork the programs of runs, instead of starting Python for each."""
    monkeypatch.setattr(supervisor, "Child", ForkedChild)


@pytest.fixture
def admin() -> User:
    return make_user(Role.TRAINER, is_superuser=True)


@pytest.fixture
def adapter(project: Project) -> Model:
    """Return an adapter trained on a snapshot of the project."""
    return make_adapter(make_base(project), make_snapshot(project, prompts=4, test_fraction=0.4))
