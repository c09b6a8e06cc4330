"""Edit prompts that have not been ranked."""

from typing import Any

from django.db import transaction

from accounts.models import User, audit
from labeling.core.chats import chat_problem
from labeling.core.text import storable
from labeling.models import Prompt, Ranking, Slot, Task, digest
from labeling.queue import withdrawals


class CannotEdit(ValueError):  # noqa: N818 - reads better without Error
    """Raised if a prompt cannot be edited, before anything is written. The message is for the lead."""


def obstacle_to_editing(prompt: Prompt) -> str:
    """Return a sentence that says why the prompt cannot be edited now, or "". Costs two queries."""
    if prompt.erased_at is not None:
        return "This prompt was erased."
    if Ranking.objects.filter(task__prompt=prompt).exists():
        return (
            "This prompt has been ranked, and its rankings refer to the current text. Withdraw "
            "it, and import the corrected prompt as a new one."
        )
    slots = Slot.objects.filter(task__prompt=prompt)
    reading = slots.filter(leased_until__isnull=False, shown_at__isnull=False)
    if reading.exists() or slots.filter(draft_by__isnull=False).exists():
        return (
            "A reviewer is working on this prompt. Wait until they have finished, or withdraw it "
            "first."
        )
    return ""


@transaction.atomic
def edit(*, prompt: Prompt, messages: Any, by: User | None) -> bool:
    """Replace the text of a prompt. Return False if the text is the same. Raises CannotEdit.

    Leases of tasks that no reviewer has seen yet are kept, and the tasks show the new text.
    """
    withdrawals.lock(list(Task.objects.filter(prompt=prompt).values_list("pk", flat=True)))
    prompt = Prompt.objects.select_for_update(no_key=True).get(pk=prompt.pk)
    if obstacle := obstacle_to_editing(prompt):
        raise CannotEdit(obstacle)
    messages = _checked(messages)
    if messages == prompt.messages:
        return False
    if twin := _twin_of(prompt, messages):
        raise CannotEdit(f"Prompt {twin} of this project already has exactly this text.")
    prompt.messages = messages
    prompt.save(update_fields=["messages", "content_hash"])
    for response in prompt.responses.all():
        response.scores.all().delete()  # reward models scored it as a response to the old prompt
    audit(by, "prompt edited", prompt.project, prompt=prompt.pk)
    return True


def _checked(messages: Any) -> list[dict[str, str]]:
    if problem := chat_problem(messages):
        raise CannotEdit(problem)
    return [{name: storable(text) for name, text in message.items()} for message in messages]


def _twin_of(prompt: Prompt, messages: list[dict[str, str]]) -> int | None:
    others = Prompt.objects.filter(project=prompt.project_id, content_hash=digest(messages))
    return others.exclude(pk=prompt.pk).values_list("pk", flat=True).first()
