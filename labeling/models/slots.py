from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from labeling.models.projects import Project
from labeling.models.rankings import Ranking
from labeling.models.tasks import Task


class Slot(models.Model):
    """One ranking that a task needs. The slot is free, leased to a reviewer until a time, or filled.

    The lease and the ranking are in the same row, so a task cannot get more rankings than requested.
    `position` orders the free slots of one priority; a released slot goes to the back.
    """

    task = models.ForeignKey(Task, on_delete=models.CASCADE, related_name="slots", db_index=False)
    number = models.PositiveSmallIntegerField()
    project = models.ForeignKey(
        Project, on_delete=models.CASCADE, related_name="slots", db_index=False
    )
    priority = models.PositiveSmallIntegerField()
    position = models.BigIntegerField()
    reviewer = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.PROTECT, related_name="slots"
    )
    leased_until = models.DateTimeField(null=True)
    ahead = models.BooleanField(
        default=False,
        db_default=False,
        help_text="Whether the slot is leased as the reviewer's next task, which they have not seen yet.",
    )
    ranking = models.OneToOneField(
        Ranking, null=True, on_delete=models.PROTECT, related_name="slot"
    )
    shown_order = ArrayField(models.BigIntegerField(), null=True)
    shown_at = models.DateTimeField(null=True)
    draft = models.JSONField(null=True)
    draft_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        on_delete=models.SET_NULL,
        related_name="+",
        db_index=False,
        help_text="The reviewer who wrote the draft, even after the lease has expired. They get the slot back first.",
    )

    past_reviewers = ArrayField(
        models.BigIntegerField(),
        null=True,
        help_text="The previous reviewers, written by a trigger. Their late rankings are kept.",
    )

    class Meta:
        constraints = [
            models.UniqueConstraint("task", "number", name="slot_number_once"),
            models.UniqueConstraint("task", "reviewer", name="slot_reviewer_once"),
            models.UniqueConstraint(
                "project",
                "reviewer",
                "ahead",
                condition=Q(leased_until__isnull=False),
                name="slot_one_lease",
            ),
            models.CheckConstraint(
                name="slot_ahead_is_leased",
                condition=Q(ahead=False) | Q(leased_until__isnull=False),
            ),
            models.CheckConstraint(
                name="slot_free_leased_or_filled",
                condition=Q(reviewer=None, leased_until=None, ranking=None)
                | Q(reviewer__isnull=False, leased_until__isnull=False, ranking=None)
                | Q(reviewer__isnull=False, leased_until=None, ranking__isnull=False),
            ),
        ]
        indexes = [
            models.Index(
                "project",
                F("priority").desc(),
                "position",
                name="slot_free",
                condition=Q(reviewer=None),
            ),
            models.Index(
                "project",
                F("ranking").desc(),
                name="slot_filled",
                condition=Q(ranking__isnull=False),
            ),
            models.Index(
                "leased_until", name="slot_leases", condition=Q(leased_until__isnull=False)
            ),
            models.Index(
                "project",
                "draft_by",
                name="slot_unfinished",
                condition=Q(reviewer=None, draft_by__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        return f"slot {self.number} of {self.task}"


class QueueCursor(models.Model):
    """A reviewer's position in the queue of one priority.

    Free slots before the cursor belong to tasks that the reviewer has already had, so a claim does not
    read them again; see labeling.queue.claims.
    """

    project = models.ForeignKey(Project, on_delete=models.CASCADE)
    reviewer = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE)
    priority = models.PositiveSmallIntegerField()
    position = models.BigIntegerField(default=0)
    rescanned_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints = [
            models.UniqueConstraint("project", "reviewer", "priority", name="queue_cursor_once")
        ]

    def __str__(self) -> str:
        return f"{self.reviewer} at {self.priority}/{self.position}"
