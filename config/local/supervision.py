"""Pauses between the restarts of a process, and messages about processes that ended."""

import signal
import time

SHORT_LIFE_SECONDS = 5
IMMEDIATE_RESTARTS = 3
MAX_PAUSE_SECONDS = 60


class Restarts:
    """The pauses between the restarts of a process.

    A process that ran for a while is restarted immediately. After three quick failures in a row, there
    is a pause of one second, which doubles with each failure up to a minute. A process that cannot
    start therefore does not use the whole CPU.
    """

    def __init__(self) -> None:
        self.short_lives = 0
        self.next_start = 0.0

    def ended(self, *, started_at: float) -> float:
        """Record that the process has ended; return the pause before its restart in seconds.

        `started_at` is a time of time.monotonic().
        """
        now = time.monotonic()
        short = now - started_at < SHORT_LIFE_SECONDS
        self.short_lives = self.short_lives + 1 if short else 0
        pauses = self.short_lives - IMMEDIATE_RESTARTS
        pause = min(2.0**pauses, MAX_PAUSE_SECONDS) if pauses >= 0 else 0.0
        self.next_start = now + pause
        return pause

    def due(self) -> bool:
        return time.monotonic() >= self.next_start


def sentence(name: str, status: int | None, pause: float) -> str:
    """Return a message about a process that has ended and is restarted after `pause` seconds."""
    when = f"next attempt in {pause:.0f} s" if pause else "starting it again"
    return f"{name} ended ({cause(status)}); {when}."


def cause(status: int | None) -> str:
    """Return the name of the signal that ended a process, or its exit status.

    A signal is a negative status in subprocess's notation, and 128 plus its number in a shell's.
    """
    number = -status if status and status < 0 else (status or 0) - 128
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"status {status}"
