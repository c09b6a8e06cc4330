"""Permanent erasure of a prompt, a response or a person from all copies that Tiebreak keeps.

Only administrators may do this. The audit trail records who erased which kind of object and when,
but not its content. docs/removing-data.md lists the places that cannot be reached: backups, exported
files and model weights.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from django.db import transaction
from django.db.models import Q

from accounts.models import User, audit
from buckets import files
from finetune.models import (
    Conversation,
    Evaluation,
    EvaluationItem,
    Model,
    RegressionItem,
    Reply,
    Turn,
)
from finetune.removal.tracing import Trace, record, trace_of, trace_of_reviewer
from labeling.models import Adjudication, Project, Prompt, Ranking, Response, Skip
from labeling.removal import erasing, withdrawing
from labeling.removal.erasing import ERASED
from reward.models import RewardModel, Snapshot, Withdrawal
from reward.preferences.erasing import (
    AnyErasure,
    Erasure,
    ReviewerErasure,
    clean_folder,
    rewrite_snapshot,
    scrubbed,
)
from reward.preferences.pseudonyms import burn, pseudonyms
from runs.models import ENDED, Artifact, Run, RunEvent
from runs.supervision import workspace

Content = Prompt | Response


class CannotErase(Exception):  # noqa: N818
    """The content cannot be erased.

    The text is a sentence for the administrator. Nothing was written.
    """


@dataclass(frozen=True)
class Reach:
    """The places where the content is stored, for the confirmation page."""

    snapshots: list[Snapshot]
    runs: list[Run]
    """The runs that read one of the snapshots. Erasing also searches the other runs of the project."""
    models: list[Model | RewardModel]
    responses: int
    rankings: int
    trace: Trace


def reach_of(content: Content) -> Reach:
    """Return the places where the content is stored.

    This reads two columns of every snapshot of the project.
    """
    gone, trace = Erasure.of(content), trace_of(content)
    models: list[Model | RewardModel] = [*trace.reward_models, *trace.models]
    made_by = Q(reward_model__in=trace.reward_models) | Q(model__in=trace.models)
    numbers = [snapshot.pk for snapshot in trace.snapshots]
    read = Q(project=withdrawing.project_of(content), inputs__snapshot__in=numbers)
    rankings = Ranking.objects.filter(task__in=withdrawing.tasks_of(content))
    return Reach(
        trace.snapshots,
        list(Run.objects.filter(read | made_by).distinct()),
        models,
        len(gone.response_ids),
        rankings.count(),
        trace,
    )


def active_runs(project: Project) -> list[Run]:
    return list(Run.objects.filter(project=project).exclude(state__in=ENDED).order_by("pk"))


@transaction.atomic
def erase(*, content: Content, by: User, reason: str = "") -> Withdrawal:
    """Erase a prompt with its responses, or a single response, and return the record of what it reached.

    It is also withdrawn. Models that were trained on it are marked. This reads, and may rewrite, every
    file of the snapshots and runs of the project. Raises CannotErase if the user is not an
    administrator, and while a run of the project may be reading the content.
    """
    _check_administrator(by)
    project = withdrawing.project_of(content)
    _lock(project)
    gone = Erasure.of(content)
    if content.erased_at is not None:
        raise CannotErase("It has already been erased.")
    trace = trace_of(content)
    snapshots = trace.snapshots
    if isinstance(content, Prompt):
        erasing.erase_prompt(prompt=content, by=by)
    else:
        erasing.erase_response(response=content, by=by)
    _erase_from_evaluations(project, gone)
    _erase_from_chats(project, gone)
    for snapshot in snapshots:
        rewrite_snapshot(snapshot, gone)
    runs = _erase_from_runs(project, gone)
    kind = withdrawing.kind_of(content)
    withdrawal = record(
        project=project,
        kind=kind,
        trace=trace,
        by=by,
        reason=reason,
        prompt=content if isinstance(content, Prompt) else content.prompt,
    )
    audit(
        by,
        f"{kind} erased",
        project,
        withdrawal=withdrawal.pk,
        **{kind: content.pk},
        snapshots=[snapshot.pk for snapshot in snapshots],
        runs=runs,
    )
    return withdrawal


def _erase_from_evaluations(project: Project, gone: Erasure) -> None:
    for model in (EvaluationItem, RegressionItem):
        items = model._default_manager.filter(
            evaluation__project=project, prompt=int(gone.prompt_id)
        )
        if gone.whole_prompt:
            items.update(baseline_text=ERASED, candidate_text=ERASED)
            continue
        for side in ("baseline_text", "candidate_text"):
            items.filter(**{f"{side}__in": gone.texts}).update(**{side: ERASED})


def _erase_from_chats(project: Project, gone: Erasure) -> None:
    """Erase messages and answers with an erased text. Other messages of the chat are kept."""
    turns = Turn.objects.filter(conversation__project=project)
    turns.filter(text__in=gone.texts).update(text=ERASED)
    replies = Reply.objects.filter(turn__conversation__project=project)
    for name in ("text", "correction"):
        replies.filter(**{f"{name}__in": gone.texts}).update(**{name: ERASED})
    chats = Conversation.objects.filter(project=project, system_prompt__in=gone.texts)
    chats.update(system_prompt=ERASED)


def _erase_from_runs(project: Project, gone: AnyErasure) -> list[int]:
    """Erase the content from the files, events and results of runs.

    Return the ids of the runs that changed.
    """
    changed = []
    for run in Run.objects.filter(project=project).order_by("pk"):
        folder = workspace.run_dir_of(run)
        files.fetch(folder.path, strict=True)
        paths = clean_folder(folder.path, gone) if folder.path.is_dir() else []
        if paths:
            files.publish(folder.path, token=run.fencing_token)
        if any(folder.output in path.parents for path in paths):
            for artifact in workspace.artifacts(run, folder):
                Artifact.objects.filter(run=run, name=artifact.name).update(
                    bytes=artifact.bytes, sha256=artifact.sha256
                )
        rows = _scrub(RunEvent.objects.filter(run=run), "data", gone)
        rows += _scrub([run], "result", gone)
        rows += _scrub(RewardModel.objects.filter(run=run), "report", gone)
        rows += _scrub(Evaluation.objects.filter(run=run), "report", gone)
        if paths or rows:
            changed.append(run.pk)
    return changed


def _scrub(rows: Iterable[Any], name: str, gone: AnyErasure) -> int:
    count = 0
    for row in rows:
        before = getattr(row, name)
        after = scrubbed(before, gone)
        if after != before:
            setattr(row, name, after)
            row.save(update_fields=[name])
            count += 1
    return count


def _lock(project: Project) -> None:
    """Lock the project. Raises CannotErase while a run of the project may be reading its data."""
    # A run that starts now either waits for this lock or is already found by active_runs.
    Project.objects.select_for_update().get(pk=project.pk)
    if active := active_runs(project):
        numbers = ", ".join(f"#{run.pk}" for run in active)
        raise CannotErase(
            f"Runs of {project} are not finished and may be reading it: {numbers}. Cancel them or "
            "wait until they have ended."
        )


# --- people --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Person:
    """The numbers of rows that change when a person is erased."""

    rankings: int
    rationales: int
    notes: int


def person_of(user: User) -> Person:
    rankings = Ranking.objects.filter(reviewer=user)
    notes = Skip.objects.filter(reviewer=user).exclude(note="").count()
    notes += Adjudication.objects.filter(by=user).exclude(note="").count()
    return Person(rankings.count(), rankings.exclude(rationale="").count(), notes)


@transaction.atomic
def erase_person(*, user: User, by: User) -> str:
    """Erase a person's name, address, sign-in and texts, and return the new name of the account.

    Raises CannotErase if `by` is not an administrator, or is the person to erase.
    """
    _check_administrator(by)
    if user.pk == by.pk:
        raise CannotErase("You cannot erase the account you are signed in with.")
    Conversation.objects.filter(user=user).delete()
    name = erasing.erase_person(user=user)
    audit(by, "person erased", User(username=name), account=user.pk)
    return name


@transaction.atomic
def withdraw_reviewer(
    *, project: Project, reviewer: User, by: User, reason: str = ""
) -> Withdrawal:
    """Withdraw a reviewer's data from a project, and return the record of what it reached.

    The rankings are emptied, and removed from all snapshots and run folders. The reviewer's chats in the
    project are deleted. The pseudonym is burned.
    Models that were trained on the rankings are marked, but not changed. Raises CannotErase.
    """
    _check_administrator(by)
    _lock(project)
    own = Ranking.objects.filter(task__project=project, reviewer=reviewer)
    if not own.exists():
        raise CannotErase(f"{reviewer} has no rankings in {project}.")
    gone = ReviewerErasure(pseudonyms(project)(reviewer.pk))
    trace = trace_of_reviewer(project, reviewer)
    Conversation.objects.filter(project=project, user=reviewer).delete()
    rankings = erasing.withdraw_reviewer(project=project, reviewer=reviewer)
    for snapshot in trace.snapshots:
        rewrite_snapshot(snapshot, gone)
    runs = _erase_from_runs(project, gone)
    burn(project=project, reviewer=reviewer)
    withdrawal = record(project=project, kind="reviewer", trace=trace, by=by, reason=reason)
    # The entry does not name the reviewer, so that it does not link a pseudonym to a person.
    audit(
        by,
        "reviewer's data withdrawn",
        project,
        withdrawal=withdrawal.pk,
        rankings=rankings,
        snapshots=[snapshot.pk for snapshot in trace.snapshots],
        runs=runs,
    )
    return withdrawal


def _check_administrator(by: User) -> None:
    if not (by.is_superuser and by.is_active):
        raise CannotErase("Only an administrator (superuser) may erase.")
