"""Chats of people with models: conversations, their turns and the answers."""

from operator import attrgetter

from django.conf import settings
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Length
from django.db.models.lookups import LessThanOrEqual
from django.utils.translation import gettext_lazy as _

from database import clock
from finetune.models.language_models import Model
from labeling.models import Project, Task

MAX_SYSTEM_PROMPT = 8000
MAX_MESSAGE = 16_000
"""The maximum lengths of texts that a person writes in a chat, in characters."""


class Side(models.TextChoices):
    """The place of an answer on the chat page. It does not reveal which model answered."""

    LEFT = "left", _("Left")
    RIGHT = "right", _("Right")


class Conversation(models.Model):
    """A chat of a person with one model, or with two models whose names are hidden.

    With two models, chance decides which of them is on the left. The names stay hidden until
    `revealed_at`, and there are no votes after it.
    """

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="conversations")
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="conversations"
    )
    left = models.ForeignKey(Model, on_delete=models.PROTECT, related_name="+")
    right = models.ForeignKey(Model, null=True, on_delete=models.PROTECT, related_name="+")
    system_prompt = models.TextField(blank=True)
    temperature = models.FloatField(default=0.7)
    top_p = models.FloatField(default=0.95)
    max_tokens = models.PositiveIntegerField(
        default=0, help_text="0 means as many as the model can write."
    )
    revealed_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField(default=clock.now)

    class Meta:
        ordering = ["-id"]
        indexes = [models.Index("project", F("id").desc(), name="conversation_list")]
        constraints = [
            models.CheckConstraint(
                name="conversation_two_models", condition=Q(right=None) | ~Q(right=F("left"))
            ),
            models.CheckConstraint(
                name="conversation_system_prompt",
                condition=LessThanOrEqual(Length("system_prompt"), MAX_SYSTEM_PROMPT),
            ),
            models.CheckConstraint(
                name="conversation_sampling",
                condition=Q(
                    temperature__gte=0, temperature__lte=2, top_p__gt=0, top_p__lte=1
                ),
            ),
        ]  # fmt: skip

    def __str__(self) -> str:
        return f"chat {self.pk}"

    @property
    def sides(self) -> dict[str, Model]:
        """The models by side; one model is always on the left."""
        sides: dict[str, Model] = {Side.LEFT: self.left}
        if self.right:
            sides[Side.RIGHT] = self.right
        return sides

    @property
    def is_blind(self) -> bool:
        return self.right_id is not None and self.revealed_at is None


class Turn(models.Model):
    """A message of a conversation, and the person's verdict on its answers."""

    class Verdict(models.TextChoices):
        LEFT = "left", _("Left is better")
        RIGHT = "right", _("Right is better")
        TIE = "tie", _("Tie")
        BOTH_BAD = "both_bad", _("Both are bad")

    conversation = models.ForeignKey(Conversation, on_delete=models.CASCADE, related_name="turns")
    number = models.PositiveSmallIntegerField()
    text = models.TextField()
    verdict = models.CharField(max_length=8, choices=Verdict, blank=True)
    task = models.ForeignKey(
        Task,
        null=True,
        on_delete=models.SET_NULL,
        related_name="+",
        help_text="The task of its two answers, if there was a verdict or a lead had them ranked.",
    )
    created_at = models.DateTimeField(default=clock.now)

    class Meta:
        ordering = ["number"]
        constraints = [
            models.UniqueConstraint("conversation", "number", name="turn_once"),
            models.CheckConstraint(
                name="turn_text", condition=LessThanOrEqual(Length("text"), MAX_MESSAGE)
            ),
        ]

    def __str__(self) -> str:
        return f"message {self.number} of {self.conversation}"

    def replies(self) -> "dict[str, Reply]":
        """Return the newest answer of each side. Costs one query, unless `answers` is prefetched."""
        return {reply.side: reply for reply in sorted(self.answers.all(), key=attrgetter("pk"))}

    def continued_with(self) -> "Reply | None":
        """Return the answer with which the conversation continues: the better one, or the left one."""
        replies = self.replies()
        preferred = Side.RIGHT if self.verdict == self.Verdict.RIGHT else Side.LEFT
        return replies.get(preferred) or next(iter(replies.values()), None)


class Reply(models.Model):
    """An answer of a model to a turn. A further attempt is a new row; the newest one counts."""

    class Ending(models.TextChoices):
        STOP = "stop", _("Complete")
        LENGTH = "length", _("Cut off at the maximum length")
        STOPPED = "stopped", _("Stopped")
        FAILED = "failed", _("Failed")

    turn = models.ForeignKey(Turn, on_delete=models.CASCADE, related_name="answers")
    side = models.CharField(max_length=8, choices=Side)
    model = models.ForeignKey(Model, on_delete=models.PROTECT, related_name="+")
    text = models.TextField(blank=True)
    correction = models.TextField(blank=True, help_text="The answer as a person would write it.")
    ending = models.CharField(max_length=8, choices=Ending)
    error = models.TextField(blank=True)
    tokens = models.PositiveIntegerField(default=0)
    seed = models.BigIntegerField(null=True)
    dtype = models.CharField(
        max_length=16, blank=True, help_text="The number format, such as float32 or int8."
    )
    created_at = models.DateTimeField(default=clock.now)

    class Meta:
        ordering = ["id"]

    def __str__(self) -> str:
        return f"answer {self.pk} to {self.turn}"

    @property
    def is_usable(self) -> bool:
        """Whether the answer is whole enough to be compared: it was neither stopped nor lost."""
        return bool(self.text.strip()) and self.ending in (self.Ending.STOP, self.Ending.LENGTH)
