import base64
import hashlib
import hmac
import secrets
import uuid
from datetime import timedelta

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import F, Q

MOST_ENDPOINTS = 20
"""Maximum number of endpoints of a project."""
KEPT = timedelta(days=30)
"""How long deliveries are kept in the log."""


def new_salt() -> str:
    return secrets.token_hex(32)


class Event(models.TextChoices):
    RANKING_SUBMITTED = "ranking.submitted", "Ranking submitted"
    PROJECT_FINISHED = "project.finished", "Project finished"
    RUN_ENDED = "run.ended", "Run ended"
    MODEL_PROMOTED = "model.promoted", "Model promoted"


class Endpoint(models.Model):
    """An address that gets a request for each event of a project.

    Its secret is derived from `salt` and the server's SECRET_KEY, so that a copy of the database alone
    does not reveal it.
    """

    project = models.ForeignKey(
        "labeling.Project", on_delete=models.CASCADE, related_name="webhooks"
    )
    url = models.CharField(max_length=500)
    events = ArrayField(models.CharField(max_length=40, choices=Event))
    active = models.BooleanField(default=True)
    salt = models.CharField(max_length=64, default=new_salt, editable=False)
    finished = models.BooleanField(
        default=False,
        editable=False,
        help_text="Whether the project was finished when it was last checked.",
    )
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+"
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint("project", "url", name="webhook_url_once"),
            models.CheckConstraint(name="webhook_has_events", condition=Q(events__len__gt=0)),
        ]

    def __str__(self) -> str:
        return self.url

    @property
    def secret(self) -> str:
        """Return the key that signs the requests, as Standard Webhooks writes it: whsec_BASE64."""
        key = settings.SECRET_KEY.encode()
        digest = hmac.new(key, b"webhooks:" + self.salt.encode(), hashlib.sha256).digest()
        return "whsec_" + base64.b64encode(digest).decode()


class Delivery(models.Model):
    """An event on its way to an endpoint, with the outcome of the last attempt.

    `webhooks.sending` owns its state. Receivers recognise a repeated delivery by its key.
    """

    endpoint = models.ForeignKey(
        Endpoint, on_delete=models.CASCADE, related_name="deliveries", db_index=False
    )
    key = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    event = models.CharField(max_length=40, choices=Event)
    subject = models.CharField(
        max_length=80, help_text="What the event is about. An endpoint gets an event about it once."
    )
    data = models.JSONField(default=dict)
    attempts = models.PositiveIntegerField(default=0)
    status = models.PositiveSmallIntegerField(
        null=True, help_text="HTTP status of the last answer."
    )
    leased_until = models.DateTimeField(null=True, help_text="Set while a worker sends it.")
    next_attempt_at = models.DateTimeField(null=True, help_text="Null if no attempt has failed.")
    sent_at = models.DateTimeField(null=True)
    given_up_at = models.DateTimeField(null=True, help_text="When the attempts were given up.")
    error = models.CharField(max_length=500, blank=True)
    created_at = models.DateTimeField()

    class Meta:
        ordering = ["-id"]
        verbose_name_plural = "deliveries"
        constraints = [
            models.UniqueConstraint("endpoint", "event", "subject", name="webhook_event_once"),
        ]
        indexes = [
            models.Index("id", name="webhook_unsent", condition=Q(sent_at=None, given_up_at=None)),
            models.Index("endpoint", F("id").desc(), name="webhook_log"),
            models.Index("created_at", name="webhook_by_age"),
        ]

    def __str__(self) -> str:
        return f"{self.event} to {self.endpoint}"

    @property
    def state(self) -> str:
        """Return the state for the log: delivered, failed, or waiting for an attempt."""
        if self.sent_at:
            return "Delivered"
        if self.given_up_at:
            return "Failed"
        return "Retrying" if self.error else "Waiting"
