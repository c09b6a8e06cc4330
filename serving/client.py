"""The clients of the model server: `Client` for code in an event loop, and `BlockingClient` for threads.

    async with Client(Server("unix:/path/to/models.sock")) as client:
        async with aclosing(client.chat(LanguageModel(base, adapter), messages, Sampling())) as events:
            async for event in events:
                if isinstance(event, Piece): print(event.text, end="")

The events are one Start, then Pieces, then one End. To stop the answer, leave the block, or cancel the
task: the server then ends the generation before its next token. The texts of all pieces together are
the answer, in the form in which training and evaluation store it.

Every call raises a subclass of ServingError, whose text can be shown to people.
"""

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from serving.address import Server, WrongAddress
from serving.errors import (
    Busy,
    CannotLoad,
    NotAllowed,
    NotRunning,
    Refused,
    ServingError,
    TooLarge,
    TooLong,
    TooSlow,
)

INT8, FAST = "int8", "fast"
"""Number formats besides those of training: weights rounded to 8 bits, and the fastest of the server."""
DEFAULT_SECONDS = 300.0
RESTART_SECONDS = 15.0
"""The seconds for which a client waits for a restarting server."""
HANG_SECONDS = 2.0
"""An attempt on a hanging server takes longer than this. A restarting one refuses immediately."""
RETRY_SECONDS = 0.1


@dataclass(frozen=True)
class LanguageModel:
    """A base model, as a folder or a name on Hugging Face, and the folder of its adapter.

    `dtype` is a number format of training, or INT8 or FAST. With "auto", the answer has the format of
    generation and evaluation on this machine.

    `vllm_name` is its name on the vLLM server, or "" if it is not loaded there. `template_options` are
    the options of the chat template in training, which vLLM needs with each request.
    """

    base: str
    adapter: str = ""
    dtype: str = "auto"
    vllm_name: str = ""
    template_options: Mapping[str, Any] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. The fields have the meaning of the settings of generation runs.

    Without a `seed`, the server chooses one and reports it in Start. `max_tokens` 0 is the most that
    the server and the model allow.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    max_tokens: int = 0


@dataclass(frozen=True)
class Start:
    """The first event of an answer: the number of tokens of the prompt, and the seed in use.

    `dtype` is the number format of the answer, such as float32 or int8, or "" if it is not known.
    """

    prompt_tokens: int
    seed: int
    dtype: str = ""


@dataclass(frozen=True)
class Piece:
    """The next part of the text, and the number of tokens of the answer so far."""

    text: str
    tokens: int


@dataclass(frozen=True)
class End:
    """The end of an answer. `reason` is "stop", or "length" if the limit of tokens cut it off."""

    reason: str
    tokens: int


Event = Start | Piece | End

Conversation = tuple[Sequence[dict[str, str]], Sequence[str]]
"""A prompt as messages, and the responses to it."""


@dataclass(frozen=True)
class Verdict:
    """The scores of the responses to a prompt, and their uncertainties. Missing ones are None."""

    scores: list[float | None]
    uncertainties: list[float | None]


@dataclass(frozen=True)
class Scores:
    """A verdict for each conversation, the most tokens that the model reads, and those it has read."""

    verdicts: list[Verdict]
    limit: int
    forwarded: int


class Client:
    """A connection to a model server, as an asynchronous context manager."""

    def __init__(self, server: Server):
        self.server = server
        self._channel: Any = None

    async def __aenter__(self) -> "Client":
        from grpc import aio

        try:
            self._channel = self.server.channel(aio)
        except WrongAddress as error:
            raise NotRunning(str(error)) from None
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._channel.close()

    async def chat(
        self,
        model: LanguageModel,
        messages: Sequence[dict[str, str]],
        sampling: Sampling,
        stop: Sequence[str] = (),
        seconds: float = DEFAULT_SECONDS,
    ) -> AsyncGenerator[Event, None]:
        """Yield the events of the answer to a chat. Raises ServingError.

        `stop` are texts that end the answer. After `seconds`, TooSlow is raised. If the server is
        restarting, this waits for up to RESTART_SECONDS.
        """
        import grpc

        from serving.protocol import models_pb2_grpc

        request = chat_request(model, messages, sampling, stop)
        stub: Any = models_pb2_grpc.LanguageModelsStub(self._channel)
        attempts = Attempts(self.server, seconds)
        while True:
            call = stub.Chat(request, **attempts.next())
            try:
                async for message in call:
                    attempts.has_begun = True
                    yield event_of(message)
                return
            except grpc.RpcError as error:
                attempts.check(error)
            finally:
                call.cancel()
            await asyncio.sleep(RETRY_SECONDS)

    async def is_healthy(self, *, seconds: float = 2.0) -> bool:
        """Return whether the server answers the standard health check within `seconds`."""
        import grpc
        from grpc_health.v1 import health_pb2, health_pb2_grpc

        stub: Any = health_pb2_grpc.HealthStub(self._channel)
        try:
            reply = await stub.Check(health_pb2.HealthCheckRequest(), timeout=seconds)
        except grpc.RpcError:
            return False
        return reply.status == health_pb2.HealthCheckResponse.SERVING


