"""Requests of a run to an OpenAI-compatible server: answers to many chats, at most once each.

`ask_all` sends the chats to `/chat/completions` with the `openai` client, several at the same time. The
client makes one attempt; the retries are made here, because a run has to count them, must wait for as
long as the server asks (`Retry-After`) and must stop between two attempts.

Each reply is appended to a journal in checkpoints/ as soon as it has arrived. A run that is started
again asks only for the missing ones. The journal also has a line for each failed request, so that the
figures of the run contain everything that was sent and paid.

The server is not trusted: the size and the time of a response are limited, redirects are refused, and a
response that is not exactly a chat completion counts as a failure. This module needs neither Django nor
torch.
"""

import asyncio
import json
import os
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from finetune.endpoints import Endpoint, EndpointProblem
from finetune.engines.journal import Replies, Reply, ReplyJournal
from recipes.errors import RecipeError
from recipes.rundir import RunDir
from recipes.stopping import StopSignal

CONNECT_SECONDS = 10.0
FIRST_WAIT, MAX_WAIT = 0.5, 30.0
"""Seconds before the second attempt, and the most before a later one. The wait doubles each time."""
POLL_SECONDS = 0.1
PROGRESS_SECONDS = 1.0
FAILED_IN_A_ROW = 5
"""After this many questions in a row without an answer, the server counts as unusable."""
LONGEST_EXCERPT = 300
SEEDS = 2**31
"""Seeds are smaller than this, because some servers have seeds of 32 bits."""

FILE = "endpoint.json"
"""The file in data/ with the declaration of the endpoint that a run uses."""


@dataclass(frozen=True)
class Question:
    """A chat to answer. `key` identifies it in the journal."""

    key: str
    messages: Sequence[dict[str, str]]
    seed: int | None = None


@dataclass(frozen=True)
class Sampling:
    temperature: float
    top_p: float
    max_new_tokens: int


def read_endpoint(path: Path) -> Endpoint:
    """Return the endpoint of a file in data/. Raises RecipeError."""
    try:
        return Endpoint.from_dict(json.loads(path.read_text()))
    except (OSError, ValueError, EndpointProblem) as error:
        raise RecipeError(f"{path} does not describe an endpoint: {error}") from None


def key_of(endpoint: Endpoint) -> str:
    """Return the key of the endpoint, "" if it needs none. Raises RecipeError if it is not set."""
    if not endpoint.key_variable:
        return ""
    key = os.environ.get(endpoint.key_variable, "").strip()
    if not key:
        raise RecipeError(
            f"The environment variable {endpoint.key_variable}, which must contain the key of the "
            f"endpoint {endpoint.name}, is not set on this machine. Set it for the worker."
        )
    if not (key.isascii() and key.isprintable()):
        raise RecipeError(
            f"The environment variable {endpoint.key_variable} does not contain a key: a key has only "
            "printable ASCII characters."
        )
    return key


def ask_all(
    questions: Sequence[Question],
    *,
    endpoint: Endpoint,
    model: str,
    sampling: Sampling,
    run_dir: RunDir,
    name: str,
    stop: StopSignal,
) -> Replies:
    """Return the replies to all questions, of which those in the journal are not asked again.

    `name` is the beginning of the journal's file name. Raises Stopped, or RecipeError if the server is
    unusable. In both cases, the replies so far are kept.
    """
    journal = ReplyJournal(run_dir, name)
    asking = Asking(endpoint, model, sampling, run_dir, journal, stop, total=len(questions))
    waiting = [question for question in questions if question.key not in journal.replies]
    try:
        if waiting:
            asyncio.run(asking.ask(waiting))
    finally:
        journal.close()
        if waiting:
            run_dir.message(journal.usage.sentence(endpoint))
    return Replies(journal.replies, asking.missing, journal.usage)


# --- requests -------------------------------------------------------------------------------------


class Fault(Exception):  # noqa: N818
    """A request without a usable reply. The text is a clause, such as "it answered with status 500".

    `wait` is the number of seconds that the server asks to wait. `fatal` means that no request can
    succeed, and `refused` that this one cannot.
    """

    def __init__(
        self,
        text: str,
        *,
        wait: float | None = None,
        limited: bool = False,
        fatal: bool = False,
        refused: bool = False,
        usage: dict[str, int | None] | None = None,
    ):
        super().__init__(text)
        self.wait, self.limited, self.fatal, self.refused = wait, limited, fatal, refused
        self.usage = usage or {}


class TooLarge(Exception):  # noqa: N818
    """A response that is larger than the limit of the endpoint, or compressed."""


