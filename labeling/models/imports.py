import uuid
from pathlib import Path

from django.conf import settings
from django.db import models
from django.db.models import Q

from buckets import files
from labeling.models.projects import Project


class FileImport(models.Model):
    """A file that a lead uploads to a project. A worker checks it, the lead confirms, a worker imports it.

    A worker claims the row before it works on it. `token` is incremented by each claim, and every later
    write compares it, so that a worker that has lost its claim changes nothing. `report` describes the
    content of the file, or the rows that were added; see labeling.importing.report.
    """

    class State(models.TextChoices):
        CHECKING = "checking", "Checking"
        UNCLEAR = "unclear", "Waiting for the meaning of columns"
        READY = "ready", "Ready to import"
        IMPORTING = "importing", "Importing"
        IMPORTED = "imported", "Imported"
        UNDOING = "undoing", "Undoing"
        UNDONE = "undone", "Undone"
        FAILED = "failed", "Failed"
        CANCELLED = "cancelled", "Cancelled"

    ACTIVE = (State.CHECKING, State.IMPORTING, State.UNDOING)
    OPEN = (State.UNCLEAR, State.READY, State.FAILED)
    """States of a checked file in which a lead can still change the meaning of its columns."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="file_imports")
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        on_delete=models.PROTECT,
        related_name="+",
        help_text="The lead who uploaded the file, or null if the command imported it.",
    )
    key = models.UUIDField(unique=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=200, help_text="The name of the uploaded file.")
    size = models.BigIntegerField(help_text="Size in bytes.")
    format = models.CharField(
        max_length=40,
        blank=True,
        help_text="The name of the format, or empty if it is to be detected.",
    )
    encoding = models.CharField(max_length=20, default="utf-8")
    mapping = models.JSONField(
        default=dict, help_text="The columns for each meaning, if a lead has set the meanings."
    )
    any_criteria = models.BooleanField(default=False)
    state = models.CharField(max_length=16, choices=State, default=State.CHECKING)
    token = models.PositiveIntegerField(default=0)
    attempt = models.PositiveSmallIntegerField(
        default=0, help_text="The number of times that a worker has started the current step."
    )
    heartbeat_at = models.DateTimeField(null=True)
    cancel_requested = models.BooleanField(default=False)
    prompts_read = models.PositiveBigIntegerField(default=0)
    report = models.JSONField(default=dict)
    problem = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.CheckConstraint(
                name="file_import_state",
                condition=Q(
                    state__in=[
                        "checking",
                        "unclear",
                        "ready",
                        "importing",
                        "imported",
                        "undoing",
                        "undone",
                        "failed",
                        "cancelled",
                    ]
                ),
            ),
            models.CheckConstraint(
                name="file_import_problem",
                condition=~Q(state="failed") | ~Q(problem=""),
            ),
        ]
        indexes = [
            models.Index(
                "heartbeat_at",
                name="file_import_active",
                condition=Q(state__in=["checking", "importing", "undoing"]),
            )
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def active(self) -> bool:
        return self.state in self.ACTIVE

    @property
    def open(self) -> bool:
        return self.state in self.OPEN and self.path.is_file()

    @property
    def path(self) -> Path:
        return Path(settings.UPLOADS_DIR) / f"{self.key.hex}.data"

    def delete_file(self) -> None:
        files.discard(self.path)
        self.path.unlink(missing_ok=True)


class ColumnMapping(models.Model):
    """The meanings of columns, as a lead last set them for a file with the same column names.

    `shape` is a digest of the column names. The next file with the same shape is read in the same way.
    """

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="column_mappings")
    shape = models.CharField(max_length=64)
    columns = models.JSONField()

    class Meta:
        constraints = [models.UniqueConstraint("project", "shape", name="column_mapping_once")]

    def __str__(self) -> str:
        return f"columns of {self.project}"
