"""The report.json of a fine-tuning run, as types. Without Django and torch."""

from typing import Any, TypedDict

from recipes.report import LeftOut, Provenance, TrainingFigures
from reward.evaluation.schema import Quality, SplitCounts


class HeldOutFigures(TypedDict, total=False):
    """Means over the held-out pairs with a winner; empty without such pairs.

    `chosen`, `rejected`  implicit reward of the better and of the worse response
    `margins`             their difference
    `loss`                -log σ of the difference
    `accuracy`            share of strict judgments that the implicit rewards agree with
    """

    accuracy: float
    margins: float
    chosen: float
    rejected: float
    loss: float


class PolicyTraining(TrainingFigures):
    """Figures of the training. `layout_reason` and `head_reason` say why something is slower."""

    processes: int
    layout: str
    layout_reason: str | None
    packed: bool
    attention: str | None
    head: str
    head_reason: str | None
    recomputes: bool
    reference_computed: int
    text_format: str


class FinetuneReport(Quality, Provenance):
    """The report of a fine-tuning run. `kind` is the method's name.

    `pairs` and `prompts` are counts of the train and the test split, as earlier reports have them.
    """

    kind: str
    model: str
    adapter: str | None
    pairs: dict[str, int]
    prompts: dict[str, int]
    data: dict[str, SplitCounts]
    left_out: list[LeftOut]
    chat: dict[str, Any]
    held_out: HeldOutFigures
    training: PolicyTraining
    first_batch: str
