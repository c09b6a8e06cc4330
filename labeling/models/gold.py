from django.conf import settings
from django.db import models
from django.db.models import Q

from labeling.models.guidelines import GuidelineVersion
from labeling.models.projects import Project
from labeling.models.tasks import Task


class Gold(models.Model):
    """The known answer to a task, as constraints. labeling.gold.constraints describes their format."""

    class Purpose(models.TextChoices):
        CHECK = "check", "Check, among real work"
        QUALIFICATION = "qualification", "Qualification, before real work"
        TRAINING = "training", "Training, with feedback"

    task = models.OneToOneField(Task, on_delete=models.PROTECT, related_name="gold")
    project = models.ForeignKey(
        Project,
        on_delete=models.CASCADE,
        related_name="gold",
        db_index=False,
        help_text="The project to which the task belongs.",
    )
    purpose = models.CharField(max_length=16, choices=Purpose, default=Purpose.CHECK)
    constraints = models.JSONField(
        help_text='[{"kind": "above", "a": 1, "b": 2}, {"kind": "unacceptable", "a": 3}, '
        '{"kind": "tie_allowed", "a": 1, "b": 4}]'
    )
    explanation = models.TextField(
        blank=True, help_text="The reasons for the answer, shown as feedback in training."
    )
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.PROTECT, related_name="+"
    )
    created_at = models.DateTimeField(auto_now_add=True)
    retired_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name_plural = "gold"
        indexes = [models.Index("project", "purpose", "id", name="gold_of_project")]

    def __str__(self) -> str:
        return f"gold {self.pk} (task {self.task_id})"


class Qualification(models.Model):
    """A reviewer's attempt to qualify for a project under one guideline version."""

    class State(models.TextChoices):
        OPEN = "open", "Under way"
        PASSED = "passed", "Passed"
        FAILED = "failed", "Failed"

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="qualifications")
    reviewer = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+"
    )
    version = models.ForeignKey(GuidelineVersion, on_delete=models.PROTECT, related_name="+")
    state = models.CharField(max_length=16, choices=State, default=State.OPEN)
    right = models.PositiveIntegerField(default=0)
    asked = models.PositiveIntegerField(default=0)
    ended_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                "project",
                "reviewer",
                condition=Q(state="open"),
                name="qualification_one_open",
            ),
            models.CheckConstraint(
                name="qualification_ended_at",
                condition=Q(state="open", ended_at=None)
                | (~Q(state="open") & Q(ended_at__isnull=False)),
            ),
            models.CheckConstraint(
                name="qualification_right", condition=Q(right__lte=models.F("asked"))
            ),
        ]

    def __str__(self) -> str:
        return f"{self.reviewer} in {self.project}: {self.get_state_display()}"
