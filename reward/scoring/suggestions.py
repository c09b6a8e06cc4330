"""Scores of the project's promoted reward model, for review pages that may show them."""

from collections.abc import Sequence

from labeling.core.suggestions import Suggestion
from labeling.models import Project
from reward.models import ResponseScore, RewardModel


def of_promoted(project: Project, response_ids: Sequence[int]) -> dict[int, Suggestion]:
    """Return suggestions by response, without responses that this model has not scored. One query."""
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
