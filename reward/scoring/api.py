"""Scores over HTTP: POST score and POST best-of-n. docs/api.md explains them."""

from collections.abc import Callable
from math import ceil
from typing import Annotated, Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from ninja import Body, Query, Router, Schema
from pydantic import ConfigDict, Discriminator, Field, Tag

from accounts.api import Problem, token_of
from accounts.models import Token
from reward.access import led_projects
from reward.models import RewardModel
from reward.scoring import scorer
from reward.scoring.promoted import NoModel, scoring_model
from reward.scoring.rows import Asked, asked_by_messages, asked_in

router = Router(tags=["scores"])

MOST_CONVERSATIONS = 256
MOST_RESPONSES = 64
CHARACTERS_EACH = 2_000
"""Of prompt and responses: so many count as one response."""
TURN_SLACK = 5
MODEL_HEADER = "Tiebreak-Reward-Model"
UNREAD = (
    "The model reads {limit} tokens at most, and scores nothing that is longer, empty, or that its "
    "chat template refuses."
)
NO = {
    str(status): {"description": what, "content": {"application/problem+json": {}}}
    for status, what in {
        401: "No valid token",
        404: "No reward model that the token's owner may use",
        413: "Larger than 2.5 MB, than the characters of a request, or than the scorer's memory",
        422: "Not as described here",
        429: "Another request of the token is being answered, or its minute is used up; Retry-After says when to go on",
        500: "The model cannot be used; the server's log says why",
        503: "No scores at the moment; Retry-After says when to ask again",
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
    prompt: str | list[Message] = Field(description="Text, or the messages to be answered.")
    responses: list[str] = Field(min_length=1, max_length=MOST_RESPONSES)


class Score(Schema):
    score: float | None = Field(description="Higher is better. Compares responses to one prompt.")
    uncertainty: float | None = Field(
        description="Standard deviation over the model's heads; null where it has one."
    )
    reason: str | None = Field(None, description="Why there is no score.")


class Best(Schema):
    scores: list[float | None]
    uncertainties: list[float | None]
    best: int | None = Field(description="Place of the highest score, from 0.")
    tokens_forwarded: int = Field(description="Tokens that the model was shown.")


Project = Annotated[str, Query(description="Slug of the project whose promoted model scores.")]
Number = Annotated[int | None, Query(ge=1, le=2**62, description="A reward model's number.")]
Batch = Annotated[list[Conversation], Field(min_length=1, max_length=MOST_CONVERSATIONS)]
OneOrMany = Annotated[
    Annotated[Conversation, Tag("one")] | Annotated[Batch, Tag("many")],
    Discriminator(lambda value: "many" if isinstance(value, list) else "one"),
]
"""Told apart before either is read, so that what is wrong is told of the one that was meant."""


@router.post(
    "/score",
    response=Score | list[Score],
    summary="Score",
    url_name="api-score",
    operation_id="reward_api_score",  # generated clients name their functions after it
    openapi_extra={"responses": NO},
)
def score(
    request: HttpRequest,
    response: HttpResponse,
    asked: Annotated[OneOrMany, Body()],
    project: Project = "",
    model: Number = None,
) -> Any:
    """One conversation gives one score, a list of them a list of scores in the same order."""
    token, chosen = allowed(request, project, model)
    batch = {"": asked} if isinstance(asked, Conversation) else dict(enumerate(asked))
    rows = [
        _row(f"{place}.messages".lstrip("."), asked_by_messages, [m.dict() for m in each.messages])
        for place, each in batch.items()
    ]
    said = scores_of(token, chosen, rows)
    response[MODEL_HEADER] = str(chosen.pk)
    found = [_score(verdict, said.limit) for verdict in said.verdicts]
    return found if isinstance(asked, list) else found[0]


@router.post(
    "/best-of-n",
    response=Best,
    summary="Best of n",
    url_name="api-best-of-n",
    operation_id="reward_api_best_of_n",
    openapi_extra={"responses": NO},
)
def best_of_n(
    request: HttpRequest,
    response: HttpResponse,
    asked: Annotated[Candidates, Body()],
    project: Project = "",
    model: Number = None,
) -> Any:
    """Several responses to one prompt, which the model reads once for sixteen of them."""
    token, chosen = allowed(request, project, model)
    row = _row("prompt", asked_in, asked.dict())
    said = scores_of(token, chosen, [row])
    response[MODEL_HEADER] = str(chosen.pk)
    (verdict,) = said.verdicts
    known = [(s, -place) for place, s in enumerate(verdict["scores"]) if s is not None]
    best = -max(known)[1] if known else None
    return {**verdict, "best": best, "tokens_forwarded": said.forwarded}


def allowed(request: HttpRequest, project: str, number: int | None) -> tuple[Token, RewardModel]:
    """Who asks, and the model that they may ask. Raises Problem when they may ask none."""
    token = token_of(request)
    models = RewardModel.objects.filter(project__in=led_projects(token.user))
    try:
        return token, scoring_model(models, number=number, project=project)
    except NoModel as error:
        raise Problem(404, f"{error} You see the models of the projects you lead.") from None


def scores_of(token: Token, model: RewardModel, rows: list[Asked]) -> scorer.Said:
    """Charge the request to the token's minute and have it scored. Raises Problem.

    A request that is too large is refused before anything tokenizes it. A token has one request at
    a time, in all processes together, so that one of them cannot keep the others waiting.
    """
    size, most = sum(map(_characters, rows)), settings.API_CHARACTERS
    if size > most:
        text = f"The texts have {size:,} characters; a request may have {most:,}. Send several."
        raise Problem(413, text)
    with token.turn(seconds=settings.SCORER_SECONDS + TURN_SLACK) as mine:
        if not mine:
            text = "Another request with this token is being answered. Send one at a time."
            raise Problem(429, text, retry_after=1)
        limit = settings.API_RESPONSES_A_MINUTE
        if not token.spend(sum(map(_charge, rows)), limit=limit):
            text = (
                f"A token may have {limit} responses scored in a minute; {CHARACTERS_EACH:,} "
                "characters count as one. Continue in the next minute."
            )
            raise Problem(429, text, retry_after=60)
        return _judged(model, rows)


def _characters(row: Asked) -> int:
    return sum(len(turn["content"]) for turn in row.prompt) + sum(map(len, row.responses))


def _charge(row: Asked) -> int:
    """Return how many responses a row counts as: by number or by size, whichever is more."""
    return max(len(row.responses), ceil(_characters(row) / CHARACTERS_EACH))


def _judged(model: RewardModel, rows: list[Asked]) -> scorer.Said:
    try:
        return scorer.judge(model, rows)
    except scorer.Unavailable as error:
        raise Problem(503, str(error), retry_after=error.retry_after) from None
    except scorer.TooMuch as error:
        raise Problem(413, str(error)) from None
    except scorer.CannotScore as error:
        raise Problem(500, str(error)) from None


def _row(place: str, read: Callable[[Any], Asked], value: Any) -> Asked:
    try:
        return read(value)
    except ValueError as error:
        told = [{"at": place, "what": str(error)}]
        raise Problem(422, f"{place}: {error}.", errors=told) from None


def _score(verdict: dict[str, list[float | None]], limit: int) -> dict[str, Any]:
    (value,), (apart,) = verdict["scores"], verdict["uncertainties"]
    reason = UNREAD.format(limit=limit) if value is None else None
    return {"score": value, "uncertainty": apart, "reason": reason}
