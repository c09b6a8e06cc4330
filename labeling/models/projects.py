import hashlib
import json
from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import Q, TextChoices

from accounts.models import User

_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(value: Any) -> str:
    """Return the SHA-256 of a JSON value as hexadecimal. The order of keys makes no difference."""
    return hashlib.sha256(_CANONICAL.encode(value).encode()).hexdigest()


MAX_RATIONALE_LENGTH = 20_000
"""Maximum length of a rationale in characters, for pages, forms, imports and the database."""


class Withdrawable(models.Model):
    """Content that a lead can withdraw and restore; see labeling.removal.withdrawing."""

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
        if user.is_everywhere:
            return self.filter(archived_at=None)
        return self.filter(archived_at=None, memberships__user=user)

    def led_by(self, user: User) -> "ProjectQuerySet":
        """Return the projects, without archived ones, whose data, runs and models the user may see.

        The trainers of a project are also its leads.
        """
        return self.of_lead(user).filter(archived_at=None)

    def trained_by(self, user: User) -> "ProjectQuerySet":
        """Return the projects, without archived ones, in which the user may train.

        This means to freeze snapshots, start and change runs, and change the state of models.
        """
        return self.of_trainer(user).filter(archived_at=None)

    def chatted_by(self, user: User) -> "ProjectQuerySet":
        """Return the projects, without archived ones, with whose models the user may chat.

        These are the projects that the user leads, and those that allow it to their reviewers.
        """
        own = Membership.objects.filter(user=user).values("project")
        allowed = Q(reviewers_chat=True, archived_at=None, pk__in=own)
        return self.filter(Q(pk__in=self.led_by(user).values("pk")) | allowed)

    def archived_led_by(self, user: User) -> "ProjectQuerySet":
        """Return the archived projects that the user may view and restore."""
        return self.of_lead(user).filter(archived_at__isnull=False)

    def of_lead(self, user: User) -> "ProjectQuerySet":
        """Return the projects that the user leads, including archived ones."""
        if user.is_everywhere:
            return self
        if not user.can_lead:
            return self.none()
        return self.filter(pk__in=Membership.objects.leading().filter(user=user).values("project"))

    def of_trainer(self, user: User) -> "ProjectQuerySet":
        """Return the projects in which the user is a trainer, including archived ones."""
        if not user.can_train:
            return self.none()
        if user.is_everywhere:
            return self
        training = Membership.objects.filter(user=user, role=Membership.Role.TRAINER)
        return self.filter(pk__in=training.values("project"))


class Project(models.Model):
    class Overlap(TextChoices):
        FIXED = "fixed", "Every task gets the same number"
        SEQUENTIAL = "sequential", "More only where reviewers disagree"

    class Sees(TextChoices):
        """Who may see information that could bias a reviewer; see labeling.core.blindness."""

        LEADS = "leads", "Leads only"
        AFTER = "after", "Reviewers too, once they have ranked the task"
        ALWAYS = "always", "Everyone, at any time"

    class Promotion(TextChoices):
        """The verdicts that can prove a fine-tuned model better; see finetune.models."""

        PEOPLE = "people", "People's verdicts"
        JUDGE = "judge", "People's verdicts, or a judge's"

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
        help_text="The published guideline version under which new rankings are made.",
    )
    rankings_per_task = models.PositiveSmallIntegerField(
        default=2, help_text="The number of reviewers who rank each new task."
    )
    overlap = models.CharField(
        max_length=16,
        choices=Overlap,
        default=Overlap.FIXED,
        help_text="Whether to stop collecting rankings once the order of a task is clear.",
    )
    rankings_at_most = models.PositiveSmallIntegerField(
        default=3,
        help_text="With sequential overlap, the maximum number of rankings per task.",
    )
    certainty = models.FloatField(
        default=0.9,
        help_text="With sequential overlap, a task is finished once its best response and the "
        "order of every pair have at least this probability.",
    )
    allow_ties = models.BooleanField(
        default=True,
        help_text="Whether responses may share a rank. If not, every ranking is a strict order.",
    )
    allow_partial = models.BooleanField(
        default=False,
        help_text="Whether a ranking may leave out responses. They are then not compared with others.",
    )
    min_rationale = models.PositiveSmallIntegerField(
        default=0,
        help_text="The minimum length of a rationale, in characters. 0 makes it optional.",
    )
    revision_hours = models.PositiveSmallIntegerField(
        default=24,
        help_text="The number of hours for which reviewers may revise a ranking. 0 allows no revisions.",
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
        help_text="The percentage of gold among a reviewer's tasks. Gold has a known answer and "
        "looks like any other task.",
    )
    qualification_percent = models.PositiveSmallIntegerField(
        default=0,
        help_text="The percentage of qualification tasks that a reviewer must answer correctly "
        "before real work. 0 requires no qualification.",
    )
    lease_minutes = models.PositiveSmallIntegerField(
        default=30,
        help_text="The number of minutes for which a task is reserved for the reviewer who has it open.",
    )
    promotion_policy = models.CharField(
        max_length=16,
        choices=Promotion,
        default=Promotion.PEOPLE,
        help_text="The verdicts that must prove a fine-tuned model better before it is promoted.",
    )
    require_regression_set = models.BooleanField(
        default=False,
        help_text="Whether a fine-tuned model must be proven not worse on the project's regression set.",
    )
    promote_withdrawn = models.BooleanField(
        default=False,
        help_text="Whether a model that was trained on withdrawn data can be promoted without a reason.",
    )
    reviewers_chat = models.BooleanField(
        default=False,
        help_text="Whether reviewers may chat with the project's models. Leads can read these chats.",
    )
    simulated = models.BooleanField(
        default=False,
        help_text="Whether the reviewers are programs. Pages that show their rankings say so.",
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
                name="project_min_rationale", condition=Q(min_rationale__lte=MAX_RATIONALE_LENGTH)
            ),
            models.CheckConstraint(
                name="project_overlap",
                condition=Q(overlap="fixed")
                | Q(rankings_at_most__gte=models.F("rankings_per_task"), rankings_at_most__lte=9),
            ),
            models.CheckConstraint(
                name="project_certainty", condition=Q(certainty__gt=0.5, certainty__lt=1)
            ),
            models.CheckConstraint(
                name="project_promotion_policy",
                condition=Q(promotion_policy__in=["people", "judge"]),
            ),
            models.CheckConstraint(name="project_gold", condition=Q(gold_percent__lte=50)),
            models.CheckConstraint(
                name="project_qualification", condition=Q(qualification_percent__lte=100)
            ),
        ]

    def __str__(self) -> str:
        return self.name


class MembershipQuerySet(models.QuerySet["Membership"]):
    def leading(self) -> "MembershipQuerySet":
        """Return the memberships of leads and trainers. The accounts' own roles are not checked."""
        return self.filter(role__in=[Membership.Role.LEAD, Membership.Role.TRAINER])


class Membership(models.Model):
    """A person's role in a project. Each role includes the rights of those before it.

    The role of the account limits it: a lead whose account becomes a reviewer's is only a reviewer here.
    """

    class Role(models.TextChoices):
        REVIEWER = "reviewer", "Reviewer"
        LEAD = "lead", "Lead"
        TRAINER = "trainer", "Trainer"

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="memberships")
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="memberships"
    )
    role = models.CharField(max_length=16, choices=Role, default=Role.REVIEWER)

    objects = MembershipQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint("project", "user", name="member_once"),
            models.CheckConstraint(
                name="membership_role_known",
                condition=Q(role__in=["reviewer", "lead", "trainer"]),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.user} in {self.project}"
