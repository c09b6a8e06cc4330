"""The scoring API: POST score and POST best-of-n. docs/api.md describes both."""

from collections.abc import Callable
from dataclasses import asdict
from math import ceil
from typing import Annotated, Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from ninja import Body, Query, Router, Schema
from pydantic import ConfigDict, Discriminator, Field, Tag

from accounts.api import INFERENCE, Problem, token_of
from accounts.models import Token
from reward.access import led_projects
from reward.models import RewardModel
from reward.scoring import model_server
from reward.scoring.promoted import NoModel, scoring_model
from reward.scoring.rows import ScoreRow, parse_messages, parse_row
from serving.client import Scores, Verdict

router = Router(tags=["scores"], auth=INFERENCE)

MAX_CONVERSATIONS = 256
MAX_RESPONSES = 64
CHARACTERS_EACH = 2_000
"""The number of characters of prompt and responses that count as one response."""
TURN_SLACK = 5
MODEL_HEADER = "Tiebreak-Reward-Model"
UNREAD = (
    "The model reads at most {limit} tokens. It does not score longer or empty text, or text that its "
    "chat template refuses."
)
ERRORS = {
    str(status): {"description": description, "content": {"application/problem+json": {}}}
    for status, description in {
        401: "No valid token",
        404: "No reward model available to the owner of the token",
        413: "More than 2.5 MB, too many characters, or too large for the model server's memory",
        422: "Invalid request",
        429: "Another request of the token is being answered, or its limit per minute is reached; see Retry-After",
        500: "The model cannot be used; see the server's log",
        503: "No scores at the moment; see Retry-After",
        507: "The server's storage is full",
    }.items()
}


class Strict(Schema):
    model_config = ConfigDict(extra="forbid")


class Message(Strict):
    role: str = Field(min_length=1, max_length=64, examples=["user"])
    content: str


class Conversation(Strict):
    messages: list[Message] = Field(
        min_length=2, description="A conversation that ends with the response to score."
    )


class Candidates(Strict):
    prompt: str | list[Message] = Field(description="Text or messages.")
    responses: list[str] = Field(min_length=1, max_length=MAX_RESPONSES)


class Score(Schema):
    score: float | None = Field(description="Higher is better. Compares responses to one prompt.")
    uncertainty: float | None = Field(
        description="Standard deviation over the model's heads; null for one head."
    )
    reason: str | None = Field(None, description="Reason for a missing score.")


class Best(Schema):
    scores: list[float | None]
    uncertainties: list[float | None]
    best: int | None = Field(description="Index of the highest score, from 0.")
    tokens_forwarded: int = Field(description="Tokens forwarded by the model.")


Project = Annotated[str, Query(description="Slug of the project whose promoted model scores.")]
Number = Annotated[int | None, Query(ge=1, le=2**62, description="A reward model's number.")]
Batch = Annotated[list[Conversation], Field(min_length=1, max_length=MAX_CONVERSATIONS)]
OneOrMany = Annotated[
    Annotated[Conversation, Tag("one")] | Annotated[Batch, Tag("many")],
    Discriminator(lambda value: "many" if isinstance(value, list) else "one"),
]
"""The form is recognised before the validation, so that errors refer to the form that was sent."""


@router.post(
    "/score",
    response=Score | list[Score],
    summary="Score",
    url_name="api-score",
    operation_id="reward_api_score",  # generated clients name their functions after it
    openapi_extra={"responses": ERRORS},
)
def score(
    request: HttpRequest,
    response: HttpResponse,
    conversations: Annotated[OneOrMany, Body()],
    project: Project = "",
    model: Number = None,
) -> Any:
    """Score one conversation, or a list of conversations in order."""
    token, chosen = allowed(request, project, model)
    batch: dict[Any, Conversation] = (
        {"": conversations}
        if isinstance(conversations, Conversation)
        else dict(enumerate(conversations))
    )
    rows = [
        _row(f"{key}.messages".lstrip("."), parse_messages, [m.dict() for m in each.messages])
        for key, each in batch.items()
    ]
    judged = scores_of(token, chosen, rows)
    response[MODEL_HEADER] = str(chosen.pk)
    scores = [_score(verdict, judged.limit) for verdict in judged.verdicts]
    return scores if isinstance(conversations, list) else scores[0]


