"""Scores from the model server. `manage.py model_server` starts it."""

import logging
import threading
from collections.abc import Sequence

from django.conf import settings

from reward.models import RewardModel
from reward.scoring.rows import ScoreRow
from serving.client import BlockingClient, Scores
from serving.errors import Busy, NotRunning, ServingError, TooLarge, TooSlow

log = logging.getLogger("tiebreak.scores")

_waiting: dict[int, threading.BoundedSemaphore] = {}


class Unavailable(Exception):  # noqa: N818
    """The error if there are no scores now. The text contains the reason.

    Clients can try again after `retry_after` seconds.
    """

    def __init__(self, text: str, *, retry_after: int):
        super().__init__(text)
        self.retry_after = retry_after


class CannotScore(Exception):  # noqa: N818
    """The error if the model cannot score, now or later. The text contains the reason."""


class RequestTooLarge(CannotScore):
    """The error if a request is too large for the memory of the model server."""


def judge(model: RewardModel, rows: Sequence[ScoreRow]) -> Scores:
    """Return the scores of the rows. This waits up to API_SCORE_SECONDS, and takes no query.

    Raises Unavailable and CannotScore.
    """
    turn = _waiting.setdefault(
        settings.API_AT_ONCE, threading.BoundedSemaphore(settings.API_AT_ONCE)
    )
    if not turn.acquire(blocking=False):
        raise Unavailable("This server is already waiting for other scores.", retry_after=1)
    try:
        with BlockingClient(settings.MODEL_SERVER) as client:
            return client.score(
                str(model.folder_to_load()),
                [(row.prompt, row.responses) for row in rows],
                settings.API_SCORE_SECONDS,
            )
    except ServingError as error:
        raise problem_of(error) from None
    finally:
        turn.release()


def problem_of(error: ServingError) -> Exception:
    """Return the exception for an error of the model server. Details of the machine are only logged."""
    match error:
        case NotRunning():
            log.error("%s", error)
            return Unavailable(
                "The model server does not answer. The operator starts it with manage.py model_server.",
                retry_after=5,
            )
        case TooSlow():
            text = f"The scores took longer than {settings.API_SCORE_SECONDS} seconds."
            return Unavailable(text, retry_after=10)
        case Busy():
            return Unavailable("Too many requests are waiting for scores.", retry_after=5)
        case TooLarge():
            return RequestTooLarge(
                "The model server does not have enough memory for this request. Send less text."
            )
    log.error("The model server gave no scores: %s", error)
    return CannotScore("The reward model cannot be used; see the server's log.")
