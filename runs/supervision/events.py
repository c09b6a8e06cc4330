"""Copy a run's events.jsonl into the database. A line may be copied twice, because lines are numbered."""

import json
import logging
from datetime import UTC, datetime
from math import isfinite
from typing import Any

from recipes.rundir import RunDir
from runs.models import RunEvent

logger = logging.getLogger("tiebreak.runs")

BATCH_BYTES = 4_000_000
"""Maximum number of bytes per read, so that a recipe that writes fast cannot fill the worker's memory."""


class EventTail:
    """A reader for an events.jsonl that grows while it is read.

    It reads only complete lines. Invalid lines are skipped, but counted in the line numbers.
    """

    def __init__(self, run_id: int, run_dir: RunDir, *, after: int = 0):
        """Begin after line number `after`, the last line that has already been copied."""
        self.run_id = run_id
        self.run_dir = run_dir
        self.path = run_dir.events_file
        self.after = after
        self.offset = 0
        self.number = 0
        self.progress: tuple[int, int] | None = None
        self.result: dict[str, Any] = {}
        self.error = ""

    def read(self) -> list[RunEvent]:
        """Return the new events since the last call, up to a few megabytes of them."""
        if not self.path.exists():
            return []
        if self.path.stat().st_size < self.offset:
            self._start_again()
        with self.path.open("rb") as file:
            file.seek(self.offset)
            data = file.read(BATCH_BYTES)
            if b"\n" not in data:
                data += file.readline()
        whole = data[: data.rfind(b"\n") + 1]
        self.offset += len(whole)
        events = [self._event(line) for line in whole.split(b"\n")[:-1]]
        return [event for event in events if event is not None and event.number > self.after]

    def _start_again(self) -> None:
        """Read the file from its beginning, because it was cut off since the last call."""
        logger.warning("%s was cut off. Its events so far are in the database.", self.path)
        self.after = max(self.after, self.number)
        add_missing_lines(self.run_dir, self.after)
        self.offset = self.number = 0

    def _event(self, line: bytes) -> RunEvent | None:
        self.number += 1
        data = parse(line)
        if data is None:
            return None
        at, name = moment(data.pop("at", None)), str(data.pop("event", ""))[:20]
        self._remember(name, data)
        return RunEvent(run_id=self.run_id, number=self.number, at=at, event=name, data=data)

    def _remember(self, name: str, data: dict[str, Any]) -> None:
        if name == "progress":
            self.progress = whole_number(data.get("step")), whole_number(data.get("total"))
        elif name == "result" and isinstance(data.get("result"), dict):
            self.result = data["result"]
        elif name == "message" and data.get("level") == "error" and self.number > self.after:
            self.error = str(data.get("text", ""))


def parse(line: bytes) -> dict[str, Any] | None:
    """Return the event in a line, in a form that PostgreSQL can store, or None if it is invalid.

    An event must be a JSON object.
    """
    try:
        data = json.loads(line, parse_constant=lambda name: None)
    except (ValueError, RecursionError):
        return None
    return storable(data) if isinstance(data, dict) else None


def storable(value: Any) -> Any:
    """Return the value without null characters, lone surrogates and infinities, which jsonb refuses."""
    if isinstance(value, float) and not isfinite(value):
        return None
    if isinstance(value, str):
        return value.replace("\0", "").encode("utf-8", "replace").decode()
    if isinstance(value, list):
        return [storable(item) for item in value]
    if isinstance(value, dict):
        return {storable(key): storable(item) for key, item in value.items()}
    return value


def moment(text: Any) -> datetime:
    try:
        at = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return datetime.now(UTC)
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def whole_number(value: Any) -> int:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return min(max(0, int(value)), 2**31 - 1) if is_number else 0


def repair(run_dir: RunDir, *, copied: int) -> None:
    """Prepare the file for the next attempt, after a crash or a power failure.

    An incomplete last line is removed. If the file has lost lines that were copied already, empty ones
    take their place, so that the next event gets a new number.
    """
    if not run_dir.events_file.exists():
        if not copied:
            return
        run_dir.events_file.touch()
    with run_dir.events_file.open("r+b") as file:
        data = file.read()
        file.truncate(data.rfind(b"\n") + 1)
    add_missing_lines(run_dir, copied)


def add_missing_lines(run_dir: RunDir, count: int) -> None:
    """Append empty lines to the file until it has `count` lines."""
    with run_dir.events_file.open("a+b") as file:
        file.seek(0)
        data = file.read()
        partial = bool(data) and not data.endswith(b"\n")
        file.write(b"\n" * max(partial, count - data.count(b"\n")))