@dataclass
class Asking:
    """The requests of one attempt of a run."""

    endpoint: Endpoint
    model: str
    sampling: Sampling
    run_dir: RunDir
    journal: ReplyJournal
    stop: StopSignal
    total: int
    missing: dict[str, str] = field(default_factory=dict)
    _not_before: float = 0.0
    _failed_in_a_row: int = 0
    _reported_at: float = 0.0

    async def ask(self, questions: Sequence[Question]) -> None:
        import openai

        self.key = key_of(self.endpoint)
        timeout = openai.Timeout(self.endpoint.seconds, connect=CONNECT_SECONDS)
        hooks = {"response": [self._limit]}
        self.client = openai.AsyncOpenAI(
            base_url=self.endpoint.url,
            api_key=self.key or "none",
            max_retries=0,
            timeout=timeout,
            default_headers={"Accept-Encoding": "identity"},
            http_client=openai.DefaultAsyncHttpxClient(
                follow_redirects=False, timeout=timeout, event_hooks=hooks
            ),
        )
        queue = iter(questions)
        count = min(self.endpoint.concurrency, len(questions))
        self._report()
        try:
            async with self.client, asyncio.TaskGroup() as group:
                watcher = group.create_task(self._watch())
                workers = [group.create_task(self._work(queue)) for _ in range(count)]
                await asyncio.wait(workers)
                watcher.cancel()
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        self._report()

    async def _watch(self) -> None:
        """Raise Stopped as soon as the run is asked to stop, which cancels all requests."""
        while True:
            self.stop.check()
            await asyncio.sleep(POLL_SECONDS)

    async def _work(self, queue: Iterator[Question]) -> None:
        for question in queue:
            await self._answer(question)
            if time.monotonic() >= self._reported_at + PROGRESS_SECONDS:
                self._report()

    async def _answer(self, question: Question) -> None:
        """Ask until there is a reply or the last attempt has failed. Raises RecipeError."""
        for attempt in range(1, self.endpoint.tries + 1):
            await self._pause()
            try:
                reply = await self._request(question)
            except Fault as fault:
                problem = self._readable(fault)
                self.journal.add({"key": question.key, "problem": problem, **fault.usage})
                if fault.fatal or (fault.limited and attempt == self.endpoint.tries):
                    raise RecipeError(self._unusable(problem)) from None
                if fault.refused or attempt == self.endpoint.tries:
                    return self._give_up(question, fault, problem)
                await self._wait(attempt, fault)
            else:
                self._failed_in_a_row = 0
                return self.journal.add(vars(reply))
        return None

    def _give_up(self, question: Question, fault: Fault, problem: str) -> None:
        tries = self.endpoint.tries
        self.missing[question.key] = problem if fault.refused else f"{tries} attempts: {problem}"
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= FAILED_IN_A_ROW:
            raise RecipeError(self._unusable(f"{problem}, {FAILED_IN_A_ROW} times in a row"))

    def _unusable(self, problem: str) -> str:
        return (
            f"The endpoint {self.endpoint.name} cannot be used: {problem}. The "
            f"{len(self.journal.replies)} replies so far are kept, and a restarted run asks only for "
            "the others."
        )

    async def _pause(self) -> None:
        """Wait until the server accepts requests again."""
        while (seconds := self._not_before - time.monotonic()) > 0:
            await asyncio.sleep(seconds)

    async def _wait(self, attempt: int, fault: Fault) -> None:
        if fault.wait is not None:
            if fault.wait > self.endpoint.longest_wait:
                raise RecipeError(
                    self._unusable(f"it asks to wait {fault.wait:.0f} s before the next request")
                )
            # The limit is the server's, so the other requests of this run wait too.
            self._not_before = max(self._not_before, time.monotonic() + fault.wait)
            return
        seconds = min(MAX_WAIT, FIRST_WAIT * 2 ** (attempt - 1))
        await asyncio.sleep(seconds * random.uniform(0.75, 1.25))

    async def _request(self, question: Question) -> Reply:
        """Send one request and return the reply. Raises Fault."""
        import openai

        try:
            async with asyncio.timeout(self.endpoint.seconds):
                completions = self.client.chat.completions.with_raw_response
                raw = await completions.create(**self._parameters(question))
            body = raw.http_response.content
        except TimeoutError:
            raise Fault(f"it did not answer within {self.endpoint.seconds} s") from None
        except TooLarge as error:
            raise Fault(str(error)) from None
        except openai.APITimeoutError:
            raise Fault("it did not answer in time") from None
        except openai.APIStatusError as error:
            raise _status_fault(error) from None
        except openai.APIConnectionError as error:
            if isinstance(error.__cause__, TooLarge):
                raise Fault(str(error.__cause__)) from None
            cause = str(error.__cause__ or error)
            raise Fault(f"the connection failed ({cause})") from None
        except openai.OpenAIError as error:
            raise Fault(f"the request failed ({error})") from None
        return read_reply(question.key, body)

    def _parameters(self, question: Question) -> dict[str, Any]:
        parameters: dict[str, Any] = {
            "model": self.model,
            "messages": [
                {"role": message["role"], "content": message["content"]}
                for message in question.messages
            ],
            "temperature": self.sampling.temperature,
            "top_p": self.sampling.top_p,
            self.endpoint.max_tokens_name: self.sampling.max_new_tokens,
        }
        if question.seed is not None and self.endpoint.seeds:
            parameters["seed"] = question.seed
        return parameters

    async def _limit(self, response: Any) -> None:
        """Limit the size of a response. The `httpx2` client calls this before it reads the body."""
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise TooLarge("it sent a compressed response, which was not asked for")
        response.stream = _limited(response.stream, self.endpoint.response_kb)

    def _readable(self, fault: Fault) -> str:
        """Return the text of a fault for a page: short, on one line, and without the key."""
        text = " ".join(str(fault).split())
        text = "".join(c if c.isprintable() else "\ufffd" for c in text)
        if self.key:
            text = text.replace(self.key, "[key]")
        return text if len(text) <= LONGEST_EXCERPT else f"{text[:LONGEST_EXCERPT]}…"

    def _report(self) -> None:
        self._reported_at = time.monotonic()
        usage = self.journal.usage
        metrics: dict[str, float] = {
            "failed_requests": usage.failed,
            "prompt_tokens": usage.prompt_tokens,
            "response_tokens": usage.tokens,
        }
        if (cost := self.endpoint.cost(usage.prompt_tokens, usage.tokens)) is not None:
            metrics["cost"] = round(cost, 6)
        step = len(self.journal.replies) + len(self.missing)
        self.run_dir.emit("progress", step=step, total=self.total, metrics=metrics)


