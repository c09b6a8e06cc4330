import json
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import Q

from formatting.numbers import percent, percent_range
from labeling.models import Project, Response, Task
from recipes.rundir import MOVED_BASE, write_atomically
from reward.evaluation.figures import no_better_than_length
from runs import storage
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
    erased_at = models.DateTimeField(
        null=True,
        editable=False,
        help_text="When content was last erased from its file, which changed its hash.",
    )
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.PROTECT)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["project", "content_hash", "filter"],
                name="snapshot_once",
                condition=Q(erased_at=None),
            ),
            models.CheckConstraint(name="snapshot_hashed", condition=~Q(content_hash="")),
        ]

    def __str__(self) -> str:
        return f"#{self.pk} {self.content_hash[:8]}"

    @property
    def file(self) -> Path:
        return Path(settings.SNAPSHOTS_DIR) / self.path

    @property
    def rankings(self) -> int:
        """How many orders it holds: the rankings used, and the outcomes of disputes.

        Pages, forms and training reports all mean this number by "rankings".
        """
        return self.counts.get("used", 0) + self.counts.get("outcomes", 0)

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

    @property
    def folder(self) -> Path:
        return Path(storage.resolve(self.path))

    @property
    def base_folder(self) -> str:
        """The folder of its base, or the name of the base on Hugging Face."""
        return storage.resolve(self.base)

    def folder_to_load(self) -> Path:
        """Return the folder, for a process that will load the model from it.

        The adapter names its base by the path it had in training. Where that has moved, its place
        now is noted next to the folder, which itself stays what was published.
        """
        adapter = self.folder / "adapter_config.json"
        with suppress(OSError, ValueError, AttributeError):
            named = json.loads(adapter.read_text()).get("base_model_name_or_path") or ""
            if named.startswith("/") and named != self.base_folder and not Path(named).is_dir():
                write_atomically(self.folder.parent / MOVED_BASE, self.base_folder)
        return self.folder

    def figure(self, name: str) -> dict[str, Any]:
        return self.report.get(name) or {}

    def doubts(self) -> list[str]:
        """Return the reasons in its own report not to rely on it, each as a sentence. No query."""
        accuracy = self.figure("accuracy")
        low, high = accuracy.get("interval") or (0.0, 1.0)
        if accuracy.get("value") is None:
            reason = accuracy.get("reason") or "the report has no accuracy."
            return [f"Its accuracy on held-out prompts is unknown: {reason}"]
        if no_better_than_length(self.report):
            return ["It is no better than always preferring the longer response."]
        if low <= 0.5:
            return [
                f"It is not shown to be better than chance: the interval of its accuracy, "
                f"{percent(low)} to {percent(high)}, includes 50%."
            ]
        return []

    @property
    def accuracy_text(self) -> str:
        value = self.figure("accuracy").get("value")
        return percent(value)

    @property
    def accuracy_interval(self) -> str:
        interval = self.figure("accuracy").get("interval")
        return percent_range(interval)

    @property
    def agreement_text(self) -> str:
        value = self.figure("reviewer_agreement").get("value")
        return percent(value)


class ResponseScore(models.Model):
    """What a reward model says of a response. Without a score, it could not read it whole."""

    reward_model = models.ForeignKey(
        RewardModel, on_delete=models.CASCADE, related_name="scores", db_index=False
    )
    response = models.ForeignKey(Response, on_delete=models.CASCADE, related_name="scores")
    score = models.FloatField(null=True, help_text="Comparable within a prompt only.")
    uncertainty = models.FloatField(
        null=True, help_text="How far the heads lie apart (standard deviation); none for one head."
    )
    features = models.BinaryField(
        null=True, help_text="The last layer at the response's end: little-endian float32."
    )

    class Meta:
        constraints = [
            models.UniqueConstraint("reward_model", "response", name="response_score_once"),
            models.CheckConstraint(
                name="response_score_or_nothing",
                condition=Q(score__isnull=False) | Q(uncertainty=None, features=None),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.response_id}: {self.score}"


class RandomStream(models.Model):
    """The prompts of a project whose tasks no model ever puts in order, so that what is measured on
    them is unbiased: a share of all, by their text alone. It never changes.
    """

    project = models.OneToOneField(Project, on_delete=models.CASCADE, related_name="random_stream")
    share = models.FloatField()
    seed = models.PositiveIntegerField()
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                name="random_stream_share", condition=Q(share__gt=0, share__lte=0.9)
            )
        ]

    def __str__(self) -> str:
        return f"random stream of {self.project}"

    @property
    def percent(self) -> str:
        return f"{100 * self.share:g}%"


class QueueOrder(models.Model):
    """One time that a project's waiting tasks were put in the order of what ranking them would teach."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="queue_orders")
    reward_model = models.ForeignKey(
        RewardModel, on_delete=models.PROTECT, related_name="queue_orders"
    )
    counts = models.JSONField(default=dict)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.PROTECT, related_name="+"
    )
    created_at = models.DateTimeField(auto_now_add=True)
    undone_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(
                "project", condition=Q(undone_at=None), name="queue_order_one_in_force"
            )
        ]

    def __str__(self) -> str:
        return f"queue order {self.pk} of {self.project}"


class OrderedTask(models.Model):
    """Where a task stood before, for the way back, and why it stands where it does."""

    order = models.ForeignKey(
        QueueOrder, on_delete=models.CASCADE, related_name="tasks", db_index=False
    )
    task = models.ForeignKey(Task, on_delete=models.CASCADE, related_name="+")
    was = models.BigIntegerField(help_text="The position of its first free slot before.")
    place = models.PositiveIntegerField(help_text="1 is given out first.")
    gain = models.FloatField(help_text="Expected information, in nats.")

    class Meta:
        constraints = [models.UniqueConstraint("order", "task", name="ordered_task_once")]
        indexes = [models.Index("order", "place", name="ordered_task_place")]

    def __str__(self) -> str:
        return f"{self.place}: {self.task_id}"
