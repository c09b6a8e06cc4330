"""The signal that stops a recipe between two steps."""

import signal
from types import FrameType

from recipes.errors import Stopped


class StopSignal:
    """A flag set by SIGTERM, so that the training loop can end between two steps."""

    def __init__(self) -> None:
        self.requested = False

    def listen(self) -> None:
        signal.signal(signal.SIGTERM, self._remember)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.requested = True

    def check(self) -> None:
        """Raise Stopped if the run was asked to stop."""
        if self.requested:
            raise Stopped
