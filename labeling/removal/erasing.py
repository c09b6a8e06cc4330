"""Erase prompts, responses and people from the tables of labeling.

The text is erased, but the rows are kept, because rankings refer to them. Do not call this module
directly: finetune.removal.erasing also erases the copies in snapshots, runs and evaluations, and writes
the audit entry.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection, transaction
from django.db.models import Func, Q, QuerySet, TextField
from django.db.models.functions import Cast, Coalesce
from django.utils import timezone

from accounts.models import AuditEntry, Token, User, UserSession
from accounts.sign_in import listing, provisioning
from labeling.models import (
    Adjudication,
    Finding,
    Gold,
    GuidelineConfirmation,
    Invitation,
    Membership,
    Project,
    Prompt,
    Qualification,
    QueueCursor,
    Ranking,
    Response,
    Skip,
    Slot,
    Task,
    digest,
)
from labeling.queue import slots
from labeling.removal import withdrawing

ERASED = "[erased]"
ERASED_MESSAGES = [{"role": "user", "content": ERASED}]


@contextmanager
def unfrozen() -> Iterator[None]:
    """Allow changes to rankings, guidelines and audit entries, which triggers otherwise refuse."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT set_config('tiebreak.erasing', 'on', true)")
        yield
        cursor.execute("SELECT set_config('tiebreak.erasing', 'off', true)")


@transaction.atomic
def erase_prompt(*, prompt: Prompt, by: User) -> None:
    """Erase the prompt, its responses, and all notes about its tasks."""
    withdrawing.withdraw(content=prompt, by=by)
    for response in prompt.responses.all():
        _blank_response(response, by)
    Prompt.objects.filter(pk=prompt.pk).update(
        messages=ERASED_MESSAGES,
        content_hash=digest([ERASED, "prompt", prompt.pk]),
        external_id="",
        meta={},
        erased_at=timezone.now(),
    )
    tasks = Task.objects.filter(prompt=prompt)
    tasks.update(external_id="")
    _erase_remarks(list(tasks.values_list("pk", flat=True)))


@transaction.atomic
def erase_response(*, response: Response, by: User) -> None:
    """Erase the response, and all notes about its tasks, because they may quote it."""
    _blank_response(response, by)
    _erase_remarks(
        list(Task.objects.filter(places__response=response).values_list("pk", flat=True))
    )


def _blank_response(response: Response, by: User) -> None:
    """Erase the text of a response, but keep the model's name, which statistics need."""
    withdrawing.withdraw(content=response, by=by)
    Response.objects.filter(pk=response.pk).update(
        text=ERASED,
        identity=digest([ERASED, "response", response.pk]),
        external_id="",
        sampling={},
        seed=None,
        erased_at=timezone.now(),
    )
    response.scores.all().delete()
    Finding.objects.filter(response=response).update(excerpt="")


def _erase_remarks(task_ids: list[int]) -> None:
    """Erase all rationales, notes, explanations and drafts about these tasks, also in the audit trail."""
    slots.forget_drafts(Slot.objects.filter(task__in=task_ids))
    with unfrozen():
        Ranking.objects.filter(task__in=task_ids).exclude(rationale="").update(rationale="")
    Skip.objects.filter(task__in=task_ids).update(note="", draft=None)
    Adjudication.objects.filter(task__in=task_ids).update(note="")
    Gold.objects.filter(task__in=task_ids).update(explanation="")
    subjects = [f"Task {Task(pk=pk)}" for pk in task_ids]
    _erase_notes(AuditEntry.objects.filter(action="dispute decided", subject__in=subjects))


def _erase_notes(entries: QuerySet[AuditEntry]) -> None:
    with unfrozen():
        for entry in entries:
            for details in (entry.details, entry.details.get("before") or {}):
                if details.get("note"):
                    details["note"] = ""
            entry.save(update_fields=["details"])


