"""The certificates of promotions."""

from django.conf import settings
from django.db import models

from accounts.models import User
from finetune.certificate import issuing, recomputing
from finetune.certificate.contents import contents_of
from finetune.certificate.document import id_of
from finetune.models.language_models import Model
from finetune.models.regression import RegressionSet
from labeling.models import Project
from reward.promotion import CannotMove


def required_set(project: Project) -> str | None:
    """Return the SHA-256 of the regression set that the project requires, "" if it has none yet.

    It is None if it requires none.
    """
    if not project.require_regression_set:
        return None
    newest = RegressionSet.newest(project.pk)
    return newest.sha256 if newest else ""


class Certificate(models.Model):
    """The record of a promotion, with everything that is needed to recompute its conclusion.

    `text` is the signed file, which leads can download. A trigger refuses changes. It is deleted only
    with its project.
    """

    project = models.ForeignKey(Project, on_delete=models.PROTECT, related_name="certificates")
    model = models.ForeignKey(Model, on_delete=models.PROTECT, related_name="certificates")
    number = models.PositiveIntegerField(help_text="Its number in the project, from 1.")
    text = models.TextField(help_text="The signed file; see finetune.certificate.document.")
    sha256 = models.CharField(max_length=64, help_text="The id to which the next one refers.")
    issued_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.PROTECT, related_name="+"
    )
    issued_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint("project", "number", name="certificate_number_once"),
        ]

    def __str__(self) -> str:
        return f"certificate {self.number} of {self.project}"

    @property
    def file_name(self) -> str:
        return f"{self.project.slug}-certificate-{self.number}.json"

    @classmethod
    def issue(
        cls,
        *,
        model: Model,
        by: User | None,
        previous: Model | None,
        doubts: list[str],
        reason: str,
    ) -> "Certificate":
        """Sign and store the certificate of a promotion. Call it with the project locked.

        `previous` is the model that was promoted before. Raises CannotMove if the conclusion does not
        follow from the stored verdicts.
        """
        evaluations = list(
            model.finished_evaluations()
            .select_related("project", "candidate", "baseline", "regression_set")
            .order_by("id")
        )
        baseline = previous or model.own_base()
        opponents, basis = baseline.same_weights(), recomputing.EVALUATIONS
        if not model.adapter and not model.is_merged:
            basis = recomputing.BASE
        elif previous and model.pk in opponents:
            basis = recomputing.SAME_WEIGHTS
        last = cls.objects.filter(project=model.project_id).order_by("number").last()
        content = contents_of(
            model,
            number=last.number + 1 if last else 1,
            previous={"number": last.number, "sha256": last.sha256} if last else None,
            promotion={
                "basis": basis,
                "policy": model.project.promotion_policy,
                "regression_set": required_set(model.project),
                "account": by.pk if by else None,
                "role": by.role if by else None,
                "doubts": doubts,
                "reason": reason,
            },
            replaced=previous,
            evaluations=evaluations,
            counting=frozenset(e.pk for e in evaluations if e.baseline_id in opponents),
        )
        try:
            certificate = issuing.signed(content)
        except issuing.CannotIssue as problem:
            raise CannotMove(str(problem)) from None
        return cls.objects.create(
            project_id=model.project_id,
            model=model,
            number=content["certificate"]["number"],
            text=issuing.text_of(certificate),
            sha256=id_of(certificate),
            issued_by=by,
        )
