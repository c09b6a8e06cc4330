from pathlib import Path
from typing import Any

import pytest

from accounts.models import Role, User
from finetune.models import Model
from labeling.models import Membership, Project
from tests.finetune.factory import make_adapter, make_base, make_snapshot
from tests.reward.factory import join, make_project, make_user
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


@pytest.fixture
def project() -> Project:
    return make_project()


@pytest.fixture
def people(project: Project) -> dict[str, User]:
    """Return people with different access to the project, by name."""
    people = {
        "trainer": make_user(Role.TRAINER),
        "lead": make_user(Role.LEAD),
        "lead_elsewhere": make_user(Role.LEAD),
        "reviewer": make_user(),
    }
    join(project, people["lead"], Membership.Role.LEAD)
    join(project, people["reviewer"])
    return people


@pytest.fixture
def admin() -> User:
    return make_user(Role.TRAINER, is_superuser=True)


@pytest.fixture
def adapter(project: Project) -> Model:
    """Return an adapter trained on a snapshot of the project."""
    return make_adapter(make_base(project), make_snapshot(project, prompts=4, test_fraction=0.4))
