"""The schema of report.json for fine-tuning runs. This module needs neither Django nor torch."""

from typing import Any, TypedDict

from recipes.report import LeftOut, Provenance, TrainingFigures
from reward.evaluation.schema import Figure, Quality, SplitCounts


class HeldOutFigures(TypedDict, total=False):
    """Means over the held-out pairs with a winner. The figures are absent if there is no such pair.

    `chosen`, `rejected`  implicit reward of the better and of the worse response
    `margins`             their difference
    `loss`                -log σ of the difference
    `nll`                 mean -log π per token of the best responses
    `accuracy`            share of strict judgments that the implicit rewards agree with
    """

    accuracy: float
    margins: float
    chosen: float
    rejected: float
    loss: float
    nll: float


class Likelihood(TypedDict):
    """The mean of -log π per token of the best held-out responses, in nats. Lower is better."""

    before: Figure
    after: Figure
    change: Figure
    prompts: int
    responses: int


class PolicyTraining(TrainingFigures):
    """Figures of the training.

    `layout_reason` is the reason why the shared layout was not used, or None if it was. `head_reason`
    is the reason why the head was not computed in chunks, or None if it was.
    """

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

    `learned_from` is the training data as a phrase. `pairs` and `prompts` are counts of the train and
    the test split, as earlier reports have them.
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
    likelihood: Likelihood
    learned_from: str
    training: PolicyTraining
    first_batch: str


class RoundFigures(TypedDict):
    """Figures of the samples of a round, which are drawn before the model is trained on them.

    `score`     mean score by the reward model
    `distinct`  number of different texts to each prompt, divided by the number of samples
    `kl`        mean log π - log π_ref per sample, in nats: an estimate of KL(π ‖ π_ref)

    The intervals are bootstrapped by prompt. `unscored` samples are too long for the reward model.
    """

    prompts: int
    samples: int
    unscored: int
    score: Figure
    distinct: float
    kl: Figure
    truncated: float
    mean_tokens: float


class SampledReport(FinetuneReport):
    """The report of a method that is trained on the model's own samples.

    `rounds` has figures of the samples of each round. `after` has figures of samples of the trained
    model, with the prompts and the seeds of the first round. `score_change` is the difference in score
    between these samples and those of the first round.
    """

    rounds: list[RoundFigures]
    after: RoundFigures
    score_change: Figure
