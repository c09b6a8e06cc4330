import json
import secrets
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from django.conf import settings
from django.db import models
from django.db.models import Q

from buckets import files
from formatting.numbers import percent, percent_range
from labeling.models import Project, Prompt, Response, Task
from recipes.rundir import MOVED_BASE, write_atomically
from reward.evaluation.figures import no_better_than_length
from reward.evaluation.schema import RewardReport
from reward.promotion import Promotable, promotion_constraints
from runs import storage
from runs.models import Run


def new_key() -> str:
    return secrets.token_hex(32)


class PseudonymKey(models.Model):
    """The key that makes the pseudonyms of the reviewers of a project.

    It changes only when a pseudonym is burned; see reward.preferences.pseudonyms.
    """

    project = models.OneToOneField(Project, on_delete=models.CASCADE, related_name="+")
    key = models.CharField(max_length=64, default=new_key, editable=False)

    def __str__(self) -> str:
        return f"pseudonyms of {self.project}"


class Pseudonym(models.Model):
    """A pseudonym that was made with an earlier key of its project."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="+")
    reviewer = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+"
    )
    name = models.CharField(max_length=20)

    class Meta:
        constraints = [
            models.UniqueConstraint("project", "reviewer", name="pseudonym_once"),
            models.UniqueConstraint("project", "name", name="pseudonym_of_one_reviewer"),
        ]

    def __str__(self) -> str:
        return self.name


class BurnedPseudonym(models.Model):
    """A pseudonym that is never given out again. Nothing links it to the account that had it.

    A trigger refuses to change or delete it.
    """

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="burned_pseudonyms")
    name = models.CharField(max_length=20)

    class Meta:
        ordering = ["name"]
        constraints = [models.UniqueConstraint("project", "name", name="burned_pseudonym_once")]

    def __str__(self) -> str:
        return self.name


class Snapshot(models.Model):
    """Frozen preference data.

    If the same filter is applied to the same rankings again, the `content_hash` is the same.
    """

    project = models.ForeignKey(Project, on_delete=models.PROTECT, related_name="snapshots")
    filter = models.JSONField(default=dict, help_text="See SnapshotFilter.")
    content_hash = models.CharField(max_length=64)
    path = models.CharField(
        max_length=500, help_text="The Parquet file; inside the folder of snapshots if relative."
    )
    counts = models.JSONField(
        default=dict, help_text="Counts of the content, and of rankings left out by reason."
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
    def location(self) -> Path:
        """Return the path of its file on this machine, where it may not be yet."""
        return Path(settings.SNAPSHOTS_DIR) / self.path

    @property
    def file(self) -> Path:
        """Return the path of its file, after copying it from an object store if necessary."""
        files.fetch_quietly(self.location)
        return self.location

    @property
    def rankings(self) -> int:
        """Return the number of rankings used, including outcomes of disputes.

        Pages, forms and training reports use "rankings" for this number.
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
        """Return the number of rankings made by programs."""
        return self.counts.get("simulated", 0)


class RewardModel(Promotable):
    name = models.CharField(max_length=120)
    project = models.ForeignKey(Project, on_delete=models.PROTECT, related_name="reward_models")
    base = models.CharField(max_length=300, help_text="repo, repo@revision or a folder.")
    path = models.CharField(max_length=500, help_text="Folder with the adapter and the score head.")
    run = models.OneToOneField(Run, on_delete=models.PROTECT, related_name="reward_model")
    snapshot = models.ForeignKey(Snapshot, on_delete=models.PROTECT, related_name="reward_models")
    report = models.JSONField(default=dict)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-id"]
        constraints = promotion_constraints("reward_model")

    def __str__(self) -> str:
        return self.name

    @property
    def folder(self) -> Path:
        return Path(storage.resolve(self.path))

    @property
    def base_folder(self) -> str:
        """Return the folder of the base, or its name on Hugging Face."""
        return storage.resolve(self.base)

    def folder_to_load(self) -> Path:
        """Return the folder of the model, from which a process can load it.

        The model and its base are copied from an object store if necessary.

        The adapter refers to its base by the path at the time of training. If the base has moved
        since, its new path is written to a note next to the folder. The folder itself never changes.
        """
        files.fetch_quietly(self.folder)
        files.fetch_quietly(self.base_folder)
        adapter = self.folder / "adapter_config.json"
        with suppress(OSError, ValueError, AttributeError):
            base = json.loads(adapter.read_text()).get("base_model_name_or_path") or ""
            if base.startswith("/") and base != self.base_folder and not Path(base).is_dir():
                write_atomically(self.folder.parent / MOVED_BASE, self.base_folder)
        return self.folder

    def withdrawals(self) -> list["Withdrawal"]:
        """Return the withdrawals of data that it was trained on, in one query."""
        return withdrawals_in([(self.snapshot_id, self.created_at)])

    def doubts_about_data(self) -> list[str]:
        return doubts_about(self.project, self.withdrawals())

    def doubts(self) -> list[str]:
        """Return the reasons not to rely on the model, each as a sentence, from its report."""
        report: RewardReport = self.report
        accuracy = report.get("accuracy")
        if accuracy is None or accuracy["value"] is None:
            reason = (accuracy and accuracy["reason"]) or "the report has no accuracy."
            return [f"Its accuracy on held-out prompts is unknown: {reason}"]
        if no_better_than_length(report):
            return ["It does no better than always preferring the longer response."]
        low, high = accuracy["interval"] or (0.0, 1.0)
        if low <= 0.5:
            return [
                f"It is not shown to be better than chance: the interval of its accuracy, "
                f"{percent(low)} to {percent(high)}, includes 50%."
            ]
        return []

    @property
    def accuracy_text(self) -> str:
        report: RewardReport = self.report
        accuracy = report.get("accuracy")
        return percent(accuracy and accuracy["value"])

    @property
    def accuracy_interval(self) -> str:
        report: RewardReport = self.report
        accuracy = report.get("accuracy")
        return percent_range(accuracy and accuracy["interval"])

    @property
    def agreement_text(self) -> str:
        report: RewardReport = self.report
        agreement = report.get("reviewer_agreement")
        return percent(agreement and agreement["value"])


