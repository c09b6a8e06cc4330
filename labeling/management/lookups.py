"""Lookups that several commands share."""

from django.core.management.base import CommandError

from labeling.models import Project


def project_named(slug: str) -> Project:
    """Return the project with this slug. Otherwise raises CommandError, which lists the existing slugs."""
    project = Project.objects.filter(slug=slug).first()
    if project is None:
        slugs = ", ".join(Project.objects.values_list("slug", flat=True)) or "none"
        raise CommandError(f"There is no project {slug!r}. Existing projects: {slugs}.")
    return project
