"""Archiving a project: it becomes read-only for its leads and disappears for everyone else."""

from django.db import transaction
from django.utils import timezone

from accounts.models import User, audit
from labeling.models import Project, Slot
from labeling.queue import slots


@transaction.atomic
def archive(*, project: Project, by: User | None) -> bool:
    """Archive it and end all reservations; drafts are kept. False when it was archived already."""
    if not Project.objects.filter(pk=project.pk, archived_at=None).update(
        archived_at=timezone.now()
    ):
        return False
    slots.free_leases(Slot.objects.filter(project=project))
    audit(by, "project archived", project, slug=project.slug)
    return True


@transaction.atomic
def restore(*, project: Project, by: User | None) -> bool:
    """Bring it back as it was; False when it was not archived."""
    archived = Project.objects.filter(pk=project.pk, archived_at__isnull=False)
    if not archived.update(archived_at=None):
        return False
    audit(by, "project restored", project, slug=project.slug)
    return True
