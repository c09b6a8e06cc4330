"""The OpenAI-compatible API: GET /v1/models and POST /v1/chat/completions.

A request must have a token of the API in `Authorization: Bearer KEY`. Errors have the form of OpenAI's
API, so that its client raises its own exceptions. docs/openai-api.md describes it.

The views work with both kinds of servers. Under ASGI, an answer in progress needs no thread. Under WSGI,
it needs one, so only API_AT_ONCE answers are written in a process at the same time.
"""

import logging
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import AsyncExitStack, ExitStack, aclosing, closing, contextmanager
from functools import wraps
from http import HTTPStatus
from math import ceil
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.core.handlers.asgi import ASGIRequest
from django.db import connection
from django.http import HttpRequest, JsonResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.views.decorators.csrf import csrf_exempt

from accounts.models import Scope, Token
from finetune.models import Model
from finetune.serving.clients import blocking_client_for, client_for
from finetune.serving.completions import ChatRequest, Completion, Invalid, data, models_list, parse
from finetune.serving.names import UnknownModel, model_named, names, served
from serving.client import Event, LanguageModel
from serving.errors import (
    Busy,
    NotRunning,
    Refused,
    ServingError,
    TooLarge,
    TooLong,
    TooSlow,
)

log = logging.getLogger("tiebreak.chat")

CHARACTERS_EACH = 2_000
"""The number of characters of a chat that count as one response."""
RETRY_SECONDS = 5


class ApiError(Exception):
    """An error response in the form of OpenAI's API. The text is a sentence for the sender."""

    def __init__(
        self,
        status: int,
        text: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: int | None = None,
    ):
        super().__init__(text)
        self.status = status
        self.code = code
        self.param = param
        self.retry_after = retry_after

    def body(self) -> dict[str, Any]:
        kinds = {401: "authentication_error", 429: "rate_limit_error"}
        kind = kinds.get(
            self.status, "server_error" if self.status >= 500 else "invalid_request_error"
        )
        error = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return {"error": error}

    def response(self) -> JsonResponse:
        answer = JsonResponse(self.body(), status=self.status)
        if self.retry_after is not None:
            answer["Retry-After"] = str(self.retry_after)
        if self.status == HTTPStatus.UNAUTHORIZED:
            answer["WWW-Authenticate"] = "Bearer"
        return answer


def of_serving(error: ServingError) -> ApiError:
    """Return the response for an error of the model server. Details of the machine are only logged."""
    match error:
        case NotRunning():
            log.error("%s", error)
            text = "The model server is not running. The operator starts it with manage.py model_server."
            return ApiError(503, text, code="model_server_unavailable", retry_after=RETRY_SECONDS)
        case Busy():
            return ApiError(429, str(error), code="too_many_requests", retry_after=RETRY_SECONDS)
        case TooLarge():
            return ApiError(413, str(error), code="request_too_large")
        case TooLong():
            return ApiError(400, str(error), code="context_length_exceeded", param="messages")
        case Refused():
            return ApiError(400, str(error))
        case TooSlow():
            return ApiError(504, str(error), code="timeout")
    log.error("The model server failed: %s", error)
    return ApiError(500, "The model cannot be used; see the server's log.", code="model_failed")


