"""Answers to chats, one token per step, which several answers compute together (`batches.py`).

The prompt gets the tokens that training and evaluation give it, and the token of each step is the one
that `SeededSampling` draws. So the text for a seed is that of a generation run with this seed.

Legend: B = 1 row, T tokens, V vocabulary.
"""

import math
import secrets
import time
from collections.abc import Callable, Hashable, Sequence

import numpy as np
import torch
from transformers import DynamicCache

from finetune.training.models.language_model import PLAIN_NEXT_TURN, PolicyChat
from finetune.training.sampling.distribution import Distribution, SeededSampling
from finetune.training.serving.batches import can_batch, next_logits
from finetune.training.serving.loaded import Base, Lease, Variant, acquire
from serving.client import End, Event, LanguageModel, Piece, Sampling, Start
from serving.server.engine import JobError, Limits, log
from serving.server.memory import ModelMemory

PROMPT_PART = 512
"""The number of tokens of a prompt that one step forwards."""
UNDECODED = "\ufffd"
NEXT_TURNS = ("User:", "System:", "Assistant:")


class Answer:
    """The job that answers a chat. `emit` is called with each event, in the thread of the engine."""

    def __init__(
        self,
        model: LanguageModel,
        messages: list[dict[str, str]],
        sampling: Sampling,
        stops: list[str],
        *,
        until: float,
        limits: Limits,
        emit: Callable[[Event | JobError], None],
    ):
        self.model = model
        self.messages = messages
        self.sampling = sampling
        self.stops = stops
        self.until = until
        self.limits = limits
        self.emit = emit
        self.cancelled = False
        self._row: Row | None = None
        self._lease: Lease | None = None

    @property
    def over(self) -> bool:
        return self.cancelled or time.monotonic() > self.until

    @property
    def group(self) -> Hashable:
        """Return the base whose next forward pass the answer can share, or None in the prompt."""
        row = self._row
        return id(row.base) if row and row.can_batch and not self.over else None

    @staticmethod
    def share(jobs: Sequence["Answer"]) -> None:
        """Compute the next logits of all jobs in one forward pass. They have the same `group`."""
        forward_together([job._row for job in jobs if job._row])

    def advance(self, memory: ModelMemory) -> bool:
        if self._row is None:
            self._row = self._start(memory)
            return False
        events = self._row.step()
        for event in events:
            self.emit(event)
        return bool(events) and isinstance(events[-1], End)

    def fail(self, error: JobError) -> None:
        self.emit(error)

    def close(self) -> None:
        if self._lease:
            self._lease.release()
        self._row = self._lease = None

    def _start(self, memory: ModelMemory) -> "Row":
        self._lease = lease = acquire(memory, self.model, self.limits.adapters)
        prompt_ids = self._prompt_ids(lease.variant.chat)
        seed = secrets.randbits(63) if self.sampling.seed is None else self.sampling.seed
        most = self._most(lease.base, len(prompt_ids), self.limits.max_tokens)
        row = Row(lease.base, lease.variant, prompt_ids, self.sampling, seed, most, self.stops)
        self.emit(Start(len(prompt_ids), seed, lease.base.dtype))
        return row

    def _prompt_ids(self, chat: PolicyChat) -> list[int]:
        try:
            return chat.prompt_ids(self.messages)
        except ValueError as error:
            raise JobError("INVALID_ARGUMENT", f"The chat cannot be read: {error}.") from None

    def _most(self, base: Base, prompt_tokens: int, limit: int) -> int:
        """Return the maximum number of tokens of the answer. Raises JobError if nothing fits."""
        readable = base.readable or prompt_tokens + limit
        room, requested = readable - prompt_tokens, self.sampling.max_tokens
        if room < max(1, requested):
            answer = f" and an answer of up to {requested}" if requested else ""
            raise JobError(
                "OUT_OF_RANGE",
                f"The chat has {prompt_tokens} tokens, and the model reads at most {readable}. "
                f"That leaves too little room for the answer{answer}. Send a shorter chat, or allow "
                "fewer tokens.",
            )
        if requested > limit:
            raise JobError(
                "OUT_OF_RANGE",
                f"An answer may have at most {limit} tokens; the request allows {requested}.",
            )
        return min(room, requested or limit)


