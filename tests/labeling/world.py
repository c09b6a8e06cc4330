"""A project with people and tasks, as small as a test needs."""

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

from django.db import close_old_connections, connection

from accounts.models import Role, User
from labeling.guidelines import versions
from labeling.importing.records import PromptRecord, ResponseRecord, Tally, TaskRecord
from labeling.importing.writer import Writer
from labeling.models import (
    GuidelineConfirmation,
    GuidelineVersion,
    Membership,
    Project,
    Prompt,
    Response,
    Task,
)
from labeling.queue.tasks import add_task

_numbers: Iterator[int] = count(1)


def make_user(role: str = Role.REVIEWER, **fields: Any) -> User:
    """Create an account. Trainers have all projects, unless the fields say otherwise."""
    fields.setdefault("all_projects", role == Role.TRAINER)
    return User.objects.create(username=f"user-{next(_numbers)}", role=role, **fields)


def make_member(
    project: Project, role: str = Membership.Role.REVIEWER, *, confirmed: bool = True
) -> User:
    """Someone who has begun: they confirmed the current guideline, if there is one."""
    user = make_user(role, all_projects=False)
    Membership.objects.create(project=project, user=user, role=role)
    if confirmed and project.current_version_id:
        GuidelineConfirmation.objects.create(version_id=project.current_version_id, reviewer=user)
    return user


def make_project(*, published: bool = True, **fields: Any) -> Project:
    slug = f"project-{next(_numbers)}"
    project = Project.objects.create(slug=slug, name=slug, **fields)
    if published:
        publish(project)
    return project


def publish(project: Project, text: str = "Be kind.") -> GuidelineVersion:
    draft = versions.create_draft(
        project=project,
        by=None,
        text=text,
        criteria=[{"name": "honesty", "meaning": "Says what is true.", "scale": 5}],
    )
    version = versions.publish(version=draft, by=None)
    project.refresh_from_db()
    return version


def make_task(project: Project, responses: int = 3, **fields: Any) -> Task:
    prompt = Prompt.objects.create(
        project=project,
        messages=[{"role": "user", "content": f"Question {next(_numbers)} for people?"}],
    )
    answers = [
        Response.objects.create(prompt=prompt, text=f"Answer {n}.", model_name=f"model-{n}")
        for n in range(responses)
    ]
    return add_task(project=project, prompt=prompt, responses=answers, **fields)[0]


def make_many(project: Project, count: int, ranked_by: User | None = None) -> None:
    """Tasks of two responses in bulk; with `ranked_by`, their first slot is filled by them."""
    words = f"bulk {next(_numbers)}"
    records = [
        PromptRecord(
            line=n,
            messages=[{"role": "user", "content": f"{words} {n}"}],
            responses=[ResponseRecord("a", "m1"), ResponseRecord("b", "m2")],
            tasks=[TaskRecord(n, [0, 1], [])],
        )
        for n in range(count)
    ]
    Writer(project, Tally()).write(records)
    with connection.cursor() as cursor:
        if ranked_by:
            cursor.execute(
                "INSERT INTO labeling_ranking (task_id, reviewer_id, tiers, ratings,"
                " flags, rationale, shown_order, active_seconds, source, idempotency_key, extra,"
                " created_at) SELECT task.id, %s, '[]', '{}', '{}', '', '{}', 0, 'import',"
                " gen_random_uuid(), false, now() FROM labeling_task task"
                " JOIN labeling_prompt prompt ON prompt.id = prompt_id"
                " WHERE messages->0->>'content' LIKE %s",
                [ranked_by.pk, f"{words}%"],
            )
            cursor.execute(
                "UPDATE labeling_slot slot SET reviewer_id = %s, ranking_id = ranking.id"
                " FROM labeling_ranking ranking WHERE ranking.task_id = slot.task_id"
                " AND slot.number = 1 AND ranking.reviewer_id = %s AND slot.ranking_id IS NULL",
                [ranked_by.pk, ranked_by.pk],
            )
        for name in ("slot", "ranking", "skip", "task", "queuecursor"):
            cursor.execute(f"ANALYZE labeling_{name}")


def ids(task: Task) -> list[int]:
    return list(task.places.order_by("position").values_list("response_id", flat=True))


def one_each(task: Task) -> list[list[int]]:
    """Tiers without a tie, in the task's own order."""
    return [[response] for response in ids(task)]


def key() -> uuid.UUID:
    return uuid.uuid4()


def in_threads(*calls: Any) -> list[Any]:
    """Run the calls concurrently, each on a connection of its own; exceptions come back as results."""

    def run(call: Any) -> Any:
        close_old_connections()
        try:
            return call()
        except Exception as error:
            return error
        finally:
            connection.close()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))
