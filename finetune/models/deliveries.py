"""The deliveries of promotions to services outside Tiebreak."""

from django.db import models

from finetune.models.certificates import Certificate
from finetune.models.language_models import Model


class Delivery(models.Model):
    """The delivery of a promotion to a service, with its outcome or the reason of the last failure.

    `finetune.release.delivering` owns its state. A promotion never waits for a delivery.
    """

    class Service(models.TextChoices):
        MLFLOW = "mlflow", "MLflow"
        VLLM = "vllm", "vLLM"

    certificate = models.ForeignKey(
        Certificate, on_delete=models.CASCADE, related_name="deliveries"
    )
    service = models.CharField(max_length=16, choices=Service)
    delivered_at = models.DateTimeField(null=True)
    result = models.JSONField(default=dict, help_text="Name and version of the model there.")
    attempts = models.PositiveIntegerField(default=0, help_text="Attempts since it last succeeded.")
    leased_until = models.DateTimeField(null=True, help_text="Set while a worker delivers it.")
    next_attempt_at = models.DateTimeField(null=True, help_text="Null if no attempt has failed.")
    error = models.CharField(max_length=500, blank=True)

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint("certificate", "service", name="delivery_once"),
            models.CheckConstraint(
                name="delivery_error_only_if_undelivered",
                condition=models.Q(delivered_at=None) | models.Q(error=""),
            ),
        ]
        verbose_name_plural = "deliveries"

    def __str__(self) -> str:
        return f"delivery of {self.certificate} to {self.get_service_display()}"

    @classmethod
    def of_model(cls, model: Model) -> "models.QuerySet[Delivery]":
        """Return the deliveries that still hold, oldest first.

        These are the versions in MLflow and, if the model is promoted now, its newest promotion.
        """
        holds = models.Q(service=cls.Service.MLFLOW, delivered_at__isnull=False)
        newest = model.certificates.order_by("-number").values("pk")[:1]
        if model.state == Model.State.PROMOTED:
            holds |= models.Q(certificate__in=newest)
        return cls.objects.filter(holds, certificate__model=model).order_by("id")

    @property
    def text(self) -> str:
        """Return the outcome as a sentence."""
        if self.delivered_at and self.service == self.Service.VLLM:
            return f"Loaded as {self.result.get('name')}."
        if self.delivered_at:
            return f"Version {self.result.get('version')} of {self.result.get('name')}."
        if self.error:
            return f"Not delivered yet. Attempt {self.attempts} failed: {self.error}"
        return "Not delivered yet."
