"""Measurements of how often an LLM judge agrees with the reviewers."""

from django.db import models

from finetune.models.language_models import Model
from formatting.numbers import percent, percent_range
from labeling.models import GuidelineVersion, Project
from runs.models import Run


class JudgeAgreement(models.Model):
    """A measurement of how often an LLM judge agrees with the reviewers of its project.

    The reference is leads' decisions of disputed tasks and, if there are too few, the majority of the
    rankings of a pair.
    """

    project = models.ForeignKey(Project, on_delete=models.PROTECT, related_name="judge_agreements")
    judge = models.ForeignKey(Model, on_delete=models.PROTECT, related_name="agreements")
    run = models.OneToOneField(Run, on_delete=models.PROTECT, related_name="judge_agreement")
    guideline_version = models.ForeignKey(
        GuidelineVersion, on_delete=models.PROTECT, related_name="+"
    )
    instructions = models.CharField(
        max_length=16, help_text="Hash of the wording around the guideline."
    )
    report = models.JSONField(help_text="Agreement, interval, sources, verdicts by prompt.")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{self.judge}: {self.note}"

    @property
    def note(self) -> str:
        """Return the agreement as a clause for labels and pages."""
        figures = self.report["agreement"]
        return (
            f"agrees with the reviewers on {percent(figures['value'])} of {figures['pairs']} pairs "
            f"(95% interval {percent_range(figures['interval'])}), measured under guideline version "
            f"{self.guideline_version.number}"
        )

    @property
    def is_above_chance(self) -> bool:
        interval = self.report["agreement"]["interval"]
        return interval is not None and interval[0] > 0.5
