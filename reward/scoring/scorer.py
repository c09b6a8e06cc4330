"""The client of the scorer, a separate process with loaded models. `manage.py scorer` starts it."""

import logging
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.conf import settings

from reward.models import RewardModel
from reward.scoring.rows import ScoreRow
from reward.scoring.wire import address, receive, send

log = logging.getLogger("tiebreak.scorer")

SILENT_SECONDS = 1.0
PING_SECONDS = 2.0

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
    """The error if a request is too large for the memory of the scorer."""


class ScorerUnresponsive(Exception):  # noqa: N818
    """The error if the process of the scorer hangs and does not answer a ping."""


class DeadlineSocket(socket.socket):
    """A connection to the scorer with a time limit for the whole exchange.

    Raises TimeoutError after `seconds`. If the scorer does not respond and does not answer a ping
    either, ScorerUnresponsive is raised earlier.
    """

    def __init__(self, seconds: float):
        super().__init__(socket.AF_UNIX, socket.SOCK_STREAM)
        self.until = time.monotonic() + seconds
        self.settimeout(min(seconds, PING_SECONDS))

    def recv(self, *args: int) -> bytes:
        while True:
            self.settimeout(min(self.left(), SILENT_SECONDS))
            try:
                return super().recv(*args)
            except TimeoutError:
                self._give_up_if_silent()

    def sendall(self, data: Any, *flags: int) -> None:
        rest = memoryview(data)
        while rest:
            self.settimeout(min(self.left(), SILENT_SECONDS))
            try:
                rest = rest[super().send(rest, *flags) :]
            except TimeoutError:
                self._give_up_if_silent()

    def left(self) -> float:
        seconds = self.until - time.monotonic()
        if seconds <= 0:
            raise TimeoutError
        return seconds

    def _give_up_if_silent(self) -> None:
        if self.left() and not answers_ping(self.getpeername()):
            raise ScorerUnresponsive


def answers_ping(path: str) -> bool:
    """Return whether the process of the scorer answers within PING_SECONDS, even if it is busy."""
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(PING_SECONDS)
            probe.connect(path)
            send(probe, {"ping": True})
            return bool(receive(probe))
    except (OSError, ValueError):
        return False


@dataclass(frozen=True)
class Scores:
    """The scores and uncertainties of the responses to each prompt. Missing ones are None."""

    verdicts: list[dict[str, list[float | None]]]
    limit: int
    forwarded: int


def judge(model: RewardModel, rows: Sequence[ScoreRow]) -> Scores:
    """Return the scores of the rows. This waits up to SCORER_SECONDS, and takes no query.

    Raises Unavailable and CannotScore.
    """
    turn = _waiting.setdefault(
        settings.SCORER_AT_ONCE, threading.BoundedSemaphore(settings.SCORER_AT_ONCE)
    )
    if not turn.acquire(blocking=False):
        raise Unavailable("This server is already waiting for other scores.", retry_after=1)
    try:
        reply = _reply_to(model, rows)
    finally:
        turn.release()
    if "error" in reply:
        raise _problem(reply)
    return Scores(reply["verdicts"], reply["limit"], reply["forwarded"])


def _reply_to(model: RewardModel, rows: Sequence[ScoreRow]) -> dict[str, Any]:
    request = {
        "model": str(model.folder_to_load()),
        "conversations": [[row.prompt, row.responses] for row in rows],
        "seconds": settings.SCORER_SECONDS,
    }
    try:
        with DeadlineSocket(settings.SCORER_SECONDS) as connection:
            connection.connect(address(settings.SCORER_SOCKET))
            send(connection, request)
            return receive(connection)
    except ScorerUnresponsive:
        text = "The scorer does not answer. The operator must restart it."
        raise Unavailable(text, retry_after=30) from None
    except TimeoutError:
        text = f"The scores took longer than {settings.SCORER_SECONDS} seconds."
        raise Unavailable(text, retry_after=10) from None
    except (FileNotFoundError, ConnectionRefusedError):
        text = "The scorer is not running. The operator starts it with manage.py scorer."
        raise Unavailable(text, retry_after=30) from None
    except (OSError, ValueError) as error:
        log.warning("The scorer gave no answer: %s", error)
        raise Unavailable("The scorer gave no answer and is restarting.", retry_after=5) from None


def _problem(reply: dict[str, Any]) -> Exception:
    """Return the exception for an error reply. Details about the machine are only logged."""
    match reply["error"]:
        case "busy" | "late":
            return Unavailable("Too many requests are waiting for scores.", retry_after=5)
        case "memory":
            return RequestTooLarge(
                "The scorer does not have enough memory for this request. Send less text."
            )
    log.error("The scorer failed: %s", reply.get("text"))
    if reply["error"] == "model":
        return CannotScore("The reward model cannot be loaded; see the server's log.")
    return CannotScore("The scorer failed; see the server's log.")
