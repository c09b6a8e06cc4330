"""Log lines, as text or as JSON, with the ids of the request and the run that they belong to."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime

_ids: ContextVar[dict[str, str]] = ContextVar("log_ids", default={})  # noqa: B039 - never changed


@contextmanager
def log_ids(**ids: str) -> Iterator[None]:
    """Add ids, such as `request` or `run`, to every line that this thread or task logs in the block."""
    token = _ids.set({**_ids.get(), **ids})
    try:
        yield
    finally:
        _ids.reset(token)


class TextFormatter(logging.Formatter):
    """Formats a line as text, such as `2026-11-30 12:00:00,000 WARNING tiebreak.runs run=12 …`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(ids)s%(message)s")

    def format(self, record: logging.LogRecord) -> str:
        record.ids = "".join(f"{name}={value} " for name, value in _ids.get().items())
        return super().format(record)


class JsonFormatter(logging.Formatter):
    """Formats a line as one JSON object: time, level, logger, message, ids and, if any, exception."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_ids.get(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)
