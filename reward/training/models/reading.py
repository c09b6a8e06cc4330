"""A comparison of the plain layout with the forward pass of the classifier itself."""

from collections.abc import Sequence

import torch

from recipes.errors import RecipeError
from recipes.layout.collate import Collator
from recipes.layout.families import MAX_LAYOUT_DIFFERENCE, autocast, precision
from recipes.layout.forward import evaluating, inputs_of, outputs_of
from recipes.preferences.tokens import TokenGroup
from reward.training.models.reward_model import RewardModel


def check_reading(model: RewardModel, groups: Sequence[TokenGroup], pad_id: int) -> None:
    """Raise RecipeError unless the plain layout and the classifier itself give the same scores.

    Other tools call the classifier without this package. A group is forwarded twice without gradients,
    in evaluation mode.
    """
    if not model.reads_last_token:
        return
    few, collator = groups[:1], Collator(pad_id, "plain")
    plain = outputs_of(
        model, few, collator
    ).nan_to_num()  # values that are not finite are refused later
    own = own_outputs(model, few, collator).nan_to_num()
    difference = (plain - own).abs().max().item()
    allowed = MAX_LAYOUT_DIFFERENCE.get(precision(model), MAX_LAYOUT_DIFFERENCE[torch.bfloat16])
    if not difference <= allowed * max(1.0, own.abs().max().item()):
        raise RecipeError(
            f"Models of the family {model.config.model_type} cannot be trained here: their classifier "
            f"does not read the score at the last token (scores differ by {difference:.3g}). Choose "
            "another base model."
        )


@torch.no_grad()
def own_outputs(
    model: RewardModel, groups: Sequence[TokenGroup], collator: Collator
) -> torch.Tensor:
    """Return the outputs of the classifier itself, (G, K, N + C), in evaluation mode."""
    inputs = inputs_of(model, groups, collator)
    mixed = autocast(model.device, model.classifier.dtype)
    with evaluating(model), mixed:  # the head is in float32 even if the backbone is not
        logits = model.ordinary(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            use_cache=False,
        ).logits
    return logits.float().cpu()[inputs["rows"].cpu()]
