from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Q

from labeling.models.imports import FileImport
from labeling.models.projects import Project, Withdrawable, digest


class Prompt(Withdrawable):
    """A chat for a model to answer.

    `messages` is [{"role", "content"}, …]. The last message is not the assistant's.
    """

    project = models.ForeignKey(
        Project, on_delete=models.CASCADE, related_name="prompts", db_index=False
    )
    messages = models.JSONField()
    content_hash = models.CharField(max_length=64, editable=False)
    external_id = models.CharField(
        max_length=200, blank=True, help_text="The prompt's id in the imported file."
    )
    meta = models.JSONField(default=dict, blank=True)
    file_import = models.ForeignKey(
        FileImport,
        null=True,
        editable=False,
        on_delete=models.SET_NULL,
        related_name="prompts",
        db_index=False,
        help_text="The import that added this row.",
    )
    erased_at = models.DateTimeField(null=True, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint("project", "content_hash", name="prompt_once"),
            models.CheckConstraint(
                name="prompt_erased_is_withdrawn",
                condition=Q(erased_at=None) | Q(withdrawn_at__isnull=False),
            ),
        ]
        indexes = [
            models.Index(
                "project", "id", name="prompt_withdrawn", condition=Q(withdrawn_at__isnull=False)
            ),
            models.Index(
                "file_import", name="prompt_imported", condition=Q(file_import__isnull=False)
            ),
        ]

    def __str__(self) -> str:
        return _beginning(self.messages[-1]["content"]) if self.messages else "(empty)"

    def save(self, *args: Any, **kwargs: Any) -> None:
        self.content_hash = digest(self.messages)
        super().save(*args, **kwargs)


class Response(Withdrawable):
    """A response to a prompt. Its text comes from a model or an unknown person, so it is never trusted."""

    prompt = models.ForeignKey(
        Prompt, on_delete=models.CASCADE, related_name="responses", db_index=False
    )
    text = models.TextField()
    model_name = models.CharField(
        max_length=300, help_text="The model or person that wrote the response."
    )
    sampling = models.JSONField(
        default=dict, blank=True, help_text="Sampling parameters such as the temperature."
    )
    seed = models.BigIntegerField(null=True, blank=True)
    external_id = models.CharField(max_length=200, blank=True)
    erased_at = models.DateTimeField(null=True, editable=False)
    file_import = models.ForeignKey(
        FileImport,
        null=True,
        editable=False,
        on_delete=models.SET_NULL,
        related_name="responses",
        db_index=False,
        help_text="The import that added this row.",
    )
    identity = models.CharField(max_length=64, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint("prompt", "identity", name="response_once"),
            models.CheckConstraint(
                name="response_erased_is_withdrawn",
                condition=Q(erased_at=None) | Q(withdrawn_at__isnull=False),
            ),
        ]
        indexes = [
            models.Index(
                "prompt", "id", name="response_withdrawn", condition=Q(withdrawn_at__isnull=False)
            ),
            models.Index(
                "file_import", name="response_imported", condition=Q(file_import__isnull=False)
            ),
        ]

    def __str__(self) -> str:
        return _beginning(self.text)

    def save(self, *args: Any, **kwargs: Any) -> None:
        self.identity = self.identity_of(self.model_name, self.text, self.seed, self.external_id)
        super().save(*args, **kwargs)

    @staticmethod
    def identity_of(model_name: str, text: str, seed: int | None, external_id: str) -> str:
        return digest([model_name, text, seed, external_id])


class Finding(models.Model):
    """A problem in a response that a lead must check before reviewers see the response."""

    class Kind(models.TextChoices):
        IDENTITY = "identity", "Reveals its model"
        TRUNCATED = "truncated", "Looks cut off"

    response = models.ForeignKey(
        Response, on_delete=models.CASCADE, related_name="findings", db_index=False
    )
    kind = models.CharField(max_length=16, choices=Kind)
    excerpt = models.CharField(max_length=300, blank=True)
    dismissed_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.PROTECT, related_name="+"
    )
    dismissed_at = models.DateTimeField(null=True)
    dropped = models.BooleanField(
        default=False,
        db_default=False,
        help_text="Whether a lead dropped the response. If not, the finding was dismissed as a false alarm.",
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint("response", "kind", name="finding_once"),
            models.CheckConstraint(
                name="finding_dismissed_at",
                condition=Q(dismissed_at=None, dismissed_by=None) | Q(dismissed_at__isnull=False),
            ),
            models.CheckConstraint(
                name="finding_dropped",
                condition=Q(dropped=False) | Q(dismissed_at__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.get_kind_display()}: {self.excerpt[:60]}"


def _beginning(text: str, limit: int = 80) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def validate_messages(messages: Any) -> None:
    """Raise ValidationError unless `messages` is a non-empty list of {"role": …, "content": text}."""
    if not isinstance(messages, list) or not messages:
        raise ValidationError("A prompt must be a non-empty list of messages.")
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, dict) or set(message) != {"role", "content"}:
            raise ValidationError(f"Message {number} must have exactly a role and a content.")
        if message["role"] not in {"system", "user", "assistant"}:
            raise ValidationError(f"Message {number} has the role {message['role']!r}.")
        if not isinstance(message["content"], str):
            raise ValidationError(f"The content of message {number} must be text.")
