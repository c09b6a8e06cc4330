"""What a reviewer gets next: training, then qualification, then gold when it is due, then the queue.

The ranking page asks here and nowhere else; the queue moves the slots.
"""

from accounts.models import User
from labeling import queue
from labeling.models import Project, Slot


def current(*, project: Project, reviewer: User) -> Slot | None:
    """The slot the reviewer works on, leased to them; None when there is nothing for them."""
    return queue.claim(project=project, reviewer=reviewer)


def ahead(*, project: Project, reviewer: User) -> Slot | None:
    """The slot they get after the current one, leased but not seen yet; None without a current."""
    return queue.claim_ahead(project=project, reviewer=reviewer)
