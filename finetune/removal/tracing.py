"""The rows that the data of a reviewer, a prompt or a response has reached."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Q

from accounts.models import AuditEntry, User
from finetune.models import Certificate, Evaluation, Model, with_descendants
from labeling.models import Project, Prompt, Ranking, Response
from labeling.removal import withdrawing
from reward.models import RewardModel, Snapshot, Withdrawal, WithdrawnSnapshot
from reward.preferences.erasing import Erasure, ReviewerErasure, snapshots_with
from reward.preferences.pseudonyms import pseudonyms
from runs import kinds
from runs.models import Run, State


@dataclass(frozen=True)
class Trace:
    """The rows that data has reached, each list by id.

    `models` are the models that were trained on one of the snapshots, or with a reward model that was,
    and all adapters and merged models that were made from them. `pushes` are the runs that have put one
    of them on a hub. `exports` are entries of the audit trail since the data exists. Tiebreak does not
    know what became of these files.
    """

    snapshots: list[Snapshot]
    reward_models: list[RewardModel]
    models: list[Model]
    evaluations: list[Evaluation]
    certificates: list[Certificate]
    pushes: list[Run]
    exports: list[AuditEntry]

    def numbers(self) -> dict[str, list[int]]:
        """Return the ids of the rows by kind, for Withdrawal.reach."""
        return {name: [row.pk for row in rows] for name, rows in self.lists()}

    def lists(self) -> list[tuple[str, Sequence[Any]]]:
        names = (
            "snapshots", "reward_models", "models", "evaluations", "certificates", "pushes", "exports",
        )  # fmt: skip
        return [(name, getattr(self, name)) for name in names]

    def lines(self) -> list[str]:
        """Return a line for each kind of row, for commands."""
        return [
            f"{name.replace('_', ' ').capitalize()}: {', '.join(map(str, rows)) or 'none'}"
            for name, rows in self.lists()
        ]


def trace_of(content: Prompt | Response) -> Trace:
    """Return the rows that a prompt or a response has reached. Reads all snapshots of the project."""
    project = withdrawing.project_of(content)
    snapshots = snapshots_with(Erasure.of(content), project.pk)
    prompt = content if isinstance(content, Prompt) else content.prompt
    with_prompt = Q(items__prompt=prompt) | Q(regression_items__prompt=prompt)
    return _trace(project, snapshots, with_prompt, since=content.created_at)


def trace_of_reviewer(project: Project, reviewer: User) -> Trace:
    """Return the rows that a reviewer's rankings have reached. Reads all snapshots of the project."""
    snapshots = snapshots_with(ReviewerErasure(pseudonyms(project)(reviewer.pk)), project.pk)
    rankings = Ranking.objects.filter(task__project=project, reviewer=reviewer)
    first = rankings.order_by("created_at").values_list("created_at", flat=True).first()
    judged = Q(items__task__in=rankings.values("task"))
    return _trace(project, snapshots, judged, since=first)


def _trace(project: Project, snapshots: list[Snapshot], own: Q, *, since: datetime | None) -> Trace:
    """Return the trace of data in the snapshots. `own` selects evaluations that contain the data."""
    reward_models = list(RewardModel.objects.filter(snapshot__in=snapshots).order_by("id"))
    numbers = [model.pk for model in reward_models]
    trained = Q(snapshot__in=snapshots) | Q(run__inputs__reward_model__in=numbers)
    models = with_descendants(Model.objects.filter(trained))
    judged = Q(candidate__in=models) | Q(baseline__in=models) | Q(reward_model__in=reward_models)
    evaluations = Evaluation.objects.filter(judged | own).distinct().order_by("id")
    exports = AuditEntry.objects.filter(
        action="data exported", subject=f"Project {project}"[:200]
    ).order_by("id")
    return Trace(
        snapshots=snapshots,
        reward_models=reward_models,
        models=models,
        evaluations=list(evaluations.select_related("candidate", "baseline")),
        certificates=list(
            Certificate.objects.filter(model__in=models).select_related("project").defer("text")
        ),
        pushes=list(
            Run.objects.filter(
                kind="push",
                state=State.SUCCEEDED,
                inputs__model__in=[model.pk for model in models],
            ).order_by("id")
        ),
        exports=list(exports.filter(at__gte=since)) if since else [],
    )


def trace_of_withdrawal(withdrawal: Withdrawal) -> Trace:
    """Return the rows that were recorded when the data was withdrawn, as they are now."""
    tables: dict[str, Any] = {
        "snapshots": Snapshot, "reward_models": RewardModel, "models": Model,
        "evaluations": Evaluation, "certificates": Certificate, "pushes": Run, "exports": AuditEntry,
    }  # fmt: skip
    return Trace(
        **{
            name: list(
                table._default_manager.filter(pk__in=withdrawal.reach.get(name, [])).order_by("id")
            )
            for name, table in tables.items()
        }
    )


def record(
    *, project: Project, kind: str, trace: Trace, by: User | None, reason: str, prompt: Any = None
) -> Withdrawal:
    """Store a withdrawal, which marks the models that were trained on the data."""
    withdrawal = Withdrawal.objects.create(
        project=project,
        kind=kind,
        prompt=prompt,
        reason=reason.strip()[:300],
        reach=trace.numbers(),
        by=by,
    )
    WithdrawnSnapshot.objects.bulk_create(
        WithdrawnSnapshot(withdrawal=withdrawal, snapshot=snapshot) for snapshot in trace.snapshots
    )
    return withdrawal


# --- training again ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Retraining:
    """A model that can be trained again without the data, or the reason why not yet."""

    model: Model | RewardModel
    run: Run | None
    obstacle: str


def retrainings_of(trace: Trace) -> list[Retraining]:
    """Return the reached models that runs have trained, with the run to repeat for each."""
    reached = {model.pk for model in trace.models}
    rewards = {model.pk: model for model in trace.reward_models}
    names = {kind.name for kind in kinds.all_kinds()}
    result = []
    models: list[Model | RewardModel] = [*trace.reward_models, *trace.models]
    for model in models:
        run, obstacle = model.run, ""
        if run is None or run.kind not in names:
            obstacle = "It was not trained here. Merge the new adapter again."
        elif isinstance(model, Model) and model.parent_id in reached:
            obstacle = f"It was made from {model.parent}. Train that again first, then repeat this run on the new model."
        elif isinstance(model, Model) and run.inputs.get("reward_model") in rewards:
            judge = rewards[run.inputs["reward_model"]]
            obstacle = f"It was trained with {judge}. Train that again first, then repeat this run with the new reward model."
        result.append(Retraining(model, run, obstacle))
    return result