class BlockingClient:
    """A connection to a model server for code in threads, as a context manager."""

    def __init__(self, server: Server):
        self.server = server
        self._channel: Any = None

    def __enter__(self) -> "BlockingClient":
        import grpc

        try:
            self._channel = self.server.channel(grpc)
        except WrongAddress as error:
            raise NotRunning(str(error)) from None
        return self

    def __exit__(self, *exc: object) -> None:
        self._channel.close()

    def chat(
        self,
        model: LanguageModel,
        messages: Sequence[dict[str, str]],
        sampling: Sampling,
        stop: Sequence[str] = (),
        seconds: float = DEFAULT_SECONDS,
    ) -> Generator[Event, None, None]:
        """Yield the events of the answer to a chat, as `Client.chat` does. Raises ServingError."""
        import grpc

        from serving.protocol import models_pb2_grpc

        request = chat_request(model, messages, sampling, stop)
        stub: Any = models_pb2_grpc.LanguageModelsStub(self._channel)
        attempts = Attempts(self.server, seconds)
        while True:
            call = stub.Chat(request, **attempts.next())
            try:
                for message in call:
                    attempts.has_begun = True
                    yield event_of(message)
                return
            except grpc.RpcError as error:
                attempts.check(error)
            finally:
                call.cancel()
            time.sleep(RETRY_SECONDS)

    def score(
        self, model: str, conversations: Sequence[Conversation], seconds: float = DEFAULT_SECONDS
    ) -> Scores:
        """Return the scores of the responses by the reward model in the folder `model`.

        Raises ServingError, and TooSlow after `seconds`. If the server is restarting, this waits for up
        to RESTART_SECONDS.
        """
        import grpc

        from serving.protocol import models_pb2_grpc

        request = score_request(model, conversations)
        stub: Any = models_pb2_grpc.RewardModelsStub(self._channel)
        attempts = Attempts(self.server, seconds)
        while True:
            try:
                return scores_of(stub.Score(request, **attempts.next()))
            except grpc.RpcError as error:
                attempts.check(error)
            time.sleep(RETRY_SECONDS)


class Attempts:
    """The attempts of a request within its time limit. It is repeated only while the server is restarting.

    Set `has_begun` when the first part of the reply has arrived. The request is not repeated after that.
    """

    def __init__(self, server: Server, seconds: float):
        self.server = server
        self.seconds = seconds
        self.has_begun = False
        self.started = self.attempted = time.monotonic()

    def next(self) -> dict[str, Any]:
        """Begin an attempt, and return its options for gRPC: the seconds that remain, and the token."""
        self.attempted = time.monotonic()
        remaining = self.started + self.seconds - self.attempted
        return {"timeout": remaining, "metadata": self.server.metadata}

    def check(self, error: Any) -> None:
        """Raise the ServingError for an error of gRPC, unless the request may be repeated."""
        problem = error_of(error, self.server)
        if self.has_begun or not isinstance(problem, NotRunning):
            raise problem from None
        now = time.monotonic()
        hangs = now - self.attempted > HANG_SECONDS
        is_late = now - self.started > min(RESTART_SECONDS, self.seconds)
        if hangs or is_late or not self.server.is_starting():
            raise problem from None


def chat_request(
    model: LanguageModel,
    messages: Sequence[dict[str, str]],
    sampling: Sampling,
    stop: Sequence[str],
) -> Any:
    """Return the message of a request. Raises Refused for wrong types and ranges."""
    from serving.protocol import models_pb2 as pb

    try:
        return pb.ChatRequest(
            model=pb.ModelReference(base=model.base, adapter=model.adapter, dtype=model.dtype),
            messages=[pb.Message(role=m["role"], content=m["content"]) for m in messages],
            sampling=pb.Sampling(**asdict(sampling)),
            stop=stop,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise Refused(f"The request is not valid: {error}") from None


def score_request(model: str, conversations: Sequence[Conversation]) -> Any:
    """Return the message of a request. Raises Refused for wrong types."""
    from serving.protocol import models_pb2 as pb

    try:
        return pb.ScoreRequest(
            model=model,
            conversations=[
                pb.Conversation(
                    prompt=[pb.Message(role=m["role"], content=m["content"]) for m in prompt],
                    responses=responses,
                )
                for prompt, responses in conversations
            ],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise Refused(f"The request is not valid: {error}") from None


def scores_of(reply: Any) -> Scores:
    """Return the scores of a message of the server."""
    return Scores(
        [
            Verdict(_present(verdict.scores), _present(verdict.uncertainties))
            for verdict in reply.verdicts
        ],
        reply.limit,
        reply.forwarded,
    )


def _present(values: Sequence[float]) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values]


def event_of(message: Any) -> Event:
    """Return the event of a message of the server."""
    kind = message.WhichOneof("event")
    if kind == "start":
        return Start(message.start.prompt_tokens, message.start.seed, message.start.dtype)
    if kind == "piece":
        return Piece(message.piece.text, message.piece.tokens)
    reason = "length" if message.end.reason == message.end.LENGTH else "stop"
    return End(reason, message.end.tokens)


def error_of(error: Any, server: Server) -> ServingError:
    """Return the exception for an error of gRPC."""
    from grpc import StatusCode

    code, text = error.code(), error.details() or ""
    if code == StatusCode.UNAVAILABLE:
        return NotRunning(
            f"The model server does not answer at {server.address}. The operator starts it with "
            "manage.py model_server."
        )
    if code == StatusCode.UNAUTHENTICATED:
        return NotAllowed(
            "The model server refused the token. Set TIEBREAK_MODEL_SERVER_TOKEN to the same text "
            "for the web server and the model server."
        )
    if code == StatusCode.DEADLINE_EXCEEDED:
        return TooSlow("The model server took longer than the time limit of the request.")
    kinds: dict[Any, type[ServingError]] = {
        StatusCode.RESOURCE_EXHAUSTED: Busy,
        StatusCode.OUT_OF_RANGE: TooLong,
        StatusCode.ABORTED: TooLarge,
        StatusCode.INVALID_ARGUMENT: Refused,
    }
    return kinds.get(code, CannotLoad)(text or "The model server failed; see its log.")
