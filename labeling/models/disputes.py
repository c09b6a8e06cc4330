from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import models

from labeling.models.guidelines import GuidelineVersion
from labeling.models.projects import Project
from labeling.models.tasks import Task


class Adjudication(models.Model):
    """A lead's decision about a disputed task, and the cause of the disagreement."""

    class Cause(models.TextChoices):
        GUIDELINE = "guideline", "The guideline does not say, or can be read in two ways"
        MISTAKE = "mistake", "A reviewer did not follow the guideline"
        CLOSE = "close", "The responses are about equally good"
        INPUT = "input", "The prompt or a response is broken or unclear"
        OTHER = "other", "Something else"

    task = models.OneToOneField(Task, on_delete=models.PROTECT, related_name="adjudication")
    tiers = models.JSONField(help_text="The lead's order: tiers of response ids, best first.")
    cut = models.PositiveSmallIntegerField(null=True, blank=True)
    cause = models.CharField(max_length=16, choices=Cause)
    note = models.TextField(blank=True)
    shown_order = ArrayField(
        models.BigIntegerField(),
        default=list,
        blank=True,
        help_text="The order in which the lead saw the responses. The letters in the note refer to it.",
    )
    guideline_version = models.ForeignKey(
        GuidelineVersion, null=True, on_delete=models.PROTECT, related_name="+"
    )
    by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"{self.task}: {self.get_cause_display()}"


class RelabelSample(models.Model):
    """A sample of tasks ranked under one guideline version that are ranked again under another."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="relabel_samples")
    before = models.ForeignKey(GuidelineVersion, on_delete=models.PROTECT, related_name="+")
    after = models.ForeignKey(GuidelineVersion, on_delete=models.PROTECT, related_name="+")
    seed = models.BigIntegerField(default=0)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.PROTECT, related_name="+"
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"sample {self.pk} of {self.project}"


class RelabelledTask(models.Model):
    sample = models.ForeignKey(
        RelabelSample, on_delete=models.CASCADE, related_name="tasks", db_index=False
    )
    original = models.ForeignKey(Task, on_delete=models.PROTECT, related_name="+")
    copy = models.OneToOneField(Task, on_delete=models.PROTECT, related_name="relabelled")

    class Meta:
        constraints = [models.UniqueConstraint("sample", "original", name="relabelled_once")]

    def __str__(self) -> str:
        return f"{self.original} as {self.copy}"
