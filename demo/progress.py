"""A progress bar with the time left for each step of the demo, or plain lines without a terminal."""

import shutil
import time
from collections.abc import Callable
from typing import TextIO

TITLE_COLUMNS = 46
REST_COLUMNS = 20
MAX_BAR_LENGTH = 30
REDRAW_SECONDS = 0.2


class Steps:
    """The display of the current step. Call `begin`, `update` any number of times, and then `done`."""

    def __init__(self, out: TextIO, clock: Callable[[], float] = time.monotonic):
        self.out = out
        self.clock = clock
        self.is_terminal = out.isatty()
        columns = shutil.get_terminal_size().columns
        self.bar_columns = max(5, min(MAX_BAR_LENGTH, columns - TITLE_COLUMNS - REST_COLUMNS))

    def begin(self, title: str) -> None:
        self.title = title
        self.began_at = self.drawn_at = self.clock()
        self.first: tuple[float, float] | None = None
        self.last = (self.began_at, 0.0)
        if self.is_terminal:
            self._draw(0.0, "")
        else:
            print(f"{title} …", file=self.out, flush=True)

    def update(self, share: float) -> None:
        """Show that `share` of the step, from 0 to 1, is done."""
        now = self.clock()
        if share > self.last[1]:
            self.last = (now, share)
            self.first = self.first or self.last
        if self.is_terminal and now - self.drawn_at >= REDRAW_SECONDS:
            self.drawn_at = now
            self._draw(share, self._time_left(now))

    def done(self) -> None:
        seconds = duration(self.clock() - self.began_at)
        if self.is_terminal:
            self._draw(1.0, seconds)
            print(file=self.out, flush=True)
        else:
            print(f"{self.title}: {seconds}", file=self.out, flush=True)

    def interrupt(self) -> None:
        """End the bar's line, so that the next message starts on a new line."""
        if self.is_terminal:
            print(file=self.out, flush=True)

    def _time_left(self, now: float) -> str:
        """Return the estimated time left, based on the average pace since the first progress.

        Time before the first progress, such as loading, is not included in the pace. Between two
        reports of progress, the time left counts down.
        """
        if self.first is None or self.last == self.first:
            return f"{duration(now - self.began_at)} so far"
        (first_at, first_share), (last_at, last_share) = self.first, self.last
        pace = (last_at - first_at) / (last_share - first_share)
        return f"{duration(max(0.0, pace * (1 - last_share) - (now - last_at)))} left"

    def _draw(self, share: float, text: str) -> None:
        filled = "█" * round(share * self.bar_columns)
        bar = f"{filled:░<{self.bar_columns}}"
        line = f"{self.title[:TITLE_COLUMNS]:<{TITLE_COLUMNS}} {bar} {share:4.0%} {text}"
        print(f"\r\x1b[K{line}", end="", file=self.out, flush=True)


def duration(seconds: float) -> str:
    """Return seconds as text, such as 0:07, 12:30 or 1:05:00."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
