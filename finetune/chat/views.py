"""The pages of chats. Their answers are streamed by `consumers`."""

from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.core.paginator import Paginator
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.safestring import SafeString
from django.utils.translation import gettext as translate
from django.utils.translation import gettext_lazy as _
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from accounts.access import P, View, restrict, user_of
from finetune.chat import conversations, votes
from finetune.chat.conversations import CannotChat
from finetune.chat.forms import StartForm
from finetune.models import Conversation, Reply, Side, Turn
from labeling.core.access import leads
from labeling.core.text import render as render_text
from reward.access import led_projects

PAGE_SIZE = 50


def chat_required(view: View[P]) -> View[P]:
    """Restrict a view to leads, and to reviewers whose project allows chats. Others get a 403."""
    refusal = _("Only leads may see this page, and reviewers whose project allows chats.")
    return restrict(conversations.can_chat, view, refusal)


@chat_required
@require_http_methods(["GET", "POST"])
def chats(request: HttpRequest) -> HttpResponse:
    """List the chats that the user may see, with the form that starts one."""
    visible = conversations.visible_to(user_of(request))
    form = StartForm(
        request.POST or None,
        user=user_of(request),
        initial={"model": request.GET.get("model"), "other": request.GET.get("other")},
    )
    if request.method == "POST" and form.is_valid():
        return redirect("chat", form.save().pk)
    rows = conversations.with_beginnings(visible)
    page = Paginator(rows, PAGE_SIZE).get_page(request.GET.get("page"))
    context = {"form": form, "page": page, "user_id": user_of(request).pk}
    return render(request, "finetune/chat/list.html", context)


@chat_required
@require_GET
def chat(request: HttpRequest, pk: int) -> HttpResponse:
    conversation = chat_for(request, pk)
    turns = list(conversations.turns_of(conversation))
    last = len(turns)
    user = user_of(request)
    is_lead = leads(user, conversation.project)
    context = {
        "conversation": conversation,
        "turns": [
            turn_context(turn, user.pk, conversation, last=last, is_lead=is_lead) for turn in turns
        ],
        "own": conversation.user_id == user.pk,
        "live_port": settings.LIVE_PORT,
    }
    return render(request, "finetune/chat/chat.html", context)


@chat_required
@require_GET
def turn(request: HttpRequest, pk: int, turn_number: int) -> HttpResponse:
    """Return the HTML of one turn, which the page shows after its answers were streamed."""
    return _turn_response(request, turn_for(request, pk, turn_number))


@chat_required
@require_POST
def vote(request: HttpRequest, pk: int, turn_number: int) -> HttpResponse:
    row = turn_for(request, pk, turn_number, own=True)
    return _answered(
        request, row, lambda: votes.vote(row, request.POST.get("verdict", ""), user_of(request))
    )


@chat_required
@require_POST
def correct(request: HttpRequest, pk: int, turn_number: int) -> HttpResponse:
    row = turn_for(request, pk, turn_number, own=True)
    reply = row.replies().get(request.POST.get("side", ""))
    if reply is None:
        raise Http404("Answer not found.")
    reply.turn = row
    return _answered(
        request, row, lambda: votes.correct(reply, request.POST.get("text", ""), user_of(request))
    )


@chat_required
@require_POST
def queue(request: HttpRequest, pk: int, turn_number: int) -> HttpResponse:
    """Let reviewers rank the two answers to a message. Only leads may do this."""
    row = turn_for(request, pk, turn_number, lead=True)
    return _answered(request, row, lambda: votes.queue_for_reviewers(row))


@chat_required
@require_POST
def reveal(request: HttpRequest, pk: int) -> HttpResponse:
    conversations.reveal(chat_for(request, pk, own=True))
    return redirect("chat", pk)


@chat_required
@require_POST
def delete(request: HttpRequest, pk: int) -> HttpResponse:
    conversation = chat_for(request, pk, own=True)
    conversations.delete(conversation, user_of(request))
    messages.success(request, translate("The chat is deleted. Rankings made from it are kept."))
    return redirect("chats")


def chat_for(
    request: HttpRequest, pk: int, *, own: bool = False, lead: bool = False
) -> Conversation:
    """Return the conversation. Raises Http404 if the user may not see it.

    With `own`, it must be the user's, and with `lead`, the user must lead its project.
    """
    visible = conversations.visible_to(user_of(request))
    if own:
        visible = visible.filter(user=user_of(request))
    if lead:
        visible = visible.filter(project__in=led_projects(user_of(request)))
    return get_object_or_404(visible, pk=pk)


def turn_for(
    request: HttpRequest, pk: int, number: int, *, own: bool = False, lead: bool = False
) -> Turn:
    conversation = chat_for(request, pk, own=own, lead=lead)
    row = get_object_or_404(conversations.turns_of(conversation), number=number)
    row.conversation = conversation
    return row


def _answered(request: HttpRequest, row: Turn, action: Any) -> HttpResponse:
    """Do the action. Return the turn to the page's script, and the whole page to a plain form."""
    error = ""
    try:
        action()
    except CannotChat as problem:
        error = str(problem)
    if not request.headers.get("HX-Request"):
        if error:
            messages.error(request, error)
        return redirect("chat", row.conversation_id)
    return _turn_response(request, turn_for(request, row.conversation_id, row.number), error)


def _turn_response(request: HttpRequest, row: Turn, error: str = "") -> HttpResponse:
    conversation = row.conversation
    last = conversation.turns.count()
    user = user_of(request)
    is_lead = leads(user, conversation.project)
    context = turn_context(row, user.pk, conversation, last=last, is_lead=is_lead, error=error)
    return render(
        request, "finetune/chat/turn.html", {"turn": context}, status=422 if error else 200
    )


# --- the context of the templates ------------------------------------------------------------------


@dataclass(frozen=True)
class ShownReply:
    side: str
    name: str
    reply: Reply
    text: SafeString
    correction: SafeString


@dataclass(frozen=True)
class ShownTurn:
    row: Turn
    conversation: Conversation
    text: SafeString
    replies: list[ShownReply]
    verdicts: list[tuple[str, str]]
    """The verdicts to choose from; empty if none can be given."""
    own: bool
    is_last: bool
    is_lead: bool
    can_queue: bool
    error: str


def turn_context(
    row: Turn,
    user_id: int,
    conversation: Conversation,
    *,
    last: int,
    is_lead: bool,
    error: str = "",
) -> ShownTurn:
    """Return the texts of a turn, and what its reader can do. `last` is the number of the last turn."""
    replies = row.replies()
    own = conversation.user_id == user_id
    usable = [reply for reply in replies.values() if reply.is_usable]
    comparable = len(usable) == 2 and usable[0].text != usable[1].text
    can_vote = own and comparable and conversation.is_blind and not row.verdict
    rendered = [
        ShownReply(
            side,
            name_of(conversation, side),
            replies[side],
            render_text(replies[side].text),
            render_text(replies[side].correction),
        )
        for side in conversation.sides
        if side in replies
    ]
    return ShownTurn(
        row,
        conversation,
        render_text(row.text),
        rendered,
        [(value, str(label)) for value, label in Turn.Verdict.choices] if can_vote else [],
        own,
        row.number == last and not row.verdict,
        is_lead,
        is_lead and comparable and row.task_id is None,
        error,
    )


def name_of(conversation: Conversation, side: str) -> str:
    """Return the name of the model on a side, or "Left" or "Right" while the names are hidden."""
    return str(Side(side).label) if conversation.is_blind else conversation.sides[side].name
