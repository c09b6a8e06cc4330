from pathlib import Path
from typing import Any

import pytest

from accounts.models import Role, User
from labeling.models import Membership, Project
from tests.reward.factory import join, make_project, make_user


@pytest.fixture(autouse=True)
def folders(request: Any, tmp_path: Path) -> None:
    """Store snapshots and runs in the test's folder; recipes alone need no settings."""
    if request.node.get_closest_marker("django_db") is None:
        return
    settings = request.getfixturevalue("settings")
    settings.SNAPSHOTS_DIR = tmp_path / "snapshots"
    settings.RUNS_DIR = tmp_path / "runs"


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
