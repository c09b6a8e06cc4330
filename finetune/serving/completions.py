"""The requests and answers of the OpenAI-compatible API, without Django's views.

A parameter that would change the answer but is not supported is refused. Parameters that only inform
the provider, such as `user`, are ignored.
"""

import json
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from serving.client import End, Event, Piece, Sampling, Start

MAX_SEED = 2**63 - 1
IGNORED = frozenset(
    {
        "metadata", "parallel_tool_calls", "prompt_cache_key", "safety_identifier", "service_tier",
        "store", "stream", "stream_options", "user",
    }
)  # fmt: skip
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}
"""Parameters that are not supported, with the values that change nothing."""
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
MAX_STOPS = 4


class Invalid(ValueError):  # noqa: N818
    """A parameter that is not valid. `param` is its name; the text is a sentence."""

    def __init__(self, param: str, text: str):
        super().__init__(text)
        self.param = param


@dataclass(frozen=True)
class ChatRequest:
    """A checked request for a chat completion."""

    model: str
    messages: list[dict[str, str]]
    sampling: Sampling
    stop: list[str]
    stream: bool
    usage: bool
    """Whether the last part of a stream counts the tokens."""

    @property
    def characters(self) -> int:
        return sum(len(message["content"]) for message in self.messages)


def parse(body: bytes) -> ChatRequest:
    """Return the request in a body. Raises Invalid."""
    try:
        raw = json.loads(body)
    except (ValueError, RecursionError):
        raise Invalid("", "The body of the request is not valid JSON.") from None
    if not isinstance(raw, dict):
        raise Invalid("", "The body of the request is not a JSON object.")
    values = {name: value for name, value in raw.items() if value is not None}
    read = Fields(values)
    sampling = Sampling(
        temperature=read.real("temperature", 0, 2, default=1.0),
        top_p=read.real("top_p", 0, 1, default=1.0, above=True),
        top_k=read.whole("top_k", 0, 2**31 - 1, default=0) or 0,
        min_p=read.real("min_p", 0, 1, default=0.0),
        repetition_penalty=read.real("repetition_penalty", 0.1, 10, default=1.0),
        seed=read.whole("seed", -MAX_SEED - 1, MAX_SEED),
        max_tokens=_max_tokens(read),
    )
    if sampling.seed is not None and sampling.seed < 0:
        raise Invalid("seed", "seed must be a whole number of at least 0.")
    request = ChatRequest(
        model=read.text("model"),
        messages=_messages(read.take("messages")),
        sampling=sampling,
        stop=_stops(read.take("stop")),
        stream=read.flag("stream"),
        usage=_wants_usage(values.get("stream_options")),
    )
    read.refuse_others()
    return request


@dataclass
class Fields:
    """The fields of a request, and the names of those that were read."""

    values: dict[str, Any]
    names: set[str] = field(default_factory=set)

    def take(self, name: str) -> Any:
        self.names.add(name)
        return self.values.get(name)

    def text(self, name: str) -> str:
        value = self.take(name)
        if not isinstance(value, str) or not value:
            raise Invalid(name, f"{name} is missing, or is not text.")
        return value

    def flag(self, name: str) -> bool:
        value = self.take(name)
        if value is not None and not isinstance(value, bool):
            raise Invalid(name, f"{name} must be true or false.")
        return bool(value)

    def real(
        self, name: str, low: float, high: float, *, default: float, above: bool = False
    ) -> float:
        """Return a number from `low` to `high`. With `above`, `low` itself is refused."""
        value = self.take(name)
        if value is None:
            return default
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not low <= value <= high or (above and value == low):
            start = f"above {low:g}" if above else f"{low:g}"
            raise Invalid(name, f"{name} must be a number from {start} to {high:g}.")
        return float(value)

    def whole(self, name: str, low: int, high: int, default: int | None = None) -> int | None:
        value = self.take(name)
        if value is None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise Invalid(name, f"{name} must be a whole number from {low} to {high}.")
        return value

    def refuse_others(self) -> None:
        """Raise Invalid for a parameter that is not supported."""
        for name, value in self.values.items():
            if name in self.names or name in IGNORED:
                continue
            if name not in NEUTRAL:
                raise Invalid(name[:100], f"The parameter {name[:100]!r} is not supported.")
            if value not in NEUTRAL[name]:
                raise Invalid(name, f"This value of {name} is not supported. Leave {name} out.")


