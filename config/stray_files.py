"""Bundles in the object store that no row names, and missing bundles that a row names."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from django.db.models import Q

from buckets import files
from labeling.models import FileImport
from reward.models import Snapshot
from runs.models import Run, State

MIN_AGE = timedelta(hours=1)


def named_by_rows() -> set[str]:
    """Return the names of all bundles that rows name. Costs three queries."""
    names = {f"runs/{pk}" for pk in Run.objects.values_list("pk", flat=True)}
    names |= {f"snapshots/{path}" for path in Snapshot.objects.values_list("path", flat=True)}
    waiting = FileImport.objects.filter(
        Q(state__in=FileImport.ACTIVE) | Q(state__in=FileImport.OPEN)
    )
    return names | {f"uploads/{key.hex}.data" for key in waiting.values_list("key", flat=True)}


def stray() -> Iterator[str]:
    """Yield the names of bundles in the object store that no row names. Raises StorageError.

    Bundles of the last hour are left out, because a bundle is published before its row is committed.
    """
    if not files.is_remote():
        return
    published = [name for root in files.ROOTS for name in files.bucket().names(root)]
    latest = datetime.now(UTC) - MIN_AGE
    for name in sorted(set(published) - named_by_rows()):
        if files.bucket().published_at(name) < latest:
            yield name


def missing() -> Iterator[str]:
    """Yield the names of bundles that rows need and the object store does not have."""
    if not files.is_remote():
        return
    published = {name for root in files.ROOTS for name in files.bucket().names(root)}
    succeeded = Run.objects.filter(state=State.SUCCEEDED).values_list("pk", flat=True)
    needed = {f"runs/{pk}" for pk in succeeded}
    needed |= {f"snapshots/{path}" for path in Snapshot.objects.values_list("path", flat=True)}
    yield from sorted(needed - published)