def _limited(stream: Any, kilobytes: int) -> Any:
    """Return the stream of a response's bytes, which raises TooLarge after the limit."""
    import httpx2

    class Limited(httpx2.AsyncByteStream):
        async def __aiter__(self) -> Any:
            size = 0
            async for chunk in stream:
                size += len(chunk)
                if size > 1000 * kilobytes:
                    raise TooLarge(f"its response is larger than {kilobytes} kB")
                yield chunk

        async def aclose(self) -> None:
            await stream.aclose()

    return Limited()


def _status_fault(error: Any) -> Fault:
    status, code = error.status_code, str(getattr(error, "code", "") or "")
    text = f"it answered with status {status}"
    message = str(error.message).partition(" - ")[2].strip()
    if message:
        text += f" ({message})"
    if status in (401, 403):
        return Fault(f"{text}. Check the key", fatal=True)
    if status in (404, 405) or 300 <= status < 400:
        return Fault(f"{text}. Check the address and the model's name", fatal=True)
    if code == "insufficient_quota":
        return Fault(text, fatal=True)
    if status == 429 or status == 503:
        return Fault(text, wait=retry_after(error.response.headers), limited=status == 429)
    if status in (408, 409, 425) or status >= 500:
        return Fault(text, wait=retry_after(error.response.headers))
    return Fault(text, refused=True)


def retry_after(headers: Any, now: datetime | None = None) -> float | None:
    """Return the seconds that a response asks to wait, or None. A date is read too, as HTTP allows.

    A header that is neither a number nor a date, or is in the past, counts as missing.
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * unit
        except ValueError:
            continue
        return seconds if 0 <= seconds < float("inf") else None
    try:
        date = parsedate_to_datetime(headers.get("retry-after", ""))
    except ValueError:
        return None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    seconds = (date - (now or datetime.now(UTC))).total_seconds()
    return seconds if seconds > 0 else None


# --- responses ------------------------------------------------------------------------------------


def read_reply(key: str, body: bytes) -> Reply:
    """Return the reply in a response's body. Raises Fault unless it is a chat completion."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        raise Fault("its response is not valid JSON") from None
    usage = _usage(data)
    choice = _first(data, "choices")
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        raise Fault("its response is not a chat completion", usage=usage)
    reason = choice.get("finish_reason")
    if reason == "content_filter" or (message.get("refusal") and not message.get("content")):
        raise Fault("its filter refused the prompt or the answer", refused=True, usage=usage)
    text = message.get("content")
    if not isinstance(text, str):
        raise Fault("its response has no text", usage=usage)
    return Reply(
        key=key,
        text=without_surrogates(text),
        truncated=reason == "length",
        prompt_tokens=usage["prompt_tokens"],
        tokens=usage["tokens"],
    )


def _first(data: Any, name: str) -> Any:
    values = data.get(name) if isinstance(data, dict) else None
    return values[0] if isinstance(values, list) and values else None


def _usage(data: Any) -> dict[str, int | None]:
    usage = data.get("usage") if isinstance(data, dict) else None
    usage = usage if isinstance(usage, dict) else {}
    return {
        "prompt_tokens": _count(usage.get("prompt_tokens")),
        "tokens": _count(usage.get("completion_tokens")),
    }


def _count(value: Any) -> int | None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and 0 <= value < 10**9 else None


def without_surrogates(text: str) -> str:
    """Return the text with each half of a surrogate pair, which no file can store, replaced."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
