"""The objects of the API, as the server's OpenAPI document describes them."""

from typing import Any, Literal, TypedDict

Scope = Literal["read", "label", "train", "admin", "inference"]
Role = Literal["reviewer", "lead", "trainer"]
RunState = Literal["queued", "running", "succeeded", "failed", "cancelled"]
ModelState = Literal["candidate", "promoted", "archived"]
EventName = Literal["ranking.submitted", "project.finished", "run.ended", "model.promoted"]


class Message(TypedDict):
    role: str
    content: str


class Project(TypedDict):
    slug: str
    name: str
    description: str
    created_at: str
    archived_at: str | None


class ProjectDetail(Project):
    leads: bool
    guideline_version: int | None
    settings: dict[str, bool | int | float | str]


class Member(TypedDict):
    username: str
    name: str
    role: Role
    active: bool


class Criterion(TypedDict):
    name: str
    meaning: str
    scale: int


class GuidelineVersion(TypedDict):
    number: int
    state: Literal["draft", "published"]
    change_note: str
    requalify: bool
    created_at: str
    published_at: str | None


class GuidelineVersionDetail(GuidelineVersion):
    text: str
    criteria: list[Criterion]


class Response(TypedDict):
    id: int
    external_id: str
    text: str
    model: str


class Task(TypedDict):
    id: int
    external_id: str
    kind: str
    messages: list[Message]
    responses: list[Response]
    priority: int
    rankings_wanted: int
    rankings: int
    held: bool
    withdrawn: bool
    created_at: str


class Counted(TypedDict):
    read: int
    new: int


class Added(TypedDict):
    prompts: Counted
    responses: Counted
    tasks: Counted
    rankings: Counted
    held: int
    left_out: dict[str, int]
    changed: dict[str, int]


class Ranking(TypedDict):
    id: int
    task: int
    reviewer: str
    guideline_version: int | None
    tiers: list[list[int]]
    cut: int | None
    strength: float | None
    ratings: dict[str, dict[str, int]]
    flags: dict[str, list[str]]
    rationale: str
    shown_order: list[int]
    active_seconds: float
    source: str
    supersedes: int | None
    superseded_at: str | None
    removed_at: str | None
    created_at: str


class RunKind(TypedDict):
    name: str
    title: str
    description: str
    inputs: list[str]
    settings: list[dict[str, Any]]
    presets: list[str]


class Run(TypedDict):
    id: int
    kind: str
    title: str
    project: str | None
    state: RunState
    priority: int
    step: int
    total_steps: int
    created_by: str | None
    created_at: str
    started_at: str | None
    finished_at: str | None
    error: str


class Artifact(TypedDict):
    name: str
    bytes: int
    sha256: str


class RunDetail(Run):
    config: dict[str, Any]
    inputs: dict[str, Any]
    result: dict[str, Any]
    attempt: int
    reason: str
    cancel_requested_at: str | None
    artifacts: list[Artifact]


class RunEvent(TypedDict):
    number: int
    at: str
    event: str
    data: dict[str, Any]


class Snapshot(TypedDict):
    id: int
    project: str
    content_hash: str
    rankings: int
    created_by: str | None
    created_at: str


class SnapshotDetail(Snapshot):
    filter: dict[str, Any]
    counts: dict[str, Any]


class Model(TypedDict):
    id: int
    name: str
    project: str
    state: ModelState
    run: int | None
    snapshot: int | None
    created_at: str


class LanguageModel(Model):
    base: str
    endpoint: str
    parent: int | None


class LanguageModelDetail(LanguageModel):
    facts: dict[str, str]
    doubts: list[str]
    certificates: list[int]


class RewardModelDetail(Model):
    doubts: list[str]
    report: dict[str, Any]


class Evaluation(TypedDict):
    id: int
    project: str
    run: int
    candidate: int
    baseline: int
    judge: str
    registered: bool
    prompts: int
    created_at: str


class Conclusion(TypedDict):
    source: str
    conclusion: str
    sentence: str
    prompts: int
    win_rate: str
    interval: str
    level: str


class EvaluationDetail(Evaluation):
    conclusions: list[Conclusion]
    alpha: float | None
    margin: float | None
    asks_people: bool
    report: dict[str, Any]


class Score(TypedDict):
    score: float | None
    uncertainty: float | None
    reason: str | None


class Best(TypedDict):
    scores: list[float | None]
    uncertainties: list[float | None]
    best: int | None
    tokens_forwarded: int


class Webhook(TypedDict):
    id: int
    url: str
    events: list[EventName]
    active: bool
    created_at: str


class NewWebhook(Webhook):
    secret: str


class Delivery(TypedDict):
    id: int
    event: EventName
    subject: str
    state: str
    attempts: int
    status: int | None
    error: str
    created_at: str
    sent_at: str | None
