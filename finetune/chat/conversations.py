"""Start and continue conversations, and read what a model needs to answer.

A conversation continues with one of the two answers to each message, so that both models always read
the same chat: the better one by the person's verdict, otherwise the one on the left. If the person has
corrected it, the correction is used.
"""

import random
from collections.abc import Sequence

from django.db import transaction
from django.db.models import Count, OuterRef, Prefetch, Q, QuerySet, Subquery
from django.db.models.functions import Left
from django.utils.translation import gettext as _

from accounts.models import User, audit
from database import clock
from finetune.models import MAX_MESSAGE, Conversation, Model, Reply, Turn
from finetune.serving.names import servable_in
from labeling.core.text import storable
from labeling.models import Project

MAX_TURNS = 100
LONGEST_BEGINNING = 200


class CannotChat(Exception):  # noqa: N818
    """The message cannot be sent. The text is a sentence for the person; nothing was written."""


def can_chat(user: User) -> bool:
    """Return whether the user may chat in a project. Costs one query for reviewers."""
    return user.can_lead or Project.objects.chatted_by(user).exists()


def models_for(user: User) -> QuerySet[Model]:
    """Return the models with which the user may chat, except archived ones."""
    return servable_in(Project.objects.chatted_by(user))


def visible_to(user: User) -> QuerySet[Conversation]:
    """Return the user's conversations and those of the projects that they lead, with their models."""
    visible = Q(project__in=Project.objects.led_by(user))
    visible |= Q(project__in=Project.objects.chatted_by(user), user=user)
    return Conversation.objects.filter(visible).select_related("project", "left", "right", "user")


def with_beginnings(conversations: QuerySet[Conversation]) -> QuerySet[Conversation]:
    """Add the `beginning` of the first message and the number of `messages`, for a list, newest first."""
    first = Turn.objects.filter(conversation=OuterRef("pk"), number=1)
    beginning = first.annotate(beginning=Left("text", LONGEST_BEGINNING)).values("beginning")
    rows = conversations.annotate(beginning=Subquery(beginning), messages=Count("turns"))
    return rows.order_by("-id")


def start(
    *,
    user: User,
    models: Sequence[Model],
    system_prompt: str = "",
    temperature: float,
    top_p: float,
    max_tokens: int,
) -> Conversation:
    """Start a conversation with one or two models of a project. Chance decides their sides."""
    sides = random.sample(models, len(models))
    return Conversation.objects.create(
        project=models[0].project,
        user=user,
        left=sides[0],
        right=sides[1] if len(sides) > 1 else None,
        system_prompt=storable(system_prompt),
        temperature=temperature,
        top_p=top_p,
        max_tokens=max_tokens,
    )


@transaction.atomic
def ask(conversation: Conversation, text: str) -> Turn:
    """Add a message to the conversation. Raises CannotChat."""
    locked = Conversation.objects.select_for_update().get(pk=conversation.pk)
    text = storable(text).strip()
    if not text:
        raise CannotChat(_("Write a message first."))
    if len(text) > MAX_MESSAGE:
        raise CannotChat(
            _("The message has %(count)s characters; the limit is %(limit)s. Shorten it.")
            % {"count": f"{len(text):,}", "limit": f"{MAX_MESSAGE:,}"}
        )
    last = last_turn(locked)
    if last and last.number >= MAX_TURNS:
        raise CannotChat(
            _("This chat has %(count)s messages. Start a new one.") % {"count": MAX_TURNS}
        )
    if last and last.continued_with() is None:
        raise CannotChat(_("The last message has no answer yet. Ask for it again first."))
    number = last.number + 1 if last else 1
    return Turn.objects.create(conversation=locked, number=number, text=text)


def turns_of(conversation: Conversation) -> QuerySet[Turn]:
    """Return the turns with their answers, in two queries."""
    answers = Prefetch("answers", Reply.objects.order_by("id"))
    return conversation.turns.order_by("number").prefetch_related(answers)


def chat_before(turn: Turn) -> list[dict[str, str]]:
    """Return the chat that a model answers at this turn, up to the person's message."""
    conversation = turn.conversation
    messages = []
    if conversation.system_prompt:
        messages.append({"role": "system", "content": conversation.system_prompt})
    for earlier in turns_of(conversation).filter(number__lt=turn.number):
        messages.append({"role": "user", "content": earlier.text})
        if reply := earlier.continued_with():
            messages.append({"role": "assistant", "content": reply.correction or reply.text})
    return [*messages, {"role": "user", "content": turn.text}]


def last_turn(conversation: Conversation) -> Turn | None:
    return turns_of(conversation).order_by("-number").first()


def turn_to_repeat(conversation: Conversation) -> Turn:
    """Return the last turn, to have it answered again. Raises CannotChat if there is a verdict on it."""
    turn = last_turn(conversation)
    if turn is None:
        raise CannotChat(_("No message to answer again."))
    if turn.task_id or turn.verdict or any(reply.correction for reply in turn.replies().values()):
        raise CannotChat(
            _("The answers have been rated, so they cannot be replaced. Write a new message.")
        )
    return turn


def store_reply(
    turn: Turn,
    side: str,
    *,
    text: str,
    ending: str,
    tokens: int = 0,
    seed: int | None = None,
    dtype: str = "",
    error: str = "",
) -> Reply:
    """Store the answer of one side, also if it was stopped or failed. The text must be storable."""
    model = turn.conversation.sides[side]
    return Reply.objects.create(
        turn=turn,
        side=side,
        model=model,
        text=text,
        ending=ending,
        tokens=tokens,
        seed=seed,
        dtype=dtype[:16],
        error=error[:500],
    )


def reveal(conversation: Conversation) -> None:
    """Show the names of the two models. Votes are no longer possible."""
    Conversation.objects.filter(pk=conversation.pk, revealed_at=None).update(
        revealed_at=clock.now()
    )


@transaction.atomic
def delete(conversation: Conversation, by: User) -> None:
    """Delete the conversation. Rankings made from it are kept, because they are data of the project."""
    audit(by, "chat deleted", conversation.project, chat=conversation.pk)
    conversation.delete()
