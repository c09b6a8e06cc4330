"""Scores of the promoted reward model of a project, for review pages that may show them."""

from collections.abc import Sequence

from labeling.core.suggestions import Suggestion
from labeling.models import Project
from reward.models import ResponseScore, RewardModel


def of_promoted(project: Project, response_ids: Sequence[int]) -> dict[int, Suggestion]:
    """Return a suggestion for each response that the model has scored. This takes one query."""
    scores = ResponseScore.objects.filter(
        reward_model__project=project,
        reward_model__state=RewardModel.State.PROMOTED,
        response__in=response_ids,
    ).values_list("response_id", "score", "uncertainty", "reward_model__name")
    return {
        pk: Suggestion(score, uncertainty, name)
        for pk, score, uncertainty, name in scores
        if score is not None
    }