def _max_tokens(read: Fields) -> int:
    names = ("max_completion_tokens", "max_tokens")
    values = [read.whole(name, 1, 2**31 - 1) for name in names]
    return next((value for value in values if value is not None), 0)


def _messages(value: Any) -> list[dict[str, str]]:
    if not isinstance(value, list) or not value:
        raise Invalid("messages", "messages must be a list of at least one message.")
    return [_message(each, f"messages.{index}") for index, each in enumerate(value)]


def _message(value: Any, at: str) -> dict[str, str]:
    if not isinstance(value, dict):
        raise Invalid(at, f"{at} is not an object with role and content.")
    role = value.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise Invalid(f"{at}.role", f"{at}.role must be one of {', '.join(ROLES)}.")
    content = value.get("content")
    if isinstance(content, list):
        content = "\n\n".join(_part(part, f"{at}.content") for part in content)
    if not isinstance(content, str):
        raise Invalid(f"{at}.content", f"{at}.content is neither text nor a list of texts.")
    if _has_surrogate(content):
        raise Invalid(f"{at}.content", f"{at}.content has a lone surrogate, not a character.")
    return {"role": ROLES[role], "content": content}


def _has_surrogate(text: str) -> bool:
    """Return whether the text has a lone surrogate, which cannot be encoded."""
    return any("\ud800" <= character <= "\udfff" for character in text)


def _part(part: Any, at: str) -> str:
    text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
    if not isinstance(text, str):
        raise Invalid(at, f"{at} has a part that is not text. Only text is supported.")
    return text


def _stops(value: Any) -> list[str]:
    stops = [value] if isinstance(value, str) else value or []
    if (
        not isinstance(stops, list)
        or len(stops) > MAX_STOPS
        or not all(isinstance(stop, str) and stop and not _has_surrogate(stop) for stop in stops)
    ):
        raise Invalid("stop", f"stop must be a text, or a list of up to {MAX_STOPS} texts.")
    return stops


def _wants_usage(value: Any) -> bool:
    if value is not None and not isinstance(value, dict):
        raise Invalid("stream_options", "stream_options must be an object.")
    return bool((value or {}).get("include_usage"))


# --- answers --------------------------------------------------------------------------------------


@dataclass
class Completion:
    """An answer in the making. Its events become one object, or the lines of a stream."""

    model: str
    number: int
    """The number of the model that answers, also if its name is that of the project."""
    usage: bool = False
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))
    start: Start | None = None
    end: End | None = None
    text: str = ""

    def add(self, event: Event) -> None:
        match event:
            case Start():
                self.start = event
            case Piece():
                self.text += event.text
            case End():
                self.end = event

    def whole(self) -> dict[str, Any]:
        """Return the completion as one object."""
        assert self.end
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": self.text, "refusal": None},
            "logprobs": None,
            "finish_reason": self.end.reason,
        }
        return {**self._head("chat.completion"), "choices": [choice], "usage": self.counts()}

    def lines(self, event: Event) -> bytes:
        """Add an event, and return the lines of a stream for it."""
        self.add(event)
        match event:
            case Start():
                return self._chunk({"role": "assistant", "content": ""})
            case Piece():
                return self._chunk({"content": event.text})
        last = self._chunk({}, finish_reason=event.reason)
        if self.usage:
            last += data({**self._head(CHUNK), "choices": [], "usage": self.counts()})
        return last + b"data: [DONE]\n\n"

    def counts(self) -> dict[str, int]:
        prompt = self.start.prompt_tokens if self.start else 0
        answer = self.end.tokens if self.end else 0
        return {
            "prompt_tokens": prompt,
            "completion_tokens": answer,
            "total_tokens": prompt + answer,
        }

    def _chunk(self, delta: dict[str, str], *, finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return data({**self._head(CHUNK), "choices": [choice]})

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": f"model-{self.number}",
        }


CHUNK = "chat.completion.chunk"


def data(value: dict[str, Any]) -> bytes:
    """Return a server-sent event with a JSON object."""
    return f"data: {json.dumps(value)}\n\n".encode()


def models_list(named: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return the list of models, from names and models."""
    rows = [
        {
            "id": name,
            "object": "model",
            "created": int(model.created_at.timestamp()),
            "owned_by": model.project.slug,
        }
        for name, model in named
    ]
    return {"object": "list", "data": rows}
