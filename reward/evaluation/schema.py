"""The schema of a reward model's report.json.

The recipe (reward/training/train.py) writes the report, and the model card, the pages and the commands
read it. Reports that were written by earlier versions lack some keys. So no top-level key is required,
and readers use `get`. A test checks that the recipe writes all keys and no others.

This module needs neither torch nor Django.
"""

from typing import Any, NotRequired, TypedDict

from recipes.report import Device, LeftOut, TrainingFigures

Interval = list[float]
"""A 95% interval, as [low, high]."""


class Figure(TypedDict):
    """A value with its interval. If one of the two is missing, `reason` says why."""

    value: float | None
    interval: Interval | None
    reason: str | None


class Share(Figure):
    """A share of the evidence, and the numbers of pairs and prompts that it is computed from."""

    method: str | None  # of the interval: wilson or bootstrap
    pairs: int
    prompts: int


class Agreement(Share):
    """The pairwise agreement, with its name and its sample."""

    name: str
    sample: str


class Correlation(Figure):
    responses: int
    prompts: int


class Bin(TypedDict):
    """The pairs whose probability is between `low` and `high`. An empty bin has no shares."""

    low: float
    high: float
    pairs: int
    evidence: float
    predicted: float | None
    observed: float | None


class Calibration(TypedDict):
    ece: float | None
    ece_by_chance: float | None
    bins: list[Bin]
    pairs: int
    reason: str | None


class Length(TypedDict):
    """Correlations of length with the model's scores and with the reviewers' preferences."""

    score_spearman: Correlation
    label_spearman: Correlation


class Quality(TypedDict, total=False):
    """The figures on held-out prompts that both reward models and adapters have."""

    accuracy: Share
    reviewer_agreement: Agreement
    accuracy_limit: Figure
    longer_is_better: Share
    calibration: Calibration
    length: Length


# --- parts of a reward model's report -------------------------------------------------------------


class Outputs(TypedDict):
    heads: int
    criteria: list[str]


class MistakeFinders(TypedDict):
    """The area under the ROC curve for each sign that the model orders a pair incorrectly."""

    spread: Figure
    relative: Figure
    small_gap: Figure


class SpreadPart(TypedDict):
    low: float
    high: float
    pairs: int
    accuracy: float


class Disagreement(TypedDict):
    heads: int
    pairs: int
    prompts: int
    mean_spread: float | None
    finds_mistakes: MistakeFinders
    parts: list[SpreadPart]


class CriterionFigures(TypedDict):
    criterion: str
    accuracy: Share
    overall_accuracy: Share
    reviewer_agreement: Agreement


class TemperatureLoss(TypedDict):
    ece: float | None
    log_loss: float


class Temperature(TypedDict):
    value: float | None
    before: TemperatureLoss | None
    after: TemperatureLoss | None
    folds: NotRequired[int]
    reason: str | None


class LengthSlices(TypedDict):
    matched: Share
    longer_won: Share
    shorter_won: Share
    contested: Share
    balanced: float | None


class Slice(TypedDict):
    name: str | int | None
    accuracy: Share
    reviewer_agreement: Share | None


class Slices(TypedDict):
    guideline_version: list[Slice]
    reviewer: list[Slice]
    criterion: list[Slice]
    response_model: list[Slice]


class Excerpt(TypedDict):
    """The beginning of a text, and the number of characters that are cut off."""

    text: str
    left_out: int


class Turn(Excerpt):
    role: str


class MistakenResponse(Excerpt):
    id: int
    model: str
    score: float
    tokens: int


class Mistake(TypedDict):
    """A pair that the model orders against the majority of the reviewers.

    `evidence` is [evidence for the reviewers' order, evidence for the model's order].
    """

    group_id: str
    prompt: list[Turn]
    preferred: MistakenResponse
    scored_higher: MistakenResponse
    gap: float
    evidence: list[float]
    ranking_ids: list[int]


class CurvePoint(TypedDict):
    rankings: int
    prompts: int
    accuracy: Share


class Estimate(TypedDict):
    value: float
    interval: Interval


class BandPoint(Estimate):
    rankings: int


class Forecast(Estimate):
    times: int
    rankings: int
    gain: Estimate


class OnePoint(TypedDict):
    """The number of rankings that add a point of accuracy. An open end of the interval is null."""

    rankings: int | None
    interval: list[int | None]
    chance: float
    reason: str | None


class LearningCurve(TypedDict):
    points: list[CurvePoint]
    forecast: list[Forecast]
    one_point: OnePoint | None
    band: NotRequired[list[BandPoint]]
    at_most: NotRequired[float]
    reason: str | None


class DoubtfulRanking(TypedDict):
    """A label mistake. `scores` has the model's score of each response, by its id."""

    group_id: str
    ranking_id: int | None
    reviewer: str
    probability: float
    tiers: list[list[int]]
    scores: dict[str, float]
    pairs: int
    contradicted: int
    other_rankings: int


class LabelMistakes(TypedDict):
    checked: str  # all or held-out
    rankings: int
    share: float | None
    likely: int | None
    sure: NotRequired[float]
    rows: list[DoubtfulRanking]
    reason: str | None


class SplitCounts(TypedDict):
    prompts: int
    responses: int
    pairs: int
    rankings: int


class RewardTraining(TrainingFigures):
    processes: int
    layout: str
    layout_reason: str | None
    packed: bool
    attention: str | None
    text_format: str
    text_ending: str
    tie_width: float | None


class RewardReport(Quality, total=False):
    """The report.json of a reward model."""

    kind: str
    base_model: str
    outputs: Outputs
    disagreement: Disagreement | None
    criteria: list[CriterionFigures]
    temperature: Temperature
    length_slices: LengthSlices
    slices: Slices
    mistakes: list[Mistake]
    learning_curve: LearningCurve | None
    label_mistakes: LabelMistakes
    data: dict[str, SplitCounts]
    left_out: list[LeftOut]
    chat: dict[str, Any]
    training: RewardTraining
    first_batch: str
    config: dict[str, Any]
    inputs: dict[str, Any]
    versions: dict[str, Any]
    device: Device
    seconds: float
