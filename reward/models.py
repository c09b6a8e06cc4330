import secrets
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import Q

from labeling.models import Project
from reward.charts import percent
from runs.models import Run


def new_key() -> str:
    return secrets.token_hex(32)


class PseudonymKey(models.Model):
    """What turns a project's reviewers into the pseudonyms of its snapshots. It never changes."""

    project = models.OneToOneField(Project, on_delete=models.CASCADE, related_name="+")
    key = models.CharField(max_length=64, default=new_key, editable=False)

    def __str__(self) -> str:
        return f"pseudonyms of {self.project}"


class Snapshot(models.Model):
    """Frozen preference data. Same filter and same labels give the same `content_hash`."""

    project = models.ForeignKey(Project, on_delete=models.PROTECT, related_name="snapshots")
    filter = models.JSONField(default=dict, help_text="What was asked for; see SnapshotFilter.")
    content_hash = models.CharField(max_length=64)
    path = models.CharField(
        max_length=500, help_text="The Parquet file; inside the folder of snapshots if relative."
    )
    counts = models.JSONField(
        default=dict, help_text="What is in it, and what was left out and why."
    )
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.PROTECT)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint("project", "content_hash", "filter", name="snapshot_once"),
            models.CheckConstraint(name="snapshot_hashed", condition=~Q(content_hash="")),
        ]

    def __str__(self) -> str:
        return f"#{self.pk} {self.content_hash[:8]}"

    @property
    def file(self) -> Path:
        return Path(settings.SNAPSHOTS_DIR) / self.path

    @property
    def left_out(self) -> int:
        return sum(self.counts.get("left_out", {}).values())

    @property
    def test_percent(self) -> str:
        return f"{100 * self.filter.get('test_fraction', 0):g}%"

    @property
    def simulated(self) -> int:
        """How many of its rankings were made by programs."""
        return self.counts.get("simulated", 0)


class RewardModel(models.Model):
    class State(models.TextChoices):
        CANDIDATE = "candidate", "Candidate"
        PROMOTED = "promoted", "Promoted"
        ARCHIVED = "archived", "Archived"

    name = models.CharField(max_length=120)
    project = models.ForeignKey(Project, on_delete=models.PROTECT, related_name="reward_models")
    base = models.CharField(max_length=300, help_text="repo, repo@revision or a folder.")
    path = models.CharField(max_length=500, help_text="Folder with the adapter and the score head.")
    run = models.OneToOneField(Run, on_delete=models.PROTECT, related_name="reward_model")
    snapshot = models.ForeignKey(Snapshot, on_delete=models.PROTECT, related_name="reward_models")
    report = models.JSONField(default=dict)
    state = models.CharField(max_length=16, choices=State, default=State.CANDIDATE)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(
                "project", condition=Q(state="promoted"), name="reward_model_one_promoted"
            ),
            models.CheckConstraint(
                name="reward_model_state_known",
                condition=Q(state__in=["candidate", "promoted", "archived"]),
            ),
        ]

    def __str__(self) -> str:
        return self.name

    def figure(self, name: str) -> dict[str, Any]:
        return self.report.get(name) or {}

    @property
    def accuracy_text(self) -> str:
        value = self.figure("accuracy").get("value")
        return "–" if value is None else percent(value)

    @property
    def accuracy_interval(self) -> str:
        interval = self.figure("accuracy").get("interval")
        return " to ".join(map(percent, interval)) if interval else ""

    @property
    def agreement_text(self) -> str:
        value = self.figure("reviewer_agreement").get("value")
        return "–" if value is None else percent(value)
