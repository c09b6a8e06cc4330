"""Conversations with answers, for tests."""

from accounts.models import User
from finetune.chat import conversations
from finetune.models import Conversation, Model, Reply, Turn
from labeling.guidelines import versions
from labeling.models import Guideline, Project

SAMPLING = {"temperature": 0.7, "top_p": 0.95, "max_tokens": 32}


def publish_guideline(project: Project, by: User) -> None:
    Guideline.objects.create(project=project, title="Guideline")
    draft = versions.create_draft(
        project=project, by=by, text="Be kind.", criteria=[], change_note="First."
    )
    versions.publish(version=draft, by=by)


def start(user: User, *models: Model, system_prompt: str = "") -> Conversation:
    return conversations.start(user=user, models=models, system_prompt=system_prompt, **SAMPLING)


def asked(
    conversation: Conversation, text: str = "Hello?", answers: tuple[str, ...] = ("Yes.", "No.")
) -> Turn:
    """Add a message with complete answers, the left one first."""
    turn = conversations.ask(conversation, text)
    for side, answer in zip(conversation.sides, answers, strict=False):
        conversations.store_reply(
            turn, side, text=answer, ending=Reply.Ending.STOP, tokens=2, seed=1
        )
    return turn
