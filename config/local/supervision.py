"""How often a process that ended is started again."""

import signal
import time

SHORT_LIFE_SECONDS = 5
IMMEDIATE_RESTARTS = 3
LONGEST_PAUSE_SECONDS = 60


class Restarts:
    """The pauses between restarts of one process.

    A process that ran for a while is started again immediately. After three quick failures in a row
    the pause doubles from one second to one minute, so that a process that cannot start does not
    keep the machine busy.
    """

    def __init__(self) -> None:
        self.short_lives = 0
        self.next_start = 0.0

    def ended(self, *, started_at: float) -> float:
        """Note an end; returns the pause in seconds. Times are time.monotonic()."""
        now = time.monotonic()
        short = now - started_at < SHORT_LIFE_SECONDS
        self.short_lives = self.short_lives + 1 if short else 0
        pauses = self.short_lives - IMMEDIATE_RESTARTS
        pause = min(2.0**pauses, LONGEST_PAUSE_SECONDS) if pauses >= 0 else 0.0
        self.next_start = now + pause
        return pause

    def due(self) -> bool:
        return time.monotonic() >= self.next_start


def sentence(name: str, status: int | None, pause: float) -> str:
    """The message about a process that ended with `status` and starts again after `pause`."""
    when = f"next attempt in {pause:.0f} s" if pause else "starting it again"
    return f"{name} ended ({cause(status)}); {when}."


def cause(status: int | None) -> str:
    """`status` as subprocess gives it (negative for a signal) or as a shell does (128 + number)."""
    number = -status if status and status < 0 else (status or 0) - 128
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"status {status}"
