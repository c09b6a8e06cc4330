"""Minimal rows for tests of snapshots, models and pages."""

import itertools
from collections.abc import Sequence
from typing import Any

from django.db import transaction

from accounts.models import Role, User
from labeling.models import (
    Guideline,
    GuidelineVersion,
    Membership,
    Project,
    Prompt,
    Ranking,
    Response,
    Task,
    TaskResponse,
)

numbers = itertools.count(1)


def make_user(role: str = Role.REVIEWER, **fields: Any) -> User:
    """Create an account. Trainers have all projects, unless the fields say otherwise."""
    fields.setdefault("all_projects", role == Role.TRAINER)
    return User.objects.create_user(f"user{next(numbers)}", role=role, **fields)


def make_project(**fields: Any) -> Project:
    number = next(numbers)
    fields = {"slug": f"project-{number}", "name": f"Project {number}", **fields}
    return Project.objects.create(**fields)


def join(project: Project, user: User, role: str = Membership.Role.REVIEWER) -> Membership:
    return Membership.objects.create(project=project, user=user, role=role)


def make_version(project: Project) -> GuidelineVersion:
    guideline, _ = Guideline.objects.get_or_create(project=project, defaults={"title": "Guideline"})
    return GuidelineVersion.objects.create(
        guideline=guideline, number=next(numbers), state="draft", text="Be kind."
    )


def make_prompt(project: Project, text: str = "") -> Prompt:
    text = text or f"Question {next(numbers)}?"
    return Prompt.objects.create(project=project, messages=[{"role": "user", "content": text}])


@transaction.atomic
def make_task(
    prompt: Prompt, texts: Sequence[str] = ("good", "fair", "poor"), **fields: Any
) -> Task:
    """Create a task whose responses have these texts."""
    responses = [
        Response.objects.create(prompt=prompt, text=text, model_name="m", seed=next(numbers))
        for text in texts
    ]
    fields = {"rankings_wanted": 3, "identity": f"task {next(numbers)}", **fields}
    task = Task.objects.create(project=prompt.project, prompt=prompt, **fields)
    TaskResponse.objects.bulk_create(
        TaskResponse(task=task, response=response, position=position)
        for position, response in enumerate(responses)
    )
    return task


def response_ids(task: Task) -> list[int]:
    return list(task.places.order_by("position").values_list("response_id", flat=True))


def rank(
    task: Task, reviewer: User, order: Sequence[Sequence[int]] = ((0,), (1,), (2,)), **fields: Any
) -> Ranking:
    """Rank a task; `order` has indices of its responses, best first."""
    ids = response_ids(task)
    tiers = [[ids[position] for position in tier] for tier in order]
    return Ranking.objects.create(task=task, reviewer=reviewer, tiers=tiers, **fields)
