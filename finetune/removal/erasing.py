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
from finetune.models import Evaluation, EvaluationItem, Model, with_descendants
from labeling.models import Adjudication, Project, Prompt, Ranking, Response, Skip
from labeling.removal import erasing, withdrawing
from labeling.removal.erasing import ERASED
from reward.models import RewardModel, Snapshot
from reward.preferences.erasing import (
    Erasure,
    clean_folder,
    rewrite_snapshot,
    scrubbed,
    snapshots_with,
)
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


def reach_of(content: Content) -> Reach:
    """Return the places where the content is stored.

    This reads two columns of every snapshot of the project.
    """
    gone = Erasure.of(content)
    project = withdrawing.project_of(content)
    snapshots = snapshots_with(gone, project.pk)
    reward_models = RewardModel.objects.filter(snapshot__in=snapshots)
    models = with_descendants(Model.objects.filter(snapshot__in=snapshots))
    made_by = Q(reward_model__in=reward_models) | Q(model__in=models)
    read = Q(project=project, inputs__snapshot__in=[snapshot.pk for snapshot in snapshots])
    rankings = Ranking.objects.filter(task__in=withdrawing.tasks_of(content))
    return Reach(
        snapshots,
        list(Run.objects.filter(read | made_by).distinct()),
        [*reward_models, *models],
        len(gone.response_ids),
        rankings.count(),
    )


def active_runs(project: Project) -> list[Run]:
    return list(Run.objects.filter(project=project).exclude(state__in=ENDED).order_by("pk"))


@transaction.atomic
def erase(*, content: Content, by: User) -> None:
    """Erase a prompt with its responses, or a single response. It is also withdrawn.

    This reads, and may rewrite, every file of the snapshots and runs of the project. Raises
    CannotErase if the user is not an administrator, and while a run of the project may be reading the
    content.
    """
    _check_administrator(by)
    project = withdrawing.project_of(content)
    # A run that starts now either waits for this lock or is already found by active_runs.
    Project.objects.select_for_update().get(pk=project.pk)
    if active := active_runs(project):
        numbers = ", ".join(f"#{run.pk}" for run in active)
        raise CannotErase(
            f"Runs of {project} are not finished and may be reading it: {numbers}. Cancel them or "
            "wait until they have ended."
        )
    gone = Erasure.of(content)
    if content.erased_at is not None:
        raise CannotErase("It has already been erased.")
    snapshots = snapshots_with(gone, project.pk)
    if isinstance(content, Prompt):
        erasing.erase_prompt(prompt=content, by=by)
    else:
        erasing.erase_response(response=content, by=by)
    _erase_from_evaluations(project, gone)
    for snapshot in snapshots:
        rewrite_snapshot(snapshot, gone)
    runs = _erase_from_runs(project, gone)
    kind = withdrawing.kind_of(content)
    audit(
        by,
        f"{kind} erased",
        project,
        **{kind: content.pk},
        snapshots=[snapshot.pk for snapshot in snapshots],
        runs=runs,
    )


def _erase_from_evaluations(project: Project, gone: Erasure) -> None:
    items = EvaluationItem.objects.filter(evaluation__project=project, prompt=int(gone.prompt_id))
    if gone.whole_prompt:
        items.update(baseline_text=ERASED, candidate_text=ERASED)
        return
    for side in ("baseline_text", "candidate_text"):
        items.filter(**{f"{side}__in": gone.texts}).update(**{side: ERASED})


def _erase_from_runs(project: Project, gone: Erasure) -> list[int]:
    """Erase the content from the files, events and results of runs.

    Return the ids of the runs that changed.
    """
    changed = []
    for run in Run.objects.filter(project=project).order_by("pk"):
        folder = workspace.run_dir_of(run)
        files = clean_folder(folder.path, gone) if folder.path.is_dir() else []
        if any(folder.output in path.parents for path in files):
            for artifact in workspace.artifacts(run, folder):
                Artifact.objects.filter(run=run, name=artifact.name).update(
                    bytes=artifact.bytes, sha256=artifact.sha256
                )
        rows = _scrub(RunEvent.objects.filter(run=run), "data", gone)
        rows += _scrub([run], "result", gone)
        rows += _scrub(RewardModel.objects.filter(run=run), "report", gone)
        rows += _scrub(Evaluation.objects.filter(run=run), "report", gone)
        if files or rows:
            changed.append(run.pk)
    return changed


def _scrub(rows: Iterable[Any], name: str, gone: Erasure) -> int:
    count = 0
    for row in rows:
        before = getattr(row, name)
        after = scrubbed(before, gone)
        if after != before:
            setattr(row, name, after)
            row.save(update_fields=[name])
            count += 1
    return count


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
    name = erasing.erase_person(user=user)
    audit(by, "person erased", User(username=name), account=user.pk)
    return name


def _check_administrator(by: User) -> None:
    if not (by.is_superuser and by.is_active):
        raise CannotErase("Only an administrator (superuser) may erase.")
