import hashlib
import json
from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import Q, TextChoices

from accounts.models import User

_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(value: Any) -> str:
    """Return the SHA-256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(_CANONICAL.encode(value).encode()).hexdigest()


LONGEST_RATIONALE = 20_000
"""Characters. The one limit that pages, forms, imports and the database share."""


class Withdrawable(models.Model):
    """Content that a lead can take out of use and bring back; see labeling.removal.withdrawing."""

    withdrawn_at = models.DateTimeField(null=True, editable=False)
    withdrawn_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        editable=False,
        on_delete=models.PROTECT,
        related_name="+",
        db_index=False,
    )
    withdrawn_reason = models.CharField(
        max_length=300, blank=True, default="", db_default="", editable=False
    )

    class Meta:
        abstract = True


class ProjectQuerySet(models.QuerySet["Project"]):
    def visible_to(self, user: User) -> "ProjectQuerySet":
        if user.can_train:
            return self.filter(archived_at=None)
        return self.filter(archived_at=None, memberships__user=user)

    def led_by(self, user: User) -> "ProjectQuerySet":
        """Return the open projects whose data, runs and models the user may see.

        A trainer sees all of them, a lead those they lead, anyone else none.
        """
        return self._of_lead(user).filter(archived_at=None)

    def archived_led_by(self, user: User) -> "ProjectQuerySet":
        """Return the archived projects that the user may look at and restore."""
        return self._of_lead(user).filter(archived_at__isnull=False)

    def _of_lead(self, user: User) -> "ProjectQuerySet":
        if user.can_train:
            return self
        if not user.can_lead:
            return self.none()
        led = Membership.objects.filter(user=user, role=Membership.Role.LEAD)
        return self.filter(pk__in=led.values("project"))


class Project(models.Model):
    class Overlap(TextChoices):
        FIXED = "fixed", "Every task gets the same number"
        SEQUENTIAL = "sequential", "More only where reviewers disagree"

    class Sees(TextChoices):
        """Who sees what would sway a reviewer. Enforced by labeling.core.blindness."""

        LEADS = "leads", "Leads only"
        AFTER = "after", "Reviewers too, once they have ranked the task"
        ALWAYS = "always", "Everyone, at any time"

    slug = models.SlugField(unique=True, max_length=60)
    name = models.CharField(max_length=120)
    description = models.TextField(blank=True)
    current_version = models.ForeignKey(
        "GuidelineVersion",
        null=True,
        blank=True,
        editable=False,
        on_delete=models.PROTECT,
        related_name="+",
        help_text="The published guideline that new rankings are made under.",
    )
    rankings_per_task = models.PositiveSmallIntegerField(
        default=2, help_text="How many independent rankings a new task wants."
    )
    overlap = models.CharField(
        max_length=16,
        choices=Overlap,
        default=Overlap.FIXED,
        help_text="Whether to stop asking once the order of a task is clear.",
    )
    rankings_at_most = models.PositiveSmallIntegerField(
        default=3,
        help_text="Sequential overlap: a task on which reviewers disagree gets up to this many.",
    )
    certainty = models.FloatField(
        default=0.9,
        help_text="Sequential overlap: a task is clear when its best response, and the side of "
        "every pair, is this probable.",
    )
    allow_ties = models.BooleanField(
        default=True, help_text="Responses may share a place. Off: every ranking is a strict order."
    )
    allow_partial = models.BooleanField(
        default=False,
        help_text="A ranking may leave responses out. What was left out is compared with nothing.",
    )
    min_rationale = models.PositiveSmallIntegerField(
        default=0, help_text="Shortest rationale, in characters. 0: it is optional."
    )
    revision_hours = models.PositiveSmallIntegerField(
        default=24,
        help_text="How long reviewers may revise what they sent. 0: not at all.",
    )
    sees_models = models.CharField(
        "who sees model names", max_length=16, choices=Sees, default=Sees.LEADS
    )
    sees_others = models.CharField(
        "who sees others' rankings", max_length=16, choices=Sees, default=Sees.LEADS
    )
    sees_suggestions = models.CharField(
        "who sees a reward model's scores", max_length=16, choices=Sees, default=Sees.LEADS
    )
    gold_percent = models.PositiveSmallIntegerField(
        default=0,
        help_text="The share of a reviewer's tasks that are gold: the answer is known, and it "
        "looks like any other.",
    )
    qualification_percent = models.PositiveSmallIntegerField(
        default=0,
        help_text="The share of qualification tasks that a reviewer must get right before real "
        "work. 0: none is needed.",
    )
    lease_minutes = models.PositiveSmallIntegerField(
        default=30, help_text="How long a task stays reserved for the reviewer who has it open."
    )
    simulated = models.BooleanField(
        default=False,
        help_text="Its reviewers are programs; said wherever their rankings are shown.",
    )
    archived_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = ProjectQuerySet.as_manager()

    class Meta:
        ordering = ["name"]
        constraints = [
            models.CheckConstraint(
                name="project_rankings_per_task", condition=Q(rankings_per_task__range=(1, 9))
            ),
            models.CheckConstraint(
                name="project_lease", condition=Q(lease_minutes__range=(1, 1440))
            ),
            models.CheckConstraint(
                name="project_min_rationale", condition=Q(min_rationale__lte=LONGEST_RATIONALE)
            ),
            models.CheckConstraint(
                name="project_overlap",
                condition=Q(overlap="fixed")
                | Q(rankings_at_most__gte=models.F("rankings_per_task"), rankings_at_most__lte=9),
            ),
            models.CheckConstraint(
                name="project_certainty", condition=Q(certainty__gt=0.5, certainty__lt=1)
            ),
            models.CheckConstraint(name="project_gold", condition=Q(gold_percent__lte=50)),
            models.CheckConstraint(
                name="project_qualification", condition=Q(qualification_percent__lte=100)
            ),
        ]

    def __str__(self) -> str:
        return self.name


class Membership(models.Model):
    class Role(models.TextChoices):
        REVIEWER = "reviewer", "Reviewer"
        LEAD = "lead", "Lead"

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="memberships")
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="memberships"
    )
    role = models.CharField(max_length=16, choices=Role, default=Role.REVIEWER)

    class Meta:
        constraints = [
            models.UniqueConstraint("project", "user", name="member_once"),
            models.CheckConstraint(
                name="membership_role_known", condition=Q(role__in=["reviewer", "lead"])
            ),
        ]

    def __str__(self) -> str:
        return f"{self.user} in {self.project}"
