"""Asking the warm scorer, a process beside the web, for scores. It is started by `manage.py scorer`."""

import logging
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.conf import settings

from reward.models import RewardModel
from reward.scoring.rows import Asked
from reward.scoring.wire import address, receive, send

log = logging.getLogger("tiebreak.scorer")

SILENT_SECONDS = 1.0
PING_SECONDS = 2.0

_waiting: dict[int, threading.BoundedSemaphore] = {}


class Unavailable(Exception):  # noqa: N818
    """No scores now; the text says why, and `retry_after` in how many seconds to ask again."""

    def __init__(self, text: str, *, retry_after: int):
        super().__init__(text)
        self.retry_after = retry_after


class CannotScore(Exception):  # noqa: N818
    """No scores from this model, however often one asks; the text says why."""


class TooMuch(CannotScore):
    """The request is too large for the scorer's memory."""


class NotAnswering(Exception):  # noqa: N818
    """The scorer's process hangs: it does not even answer a ping."""


class DeadlineSocket(socket.socket):
    """A connection to the scorer that has `seconds` for everything together.

    Scores take as long as they need, up to then; a scorer that hangs is noticed earlier. Raises
    TimeoutError after the seconds, NotAnswering when the scorer is silent and answers no ping.
    """

    def __init__(self, seconds: float):
        super().__init__(socket.AF_UNIX, socket.SOCK_STREAM)
        self.until = time.monotonic() + seconds
        self.settimeout(min(seconds, PING_SECONDS))

    def recv(self, *asked: int) -> bytes:
        while True:
            self.settimeout(min(self.left(), SILENT_SECONDS))
            try:
                return super().recv(*asked)
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
            raise NotAnswering


def answers_ping(path: str) -> bool:
    """Whether the scorer's process answers within PING_SECONDS, busy or not."""
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(PING_SECONDS)
            probe.connect(path)
            send(probe, {"ping": True})
            return bool(receive(probe))
    except (OSError, ValueError):
        return False


@dataclass(frozen=True)
class Said:
    """Scores and uncertainties of each prompt's responses, null where there is none."""

    verdicts: list[dict[str, list[float | None]]]
    limit: int
    forwarded: int


def judge(model: RewardModel, rows: Sequence[Asked]) -> Said:
    """No query; as long as the scorer needs, and SCORER_SECONDS at most for the whole question.

    Raises Unavailable and CannotScore.
    """
    turn = _waiting.setdefault(
        settings.SCORER_AT_ONCE, threading.BoundedSemaphore(settings.SCORER_AT_ONCE)
    )
    if not turn.acquire(blocking=False):
        raise Unavailable("This server waits for other scores already.", retry_after=1)
    try:
        answer = _asked(model, rows)
    finally:
        turn.release()
    if "error" in answer:
        raise _problem(answer)
    return Said(answer["verdicts"], answer["limit"], answer["forwarded"])


def _asked(model: RewardModel, rows: Sequence[Asked]) -> dict[str, Any]:
    question = {
        "model": str(model.folder_to_load()),
        "conversations": [[row.prompt, row.responses] for row in rows],
        "seconds": settings.SCORER_SECONDS,
    }
    try:
        with DeadlineSocket(settings.SCORER_SECONDS) as connection:
            connection.connect(address(settings.SCORER_SOCKET))
            send(connection, question)
            return receive(connection)
    except NotAnswering:
        text = "The scorer does not answer. The operator restarts it."
        raise Unavailable(text, retry_after=30) from None
    except TimeoutError:
        text = f"The scores took longer than {settings.SCORER_SECONDS} seconds."
        raise Unavailable(text, retry_after=10) from None
    except (FileNotFoundError, ConnectionRefusedError):
        text = "The scorer does not run. The operator starts it with manage.py scorer."
        raise Unavailable(text, retry_after=30) from None
    except (OSError, ValueError) as error:
        log.warning("The scorer gave no answer: %s", error)
        raise Unavailable("The scorer gave no answer and starts again.", retry_after=5) from None


def _problem(answer: dict[str, Any]) -> Exception:
    """Log what the scorer says of its machine; clients need not know folders."""
    match answer["error"]:
        case "busy" | "late":
            return Unavailable("Too many requests wait for scores.", retry_after=5)
        case "memory":
            return TooMuch("The scorer has not enough memory for this request. Send less.")
    log.error("The scorer failed: %s", answer.get("text"))
    if answer["error"] == "model":
        return CannotScore("The reward model cannot be loaded; the server's log says why.")
    return CannotScore("The scorer failed; the server's log says why.")
