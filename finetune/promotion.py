"""Promoting a model: it answers by default from then on."""

from accounts.models import User
from finetune.models import Evaluation, Model
from reward import promotion
from reward.promotion import CannotMove

__all__ = ["CannotMove", "doubts", "promote"]


def doubts(model: Model) -> list[str]:
    """What speaks against promoting it, each in a sentence. Costs a query."""
    if not model.adapter:
        return []
    evaluation = model.evaluations.select_related("baseline").order_by("-id").first()
    if evaluation is None:
        return ["It was never evaluated, so nobody knows whether it is better than its base."]
    return [*_about_win_rate(evaluation)]


def _about_win_rate(evaluation: Evaluation) -> list[str]:
    low, high = evaluation.interval or (0.0, 1.0)
    if high < 0.5:
        return [f"Its last evaluation says that it is worse than {evaluation.baseline}."]
    if low <= 0.5:
        return [
            f"Its last evaluation does not tell it apart from {evaluation.baseline}: the interval "
            f"of the win rate, {low:.0%} to {high:.0%}, includes one half."
        ]
    return []


def promote(*, model: Model, by: User | None, despite_doubts: bool = False) -> Model | None:
    """Make it the project's model; returns the one it replaces. Raises CannotMove.

    A model that `doubts` speaks against is refused unless whoever promotes it knows and insists.
    """
    found = doubts(model)
    if found and not despite_doubts:
        raise CannotMove(" ".join(found))
    return promotion.promote(model, by=by, doubts=found)
