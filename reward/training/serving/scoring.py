"""Scores of responses, one part of a request per step."""

import time
from collections import deque
from collections.abc import Callable, Sequence

from reward.scoring.rows import ScoreRow
from reward.training.score import TOGETHER, Conversation
from reward.training.score_rows import figures
from reward.training.serving.loaded import (
    ClientLeft,
    Lease,
    acquire,
    counting_tokens,
    judge_in_memory,
)
from serving.client import Scores, Verdict
from serving.server.engine import Job, JobError
from serving.server.memory import ModelMemory

PART_CHARACTERS = 16_000
"""The number of characters in a part of a request. A small model needs about 0.1 seconds for it."""

Piece = tuple[int, list[dict[str, str]], list[str]]


class Scoring(Job):
    """The job that scores responses. `emit` is called once, in the thread of the engine.

    The request is divided into pieces. Each has the index of a conversation, its prompt, and responses
    that the model reads in the same forward pass as the prompt.
    """

    def __init__(
        self,
        model: str,
        conversations: Sequence[Conversation],
        *,
        until: float,
        emit: Callable[[Scores | JobError], None],
    ):
        self.model = model
        self.until = until
        self.emit = emit
        self.cancelled = False
        self.pieces: deque[Piece] = deque(
            (number, prompt, responses[start : start + TOGETHER])
            for number, (prompt, responses) in enumerate(conversations)
            for start in range(0, len(responses), TOGETHER)
        )
        self.verdicts = [Verdict([], []) for _ in conversations]
        self.forwarded = 0
        self._lease: Lease | None = None

    @property
    def over(self) -> bool:
        return self.cancelled or time.monotonic() > self.until

    def advance(self, memory: ModelMemory) -> bool:
        if self._lease is None:
            self._lease = acquire(memory, self.model)
            return False
        try:
            self._score(self._lease, self.next_part())
        except ClientLeft:
            return True
        if self.pieces:
            return False
        self.emit(Scores(self.verdicts, self._lease.scorer.limit, self.forwarded))
        return True

    def fail(self, error: JobError) -> None:
        self.emit(error)

    def close(self) -> None:
        if self._lease:
            self._lease.release()
        self._lease = None

    def next_part(self) -> list[Piece]:
        """Return the next pieces: at least one, with up to PART_CHARACTERS of text."""
        part: list[Piece] = []
        size = 0
        while self.pieces and (not part or size < PART_CHARACTERS):
            part.append(self.pieces.popleft())
            _, prompt, responses = part[-1]
            size += sum(len(turn["content"]) for turn in prompt) + sum(map(len, responses))
        return part

    def _score(self, lease: Lease, part: list[Piece]) -> None:
        """Add the scores of a part. Raises ClientLeft if nobody waits for them any more."""
        rows = [ScoreRow(prompt, texts, many=len(texts) > 1) for _, prompt, texts in part]
        with counting_tokens(lease.scorer, lambda: self.over) as forwarded:
            judged = judge_in_memory(lease.scorer, rows)
        for (number, _, _), verdict in zip(part, judged, strict=True):
            values = figures(verdict, lease.scorer.heads, many=True)
            self.verdicts[number].scores.extend(values["scores"])
            self.verdicts[number].uncertainties.extend(values["uncertainties"])
        self.forwarded += sum(forwarded)
