"""Journals of responses, which a restarted run reads, so that it samples or asks only for missing ones.

The journal of an OpenAI-compatible server also has the failed requests, and the usage of all.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from finetune.endpoints import Endpoint
from recipes.rundir import RunDir
from recipes.training import checkpoints

SAVED_EVERY = 20


@dataclass(frozen=True)
class Reply:
    """The answer to a question. The numbers of tokens are None if the server does not report them."""

    key: str
    text: str
    truncated: bool
    prompt_tokens: int | None
    tokens: int | None


@dataclass
class Usage:
    """The number of requests of a run, including failed ones, and their tokens."""

    requests: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    tokens: int = 0
    unreported: int = 0
    """Requests with a reply whose tokens the server did not report."""

    def add(self, line: dict[str, Any]) -> None:
        self.requests += 1
        self.failed += bool(line.get("problem"))
        self.prompt_tokens += line.get("prompt_tokens") or 0
        self.tokens += line.get("tokens") or 0
        counts = line.get("prompt_tokens"), line.get("tokens")
        self.unreported += not line.get("problem") and None in counts

    def figures(self, endpoint: Endpoint) -> dict[str, Any]:
        """Return the figures for the report. The cost is None if no price is declared."""
        cost = endpoint.cost(self.prompt_tokens, self.tokens)
        return {
            "endpoint": endpoint.name,
            "requests": self.requests,
            "failed_requests": self.failed,
            "prompt_tokens": self.prompt_tokens,
            "response_tokens": self.tokens,
            "requests_without_token_counts": self.unreported,
            "cost": None if cost is None else round(cost, 6),
            "currency": endpoint.currency,
        }

    def sentence(self, endpoint: Endpoint) -> str:
        cost = endpoint.cost(self.prompt_tokens, self.tokens)
        least = "at least " if self.unreported else ""
        price = "" if cost is None else f", {least}{cost:.4f} {endpoint.currency}"
        return (
            f"{self.requests} requests to {endpoint.name}, {self.failed} of them failed: "
            f"{self.prompt_tokens} tokens of prompts and {self.tokens} of responses{price}."
        )


@dataclass(frozen=True)
class Replies:
    """The replies by key, the reasons for missing ones by key, and the usage."""

    replies: dict[str, Reply]
    missing: dict[str, str]
    usage: Usage

    def missing_figures(self) -> list[dict[str, Any]]:
        counts = Counter(self.missing.values())
        return [
            {"what": "requests", "why": why, "count": count} for why, count in counts.most_common()
        ]


class Journal:
    """A file with one JSON object per line, {"sha256", "line"}, to which lines are only appended.

    A line that does not agree with its hash is ignored, and its response is requested again. Next to the
    journal is a checkpoint with the number of responses, so that pages can say that the run can resume.

    A subclass stores a line in `keep`, which is called with each line of the file and each new one, and
    returns the number of responses in `count`. `what` says what the journal contains.
    """

    what: str

    def __init__(self, run_dir: RunDir, name: str):
        self.run_dir = run_dir
        self.name = name
        self.path = run_dir.checkpoints / f".{name}.jsonl"
        self._read()
        self._marked = self.count()
        self._file = self.path.open("ab")

    def keep(self, line: dict[str, Any]) -> None:
        raise NotImplementedError

    def count(self) -> int:
        raise NotImplementedError

    def _read(self) -> None:
        data = self.path.read_bytes() if self.path.exists() else b""
        damaged = 0
        for text in data.split(b"\n"):
            line = _checked(text)
            if line is not None:
                self.keep(line)
            damaged += bool(text) and line is None
        if data and not data.endswith(b"\n"):
            with self.path.open("ab") as file:  # so that the next line begins on a line of its own
                file.write(b"\n")
        if damaged:
            self.run_dir.message(
                f"{damaged} lines of {self.path.name} are damaged. Their {self.what} are requested "
                "again.",
                level="warning",
            )

    def add(self, line: dict[str, Any]) -> None:
        """Append a line, and wait until it is on the disk."""
        text = json.dumps({"sha256": _digest(line), "line": line})
        self._file.write(text.encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.keep(line)
        count = self.count()
        if count >= self._marked + SAVED_EVERY or (count and not self._marked):
            self._mark()

    def close(self) -> None:
        self._file.close()
        if self.count():
            self._mark()

    def _mark(self) -> None:
        marker = self.run_dir.checkpoints / f"{self.name}-{self.count():06d}.json"
        if not marker.exists():
            with checkpoints.sealed(marker) as draft:
                draft.write_text(json.dumps({self.what: self.count()}))
        self._marked = self.count()


class ReplyJournal(Journal):
    """A journal of requests to an OpenAI-compatible server. `replies` are the answers, by key."""

    what = "replies"

    def __init__(self, run_dir: RunDir, name: str):
        self.replies: dict[str, Reply] = {}
        self.usage = Usage()
        super().__init__(run_dir, name)

    def keep(self, line: dict[str, Any]) -> None:
        self.usage.add(line)
        if not line.get("problem"):
            names = ("key", "text", "truncated", "prompt_tokens", "tokens")
            reply = Reply(**{name: line[name] for name in names})
            self.replies[reply.key] = reply

    def count(self) -> int:
        return len(self.replies)


def _digest(line: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(line, sort_keys=True).encode()).hexdigest()[:32]


def _checked(text: bytes) -> dict[str, Any] | None:
    """Return the line of a journal, or None if it is damaged."""
    try:
        entry = json.loads(text)
        return entry["line"] if entry["sha256"] == _digest(entry["line"]) else None
    except (ValueError, KeyError, TypeError):
        return None


def mean_tokens(replies: Iterable[Reply]) -> float | None:
    """Return the mean number of tokens of the replies for which the server reports it."""
    counts = [reply.tokens for reply in replies if reply.tokens is not None]
    return round(sum(counts) / len(counts), 2) if counts else None
