"""Memberships of projects that an identity provider manages."""

from collections.abc import Collection, Mapping

from django.db import transaction

from accounts.models import User
from labeling.models import Membership, Project
from labeling.projects import memberships as changes


@transaction.atomic
def apply(*, person: User, memberships: Mapping[str, str], managed: Collection[str]) -> list[str]:
    """Give a person exactly the listed memberships among the managed projects.

    `memberships` has a role for each project's slug. Memberships of other projects are kept. Returns
    sentences about the changes that are impossible; the others are made, with audit entries. Costs two
    queries if nothing changes, and none without managed projects.
    """
    if not managed:
        return []
    projects = {p.slug: p for p in Project.objects.filter(slug__in=managed)}
    present = {
        m.project.slug: m
        for m in Membership.objects.filter(user=person, project__slug__in=managed).select_related(
            "project", "user"
        )
    }
    problems = [
        f"There is no project {slug}." for slug in sorted(set(memberships) - projects.keys())
    ]
    for slug, project in sorted(projects.items()):
        try:
            _apply(project, person, present.get(slug), memberships.get(slug))
        except changes.MembershipError as problem:
            problems.append(f"{project}: {problem}")
    return problems


def _apply(project: Project, person: User, membership: Membership | None, role: str | None) -> None:
    if membership is None and role is not None:
        changes.add(project=project, person=person, role=role, by=None)
    elif membership is not None and role is None:
        changes.remove(membership=membership, by=None)
    elif membership is not None and role is not None and membership.role != role:
        changes.change_role(membership=membership, role=role, by=None)
