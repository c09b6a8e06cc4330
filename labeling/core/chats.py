"""Chats as they are stored in `Prompt.messages`: a list of {"role", "content"}."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.utils.functional import Promise
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy, pgettext_lazy

from labeling.core.text import exact, render

ROLES = ("system", "user", "assistant", "tool")


def chat_problem(messages: Any) -> str:
    """Return why a model cannot answer the chat, or an empty string if it can."""
    if not isinstance(messages, list) or not messages:
        return '"messages" must be a non-empty list of {"role", "content"}.'
    for message in messages:
        if not isinstance(message, dict) or message.keys() != {"role", "content"}:
            return 'each message must be {"role": …, "content": …}.'
        if message["role"] not in ROLES:
            return f"a role must be one of {', '.join(ROLES)}; got {message['role']!r}."
        if not isinstance(message["content"], str):
            return f"the content of a {message['role']} message is not text."
    if messages[-1]["role"] == "assistant":
        return "the last message is from the assistant, so there is nothing to answer."
    return ""


# --- on pages --------------------------------------------------------------------------------------

SPEAKERS = {
    "system": gettext_lazy("Instructions"),
    "user": gettext_lazy("Prompt"),
    "assistant": pgettext_lazy("who speaks", "Model"),
}


@dataclass(frozen=True)
class Message:
    """One rendered message of a chat, with its exact text if rendering changes the text."""

    role: str
    speaker: str | Promise
    """Translated only when rendered, because some pages are in English for every user."""
    html: SafeString
    exact: SafeString | None


def conversation(messages: Sequence[dict[str, str]]) -> list[Message]:
    """Return the messages of a chat, rendered for a page."""
    return [
        Message(
            m["role"],
            SPEAKERS.get(m["role"], m["role"]),
            render(m["content"]),
            exact(m["content"]),
        )
        for m in messages
    ]
