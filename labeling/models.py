import hashlib
import json
import uuid
from collections.abc import Iterable
from typing import Any

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from accounts.models import User


def digest(value: Any) -> str:
    """SHA-256 of a JSON value, the same for the same value whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


class ProjectQuerySet(models.QuerySet["Project"]):
    def visible_to(self, user: User) -> "ProjectQuerySet":
        if user.can_train:
            return self.filter(archived_at=None)
        return self.filter(archived_at=None, memberships__user=user)


class Project(models.Model):
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


class Guideline(models.Model):
    """What reviewers go by. Its text lives in versions."""

    project = models.OneToOneField(Project, on_delete=models.CASCADE, related_name="guideline")
    title = models.CharField(max_length=120)

    def __str__(self) -> str:
        return self.title


class GuidelineVersion(models.Model):
    """A draft may be edited; once published the database refuses every change (see migration)."""

    class State(models.TextChoices):
        DRAFT = "draft", "Draft"
        PUBLISHED = "published", "Published"

    guideline = models.ForeignKey(Guideline, on_delete=models.CASCADE, related_name="versions")
    number = models.PositiveIntegerField(editable=False)
    state = models.CharField(max_length=16, choices=State, default=State.DRAFT, editable=False)
    text = models.TextField(help_text="Markdown.")
    change_note = models.CharField(
        max_length=300, blank=True, help_text="What changed, in a sentence reviewers will read."
    )
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        editable=False,
        on_delete=models.PROTECT,
        related_name="+",
    )
    created_at = models.DateTimeField(auto_now_add=True)
    published_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        editable=False,
        on_delete=models.PROTECT,
        related_name="+",
    )
    published_at = models.DateTimeField(null=True, editable=False)

    class Meta:
        ordering = ["guideline", "-number"]
        constraints = [
            models.UniqueConstraint("guideline", "number", name="guideline_version_number_once"),
            models.UniqueConstraint(
                "guideline", condition=Q(state="draft"), name="guideline_one_draft"
            ),
            models.CheckConstraint(
                name="guideline_published_has_time",
                condition=Q(state="published", published_at__isnull=False)
                | Q(state="draft", published_at__isnull=True),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.guideline}, version {self.number}"


class Criterion(models.Model):
    version = models.ForeignKey(GuidelineVersion, on_delete=models.CASCADE, related_name="criteria")
    name = models.SlugField(max_length=40, help_text="Short key used in exports, such as honesty.")
    meaning = models.CharField(max_length=300, help_text="What it means, in a sentence.")
    scale = models.PositiveSmallIntegerField(default=5, help_text="Ratings go from 1 to this.")
    position = models.PositiveSmallIntegerField(default=0)

    class Meta:
        ordering = ["position", "id"]
        verbose_name_plural = "criteria"
        constraints = [
            models.UniqueConstraint("version", "name", name="criterion_name_once"),
            models.CheckConstraint(name="criterion_scale", condition=Q(scale__range=(2, 10))),
        ]

    def __str__(self) -> str:
        return self.name


class Prompt(models.Model):
    """A chat to be answered: `messages` is [{"role", "content"}, …], the last one not the model's."""

    project = models.ForeignKey(
        Project, on_delete=models.CASCADE, related_name="prompts", db_index=False
    )
    messages = models.JSONField()
    content_hash = models.CharField(max_length=64, editable=False)
    external_id = models.CharField(
        max_length=200, blank=True, help_text="Its name where it came from."
    )
    meta = models.JSONField(default=dict, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint("project", "content_hash", name="prompt_once")]

    def __str__(self) -> str:
        return self.messages[-1]["content"][:80] if self.messages else "(empty)"

    def save(self, *args: Any, **kwargs: Any) -> None:
        self.content_hash = digest(self.messages)
        super().save(*args, **kwargs)


class Response(models.Model):
    """One answer to a prompt. The text came out of a model or a stranger: never trust it."""

    prompt = models.ForeignKey(
        Prompt, on_delete=models.CASCADE, related_name="responses", db_index=False
    )
    text = models.TextField()
    model_name = models.CharField(max_length=300, help_text="Who wrote it.")
    sampling = models.JSONField(default=dict, blank=True, help_text="Temperature and the like.")
    seed = models.BigIntegerField(null=True, blank=True)
    external_id = models.CharField(max_length=200, blank=True)
    identity = models.CharField(max_length=64, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint("prompt", "identity", name="response_once")]

    def __str__(self) -> str:
        return self.text[:80]

    def save(self, *args: Any, **kwargs: Any) -> None:
        self.identity = self.identity_of(self.model_name, self.text, self.seed, self.external_id)
        super().save(*args, **kwargs)

    @staticmethod
    def identity_of(model_name: str, text: str, seed: int | None, external_id: str) -> str:
        return digest([model_name, text, seed, external_id])


class Task(models.Model):
    """A prompt and the 2 to 9 responses to rank (the count is a deferred constraint trigger)."""

    class Kind(models.TextChoices):
        RANKING = "ranking", "Ranking"
        COMPARISON = "comparison", "Blind comparison of two models"

    project = models.ForeignKey(
        Project, on_delete=models.CASCADE, related_name="tasks", db_index=False
    )
    prompt = models.ForeignKey(Prompt, on_delete=models.CASCADE, related_name="tasks")
    responses = models.ManyToManyField(Response, through="TaskResponse", related_name="tasks")
    kind = models.CharField(max_length=16, choices=Kind, default=Kind.RANKING)
    priority = models.PositiveSmallIntegerField(
        default=5, help_text="0 to 9; 9 is given out first."
    )
    rankings_wanted = models.PositiveSmallIntegerField()
    identity = models.CharField(max_length=64, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint("project", "identity", name="task_once"),
            models.CheckConstraint(name="task_priority", condition=Q(priority__range=(0, 9))),
            models.CheckConstraint(
                name="task_rankings_wanted", condition=Q(rankings_wanted__range=(1, 9))
            ),
        ]

    def __str__(self) -> str:
        return f"task {self.pk}"

    @staticmethod
    def identity_of(kind: str, response_ids: Iterable[int]) -> str:
        """The same for the same kind of work on the same responses, in whatever order."""
        return digest([str(kind), sorted(response_ids)])


