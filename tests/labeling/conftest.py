"""A project and its people. Files that need other ones override the fixtures."""

import pytest
from django.test import Client

from accounts.models import User
from labeling.models import Membership, Project, Task
from tests.clients import signed_in
from tests.labeling.world import make_member, make_project, make_task


@pytest.fixture
def project() -> Project:
    """Return a project with a published guideline, which wants two rankings per task."""
    return make_project()


@pytest.fixture
def task(project: Project) -> Task:
    return make_task(project, responses=3)


@pytest.fixture
def reviewer(project: Project) -> User:
    return make_member(project)


@pytest.fixture
def lead(project: Project) -> User:
    return make_member(project, Membership.Role.LEAD)


@pytest.fixture
def lead_client(lead: User) -> Client:
    return signed_in(lead)
