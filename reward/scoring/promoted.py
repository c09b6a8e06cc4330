"""The choice of a reward model: the promoted one by default."""

from typing import Any

from django.db.models import QuerySet

from reward.models import RewardModel


class NoModel(LookupError):  # noqa: N818
    """The error if there is no model for scoring, or if there are several.

    The text says what the user must name.
    """


def scoring_model(
    models: QuerySet[RewardModel], *, number: int | None = None, project: str = ""
) -> RewardModel:
    """Return the model with this number or, without a number, the promoted one.

    The model is chosen from `models`. Without `project`, only one project may have a promoted model.
    This takes one query. Raises NoModel if there is no such model, or several.
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
    candidates: list[Any] = list(models.select_related("project")[:11])
    if not candidates:
        raise NoModel(none)
    if len(candidates) > 1:
        slugs = ", ".join(sorted(model.project.slug for model in candidates[:10]))
        raise NoModel(f"Several projects have a promoted reward model ({slugs}). Name one of them.")
    return candidates[0]
