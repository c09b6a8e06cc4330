"""The delivery of promotions to MLflow and vLLM, if the operator has configured them.

The rows decide what to do. After a promotion, a message wakes a worker, and a periodic task finds what
has no message or has failed. Only the newest promotion of a project is delivered, so a service that was
unavailable for several promotions gets the model that is promoted now. A delivery is idempotent: it can
be repeated after a crash.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from django.db import transaction
from django.db.models import Q
from django.db.models.functions import Now

from database import outbox
from finetune.models import Certificate, Delivery, Model
from finetune.release import mlflow, vllm
from finetune.release.services import NotDelivered
from labeling.models import Project

logger = logging.getLogger("tiebreak.release")


@dataclass(frozen=True)
class Service:
    """A service that gets promotions.

    `is_configured` returns whether the operator has configured it. `deliver` makes the promoted model
    known to it, and returns its name there. It raises NotDelivered. `is_lost` returns whether
    the service has forgotten a delivered promotion, which is then delivered again.
    """

    is_configured: Callable[[], bool]
    deliver: Callable[[Certificate], dict[str, Any]]
    is_lost: Callable[[Certificate], bool] = lambda certificate: False


SERVICES = {
    Delivery.Service.MLFLOW: Service(mlflow.is_configured, mlflow.register),
    Delivery.Service.VLLM: Service(vllm.is_configured, vllm.load, vllm.is_lost),
}


def forget_lost(certificate: Certificate, service: Delivery.Service) -> None:
    """Mark a delivered promotion as undelivered if the service has forgotten it."""
    delivered = Delivery.objects.filter(
        certificate=certificate, service=service, delivered_at__isnull=False
    )
    if delivered.exists() and SERVICES[service].is_lost(certificate):
        delivered.update(delivered_at=None, attempts=0)
        logger.warning("%s has lost %s.", service.label, certificate.model)


def deliver_due(*, at_once: bool = False) -> list[Delivery]:
    """Deliver the promotions that are due, and return their rows after the attempt.

    With `at_once`, failed deliveries do not wait for the time of their next attempt.
    """
    deliveries = []
    for service, functions in SERVICES.items():
        for certificate in newest_promotions() if functions.is_configured() else ():
            forget_lost(certificate, service)
            if delivery := claim(certificate, service, at_once=at_once):
                deliveries.append(attempt(delivery))
    return deliveries


def newest_promotions() -> Iterator[Certificate]:
    """Yield the certificate of the promoted model of each open project, in one query."""
    newest = Certificate.objects.order_by("project_id", "-number").distinct("project_id")
    rows = Certificate.objects.filter(
        pk__in=newest.values("pk"),
        project__archived_at=None,
        model__state=Model.State.PROMOTED,
    )
    yield from rows.select_related("project", "model__run", "model__snapshot").order_by("pk")


@transaction.atomic
def claim(certificate: Certificate, service: str, *, at_once: bool = False) -> Delivery | None:
    """Lease the delivery for this worker, or return None if it is not due.

    The lock of the project keeps promotions out. While one promotion of a project is being delivered,
    no other one is, so that an old one cannot overtake a new one.
    """
    Project.objects.select_for_update(no_key=True).get(pk=certificate.project_id)
    of_project = Certificate.objects.filter(project=certificate.project_id)
    if of_project.order_by("-number").values_list("pk", flat=True).first() != certificate.pk:
        return None
    Delivery.objects.get_or_create(certificate=certificate, service=service)
    leased = Q(certificate__in=of_project, service=service, leased_until__gt=Now())
    if Delivery.objects.filter(leased).exists():
        return None
    due = Delivery.objects.filter(certificate=certificate, service=service, delivered_at=None)
    if not at_once:
        due = due.filter(outbox.due())
    if not outbox.lease(due):
        return None
    delivery = Delivery.objects.get(certificate=certificate, service=service)
    delivery.certificate = certificate
    return delivery


def attempt(delivery: Delivery) -> Delivery:
    """Deliver once, and store the outcome unless another worker has taken over."""
    own = Delivery.objects.filter(pk=delivery.pk, attempts=delivery.attempts)
    try:
        result = SERVICES[Delivery.Service(delivery.service)].deliver(delivery.certificate)
    except NotDelivered as problem:
        outbox.wait_again(own, delivery.attempts, problem)
        logger.warning("%s failed (attempt %s): %s", delivery, delivery.attempts, problem)
    else:
        outbox.settle(own, result=result, delivered_at=Now())
        logger.info("%s is complete: %s", delivery, result)
    delivery.refresh_from_db()
    return delivery
