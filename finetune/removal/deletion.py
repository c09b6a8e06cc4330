"""Deletion of a project: its data, rankings, snapshots, runs, models and files."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.db import transaction
from django.db.models import Q

from accounts.models import IdempotentRequest, Token, User, audit
from buckets import files
from finetune.models import (
    Certificate,
    Conversation,
    Delivery,
    Evaluation,
    EvaluationItem,
    JudgeAgreement,
    Model,
    RegressionItem,
    RegressionSet,
    Reply,
    Turn,
)
from finetune.removal.erasing import active_runs
from labeling.models import (
    Adjudication,
    ColumnMapping,
    Criterion,
    FileImport,
    Finding,
    Gold,
    Guideline,
    GuidelineConfirmation,
    GuidelineVersion,
    Invitation,
    Membership,
    Project,
    Prompt,
    Qualification,
    QueueCursor,
    Ranking,
    RelabelledTask,
    RelabelSample,
    Response,
    Skip,
    Slot,
    Task,
    TaskResponse,
)
from labeling.removal.erasing import unfrozen
from reward.models import (
    BurnedPseudonym,
    OrderedTask,
    Pseudonym,
    PseudonymKey,
    QueueOrder,
    RandomStream,
    ResponseScore,
    RewardModel,
    Snapshot,
    Withdrawal,
    WithdrawnSnapshot,
)
from runs.models import Artifact, Notice, Run, RunEvent
from runs.supervision import workspace
from webhooks import models as webhooks

# In this order, rows are deleted before the rows that they refer to.
TABLES: tuple[tuple[Any, str], ...] = (
    (Reply, "turn__conversation__project"),
    (Turn, "conversation__project"),
    (Conversation, "project"),
    (Delivery, "certificate__project"),
    (Certificate, "project"),
    (EvaluationItem, "evaluation__project"),
    (RegressionItem, "evaluation__project"),
    (Evaluation, "project"),
    (RegressionSet, "project"),
    (JudgeAgreement, "project"),
    (Model, "project"),
    (OrderedTask, "order__project"),
    (QueueOrder, "project"),
    (RandomStream, "project"),
    (ResponseScore, "reward_model__project"),
    (RewardModel, "project"),
    (WithdrawnSnapshot, "withdrawal__project"),
    (Withdrawal, "project"),
    (Snapshot, "project"),
    (Pseudonym, "project"),
    (BurnedPseudonym, "project"),
    (PseudonymKey, "project"),
    (Notice, "run__project"),
    (RunEvent, "run__project"),
    (Artifact, "run__project"),
    (Run, "project"),
    (Adjudication, "task__project"),
    (RelabelledTask, "sample__project"),
    (RelabelSample, "project"),
    (Gold, "project"),
    (Qualification, "project"),
    (Skip, "task__project"),
    (Slot, "project"),
    (QueueCursor, "project"),
    (Ranking, "task__project"),
    (TaskResponse, "task__project"),
    (Task, "project"),
    (Finding, "response__prompt__project"),
    (Response, "prompt__project"),
    (Prompt, "project"),
    (ColumnMapping, "project"),
    (FileImport, "project"),
    (GuidelineConfirmation, "version__guideline__project"),
    (Criterion, "version__guideline__project"),
    (GuidelineVersion, "guideline__project"),
    (Guideline, "project"),
    (IdempotentRequest, "token__project"),
    (Token, "project"),
    (Invitation, "project"),
    (IdempotentRequest, "token__project"),
    (Token, "project"),
    (webhooks.Delivery, "endpoint__project"),
    (webhooks.Endpoint, "project"),
    (Membership, "project"),
)
COUNTED = (Prompt, Response, Task, Ranking, Snapshot, Run, RewardModel, Model, Evaluation)


class CannotDelete(Exception):  # noqa: N818
    """The project cannot be deleted.

    The text is a sentence for the administrator. Nothing was deleted.
    """


@dataclass(frozen=True)
class Extent:
    """The rows that are deleted with a project, and the reasons why it cannot be deleted now."""

    counts: list[tuple[str, int]]
    obstacles: list[str]
    promoted: list[str]
    """The models that answer requests now."""


def extent_of(project: Project) -> Extent:
    """Return the extent of a deletion, for the confirmation page. All rows are counted."""
    paths = dict(TABLES)
    counts = [
        (str(model._meta.verbose_name_plural), _rows(model, paths[model], project).count())
        for model in COUNTED
    ]
    promoted = [
        f"{kind} {model}"
        for kind, models in (("reward model", RewardModel), ("model", Model))
        for model in models._default_manager.filter(project=project, state="promoted")
    ]
    return Extent(counts, _obstacles(project), promoted)


def _obstacles(project: Project) -> list[str]:
    obstacles = []
    if project.archived_at is None:
        obstacles.append("Archive the project first, so that nobody works in it.")
    if active := active_runs(project):
        numbers = ", ".join(f"#{run.pk}" for run in active)
        obstacles.append(f"Runs are not finished: {numbers}. Cancel them, or wait for them.")
    elsewhere = Model.objects.filter(parent__project=project).exclude(project=project)
    judged = Evaluation.objects.filter(
        Q(candidate__project=project) | Q(baseline__project=project)
        | Q(reward_model__project=project)
    ).exclude(project=project)  # fmt: skip
    rows: list[Any] = [*elsewhere, *judged]
    for row in rows:
        obstacles.append(f"{row} of the project {row.project} is based on a model of this one.")
    return obstacles


def delete(*, project: Project, by: User | None, allow_promoted: bool = False) -> Extent:
    """Delete the project and everything that belongs to it, and return the extent.

    `by` is None on the command line. Files are deleted after the rows. Raises CannotDelete.
    """
    with transaction.atomic():
        if by is not None and not (by.is_superuser and by.is_active):
            raise CannotDelete("Only an administrator (superuser) may delete a project.")
        # The lock waits for transactions that add rows of the project.
        project = Project.objects.select_for_update().get(pk=project.pk)
        extent = extent_of(project)
        if extent.obstacles:
            raise CannotDelete(" ".join(extent.obstacles))
        if extent.promoted and not allow_promoted:
            names = ", ".join(extent.promoted)
            raise CannotDelete(
                f"These models answer requests now: {names}. Confirm that they will be deleted."
            )
        folders, snapshots = _files_of(project)
        _delete_rows(project)
        audit(by, "project deleted", Project(name=f"#{project.pk}"), **_details(project, extent))
        transaction.on_commit(lambda: _delete_files(folders + snapshots))
    return extent


def _details(project: Project, extent: Extent) -> dict[str, Any]:
    return {"slug": project.slug, **dict(extent.counts)}


def _rows(model: Any, path: str, project: Project) -> Any:
    return model._default_manager.filter(**{path: project})


def _delete_rows(project: Project) -> None:
    """Delete the rows without loading them. Django's collector would take hours for a million."""
    with unfrozen():
        Project.objects.filter(pk=project.pk).update(current_version=None)
        for model, path in TABLES:
            rows = _rows(model, path, project)
            model._default_manager.filter(pk__in=rows.values("pk")).order_by()._raw_delete(rows.db)
        Project.objects.filter(pk=project.pk)._raw_delete("default")


def _files_of(project: Project) -> tuple[list[Path], list[Path]]:
    """Return the folders of the runs, and the snapshot files that no other project uses."""
    folders = [workspace.run_dir_of(run).path for run in Run.objects.filter(project=project)]
    snapshots = Snapshot.objects.filter(project=project)
    shared = set(Snapshot.objects.exclude(project=project).values_list("path", flat=True))
    return folders, [snapshot.location for snapshot in snapshots if snapshot.path not in shared]


def _delete_files(paths: list[Path]) -> None:
    for path in paths:
        files.discard(path)
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
