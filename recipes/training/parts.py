"""Run directories inside a run directory, for work on parts of the data or in rounds."""

from typing import Any

from recipes.machine import processes
from recipes.rundir import RunDir


class Part(RunDir):
    """The run directory of a part. The run gets its messages too, but each text only once."""

    def __init__(self, whole: RunDir, name: str, title: str, sent: set[str]):
        super().__init__(whole.path / "parts" / name)
        self._whole = whole
        self.title = title
        self.sent = sent

    @property
    def whole(self) -> RunDir:
        return self._whole

    def emit(self, event: str, **fields: Any) -> None:
        if not processes.rank():
            super().emit(event, **fields)

    def stage(self, text: str) -> None:
        super().stage(text)
        self.whole.stage(f"{self.title}: {text}")

    def message(self, text: str, level: str = "info") -> None:
        super().message(text, level)
        if text not in self.sent:
            self.sent.add(text)
            self.whole.message(f"{self.title}: {text}", level)