class ResponseScore(models.Model):
    """A reward model's score of a response. It is null if the response is too long for the model."""

    reward_model = models.ForeignKey(
        RewardModel, on_delete=models.CASCADE, related_name="scores", db_index=False
    )
    response = models.ForeignKey(Response, on_delete=models.CASCADE, related_name="scores")
    score = models.FloatField(null=True, help_text="Comparable within a prompt only.")
    uncertainty = models.FloatField(
        null=True, help_text="Standard deviation over the heads; null for one head."
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
    """The share of a project's prompts whose tasks are never ordered by a model. It never changes.

    The prompts are chosen by their text alone, so measurements on them are not biased.
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
    """An order of the waiting tasks of a project, by expected information."""

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
    """The position of a task in the order, and its earlier position, with which it can be undone."""

    order = models.ForeignKey(
        QueueOrder, on_delete=models.CASCADE, related_name="tasks", db_index=False
    )
    task = models.ForeignKey(Task, on_delete=models.CASCADE, related_name="+")
    was = models.BigIntegerField(
        help_text="The position of its first free slot before the ordering."
    )
    place = models.PositiveIntegerField(help_text="Tasks are given out in this order, from 1.")
    gain = models.FloatField(help_text="Expected information, in nats.")

    class Meta:
        constraints = [models.UniqueConstraint("order", "task", name="ordered_task_once")]
        indexes = [models.Index("order", "place", name="ordered_task_place")]

    def __str__(self) -> str:
        return f"{self.place}: {self.task_id}"


class Withdrawal(models.Model):
    """The removal of the data of a reviewer, a prompt or a response from a project, and what it reached.

    The removal of a reviewer's data does not name the reviewer.
    """

    class Kind(models.TextChoices):
        REVIEWER = "reviewer", "A reviewer's data"
        PROMPT = "prompt", "A prompt"
        RESPONSE = "response", "A response"

    project = models.ForeignKey(Project, on_delete=models.PROTECT, related_name="withdrawals")
    kind = models.CharField(max_length=16, choices=Kind)
    prompt = models.ForeignKey(
        Prompt,
        null=True,
        on_delete=models.PROTECT,
        related_name="+",
        help_text="Of a prompt or response.",
    )
    reason = models.CharField(max_length=300, blank=True)
    reach = models.JSONField(default=dict, help_text="Rows that the data had reached, by kind.")
    by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.PROTECT, related_name="+"
    )
    at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"withdrawal {self.pk} ({self.get_kind_display().lower()})"


class WithdrawnSnapshot(models.Model):
    """A snapshot that contained withdrawn data until the withdrawal."""

    withdrawal = models.ForeignKey(
        Withdrawal, on_delete=models.CASCADE, related_name="snapshots", db_index=False
    )
    snapshot = models.ForeignKey(Snapshot, on_delete=models.CASCADE, related_name="withdrawals")

    class Meta:
        constraints = [
            models.UniqueConstraint("withdrawal", "snapshot", name="withdrawn_snapshot_once")
        ]

    def __str__(self) -> str:
        return f"{self.snapshot} in {self.withdrawal}"


def withdrawals_in(uses: Iterable[tuple[int | None, datetime]]) -> list[Withdrawal]:
    """Return the withdrawals of data that models contain, oldest first, in one query.

    `uses` holds (snapshot, when the model was made). Models that were made after a withdrawal were
    trained on the snapshot without the data.
    """
    used = Q(pk__in=[])
    for snapshot, made_at in uses:
        if snapshot is not None:
            used |= Q(snapshots__snapshot=snapshot, at__gt=made_at)
    return list(Withdrawal.objects.filter(used).distinct().order_by("id"))


def doubts_about(project: Project, withdrawals: Iterable[Withdrawal]) -> list[str]:
    """Return a doubt for each withdrawal, or none if the project allows such models."""
    if project.promote_withdrawn:
        return []
    return [
        f"It was trained on data that was withdrawn later ({withdrawal}, {withdrawal.at:%Y-%m-%d})."
        for withdrawal in withdrawals
    ]
