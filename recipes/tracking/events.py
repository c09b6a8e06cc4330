"""The progress events of a run, read from its events.jsonl while it grows."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from recipes.curves import curves_of


@dataclass(frozen=True)
class Point:
    """The curves of a step. `time` is the time of the event, in seconds since 1970."""

    step: int
    time: float
    values: dict[str, float]


def points_after(path: Path, offset: int) -> Iterator[tuple[Point | None, int]]:
    """Yield the point of each complete line after a byte offset, and the offset after the line.

    A line without curves gives None.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            yield _point(line), offset


def _point(line: bytes) -> Point | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    if not isinstance(event, dict) or event.get("event") != "progress":
        return None
    values, step = curves_of(event), event.get("step")
    if not values or not isinstance(step, int | float):
        return None
    return Point(int(step), _seconds(event.get("at")), values)


def _seconds(at: Any) -> float:
    try:
        return datetime.fromisoformat(at).timestamp()
    except (TypeError, ValueError):
        return datetime.now(UTC).timestamp()
