"""Verdicts and corrections of a chat become rankings of the project, with the source "chat".

Snapshots use them for training only, never to evaluate a model (reward/preferences/snapshots.py).
"""

from django.db import transaction
from django.utils.translation import gettext as _

from accounts.models import User
from finetune.chat.conversations import CannotChat, chat_before
from finetune.models import Conversation, Reply, Side, Turn
from labeling.core.text import storable
from labeling.importing import findings
from labeling.models import Project, Prompt, Ranking, Response, Task, digest
from labeling.queue import tasks
from labeling.queue.tasks import NewTask
from labeling.rankings import recording
from labeling.rankings.content import Content
from labeling.rankings.recording import InvalidRanking

PERSON = "a person"
"""The name of the author of a correction. It does not reveal who wrote it."""
MAX_CORRECTION = 32_000


@transaction.atomic
def vote(turn: Turn, verdict: str, by: User) -> Ranking:
    """Store a verdict on the two answers to a message as a ranking. Raises CannotChat.

    The same verdict again changes nothing.
    """
    conversation = _locked(turn)
    turn.refresh_from_db()
    if verdict not in Turn.Verdict.values:
        raise CannotChat(_("Choose one of the four verdicts."))
    if conversation.right_id is None:
        raise CannotChat(_("A verdict needs two answers; this chat has one model."))
    if conversation.revealed_at:
        raise CannotChat(_("The names of the models were shown, so a verdict would not be blind."))
    if turn.verdict and turn.verdict != verdict:
        raise CannotChat(_("This message already has a verdict, which cannot be changed."))
    answers = _two_answers(turn)
    prompt, responses = _stored(turn, [(reply, reply.text) for reply in answers])
    task = _task(conversation.project, prompt, responses)
    tiers = {
        Turn.Verdict.LEFT: [[responses[0].pk], [responses[1].pk]],
        Turn.Verdict.RIGHT: [[responses[1].pk], [responses[0].pk]],
    }.get(Turn.Verdict(verdict), [[response.pk for response in responses]])
    cut = 0 if verdict == Turn.Verdict.BOTH_BAD else None
    ranking = _rank(task, by, Content(tiers, cut=cut), [response.pk for response in responses])
    Turn.objects.filter(pk=turn.pk).update(verdict=verdict, task=task)
    return ranking


@transaction.atomic
def correct(reply: Reply, text: str, by: User) -> Ranking:
    """Store a person's own version of an answer, preferred over the original. Raises CannotChat."""
    turn = reply.turn
    conversation = _locked(turn)
    reply.refresh_from_db()
    text = storable(text).strip()
    if not reply.is_usable:
        raise CannotChat(_("Only a complete answer can be corrected."))
    if not text or text == reply.text.strip():
        raise CannotChat(_("Change the answer first."))
    if len(text) > MAX_CORRECTION:
        raise CannotChat(
            _("The correction has %(count)s characters; the limit is %(limit)s. Shorten it.")
            % {"count": f"{len(text):,}", "limit": f"{MAX_CORRECTION:,}"}
        )
    if reply.correction and reply.correction != text:
        raise CannotChat(_("This answer has been corrected already."))
    prompt, [original] = _stored(turn, [(reply, reply.text)])
    corrected, _created = _response(prompt, text, PERSON, None, {"corrects": original.pk})
    task = _task(conversation.project, prompt, [original, corrected])
    ranking = _rank(task, by, Content([[corrected.pk], [original.pk]]), [original.pk, corrected.pk])
    Reply.objects.filter(pk=reply.pk).update(correction=text)
    return ranking


@transaction.atomic
def queue_for_reviewers(turn: Turn, rankings_wanted: int | None = None) -> Task:
    """Let reviewers rank the two answers to a message. Raises CannotChat."""
    conversation = _locked(turn)
    answers = _two_answers(turn)
    prompt, responses = _stored(turn, [(reply, reply.text) for reply in answers])
    if turn.task_id:
        raise CannotChat(_("These answers are already a task of the project."))
    new = NewTask(
        prompt.pk, [response.pk for response in responses], rankings_wanted=rankings_wanted
    )
    [(task_id, _created)] = findings.add_tasks(project=conversation.project, tasks=[new])
    Turn.objects.filter(pk=turn.pk).update(task=task_id)
    return Task.objects.get(pk=task_id)


def _locked(turn: Turn) -> Conversation:
    """Lock the conversation, so that two requests cannot both store a verdict."""
    return (
        Conversation.objects.select_for_update(of=("self",))
        .select_related("project")
        .get(pk=turn.conversation_id)
    )


def _two_answers(turn: Turn) -> list[Reply]:
    """Return the answers, the left one first. Raises CannotChat unless they can be compared."""
    replies = turn.replies()
    answers = [replies[side] for side in Side if side in replies and replies[side].is_usable]
    if len(answers) < 2:
        raise CannotChat(_("Both answers must be complete. Ask for them again first."))
    if answers[0].text == answers[1].text:
        raise CannotChat(_("Both answers are the same, so there is nothing to compare."))
    return answers


def _stored(turn: Turn, answers: list[tuple[Reply, str]]) -> tuple[Prompt, list[Response]]:
    """Return the rows of the chat and the answers, which are created unless they exist."""
    messages = chat_before(turn)
    prompt, _created = Prompt.objects.get_or_create(
        project=turn.conversation.project,
        content_hash=digest(messages),
        defaults={"messages": messages, "meta": {"from": "chat"}},
    )
    if prompt.withdrawn_at:
        raise CannotChat(_("A lead has withdrawn this prompt from the project."))
    return prompt, [
        _response(prompt, text, reply.model.name, reply.seed, _sampling(turn))[0]
        for reply, text in answers
    ]


def _sampling(turn: Turn) -> dict[str, object]:
    conversation = turn.conversation
    names = ("temperature", "top_p", "max_tokens")
    return {name: getattr(conversation, name) for name in names}


def _response(
    prompt: Prompt, text: str, author: str, seed: int | None, sampling: dict[str, object]
) -> tuple[Response, bool]:
    return Response.objects.get_or_create(
        prompt=prompt,
        identity=Response.identity_of(author, text, seed, ""),
        defaults={"text": text, "model_name": author, "seed": seed, "sampling": sampling},
    )


def _task(project: Project, prompt: Prompt, responses: list[Response]) -> Task:
    """Return the task of these responses. A new one needs one ranking, so reviewers never get it."""
    task, _created = tasks.add_task(
        project=project, prompt=prompt, responses=responses, rankings_wanted=1
    )
    return task


def _rank(task: Task, by: User, content: Content, order: list[int]) -> Ranking:
    try:
        ranking, _created = recording.record(
            task=task,
            reviewer=by,
            source=Ranking.Source.CHAT,
            content=content,
            shown_order=order,
        )
    except InvalidRanking as error:
        raise CannotChat(str(error)) from None
    return ranking
