from collections.abc import Iterable

from django.db import models
from django.db.models import Q

from labeling.models.imports import FileImport
from labeling.models.projects import Project, Withdrawable, digest
from labeling.models.prompts import Prompt, Response


class Task(Withdrawable):
    """A prompt and its 2 to 9 responses to rank. A deferred constraint trigger checks their number."""

    class Kind(models.TextChoices):
        RANKING = "ranking", "Ranking"
        COMPARISON = "comparison", "Blind comparison of two models"
        GOLD = "gold", "Gold: the answer is known"
        RELABEL = "relabel", "Ranked again under another guideline"

    project = models.ForeignKey(
        Project, on_delete=models.CASCADE, related_name="tasks", db_index=False
    )
    prompt = models.ForeignKey(Prompt, on_delete=models.CASCADE, related_name="tasks")
    responses = models.ManyToManyField(Response, through="TaskResponse", related_name="tasks")
    kind = models.CharField(max_length=16, choices=Kind, default=Kind.RANKING)
    priority = models.PositiveSmallIntegerField(
        default=5, help_text="From 0 to 9. Tasks with 9 come first."
    )
    rankings_wanted = models.PositiveSmallIntegerField()
    held = models.BooleanField(
        default=False,
        db_default=False,
        help_text="Whether the task is hidden from reviewers until a lead has checked its findings.",
    )
    inactive = models.BooleanField(
        default=False,
        db_default=False,
        editable=False,
        help_text="Whether the task or its prompt is withdrawn, or too few of its responses are left. "
        "Only labeling.queue.withdrawals.refresh writes this field.",
    )
    stopped_below = models.PositiveSmallIntegerField(
        null=True,
        editable=False,
        help_text="The number of rankings that sequential overlap could have requested when it "
        "stopped. Null if it did not decide about this task.",
    )
    file_import = models.ForeignKey(
        FileImport,
        null=True,
        editable=False,
        on_delete=models.SET_NULL,
        related_name="tasks",
        db_index=False,
        help_text="The import that added this row.",
    )
    external_id = models.CharField(
        max_length=200,
        blank=True,
        default="",
        db_default="",
        help_text="The task's id in the imported file.",
    )
    identity = models.CharField(max_length=64, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint("project", "identity", name="task_once"),
            models.CheckConstraint(name="task_priority", condition=Q(priority__range=(0, 9))),
            models.CheckConstraint(
                name="task_rankings_wanted", condition=Q(rankings_wanted__range=(1, 9))
            ),
            models.CheckConstraint(
                name="task_withdrawn_is_inactive",
                condition=Q(withdrawn_at=None) | Q(inactive=True),
            ),
        ]
        indexes = [
            models.Index("project", "id", name="task_held", condition=Q(held=True)),
            models.Index("project", "id", name="task_inactive", condition=Q(inactive=True)),
            models.Index(
                "file_import", name="task_imported", condition=Q(file_import__isnull=False)
            ),
        ]

    def __str__(self) -> str:
        return f"task {self.pk}"

    @staticmethod
    def identity_of(kind: str, response_ids: Iterable[int]) -> str:
        """Return a digest of the kind and the responses. The order of the responses is ignored."""
        return digest([str(kind), sorted(response_ids)])


class TaskResponse(models.Model):
    task = models.ForeignKey(Task, on_delete=models.CASCADE, related_name="places", db_index=False)
    response = models.ForeignKey(Response, on_delete=models.PROTECT, related_name="places")
    position = models.PositiveSmallIntegerField()
    withdrawn = models.BooleanField(
        default=False,
        db_default=False,
        editable=False,
        help_text="Whether the response is withdrawn, copied here so that a claim needs no join.",
    )

    class Meta:
        ordering = ["task", "position"]
        constraints = [
            models.UniqueConstraint("task", "position", name="task_position_once"),
            models.UniqueConstraint("task", "response", name="task_response_once"),
            models.CheckConstraint(name="task_position_below_nine", condition=Q(position__lt=9)),
        ]

    def __str__(self) -> str:
        return f"{self.task_id}/{self.position}"