class Row:
    """The tokens of an answer in progress, with the cache of the model."""

    def __init__(
        self,
        base: Base,
        variant: Variant,
        prompt_ids: list[int],
        sampling: Sampling,
        seed: int,
        most: int,
        stops: list[str],
    ):
        self.base = base
        self.variant = variant
        self.most = most
        self.written: list[int] = []
        self.text = Text(variant.chat, stops)
        self._ids = prompt_ids
        self._forwarded = 0
        self._cache = DynamicCache(config=base.network.config)
        self._logits_BV: torch.Tensor | None = None
        uniforms_T = np.random.Generator(np.random.Philox(seed)).random(most)
        self._draw = SeededSampling(
            uniforms_T[None],
            distribution_of(sampling),
            [[1] * len(prompt_ids)],
            base.network.device,
        )

    @property
    def can_batch(self) -> bool:
        """Return whether only the newest token is still to be forwarded, and may be so in a batch."""
        return self._forwarded == len(self._ids) - 1 and self.variant.batches is not False

    def step(self) -> list[Event]:
        """Forward a part of the prompt, or the last token, and return the events that follow."""
        logits_BV, self._logits_BV = self._logits_BV, None
        if logits_BV is None:
            logits_BV = self._forward(self._ids[self._forwarded :][:PROMPT_PART])
        if not math.isfinite(float(logits_BV.max())):
            raise JobError(
                "FAILED_PRECONDITION", "The model computes values that are not finite numbers."
            )
        if self._forwarded < len(self._ids):
            return []
        ids_BT = torch.tensor([self._ids], device=logits_BV.device)
        token = int(self._draw(ids_BT, logits_BV).argmax(dim=1))
        self._ids.append(token)
        self.written.append(token)
        return self._events(token)

    def _events(self, token: int) -> list[Event]:
        ended = token in self.variant.chat.stop_ids
        cut_off = len(self.written) >= self.most
        ids = self.written[:-1] if ended else self.written
        piece = self.text.grow(ids, last=ended or cut_off)
        events: list[Event] = [Piece(piece, len(self.written))] if piece else []
        if ended or self.text.stopped:
            events.append(End("stop", len(self.written)))
        elif cut_off:
            events.append(End("length", len(self.written)))
        return events

    def _forward(self, part: list[int]) -> torch.Tensor:
        """Return the logits of the next token, (1, V) float32."""
        logits_BV = self.base.forward(self.variant, part, self._cache)
        self._forwarded += len(part)
        return logits_BV

    def _read_again(self) -> None:
        """Let the next steps forward all tokens again, because the cache may be incomplete."""
        self._cache, self._forwarded = DynamicCache(config=self.base.network.config), 0


def forward_together(rows: Sequence[Row]) -> None:
    """Compute the next logits of rows with the same base in one forward pass, and store them in the rows.

    A row that cannot be in a batch gets none, so its step forwards it alone. If the pass fails, for
    example for a lack of memory, all rows continue alone.
    """
    rows = [row for row in rows if can_batch(row.base, row.variant)]
    rows.sort(key=lambda row: row.variant.label)
    if len(rows) < 2:
        return
    base = rows[0].base
    try:
        logits_NV = next_logits(
            base,
            [row.variant for row in rows],
            [row._ids[-1] for row in rows],
            [len(row._ids) - 1 for row in rows],
            [row._cache for row in rows],
        )
    except Exception as error:
        log(
            f"A batch of {len(rows)} answers of {base.name} failed, so each continues alone: {error!r}"
        )
        for row in rows:
            row.variant.batches = False
            row._read_again()
        return
    for row, logits_BV in zip(rows, logits_NV.split(1), strict=True):
        row._logits_BV = logits_BV
        row._forwarded += 1


class Text:
    """The text of an answer in progress. Its pieces together are `PolicyChat.response_text`.

    A piece is held back while a later token could change it: spaces at the end, an incomplete
    character, or the beginning of a stop text.
    """

    def __init__(self, chat: PolicyChat, stops: list[str]):
        self.chat = chat
        self.stops = stops
        self.sent = ""
        self.stopped = False

    def grow(self, ids: list[int], *, last: bool) -> str:
        """Return the next piece of the text of the tokens, which is "" if there is none."""
        text = self.chat.response_text(ids)
        if not self.chat.template and PLAIN_NEXT_TURN.search(self._raw(ids)):
            self.stopped = True  # response_text has cut the next turn off
        for stop in self.stops:
            head, match, _ = text.partition(stop)
            if match:
                text, self.stopped = head, True
        if not (last or self.stopped):
            text = self._certain(text)
        piece = text.removeprefix(self.sent) if text.startswith(self.sent) else ""
        self.sent += piece
        return piece

    def _raw(self, ids: list[int]) -> str:
        return self.chat.tokenizer.decode(ids, skip_special_tokens=True)

    def _certain(self, text: str) -> str:
        """Return the text without an end that a later token could change."""
        text = text.rstrip(UNDECODED)
        stops = [*self.stops, *([] if self.chat.template else ["\n" + t for t in NEXT_TURNS])]
        held = max((_overlap(text, stop) for stop in stops), default=0)
        return text[: len(text) - held].rstrip()


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of the text with which the stop text begins."""
    lengths = range(min(len(text), len(stop) - 1), 0, -1)
    return next((length for length in lengths if text.endswith(stop[:length])), 0)


def distribution_of(sampling: Sampling) -> Distribution:
    """Return the distribution of a request. Raises JobError if a value is out of range."""
    ranges = {
        "temperature": 0 <= sampling.temperature <= 5,
        "top_p": 0 < sampling.top_p <= 1,
        "min_p": 0 <= sampling.min_p <= 1,
        "repetition_penalty": 0.1 <= sampling.repetition_penalty <= 10,
    }
    for name, valid in ranges.items():
        if not valid:  # NaN is in no range
            value = getattr(sampling, name)
            raise JobError("INVALID_ARGUMENT", f"{name} is {value:g}, which is out of range.")
    return Distribution(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
    )
