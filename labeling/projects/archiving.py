"""Archive projects. An archived project is read-only for its leads and hidden from everyone else."""

from django.db import transaction
from django.utils import timezone

from accounts.models import User, audit
from labeling.models import Project, Slot
from labeling.queue import slots


@transaction.atomic
def archive(*, project: Project, by: User | None) -> bool:
    """Archive the project, free all leases, and keep drafts. Return False if it was already archived."""
    if not Project.objects.filter(pk=project.pk, archived_at=None).update(
        archived_at=timezone.now()
    ):
        return False
    slots.free_leases(Slot.objects.filter(project=project))
    audit(by, "project archived", project, slug=project.slug)
    return True


@transaction.atomic
def restore(*, project: Project, by: User | None) -> bool:
    """Restore an archived project. Return False if it was not archived."""
    archived = Project.objects.filter(pk=project.pk, archived_at__isnull=False)
    if not archived.update(archived_at=None):
        return False
    audit(by, "project restored", project, slug=project.slug)
    return True
