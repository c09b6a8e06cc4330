"""The check that the plain layout gives the scores that a classifier's own forward gives."""

from collections.abc import Sequence

import torch

from recipes.errors import RecipeError
from recipes.layout.collate import Collator
from recipes.layout.families import ALIKE, precision
from recipes.layout.forward import evaluating, inputs_of
from recipes.preferences.tokens import TokenGroup
from reward.training.model import RewardModel, outputs_of


def check_reading(model: RewardModel, groups: Sequence[TokenGroup], pad_id: int) -> None:
    """Raises RecipeError unless the plain layout gives the scores that the model itself gives.

    Other tools will call it so, and where they do, nothing of this package is there to help. Forwards
    one group twice without gradients, in evaluation mode.
    """
    if not model.reads_last_token:
        return
    few, collator = groups[:1], Collator(pad_id, "plain")
    ours = outputs_of(model, few, collator).nan_to_num()  # what is not finite is refused later
    theirs = own_outputs(model, few, collator).nan_to_num()
    difference = (ours - theirs).abs().max().item()
    allowed = ALIKE.get(precision(model), ALIKE[torch.bfloat16])
    if not difference <= allowed * max(1.0, theirs.abs().max().item()):
        raise RecipeError(
            f"Models of the family {model.config.model_type} cannot be trained here: its own "
            f"classifier reads a text's score elsewhere than at its last token (they differ by "
            f"{difference:.3g}). Choose another base model."
        )


@torch.no_grad()
def own_outputs(
    model: RewardModel, groups: Sequence[TokenGroup], collator: Collator
) -> torch.Tensor:
    """By the classifier's own forward, in evaluation mode.  → (G, K, N + C)"""
    inputs = inputs_of(model, groups, collator)
    kind = model.classifier.dtype
    mixed = torch.autocast(model.device.type, kind, enabled=kind != torch.float32)
    with evaluating(model), mixed:  # beside a backbone of half precision the head is in float32
        said = model.ordinary(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            use_cache=False,
        )
    return said.logits.float().cpu()[inputs["rows"].cpu()]
