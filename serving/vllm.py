"""The clients of a vLLM server, with the same events and errors as those of the model server.

`VLLMClient` is for code in an event loop, and `BlockingVLLMClient` for threads. A model is asked by its
name on the server, `LanguageModel.vllm_name`. The server writes the chat with the template of its base
model. A seed gives the same text again, but not the text of the model server with this seed.
"""

import json
import random
import time
from collections.abc import AsyncGenerator, Generator, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import httpx2

from serving.address import VLLMServer
from serving.client import DEFAULT_SECONDS, End, Event, LanguageModel, Piece, Sampling, Start
from serving.errors import (
    Busy,
    CannotLoad,
    NotAllowed,
    NotRunning,
    Refused,
    ServingError,
    TooLong,
    TooSlow,
)

CONNECT_SECONDS = 5.0
MAX_SEED = 2**31
LONGEST_REASON = 300
PATH = "/v1/chat/completions"


class VLLMClient:
    """A connection to a vLLM server, as an asynchronous context manager."""

    def __init__(self, server: VLLMServer):
        self.server = server
        self.http = httpx2.AsyncClient(
            base_url=server.url, headers=server.headers, verify=certificates()
        )

    async def __aenter__(self) -> "VLLMClient":
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.http.aclose()

    async def chat(
        self,
        model: LanguageModel,
        messages: Sequence[dict[str, str]],
        sampling: Sampling,
        stop: Sequence[str] = (),
        seconds: float = DEFAULT_SECONDS,
    ) -> AsyncGenerator[Event, None]:
        """Yield the events of the answer to a chat, as `serving.client.Client.chat` does."""
        answer = Answer(self.server, sampling, seconds)
        body, timeout = request_of(model, messages, answer.sampling, stop), answer.timeout
        try:
            async with self.http.stream("POST", PATH, json=body, timeout=timeout) as response:
                if response.status_code != 200:
                    raise answer.refusal(response.status_code, await response.aread())
                async for line in response.aiter_lines():
                    for event in answer.read(line):
                        yield event
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise answer.failure(error) from None
        answer.check_complete()


class BlockingVLLMClient:
    """A connection to a vLLM server for code in threads, as a context manager."""

    def __init__(self, server: VLLMServer):
        self.server = server
        self.http = httpx2.Client(
            base_url=server.url, headers=server.headers, verify=certificates()
        )

    def __enter__(self) -> "BlockingVLLMClient":
        return self

    def __exit__(self, *exc: object) -> None:
        self.http.close()

    def chat(
        self,
        model: LanguageModel,
        messages: Sequence[dict[str, str]],
        sampling: Sampling,
        stop: Sequence[str] = (),
        seconds: float = DEFAULT_SECONDS,
    ) -> Generator[Event, None, None]:
        """Yield the events of the answer to a chat, as `VLLMClient.chat` does. Raises ServingError."""
        answer = Answer(self.server, sampling, seconds)
        body, timeout = request_of(model, messages, answer.sampling, stop), answer.timeout
        try:
            with self.http.stream("POST", PATH, json=body, timeout=timeout) as response:
                if response.status_code != 200:
                    raise answer.refusal(response.status_code, response.read())
                for line in response.iter_lines():
                    yield from answer.read(line)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise answer.failure(error) from None
        answer.check_complete()


@cache
def certificates() -> Any:
    """Return the trusted certificates. Loading them takes 20 ms of processor time, so it is done once."""
    return httpx2.create_ssl_context()


def request_of(
    model: LanguageModel,
    messages: Sequence[dict[str, str]],
    sampling: Sampling,
    stop: Sequence[str],
) -> dict[str, Any]:
    """Return the body of a request. All sampling parameters are sent, because vLLM has other defaults."""
    body: dict[str, Any] = {
        "model": model.vllm_name,
        "messages": list(messages),
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "repetition_penalty": sampling.repetition_penalty,
        "seed": sampling.seed,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }
    if model.template_options:
        body["chat_template_kwargs"] = dict(model.template_options)
    if sampling.max_tokens:
        body["max_tokens"] = sampling.max_tokens
    if stop:
        body["stop"] = list(stop)
    return body


class Answer:
    """An answer in progress, which reads the lines of the stream."""

    def __init__(self, server: VLLMServer, sampling: Sampling, seconds: float):
        if sampling.seed is None:
            sampling = replace(sampling, seed=random.randrange(MAX_SEED))
        self.server = server
        self.sampling = sampling
        self.timeout = httpx2.Timeout(seconds, connect=CONNECT_SECONDS)
        self._deadline = time.monotonic() + seconds
        self._tokens = 0
        self._reason = ""
        self._started = False
        self._complete = False

    def read(self, line: str) -> list[Event]:
        """Return the events of a line. Raises ServingError, also if the time limit has passed."""
        if time.monotonic() > self._deadline:
            raise self.too_slow()
        if not line.startswith("data:"):
            return []
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            self._complete = bool(self._reason)
            return [End(self._reason, self._tokens)] if self._complete else []
        try:
            return self._events(json.loads(data))
        except (ValueError, LookupError, TypeError, AttributeError):
            raise CannotLoad(f"vLLM at {self.server.host} sent a line that is not valid.") from None

    def _events(self, chunk: dict[str, Any]) -> list[Event]:
        if "error" in chunk:
            raise CannotLoad(f"vLLM failed: {reason_in(chunk)}")
        usage = chunk.get("usage") or {}
        self._tokens = int(usage.get("completion_tokens") or self._tokens)
        events: list[Event] = []
        if not self._started:
            self._started = True
            assert self.sampling.seed is not None
            events.append(Start(int(usage.get("prompt_tokens") or 0), self.sampling.seed))
        for choice in chunk["choices"]:
            if text := choice["delta"].get("content"):
                events.append(Piece(text, self._tokens))
            if choice.get("finish_reason"):
                self._reason = "length" if choice["finish_reason"] == "length" else "stop"
        return events

    def check_complete(self) -> None:
        """Raise NotRunning if the stream has ended before the answer."""
        if not self._complete:
            raise NotRunning(f"vLLM at {self.server.host} stopped in the middle of an answer.")

    def too_slow(self) -> TooSlow:
        return TooSlow("vLLM took longer than the time limit of the request.")

    def failure(self, error: Exception) -> ServingError:
        """Return the exception for an error of the connection."""
        if isinstance(error, httpx2.ReadTimeout):
            return self.too_slow()
        if self._started:
            return NotRunning(f"vLLM at {self.server.host} stopped in the middle of an answer.")
        return NotRunning(f"vLLM does not answer at {self.server.host}. The operator starts it.")

    def refusal(self, status: int, body: bytes) -> ServingError:
        """Return the exception for an answer with another status than 200."""
        try:
            reason = reason_in(json.loads(body))
        except ValueError:
            reason = body.decode("utf-8", "replace")[:LONGEST_REASON].strip()
        if status in (401, 403):
            return NotAllowed(
                "vLLM refused the key. Set TIEBREAK_VLLM_KEY to the key of the server."
            )
        if status in (429, 503):
            return Busy("vLLM has as many requests as it accepts. Try again in a few seconds.")
        if status == 400:
            is_long = "context length" in reason or "max_model_len" in reason
            return (TooLong if is_long else Refused)(reason or "vLLM refused the request.")
        return CannotLoad(f"vLLM answered with status {status}: {reason}")


def reason_in(content: Any) -> str:
    """Return the message of an error in OpenAI's form, on one line."""
    error = content.get("error", content) if isinstance(content, dict) else content
    message = error.get("message", error) if isinstance(error, dict) else error
    return " ".join(str(message).split())[:LONGEST_REASON]