@transaction.atomic
def erase_person(*, user: User) -> str:
    """Erase a person's identity and everything they wrote. Return the account's new username.

    The account is kept under a neutral name, without a way to sign in, because rankings belong to it.
    Orders, ratings and flags are kept, because they are labels. In snapshots they have a pseudonym.
    """
    name = f"erased-{user.pk}"
    with unfrozen():
        Ranking.objects.filter(reviewer=user).exclude(rationale="").update(rationale="")
    Skip.objects.filter(reviewer=user).update(note="", draft=None)
    Adjudication.objects.filter(by=user).update(note="")
    _erase_notes(AuditEntry.objects.filter(action="dispute decided", user=user))
    slots.forget_drafts(Slot.objects.filter(draft_by=user))
    slots.free_leases(Slot.objects.filter(reviewer=user), keep_drafts=False)
    Membership.objects.filter(user=user).delete()
    Token.objects.filter(user=user).delete()
    listing.end_all(user, keep=None)
    UserSession.objects.filter(user=user).delete()
    if user.email:
        Invitation.objects.filter(email__iexact=user.email).update(email="")
    provisioning.forget(person=user)
    _rename_in_audit(user.username, name)
    User.objects.filter(pk=user.pk).update(
        username=name,
        first_name="",
        last_name="",
        email="",
        password="!",  # noqa: S106 - matches no password
        is_active=False,
        is_staff=False,
        is_superuser=False,
        all_projects=False,
    )
    return name


def _rename_in_audit(before: str, after: str) -> None:
    """Replace a username in all audit entries with the account's new username."""
    word = re.compile(rf"(?<![\w.@+-]){re.escape(before)}(?![\w.@+-])")
    text = Cast("details", TextField())
    entries = AuditEntry.objects.annotate(text=text).filter(
        Q(subject__contains=before) | Q(text__contains=before)
    )
    with unfrozen():
        for entry in entries:
            entry.subject = word.sub(after, entry.subject)
            entry.details = {
                key: after if value == before else value for key, value in entry.details.items()
            }
            entry.save(update_fields=["subject", "details"])


# --- a reviewer's data in one project ------------------------------------------------------------

NOBODY = "withdrawn-reviewers"
"""The username of the account to which the empty rows of withdrawn rankings belong."""


@transaction.atomic
def withdraw_reviewer(*, project: Project, reviewer: User) -> int:
    """Empty a reviewer's rankings in a project, and return their number.

    The rows are kept, without content and without the reviewer, because other rows refer to them.
    Their tasks return to the queue. Skips, decisions about disputes, drafts and the membership are
    deleted. Do not call this directly; see the head of this module.
    """
    nobody, _ = User.objects.get_or_create(
        username=NOBODY,
        defaults={"is_active": False, "password": "!"},
    )
    rankings = Ranking.objects.filter(task__project=project, reviewer=reviewer)
    ids = list(rankings.values_list("pk", flat=True))
    Membership.objects.filter(project=project, user=reviewer).delete()
    own = Slot.objects.filter(project=project)
    slots.forget_rankings(own.filter(ranking__in=ids))
    slots.free_leases(own.filter(reviewer=reviewer), keep_drafts=False)
    slots.forget_drafts(own.filter(draft_by=reviewer))
    past = own.filter(past_reviewers__contains=[reviewer.pk])
    past.update(past_reviewers=Func("past_reviewers", reviewer.pk, function="array_remove"))
    now = timezone.now()
    with unfrozen():
        Ranking.objects.filter(pk__in=ids).update(
            reviewer=nobody, tiers=[], cut=None, strength=None, ratings={}, flags={}, rationale="",
            shown_order=[], active_seconds=0, removed_at=now,
            superseded_at=Coalesce("superseded_at", now),
        )  # fmt: skip
    Skip.objects.filter(task__project=project, reviewer=reviewer).delete()
    Adjudication.objects.filter(task__project=project, by=reviewer).delete()
    for table in (Qualification, QueueCursor):
        table._default_manager.filter(project=project, reviewer=reviewer).delete()
    versions = GuidelineConfirmation.objects.filter(version__guideline__project=project)
    versions.filter(reviewer=reviewer).delete()
    return len(ids)
