import uuid
from collections.abc import Collection
from typing import Any

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from accounts.models import User
from accounts.parameters import number

MAX_TAG, MAX_TAGS = 40, 20
"""The maximum length of a tag in characters, and the maximum number of tags of a run."""


class State(models.TextChoices):
    QUEUED = "queued", "Queued"
    RUNNING = "running", "Running"
    SUCCEEDED = "succeeded", "Succeeded"
    FAILED = "failed", "Failed"
    CANCELLED = "cancelled", "Cancelled"


ENDED = (State.SUCCEEDED, State.FAILED, State.CANCELLED)


class Priority(models.IntegerChoices):
    LOW = -1, "Low"
    NORMAL = 0, "Normal"
    HIGH = 1, "High"


class RunQuerySet(models.QuerySet["Run"]):
    def in_queue(self) -> "RunQuerySet":
        """Return the queued runs in the order in which workers claim them."""
        return self.filter(state=State.QUEUED).order_by("-priority", "id")

    def visible_to(self, user: User) -> "RunQuerySet":
        """Return the runs that the user may see, which are those of the projects that they lead.

        Runs without a project, such as those of a deleted project, are visible only to leads and
        trainers of all projects.
        """
        if user.is_everywhere:
            return self
        return self.filter(project__in=projects_led_by(user))

    def trained_by(self, user: User) -> "RunQuerySet":
        """Return the runs that the user may change, which are those of projects in which they train."""
        if user.is_everywhere:
            return self if user.can_train else self.none()
        return self.filter(project__in=projects_trained_by(user))

    def in_use(self) -> "RunQuerySet":
        """Return the runs that are not archived."""
        return self.filter(archived_at=None)

    def matching(self, text: str, *, kinds: Collection[str]) -> "RunQuerySet":
        """Return the runs of these kinds, and those whose name, number, user or tag matches the text.

        A run without a name is shown under the title of its kind. Callers therefore pass the result of
        `runs.kinds.names_with_title(text)`, which this module cannot import.
        """
        matching = Q(title__icontains=text) | Q(created_by__username__icontains=text)
        matching |= Q(kind__in=kinds) | Q(tags__contains=[text])
        if (pk := number(text.removeprefix("#"))) is not None:
            matching |= Q(pk=pk)
        return self.filter(matching)


def projects_led_by(user: User) -> Any:
    """Return the projects whose runs the user may see.

    The project model decides this. The package must not import it, and gets it from the foreign key.
    """
    return _projects().led_by(user)


def projects_trained_by(user: User) -> Any:
    """Return the projects in which the user may start and change runs."""
    return _projects().trained_by(user)


def _projects() -> Any:
    project: Any = Run._meta.get_field("project").related_model
    return project.objects


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
    priority = models.SmallIntegerField(
        choices=Priority,
        default=Priority.NORMAL,
        help_text="Workers claim queued runs with a higher priority first.",
    )
    attempt = models.PositiveSmallIntegerField(default=0)
    lease_owner = models.CharField(max_length=200, blank=True)
    gpus = models.JSONField(
        default=list, help_text="The GPUs of the attempt, as in CUDA_VISIBLE_DEVICES."
    )
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
    tags = ArrayField(models.CharField(max_length=MAX_TAG), default=list, blank=True)
    notes = models.TextField(blank=True, help_text="Notes of people about the run.")
    archived_at = models.DateTimeField(
        null=True, blank=True, help_text="When the run was archived. Lists leave archived runs out."
    )
    files_removed_at = models.DateTimeField(
        null=True, blank=True, help_text="When a clean-up removed the files that the run published."
    )
    disk = models.JSONField(
        null=True, help_text="Bytes of the files of the run by category, as last measured."
    )
    disk_measured_at = models.DateTimeField(null=True, blank=True)
    forecast = models.JSONField(
        null=True,
        blank=True,
        help_text="The forecast of memory, time and cost that was known when the run was queued.",
    )

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
                name="run_priority_known", condition=Q(priority__in=Priority.values)
            ),
            models.CheckConstraint(
                name="run_step_within_total",
                condition=Q(total_steps=0) | Q(step__lte=F("total_steps")),
            ),
            models.CheckConstraint(
                name="run_archived_has_ended", condition=Q(archived_at=None) | Q(state__in=ENDED)
            ),
        ]
        indexes = [
            models.Index("lease_expires_at", name="run_leases", condition=Q(state=State.RUNNING)),
            models.Index(
                F("priority").desc(), "id", name="run_queue", condition=Q(state=State.QUEUED)
            ),
            models.Index("finished_at", name="run_by_end", condition=Q(finished_at__isnull=False)),
            models.Index("kind", F("id").desc(), name="run_by_kind"),
            models.Index("project", F("id").desc(), name="run_by_project"),
        ]

    def __str__(self) -> str:
        return f"#{self.pk} {self.kind}"

    @property
    def host(self) -> str:
        """Return the machine of a running run, from the name of its worker (HOST:PROCESS:THREAD)."""
        return self.lease_owner.rsplit(":", 2)[0]

    def has_gpu(self, gpu: dict[str, Any]) -> bool:
        """Return whether the run has this GPU, given as in `Machine.gpus`, of its own machine."""
        return gpu.get("uuid") in self.gpus or str(gpu.get("index")) in self.gpus

    def gpu_reports(self) -> list[dict[str, Any]]:
        """Return what the machine of a running run last reported about the run's GPUs.

        Costs one query, or none for a run without GPUs.
        """
        if not self.gpus or self.state != State.RUNNING:
            return []
        machine = Machine.objects.filter(host=self.host).first()
        return [gpu for gpu in machine.gpus if self.has_gpu(gpu)] if machine else []


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


