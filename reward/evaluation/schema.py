"""The schema of a reward model's report.json.

The recipe writes a report (reward/training/train.py), and the model card, the pages and the commands
read it. Readers of stored reports use `get`: those written by earlier versions lack some keys, so no
top-level key is required. A test checks that the recipe writes each of them and no other.

Needs neither torch nor Django.
"""

from typing import Any, NotRequired, TypedDict

from recipes.report import Device, LeftOut, TrainingFigures

Interval = list[float]
"""[low, high], 95%."""


class Figure(TypedDict):
    """A value with its interval. A missing value or interval has a `reason`."""

    value: float | None
    interval: Interval | None
    reason: str | None


class Share(Figure):
    """A share of the evidence, and the numbers of pairs and prompts it comes from."""

    method: str | None  # of the interval: wilson or bootstrap
    pairs: int
    prompts: int


class Agreement(Share):
    """Pairwise agreement under its name, and the sample it was computed on."""

    name: str
    sample: str


class Correlation(Figure):
    responses: int
    prompts: int


class Bin(TypedDict):
    """A bin of pairs by the model's probability, from `low` to `high`. Empty bins have no shares."""

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
    """Correlations with length of the model's scores and of the reviewers' preferences."""

    score_spearman: Correlation
    label_spearman: Correlation


class Quality(TypedDict, total=False):
    """The figures on held-out prompts that reward models and adapters share."""

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
    """The area under the ROC curve of each sign that a pair is ordered incorrectly."""

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
    """The beginning of a text, and the number of characters after it."""

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
    """A pair that the model orders against the reviewers. `evidence` is [for the reviewers, against]."""

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
    """The rankings that one more point of accuracy costs. An open end of the interval is null."""

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
    """A ranking that is probably a mistake. `scores` has the model's score of each response id."""

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
    """report.json of a reward model."""

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