@router.post(
    "/best-of-n",
    response=Best,
    summary="Best of n",
    url_name="api-best-of-n",
    operation_id="reward_api_best_of_n",
    openapi_extra={"responses": ERRORS},
)
def best_of_n(
    request: HttpRequest,
    response: HttpResponse,
    candidates: Annotated[Candidates, Body()],
    project: Project = "",
    model: Number = None,
) -> Any:
    """Score several responses to one prompt. The model reads the prompt once per 16 responses."""
    token, chosen = allowed(request, project, model)
    row = _row("prompt", parse_row, candidates.dict())
    judged = scores_of(token, chosen, [row])
    response[MODEL_HEADER] = str(chosen.pk)
    (verdict,) = judged.verdicts
    scored = [(s, -index) for index, s in enumerate(verdict.scores) if s is not None]
    best = -max(scored)[1] if scored else None
    return {**asdict(verdict), "best": best, "tokens_forwarded": judged.forwarded}


def allowed(request: HttpRequest, project: str, number: int | None) -> tuple[Token, RewardModel]:
    """Return the token and the model. Raises Problem if the owner of the token may not use one."""
    token = token_of(request)
    models = RewardModel.objects.filter(project__in=led_projects(token.user))
    try:
        if token.project_id is not None:
            models = models.filter(project=token.project_id)
        return token, scoring_model(models, number=number, project=project)
    except NoModel as error:
        raise Problem(404, f"{error} You can use the models of projects that you lead.") from None


def scores_of(token: Token, model: RewardModel, rows: list[ScoreRow]) -> Scores:
    """Count the request against the limit per minute of the token, and return its scores.

    A request that is too large is refused before it is tokenized. Across all processes, a token can
    have only one request at a time, so that one client cannot block the others. Raises Problem.
    """
    size, most = sum(map(_characters, rows)), settings.API_CHARACTERS
    if size > most:
        text = f"The texts have {size:,} characters; the limit per request is {most:,}. Send several requests."
        raise Problem(413, text)
    with token.turn(seconds=settings.API_SCORE_SECONDS + TURN_SLACK) as acquired:
        if not acquired:
            text = "Another request with this token is being answered. Send one at a time."
            raise Problem(429, text, retry_after=1)
        limit = settings.API_RESPONSES_A_MINUTE
        if not token.spend(sum(map(_charge, rows)), limit=limit):
            text = (
                f"The limit is {limit} responses per token and minute; {CHARACTERS_EACH:,} characters "
                "count as one response. Continue in the next minute."
            )
            raise Problem(429, text, retry_after=60)
        return _judged(model, rows)


def _characters(row: ScoreRow) -> int:
    return sum(len(turn["content"]) for turn in row.prompt) + sum(map(len, row.responses))


def _charge(row: ScoreRow) -> int:
    """Return how many responses a row counts as. Long texts count as more than they contain."""
    return max(len(row.responses), ceil(_characters(row) / CHARACTERS_EACH))


def _judged(model: RewardModel, rows: list[ScoreRow]) -> Scores:
    try:
        return model_server.judge(model, rows)
    except model_server.Unavailable as error:
        raise Problem(503, str(error), retry_after=error.retry_after) from None
    except model_server.RequestTooLarge as error:
        raise Problem(413, str(error)) from None
    except model_server.CannotScore as error:
        raise Problem(500, str(error)) from None


def _row(field: str, read: Callable[[Any], ScoreRow], value: Any) -> ScoreRow:
    try:
        return read(value)
    except ValueError as error:
        errors = [{"at": field, "what": str(error)}]
        raise Problem(422, f"{field}: {error}.", errors=errors) from None


def _score(verdict: Verdict, limit: int) -> dict[str, Any]:
    (value,), (uncertainty,) = verdict.scores, verdict.uncertainties
    reason = UNREAD.format(limit=limit) if value is None else None
    return {"score": value, "uncertainty": uncertainty, "reason": reason}
