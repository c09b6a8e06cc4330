"""Regression sets: chosen prompts on which a candidate must not be worse than its baseline."""

from collections.abc import Mapping
from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import Q

from labeling.models import Project

REGRESSION_MARGIN, MIN_REGRESSION_MARGIN, MAX_REGRESSION_MARGIN = 0.1, 0.01, 0.25


class RegressionSet(models.Model):
    """A version of a project's regression set. A trigger refuses changes.

    `cases` is [{"prompt", "prompt_sha256", "expect"}, …]: the id and the hash of a prompt, and the
    properties that an answer must have (see `finetune.statistics.expectations`). A case without
    properties needs a judge.
    """

    project = models.ForeignKey(Project, on_delete=models.PROTECT, related_name="regression_sets")
    number = models.PositiveIntegerField(help_text="Its version in the project, from 1.")
    cases = models.JSONField(help_text="The prompts, and the properties that an answer must have.")
    margin = models.FloatField(
        default=REGRESSION_MARGIN,
        help_text="Largest loss of win rate on the set that still counts as not worse.",
    )
    sha256 = models.CharField(max_length=64, help_text="Hash of the cases and the margin.")
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.PROTECT, related_name="+"
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint("project", "number", name="regression_set_number_once"),
            models.CheckConstraint(
                name="regression_set_margin",
                condition=Q(margin__gte=MIN_REGRESSION_MARGIN, margin__lte=MAX_REGRESSION_MARGIN),
            ),
        ]

    def __str__(self) -> str:
        return f"regression set {self.number}"

    @property
    def prompt_ids(self) -> list[int]:
        return [case["prompt"] for case in self.cases]

    @property
    def needs_a_judge(self) -> int:
        """Return the number of cases without properties, on which a judge must decide."""
        return sum(not case["expect"] for case in self.cases)

    def expectations(self) -> dict[int, Mapping[str, Any]]:
        """Return the properties that an answer to each prompt must have, {} without any."""
        return {case["prompt"]: case["expect"] for case in self.cases}

    @classmethod
    def newest(cls, project: int) -> "RegressionSet | None":
        """Return the newest version of a project's set, or None. Costs a query."""
        return cls.objects.filter(project=project).order_by("-number").first()
