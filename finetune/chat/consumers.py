"""The WebSocket of the chat page.

The page sends {"do": "ask", "text": …}, {"do": "again"} or {"do": "stop"}. It receives

    asked   number             the message is stored, and its answers follow
    piece   side, text         the next part of an answer
    end     side, ending, error  the answer of this side has ended
    done    number             all answers are stored; the page loads the turn from the server
    refused error              nothing was stored; a sentence for the person
"""

import asyncio
import logging
from contextlib import suppress
from typing import Any

from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from django.http import HttpRequest
from django.utils import translation
from django.utils.translation import gettext as _

from accounts.models import User
from accounts.sign_in import second_factor
from finetune.chat import conversations, streaming
from finetune.chat.conversations import CannotChat
from finetune.models import Conversation, Turn

logger = logging.getLogger(__name__)

NOT_FOUND = 4404
"""The code with which the connection is closed if the person may not write in the conversation."""


class ChatConsumer(AsyncJsonWebsocketConsumer):
    """The connection of one page to one conversation, which answers one message at a time."""

    conversation: Conversation
    answering: "asyncio.Task[None] | None" = None

    async def connect(self) -> None:
        pk = self.scope["url_route"]["kwargs"]["pk"]
        conversation = await database_sync_to_async(_own_conversation)(self.scope["user"], pk)
        proved = await database_sync_to_async(_has_proved_who_they_are)(self.scope)
        await self.accept()
        if conversation is None or not proved:
            await self.close(NOT_FOUND)
        else:
            self.conversation = conversation

    async def disconnect(self, code: int) -> None:
        await self._stop()

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        translation.activate(_language(self.scope))
        what = content.get("do") if isinstance(content, dict) else None
        if what == "stop":
            await self._stop()
            return
        try:
            text = _text_of(content)
            if self.answering and not self.answering.done():
                raise CannotChat(_("Wait for the answer, or stop it."))
            question = await database_sync_to_async(_question)(
                self.scope["user"], self.conversation.pk, text
            )
        except CannotChat as problem:
            await self._refuse(str(problem))
        else:
            self.answering = asyncio.create_task(self._answer(question))

    @classmethod
    async def decode_json(cls, text_data: str) -> Any:
        with suppress(ValueError, RecursionError):
            return await super().decode_json(text_data)
        return None

    async def _answer(self, question: streaming.Question) -> None:
        number = question.turn.number
        await self.send_json({"event": "asked", "number": number})
        try:
            await streaming.answer(question, self.send_json)
        except asyncio.CancelledError:
            pass
        except Exception:
            logger.exception("Chat %s, message %s", self.conversation.pk, number)
            await self._refuse(_("The answer failed. The log of the live server has the details."))
        await self.send_json({"event": "done", "number": number})

    async def _stop(self) -> None:
        task, self.answering = self.answering, None
        if task and not task.done():
            task.cancel()
            with suppress(Exception):  # the page may be gone
                await task

    async def _refuse(self, sentence: str) -> None:
        await self.send_json({"event": "refused", "error": sentence})


def _language(scope: Any) -> str:
    """Return the language of the page that has opened the connection."""
    request = HttpRequest()
    request.COOKIES = scope.get("cookies", {})
    accepted = dict(scope.get("headers", ())).get(b"accept-language", b"")
    request.META["HTTP_ACCEPT_LANGUAGE"] = accepted.decode("latin-1")
    return translation.get_language_from_request(request)


def _text_of(content: Any) -> str | None:
    """Return the message to store, or None to answer the last one again. Raises CannotChat."""
    match content:
        case {"do": "ask", "text": str(text)}:
            return text
        case {"do": "again"}:
            return None
    raise CannotChat(_("The page sent an unknown request. Reload it."))


def _has_proved_who_they_are(scope: Any) -> bool:
    """Return whether the session has the second factor that the user's role needs, if any."""
    request = HttpRequest()
    request.session = scope["session"]
    user = User.objects.filter(pk=scope["user"].pk).first()
    return user is not None and not second_factor.is_missing(request, user)


def _own_conversation(user: Any, pk: int) -> Conversation | None:
    """Return the conversation if the user may write in it. The account is read again each time."""
    person = User.objects.filter(pk=user.pk, is_active=True).first()
    if person is None:
        return None
    return conversations.visible_to(person).filter(user=person, pk=pk).first()


def _question(user: User, pk: int, text: str | None) -> streaming.Question:
    """Store the message, or find the last one if the text is None. Raises CannotChat."""
    conversation = _own_conversation(user, pk)
    if conversation is None:
        raise CannotChat(_("You can no longer write in this chat. Reload the page."))
    turn: Turn
    if text is None:
        turn = conversations.turn_to_repeat(conversation)
    else:
        turn = conversations.ask(conversation, text)
    turn.conversation = conversation
    return streaming.Question.of(turn)
