import uuid
from collections.abc import Collection
from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from accounts.models import User
from accounts.parameters import number


class State(models.TextChoices):
    QUEUED = "queued", "Queued"
    RUNNING = "running", "Running"
    SUCCEEDED = "succeeded", "Succeeded"
    FAILED = "failed", "Failed"
    CANCELLED = "cancelled", "Cancelled"


ENDED = (State.SUCCEEDED, State.FAILED, State.CANCELLED)


class RunQuerySet(models.QuerySet["Run"]):
    def visible_to(self, user: User) -> "RunQuerySet":
        """Return the runs that the user may see.

        Trainers see all runs, and leads the runs of their projects. Runs without a project, such as
        those of a deleted project, are visible only to trainers.
        """
        if user.can_train:
            return self
        return self.filter(project__in=projects_led_by(user))

    def matching(self, text: str, *, kinds: Collection[str]) -> "RunQuerySet":
        """Return the runs of these kinds, and the runs whose name, number or user matches the text.

        A run without a name is shown under the title of its kind. Callers therefore pass the result of
        `runs.kinds.names_with_title(text)`, which this module cannot import.
        """
        matching = Q(title__icontains=text) | Q(created_by__username__icontains=text)
        matching |= Q(kind__in=kinds)
        if (pk := number(text.removeprefix("#"))) is not None:
            matching |= Q(pk=pk)
        return self.filter(matching)


def projects_led_by(user: User) -> Any:
    """Return the projects whose runs the user may see.

    The project model decides this. The package must not import it, and gets it from the foreign key.
    """
    project: Any = Run._meta.get_field("project").related_model
    return project.objects.led_by(user)


class Run(models.Model):
    """One background run. The row is the source of truth; a message only carries its id.

    `state` changes only through the functions in `runs.lifecycle`, by conditional updates. The worker
    that executes the run knows the current `fencing_token`; writes with an older token change nothing.
    """

    kind = models.CharField(max_length=40)
    title = models.CharField(max_length=200, blank=True)
    project = models.ForeignKey(
        "labeling.Project",
        null=True,
        on_delete=models.SET_NULL,
        related_name="runs",
        db_index=False,
        help_text="The project whose data the run reads. The run's kind derives it from the inputs.",
    )
    config = models.JSONField(
        default=dict, help_text="The frozen settings, which are also written to run.json."
    )
    inputs = models.JSONField(
        default=dict, help_text="The ids and hashes of the data and models that the run reads."
    )
    request_id = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.PROTECT, related_name="runs"
    )
    state = models.CharField(max_length=16, choices=State, default=State.QUEUED)
    attempt = models.PositiveSmallIntegerField(default=0)
    lease_owner = models.CharField(max_length=200, blank=True)
    fencing_token = models.PositiveBigIntegerField(default=0)
    lease_expires_at = models.DateTimeField(null=True, blank=True)
    heartbeat_at = models.DateTimeField(null=True, blank=True)
    message_sent_at = models.DateTimeField(
        null=True,
        blank=True,
        help_text="When the last message about this run was sent to workers, while it is queued.",
    )
    cancel_requested_at = models.DateTimeField(null=True, blank=True)
    cancelled_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    step = models.PositiveIntegerField(default=0)
    total_steps = models.PositiveIntegerField(default=0)
    error = models.TextField(blank=True)
    result = models.JSONField(default=dict)
    created_at = models.DateTimeField(auto_now_add=True)
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    objects = RunQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.CheckConstraint(
                name="run_state_known", condition=Q(state__in=[s.value for s in State])
            ),
            models.CheckConstraint(
                name="run_leased_while_running",
                condition=Q(state=State.RUNNING, lease_expires_at__isnull=False)
                | (~Q(state=State.RUNNING) & Q(lease_expires_at__isnull=True)),
            ),
            models.CheckConstraint(
                name="run_ended_has_time",
                condition=Q(state__in=ENDED, finished_at__isnull=False)
                | (~Q(state__in=ENDED) & Q(finished_at__isnull=True)),
            ),
            models.CheckConstraint(
                name="run_step_within_total",
                condition=Q(total_steps=0) | Q(step__lte=F("total_steps")),
            ),
        ]
        indexes = [
            models.Index("lease_expires_at", name="run_leases", condition=Q(state=State.RUNNING)),
            models.Index("id", name="run_queued", condition=Q(state=State.QUEUED)),
            models.Index("kind", F("id").desc(), name="run_by_kind"),
            models.Index("project", F("id").desc(), name="run_by_project"),
        ]

    def __str__(self) -> str:
        return f"#{self.pk} {self.kind}"


class RunEvent(models.Model):
    """A line in a run's events.jsonl. `number` is the line number."""

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="events")
    number = models.PositiveIntegerField()
    at = models.DateTimeField(
        help_text="The time of the event, by the clock of the machine that trains."
    )
    recorded_at = models.DateTimeField(
        db_default=Now(),
        help_text="The time at which the row was written, by the clock of the database.",
    )
    event = models.CharField(max_length=20)
    data = models.JSONField(default=dict)

    class Meta:
        ordering = ["run", "number"]
        constraints = [models.UniqueConstraint("run", "number", name="run_event_once")]

    def __str__(self) -> str:
        return f"{self.run} {self.event} {self.number}"


class Artifact(models.Model):
    """A published output file or folder of a run."""

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="artifacts")
    name = models.CharField(max_length=120)
    path = models.CharField(max_length=500)
    bytes = models.PositiveBigIntegerField()
    sha256 = models.CharField(max_length=64)

    class Meta:
        ordering = ["name"]
        constraints = [models.UniqueConstraint("run", "name", name="artifact_name_once")]

    def __str__(self) -> str:
        return f"{self.name} of {self.run}"