def with_errors(view: Callable[..., Any]) -> Any:
    """Wrap an asynchronous view so that its errors have the form of OpenAI's API."""

    @wraps(view)
    async def protected_view(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        try:
            return await view(request, *args, **kwargs)
        except ApiError as error:
            return error.response()
        except ServingError as error:
            return of_serving(error).response()

    return csrf_exempt(protected_view)


@with_errors
async def models(request: HttpRequest) -> HttpResponseBase:
    """List the names of the models that the owner of the token may ask."""
    token = await sync_to_async(token_of)(request, "GET")
    return JsonResponse(
        await sync_to_async(lambda: models_list(names(token.user, project=token.project_id)))()
    )


@with_errors
async def one_model(request: HttpRequest, name: str) -> HttpResponseBase:
    """Describe the model with a name."""
    token = await sync_to_async(token_of)(request, "GET")
    model = await sync_to_async(model_of)(token, name)
    return JsonResponse(models_list([(name, model)])["data"][0])


@with_errors
async def chat_completions(request: HttpRequest) -> HttpResponseBase:
    """Answer a chat, in one piece or as a stream of server-sent events."""
    token, number, model, chat = await sync_to_async(prepared)(request)
    completion = Completion(chat.model, number, chat.usage)
    if not isinstance(request, ASGIRequest):
        return await sync_to_async(blocking_answer)(token, model, chat, completion)
    events = async_events(token, model, chat)
    if chat.stream:
        first = await anext(events)  # a refusal becomes a status instead of a broken stream
        return stream_of(async_lines(first, events, completion))
    async with aclosing(events):
        async for event in events:
            completion.add(event)
    return JsonResponse(completion.whole())


@with_errors
async def not_found(request: HttpRequest, rest: str = "") -> HttpResponseBase:
    raise ApiError(404, "The API has no such address. It has /v1/models and /v1/chat/completions.")


# --- the request ----------------------------------------------------------------------------------


def token_of(request: HttpRequest, method: str) -> Token:
    """Return the token of the request. Raises ApiError without one, or for another method."""
    if request.method != method:
        raise ApiError(405, f"Use {method} at this address.", code="method_not_allowed")
    kind, _, key = request.headers.get("Authorization", "").partition(" ")
    token = Token.of_key(key.strip()) if kind.lower() == "bearer" and key.strip() else None
    if token is None:
        text = "Send a token of Tiebreak as the API key: Authorization: Bearer KEY."
        raise ApiError(401, text, code="invalid_api_key")
    if Scope.INFERENCE not in token.scopes:
        text = f"This needs a token with the scope {Scope.INFERENCE}."
        raise ApiError(403, text, code="insufficient_scope")
    return token


def model_of(token: Token, name: str) -> Model:
    try:
        return model_named(token.user, name, project=token.project_id)
    except UnknownModel as error:
        raise ApiError(404, str(error), code="model_not_found", param="model") from None


def prepared(request: HttpRequest) -> tuple[Token, int, LanguageModel, ChatRequest]:
    """Return the token, the model's number, the model and the checked request, and count it.

    Raises ApiError.

    The connection to the database is returned to the pool, because an answer can take minutes.
    """
    token = token_of(request, "POST")
    try:
        chat = parse(request.body)
    except RequestDataTooBig:
        raise ApiError(413, "The request is larger than 2.5 MB.") from None
    except Invalid as error:
        raise ApiError(400, str(error), param=error.param or None) from None
    if chat.characters > settings.API_CHARACTERS:
        text = f"The chat has {chat.characters:,} characters; the limit is {settings.API_CHARACTERS:,}."
        raise ApiError(413, text, code="request_too_large", param="messages")
    model = model_of(token, chat.model)
    amount = max(1, ceil(chat.characters / CHARACTERS_EACH))
    if not token.spend(amount, limit=settings.API_RESPONSES_A_MINUTE):
        text = (
            f"The limit is {settings.API_RESPONSES_A_MINUTE} answers per token and minute; "
            f"{CHARACTERS_EACH:,} characters count as one. Continue in the next minute."
        )
        raise ApiError(429, text, code="rate_limit_exceeded", retry_after=60)
    language_model = served(model)
    if not connection.in_atomic_block:
        connection.close()
    return token, model.pk, language_model, chat


# --- answers in progress --------------------------------------------------------------------------

_lock = threading.Lock()
_in_progress: Counter[int] = Counter()
"""The number of answers in progress in this process, by token."""
_threads: dict[int, threading.BoundedSemaphore] = {}


@contextmanager
def one_of_the_token(token: Token) -> Iterator[None]:
    """Count an answer in progress. Raises ApiError if the token has too many in this process."""
    with _lock:
        if _in_progress[token.pk] >= settings.API_STREAMS:
            text = (
                f"A token may have {settings.API_STREAMS} answers in progress. Wait for one to end."
            )
            raise ApiError(429, text, code="too_many_requests", retry_after=RETRY_SECONDS)
        _in_progress[token.pk] += 1
    try:
        yield
    finally:
        with _lock:
            _in_progress[token.pk] -= 1


async def async_events(
    token: Token, model: LanguageModel, chat: ChatRequest
) -> AsyncGenerator[Event, None]:
    async with AsyncExitStack() as stack:
        stack.enter_context(one_of_the_token(token))
        client = await stack.enter_async_context(client_for(model))
        events = await stack.enter_async_context(aclosing(client.chat(*arguments(model, chat))))
        async for event in events:
            yield event


def blocking_answer(
    token: Token, model: LanguageModel, chat: ChatRequest, completion: Completion
) -> HttpResponseBase:
    events = blocking_events(token, model, chat)
    if chat.stream:
        first = next(events)
        return stream_of(blocking_lines(first, events, completion))
    with closing(events):
        for event in events:
            completion.add(event)
    return JsonResponse(completion.whole())


def blocking_events(
    token: Token, model: LanguageModel, chat: ChatRequest
) -> Generator[Event, None, None]:
    size = settings.API_AT_ONCE
    turn = _threads.setdefault(size, threading.BoundedSemaphore(size))
    if not turn.acquire(blocking=False):
        text = "This server is writing as many answers as it can. Try again in a few seconds."
        raise ApiError(429, text, code="too_many_requests", retry_after=RETRY_SECONDS)
    with ExitStack() as stack:
        stack.callback(turn.release)
        stack.enter_context(one_of_the_token(token))
        client = stack.enter_context(blocking_client_for(model))
        yield from stack.enter_context(closing(client.chat(*arguments(model, chat))))


def arguments(model: LanguageModel, chat: ChatRequest) -> tuple[Any, ...]:
    return model, chat.messages, chat.sampling, chat.stop, settings.API_CHAT_SECONDS


def stream_of(lines: Any) -> StreamingHttpResponse:
    response = StreamingHttpResponse(lines, content_type="text/event-stream")
    response["Cache-Control"] = "no-store"
    response["X-Accel-Buffering"] = "no"  # nginx passes each part on immediately
    return response


async def async_lines(
    first: Event, events: AsyncGenerator[Event, None], completion: Completion
) -> AsyncGenerator[bytes, None]:
    async with aclosing(events):
        yield completion.lines(first)
        try:
            async for event in events:
                yield completion.lines(event)
        except ServingError as error:
            yield data(of_serving(error).body())


def blocking_lines(
    first: Event, events: Generator[Event, None, None], completion: Completion
) -> Generator[bytes, None, None]:
    with closing(events):
        yield completion.lines(first)
        try:
            for event in events:
                yield completion.lines(event)
        except ServingError as error:
            yield data(of_serving(error).body())