class TaskResponse(models.Model):
    task = models.ForeignKey(Task, on_delete=models.CASCADE, related_name="places", db_index=False)
    response = models.ForeignKey(Response, on_delete=models.PROTECT, related_name="places")
    position = models.PositiveSmallIntegerField()

    class Meta:
        ordering = ["task", "position"]
        constraints = [
            models.UniqueConstraint("task", "position", name="task_position_once"),
            models.UniqueConstraint("task", "response", name="task_response_once"),
            models.CheckConstraint(name="task_position_below_nine", condition=Q(position__lt=9)),
        ]

    def __str__(self) -> str:
        return f"{self.task_id}/{self.position}"


class Ranking(models.Model):
    """A weak order by one reviewer. Never changed once written (a trigger); a revision supersedes.

    `tiers` is [[response id, …], …], best first; ties share a tier; absent ids were not compared.
    `cut` counts the tiers above the line under which everything is unacceptable; None is no line.
    """

    class Source(models.TextChoices):
        REVIEW = "review", "Reviewer"
        IMPORT = "import", "Import"
        SIMULATION = "simulation", "Simulation"

    task = models.ForeignKey(Task, on_delete=models.PROTECT, related_name="rankings")
    reviewer = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="rankings", db_index=False
    )
    guideline_version = models.ForeignKey(
        GuidelineVersion, null=True, on_delete=models.PROTECT, related_name="rankings"
    )
    tiers = models.JSONField()
    cut = models.PositiveSmallIntegerField(null=True, blank=True)
    strength = models.FloatField(null=True, blank=True, help_text="For a graded pair, 1 to 3.")
    ratings = models.JSONField(default=dict, help_text='{"response id": {"criterion": rating}}')
    flags = models.JSONField(default=dict, help_text='{"response id": ["unsafe", …]}')
    rationale = models.TextField(blank=True)
    shown_order = ArrayField(models.BigIntegerField(), default=list)
    active_seconds = models.FloatField(default=0)
    source = models.CharField(max_length=16, choices=Source, default=Source.REVIEW)
    idempotency_key = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    supersedes = models.OneToOneField(
        "self", null=True, blank=True, on_delete=models.PROTECT, related_name="superseded_by"
    )
    superseded_at = models.DateTimeField(null=True, blank=True)
    extra = models.BooleanField(
        default=False,
        help_text="Submitted after its slot had gone to someone else; kept all the same.",
    )
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(
                "task", "reviewer", condition=Q(superseded_at=None), name="ranking_current_once"
            ),
            models.CheckConstraint(
                name="ranking_active_seconds", condition=Q(active_seconds__gte=0)
            ),
        ]
        indexes = [
            models.Index("reviewer", F("id").desc(), name="ranking_history"),
        ]

    def __str__(self) -> str:
        return f"ranking {self.pk} of {self.task} by {self.reviewer}"


class Slot(models.Model):
    """One wanted ranking of one task: free, leased to a reviewer until a time, or filled.

    Lease and answer are the same row, so more rankings than wanted cannot be written.
    `position` orders free slots within a priority; a released slot goes to the back.
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
        help_text="Whose draft it is, also after the lease ran out; they get the slot back first.",
    )

    class Meta:
        constraints = [
            models.UniqueConstraint("task", "number", name="slot_number_once"),
            models.UniqueConstraint("task", "reviewer", name="slot_reviewer_once"),
            models.UniqueConstraint(
                "project",
                "reviewer",
                condition=Q(leased_until__isnull=False),
                name="slot_one_lease",
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


class Skip(models.Model):
    """A reviewer passed a task on, and why. It is not offered to them again."""

    class Reason(models.TextChoices):
        UNCLEAR = "unclear", "The prompt is unclear"
        EXPERTISE = "expertise", "I do not know the subject"
        GUIDELINE = "guideline", "The guideline does not cover it"
        HARMFUL = "harmful", "I do not want to read this"
        BROKEN = "broken", "Something is broken"
        OTHER = "other", "Something else"

    task = models.ForeignKey(Task, on_delete=models.CASCADE, related_name="skips", db_index=False)
    reviewer = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="skips", db_index=False
    )
    reason = models.CharField(max_length=16, choices=Reason)
    note = models.CharField(max_length=500, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint("task", "reviewer", name="skip_once")]

    def __str__(self) -> str:
        return f"{self.task} skipped by {self.reviewer}"


class QueueCursor(models.Model):
    """How far a reviewer has come within a priority: earlier free slots are of tasks they had.

    It makes a claim cost the same whatever the reviewer's history; see labeling.queue.
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


def validate_messages(messages: Any) -> None:
    """Raise ValidationError unless it is a non-empty chat of {"role", "content"} texts."""
    if not isinstance(messages, list) or not messages:
        raise ValidationError("A prompt must be a non-empty list of messages.")
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, dict) or set(message) != {"role", "content"}:
            raise ValidationError(f"Message {number} must have exactly a role and a content.")
        if message["role"] not in {"system", "user", "assistant"}:
            raise ValidationError(f"Message {number} has the role {message['role']!r}.")
        if not isinstance(message["content"], str):
            raise ValidationError(f"The content of message {number} must be text.")
