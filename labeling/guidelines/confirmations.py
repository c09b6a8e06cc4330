"""Reviewers' confirmations. A reviewer must confirm each published version before ranking under it."""

from dataclasses import dataclass
from threading import Lock

from cachetools import LRUCache

from accounts.models import User
from labeling.models import GuidelineConfirmation, GuidelineVersion, Project


@dataclass(frozen=True)
class UnconfirmedVersion:
    """A guideline version that a reviewer must confirm."""

    version: GuidelineVersion
    before: GuidelineVersion | None
    """The newest version that the reviewer has confirmed, or None."""


_confirmed: LRUCache[tuple[int, int], bool] = LRUCache(maxsize=10_000)
"""Confirmed pairs of reviewer and version, cached in this process. Confirmations are never revoked."""
_lock = Lock()  # cachetools' caches are not thread-safe


def unconfirmed(*, project: Project, reviewer: User) -> UnconfirmedVersion | None:
    """Return the version that the reviewer must confirm before the next task, or None.

    Costs no query if the confirmation is cached, otherwise one, or three if the version is unconfirmed.
    """
    if project.current_version_id is None:
        return None
    key = (reviewer.pk, project.current_version_id)
    with _lock:
        if _confirmed.get(key):
            return None
    own = GuidelineConfirmation.objects.filter(reviewer=reviewer)
    if own.filter(version=project.current_version_id).exists():
        with _lock:
            _confirmed[key] = True
        return None
    current = GuidelineVersion.objects.select_related("guideline").get(
        pk=project.current_version_id
    )
    before = GuidelineVersion.objects.filter(
        guideline=current.guideline_id, pk__in=own.values("version")
    )
    return UnconfirmedVersion(current, before.order_by("-number").first())


def confirm(*, project: Project, reviewer: User, version_id: int) -> bool:
    """Record a reviewer's confirmation; return False if the project has not published this version."""
    published = GuidelineVersion.objects.filter(
        pk=version_id,
        guideline__project=project,
        state=GuidelineVersion.State.PUBLISHED,
    )
    if not published.exists():
        return False
    GuidelineConfirmation.objects.get_or_create(version_id=version_id, reviewer=reviewer)
    return True
