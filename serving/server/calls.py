"""Calls of gRPC: the shared token, the time limit, and the events and errors of the engine.

This module does not need torch.
"""

import asyncio
import hmac
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib import import_module
from typing import Any

import grpc

from serving.server.engine import JobError

MAX_SECONDS = 3600.0
"""The time limit of a request without a deadline."""
HEALTH = "/grpc.health.v1.Health/"


async def import_later(name: str) -> Any:
    """Import a module that needs torch, in a thread.

    torch can take longer than the 30 seconds after which gRPC cancels calls that the event loop does not
    accept.
    """
    return await asyncio.to_thread(import_module, name)


def mailbox() -> tuple["asyncio.Queue[Any]", Callable[[Any], None]]:
    """Return a queue for this event loop, and a function that fills it from another thread."""
    events: asyncio.Queue[Any] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def emit(event: Any) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(events.put_nowait, event)

    return events, emit


def deadline(context: Any) -> float:
    """Return the time of the monotonic clock at which the request ends."""
    remaining = context.time_remaining()
    return time.monotonic() + min(MAX_SECONDS, MAX_SECONDS if remaining is None else remaining)


class Guard(grpc.aio.ServerInterceptor):
    """Checks the shared token of each call except health checks, and turns JobError into a status."""

    def __init__(self, token: str):
        self.token = token

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], details: Any
    ) -> Any:
        handler = await continuation(details)
        if handler is None or details.method.startswith(HEALTH):
            return handler
        sent = dict(details.invocation_metadata or ()).get("authorization", "")
        allowed = hmac.compare_digest(sent.encode(), f"Bearer {self.token}".encode())
        refused = bool(self.token) and not allowed
        if handler.unary_stream:
            return grpc.unary_stream_rpc_method_handler(
                _stream(handler.unary_stream, refused),
                request_deserializer=handler.request_deserializer,
                response_serializer=handler.response_serializer,
            )
        return grpc.unary_unary_rpc_method_handler(
            _unary(handler.unary_unary, refused),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


def _stream(method: Callable[..., Any], refused: bool) -> Callable[..., Any]:
    async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            if refused:
                raise JobError("UNAUTHENTICATED", "The token is missing or wrong.")
            async for message in method(request, context):
                yield message
        except JobError as error:
            await context.abort(grpc.StatusCode[error.code], str(error))

    return stream


def _unary(method: Callable[..., Any], refused: bool) -> Callable[..., Any]:
    async def unary(request: Any, context: Any) -> Any:
        try:
            if refused:
                raise JobError("UNAUTHENTICATED", "The token is missing or wrong.")
            return await method(request, context)
        except JobError as error:
            return await context.abort(grpc.StatusCode[error.code], str(error))

    return unary
