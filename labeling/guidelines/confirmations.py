"""A reviewer confirms each published guideline version before ranking under it."""

from dataclasses import dataclass

from accounts.models import User
from labeling.models import GuidelineConfirmation, GuidelineVersion, Project


@dataclass(frozen=True)
class Unconfirmed:
    version: GuidelineVersion
    before: GuidelineVersion | None
    """The newest one they went by; None for someone who begins."""


_confirmed: set[tuple[int, int]] = set()
"""(reviewer, version) that this process has seen confirmed; that is never taken back."""
REMEMBERED_AT_MOST = 10_000


def unconfirmed(*, project: Project, reviewer: User) -> Unconfirmed | None:
    """What the reviewer has to confirm before the next task. None when that is known, else one, or three."""
    if project.current_version_id is None:
        return None
    if (key := (reviewer.pk, project.current_version_id)) in _confirmed:
        return None
    own = GuidelineConfirmation.objects.filter(reviewer=reviewer)
    if own.filter(version=project.current_version_id).exists():
        if len(_confirmed) >= REMEMBERED_AT_MOST:
            _confirmed.clear()
        _confirmed.add(key)
        return None
    current = GuidelineVersion.objects.select_related("guideline").get(
        pk=project.current_version_id
    )
    before = GuidelineVersion.objects.filter(
        guideline=current.guideline_id, pk__in=own.values("version")
    )
    return Unconfirmed(current, before.order_by("-number").first())


def confirm(*, project: Project, reviewer: User, version_id: int) -> bool:
    """Note that the reviewer goes by the version; False when the project has not published it."""
    published = GuidelineVersion.objects.filter(
        pk=version_id,
        guideline__project=project,
        state=GuidelineVersion.State.PUBLISHED,
    )
    if not published.exists():
        return False
    GuidelineConfirmation.objects.get_or_create(version_id=version_id, reviewer=reviewer)
    return True
