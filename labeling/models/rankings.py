import uuid

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Length
from django.db.models.lookups import LessThanOrEqual
from django.utils.translation import gettext_lazy as _

from database import clock
from labeling.models.guidelines import GuidelineVersion
from labeling.models.imports import FileImport
from labeling.models.projects import MAX_RATIONALE_LENGTH
from labeling.models.tasks import Task


class Ranking(models.Model):
    """One reviewer's ranking of a task's responses, in which ties are possible.

    A trigger refuses changes: a revision is a new row that supersedes the old one. `tiers` is
    [[response id, …], …], best first. Responses in the same tier are tied, and responses in no tier were
    not compared. `cut` is the number of tiers above the line, or None without a line. All responses below
    the line are unacceptable.
    """

    class Source(models.TextChoices):
        REVIEW = "review", "Reviewer"
        IMPORT = "import", "Import"
        SIMULATION = "simulation", "Simulation"
        CHAT = "chat", "Chat"

    task = models.ForeignKey(Task, on_delete=models.PROTECT, related_name="rankings")
    reviewer = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="rankings", db_index=False
    )
    guideline_version = models.ForeignKey(
        GuidelineVersion, null=True, on_delete=models.PROTECT, related_name="rankings"
    )
    tiers = models.JSONField()
    cut = models.PositiveSmallIntegerField(null=True, blank=True)
    strength = models.FloatField(
        null=True,
        blank=True,
        help_text="For a graded pair, the strength of the preference from 1 to 3.",
    )
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
    file_import = models.ForeignKey(
        FileImport,
        null=True,
        editable=False,
        on_delete=models.SET_NULL,
        related_name="rankings",
        db_index=False,
        help_text="The import that added this row.",
    )
    extra = models.BooleanField(
        default=False,
        help_text="Whether the ranking arrived after someone else had taken its slot, and is kept in addition.",
    )
    removed_at = models.DateTimeField(
        null=True,
        editable=False,
        help_text="When its reviewer's data was withdrawn. The row is then empty.",
    )
    created_at = models.DateTimeField(default=clock.now)

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(
                "task", "reviewer", condition=Q(superseded_at=None), name="ranking_current_once"
            ),
            models.CheckConstraint(
                name="ranking_active_seconds", condition=Q(active_seconds__gte=0)
            ),
            models.CheckConstraint(
                name="ranking_rationale",
                condition=LessThanOrEqual(Length("rationale"), MAX_RATIONALE_LENGTH),
            ),
        ]
        indexes = [
            models.Index("reviewer", F("id").desc(), name="ranking_history"),
            models.Index(
                "file_import", name="ranking_imported", condition=Q(file_import__isnull=False)
            ),
        ]

    def __str__(self) -> str:
        return f"ranking {self.pk} of {self.task} by {self.reviewer}"


class Skip(models.Model):
    """A reviewer's refusal to rank a task, with a reason. The reviewer is not offered the task again."""

    class Reason(models.TextChoices):
        UNCLEAR = "unclear", _("The prompt is unclear")
        EXPERTISE = "expertise", _("I do not know the subject")
        GUIDELINE = "guideline", _("Not covered by the guideline")
        HARMFUL = "harmful", _("I do not want to read this")
        BROKEN = "broken", _("Something is broken")
        OTHER = "other", _("Something else")

    task = models.ForeignKey(Task, on_delete=models.CASCADE, related_name="skips", db_index=False)
    reviewer = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="skips", db_index=False
    )
    reason = models.CharField(max_length=16, choices=Reason)
    note = models.CharField(max_length=500, blank=True)
    shown_order = ArrayField(
        models.BigIntegerField(),
        default=list,
        help_text="The order in which the reviewer saw the responses; see labeling.core.lettering.",
    )
    draft = models.JSONField(
        null=True, help_text="The unfinished answer, which is restored if the skip is undone."
    )
    created_at = models.DateTimeField(default=clock.now, editable=False)

    class Meta:
        constraints = [models.UniqueConstraint("task", "reviewer", name="skip_once")]
        indexes = [models.Index("reviewer", F("id").desc(), name="skip_history")]

    def __str__(self) -> str:
        return f"{self.task} skipped by {self.reviewer}"
