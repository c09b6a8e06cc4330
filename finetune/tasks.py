"""Background tasks of evaluations and promotions. Celery finds all tasks that are defined here."""

from celery import shared_task

from finetune.evaluation import stopping
from finetune.release import delivering


@shared_task
def stop_decided_evaluations() -> list[int]:
    return stopping.stop_decided()


@shared_task
def deliver_promotions() -> list[int]:
    return [delivery.pk for delivery in delivering.deliver_due()]
