"""The choice between the shared and the plain layout, from the settings and the first batch."""

from collections.abc import Sequence
from typing import Protocol

from recipes.layout import attention
from recipes.layout.collate import Collator
from recipes.layout.families import check_gradients, check_shared
from recipes.layout.forward import SharedPromptModel
from recipes.machine import processes
from recipes.models.references import torch_dtype
from recipes.preferences.tokens import Prepared, TokenGroup
from recipes.rundir import RunDir


class LayoutSettings(Protocol):
    @property
    def layout(self) -> str: ...
    @property
    def packing(self) -> str: ...
    @property
    def dtype(self) -> str: ...


def choose_layout(
    run_dir: RunDir,
    config: LayoutSettings,
    model: SharedPromptModel,
    collator: Collator,
    first: Sequence[TokenGroup],
    prepared: Prepared,
) -> str | None:
    """Set the layout of the collator. Return why it is the plain layout, or None if it is shared.

    Both layouts are compared on `first`, the groups of the first batch.
    """
    if config.layout == "plain":
        return "the settings ask for it"
    everything = [*prepared.tokens["train"], *prepared.tokens["test"]]
    longest = max(group.longest() for group in everything)
    problem = check_shared(model, first, collator.pad_id, longest=longest)
    problem = problem or check_gradients(model, first, collator.pad_id, torch_dtype(config.dtype))
    problem = processes.from_rank_0(problem)  # all processes must cut steps in the same way
    if problem:
        run_dir.message(
            f"This model cannot share the prompt between responses: {problem}. Training continues "
            "with one copy of the prompt per response, which is slower.",
            level="warning",
        )
        return problem
    collator.layout = "shared"
    collator.packed = config.packing == "always" or (
        config.packing == "auto" and model.attends != attention.DENSE
    )
    run_dir.message(
        "Each prompt is forwarded once for all its responses"
        f"{', several prompts per sequence' if collator.packed else ''}; checked on the first batch."
    )
    return None