class Forecast(models.Model):
    """The measurement for the forecast of a run, made before the run is queued.

    `key` identifies everything that the measurement depends on (runs.preflight). Runs that differ in
    other settings, such as the learning rate or the number of epochs, share a row. `state` changes only
    through runs.preflight, by conditional updates.
    """

    class State(models.TextChoices):
        QUEUED = "queued", "Queued"
        MEASURING = "measuring", "Measuring"
        DONE = "done", "Done"
        TOO_LARGE = "too_large", "Out of memory"
        FAILED = "failed", "Failed"

    key = models.CharField(max_length=64, unique=True)
    kind = models.CharField(max_length=40)
    config = models.JSONField(default=dict)
    inputs = models.JSONField(default=dict)
    state = models.CharField(max_length=16, choices=State, default=State.QUEUED)
    measurement = models.JSONField(null=True, help_text="See recipes/preflight/forecast.py.")
    error = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    message_sent_at = models.DateTimeField(null=True, blank=True)
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.CheckConstraint(
                name="forecast_done_is_measured",
                condition=~Q(state="done") | Q(measurement__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        return f"forecast {self.pk} of {self.kind}"


class Machine(models.Model):
    """A machine with a worker, as the worker last reported it.

    `gpus` has a dict for each GPU, with the fields of `recipes.machine.gpus.Gpu`.
    """

    host = models.CharField(max_length=200, unique=True)
    slots = models.PositiveSmallIntegerField(help_text="Runs at the same time.")
    gpus = models.JSONField(default=list)
    problem = models.CharField(
        max_length=500, blank=True, help_text="Why its worker starts no runs, such as a full disk."
    )
    reported_at = models.DateTimeField()

    class Meta:
        ordering = ["host"]

    def __str__(self) -> str:
        return self.host


class Notice(models.Model):
    """A notice that a run has ended, with the reason of the last failure to send it.

    `runs.notices.sending` owns its state.
    """

    class Channel(models.TextChoices):
        EMAIL = "email", "E-mail"
        WEBHOOK = "webhook", "Webhook"

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="notices")
    channel = models.CharField(max_length=16, choices=Channel)
    ended_at = models.DateTimeField(help_text="When the run ended. A run can end again.")
    attempts = models.PositiveIntegerField(default=0)
    leased_until = models.DateTimeField(null=True, help_text="Set while a worker sends it.")
    next_attempt_at = models.DateTimeField(null=True, help_text="Null if no attempt has failed.")
    sent_at = models.DateTimeField(null=True)
    error = models.CharField(max_length=500, blank=True)

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint("run", "channel", "ended_at", name="notice_once"),
        ]
        indexes = [
            models.Index("id", name="notice_unsent", condition=Q(sent_at=None)),
        ]

    def __str__(self) -> str:
        return f"{self.get_channel_display()} about run {self.run_id}"
