"""The client for a model: that of the vLLM server if the model is loaded there, or of the model server."""

from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Protocol

from django.conf import settings

from serving.client import (
    DEFAULT_SECONDS,
    BlockingClient,
    Client,
    Event,
    LanguageModel,
    Sampling,
)
from serving.vllm import BlockingVLLMClient, VLLMClient


class ChatClient(Protocol):
    """The method that the clients for an event loop have in common."""

    def chat(
        self,
        model: LanguageModel,
        messages: Sequence[dict[str, str]],
        sampling: Sampling,
        stop: Sequence[str] = (),
        seconds: float = DEFAULT_SECONDS,
    ) -> AsyncGenerator[Event, None]: ...


class BlockingChatClient(Protocol):
    """The method that the clients for threads have in common."""

    def chat(
        self,
        model: LanguageModel,
        messages: Sequence[dict[str, str]],
        sampling: Sampling,
        stop: Sequence[str] = (),
        seconds: float = DEFAULT_SECONDS,
    ) -> Generator[Event, None, None]: ...


def client_for(model: LanguageModel) -> AbstractAsyncContextManager[ChatClient]:
    """Return a client for code in an event loop, as an asynchronous context manager."""
    return VLLMClient(settings.VLLM) if model.vllm_name else Client(settings.MODEL_SERVER)


def blocking_client_for(model: LanguageModel) -> AbstractContextManager[BlockingChatClient]:
    """Return a client for code in threads, as a context manager."""
    if model.vllm_name:
        return BlockingVLLMClient(settings.VLLM)
    return BlockingClient(settings.MODEL_SERVER)
