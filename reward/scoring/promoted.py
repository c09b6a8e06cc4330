"""Which reward model scores when nobody, or only half, says so: the promoted one."""

from typing import Any

from django.db.models import QuerySet

from reward.models import RewardModel


class NoModel(LookupError):  # noqa: N818
    """No model to score with, or more than one; the text says what to name."""


def scoring_model(
    models: QuerySet[RewardModel], *, number: int | None = None, project: str = ""
) -> RewardModel:
    """Of `models`, the one of that number, or else the promoted one of the project, or of all.

    One query. Raises NoModel when there is none, or when several projects have one.
    """
    if number is not None:
        return _only(models.filter(pk=number), f"There is no reward model {number}.")
    promoted = models.filter(state=RewardModel.State.PROMOTED)
    if project:
        none = (
            f"The project {project!r} has no promoted reward model. Promote one, or name a model."
        )
        return _only(promoted.filter(project__slug=project), none)
    return _only(promoted, "No reward model is promoted. Promote one, or name a model.")


def _only(models: QuerySet[RewardModel], none: str) -> RewardModel:
    found: list[Any] = list(models.select_related("project")[:11])
    if not found:
        raise NoModel(none)
    if len(found) > 1:
        slugs = ", ".join(sorted(model.project.slug for model in found[:10]))
        raise NoModel(f"Several projects have a promoted reward model ({slugs}). Name one of them.")
    return found[0]
