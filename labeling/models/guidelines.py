from django.conf import settings
from django.db import models
from django.db.models import Q

from labeling.models.projects import Project


class Guideline(models.Model):
    """A project's instructions for reviewers. The text is in the guideline's versions."""

    project = models.OneToOneField(Project, on_delete=models.CASCADE, related_name="guideline")
    title = models.CharField(max_length=120)

    def __str__(self) -> str:
        return self.title


class GuidelineVersion(models.Model):
    """A version of a guideline. A published version cannot be changed; the database refuses it."""

    class State(models.TextChoices):
        DRAFT = "draft", "Draft"
        PUBLISHED = "published", "Published"

    guideline = models.ForeignKey(Guideline, on_delete=models.CASCADE, related_name="versions")
    number = models.PositiveIntegerField(editable=False)
    state = models.CharField(max_length=16, choices=State, default=State.DRAFT, editable=False)
    text = models.TextField(help_text="Markdown.")
    change_note = models.CharField(
        max_length=300, blank=True, help_text="One sentence that tells reviewers what has changed."
    )
    requalify = models.BooleanField(
        default=False,
        help_text="Whether reviewers must qualify again when this version is published.",
    )
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        editable=False,
        on_delete=models.PROTECT,
        related_name="+",
    )
    created_at = models.DateTimeField(auto_now_add=True)
    published_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        editable=False,
        on_delete=models.PROTECT,
        related_name="+",
    )
    published_at = models.DateTimeField(null=True, editable=False)

    class Meta:
        ordering = ["guideline", "-number"]
        constraints = [
            models.UniqueConstraint("guideline", "number", name="guideline_version_number_once"),
            models.UniqueConstraint(
                "guideline", condition=Q(state="draft"), name="guideline_one_draft"
            ),
            models.CheckConstraint(
                name="guideline_published_has_time",
                condition=Q(state="published", published_at__isnull=False)
                | Q(state="draft", published_at__isnull=True),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.guideline}, version {self.number}"


class Criterion(models.Model):
    version = models.ForeignKey(GuidelineVersion, on_delete=models.CASCADE, related_name="criteria")
    name = models.SlugField(max_length=40, help_text="A short key for exports, such as honesty.")
    meaning = models.CharField(
        max_length=300, help_text="One sentence that says what the criterion measures."
    )
    scale = models.PositiveSmallIntegerField(
        default=5, help_text="The highest possible rating. The lowest is 1."
    )
    position = models.PositiveSmallIntegerField(default=0)

    class Meta:
        ordering = ["position", "id"]
        verbose_name_plural = "criteria"
        constraints = [
            models.UniqueConstraint("version", "name", name="criterion_name_once"),
            models.CheckConstraint(name="criterion_scale", condition=Q(scale__range=(2, 10))),
        ]

    def __str__(self) -> str:
        return self.name


class GuidelineConfirmation(models.Model):
    """A reviewer's statement that they have read a published version and will follow it."""

    version = models.ForeignKey(
        GuidelineVersion, on_delete=models.PROTECT, related_name="confirmations"
    )
    reviewer = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+", db_index=False
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint("reviewer", "version", name="guideline_confirmed_once")
        ]

    def __str__(self) -> str:
        return f"{self.reviewer} works by {self.version}"
