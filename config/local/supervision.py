"""Pauses between the restarts of a process, and messages about processes that ended."""

import signal
import time

SHORT_LIFE_SECONDS = 5
IMMEDIATE_RESTARTS = 3
MAX_PAUSE_SECONDS = 60


class Restarts:
    """The pauses between restarts of one process.

    A process that ran for a while is restarted immediately. After three quick failures in a row the
    pause doubles from one second to one minute, so that a process that cannot start does not use
    the whole CPU.
    """

    def __init__(self) -> None:
        self.short_lives = 0
        self.next_start = 0.0

    def ended(self, *, started_at: float) -> float:
        """Record an end, and return the pause in seconds. Times are those of time.monotonic()."""
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
    """Return the message about a process that ended with `status` and restarts after `pause`."""
    when = f"next attempt in {pause:.0f} s" if pause else "starting it again"
    return f"{name} ended ({cause(status)}); {when}."


def cause(status: int | None) -> str:
    """Return the name of the signal or the status with which a process ended.

    A signal is negative in subprocess's notation and 128 + number in a shell's.
    """
    number = -status if status and status < 0 else (status or 0) - 128
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"status {status}"
