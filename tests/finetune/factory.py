"""Models, runs and outputs of recipes for tests, without running a recipe."""

import json
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from finetune.engines.sampled_text import answers_schema, responses_schema, write_rows
from finetune.models import Evaluation, EvaluationItem, Model
from labeling.models import Project, Prompt
from recipes.rundir import RunDir
from reward.models import RewardModel, Snapshot
from reward.preferences.snapshots import SnapshotFilter, freeze
from runs import storage
from runs.models import Run, State
from runs.supervision import workspace
from tests.reward.factory import make_prompt, make_task, make_user, numbers, rank

FIGURE = {"value": 0.8, "interval": [0.7, 0.9], "pairs": 40, "prompts": 20, "reason": None}
UNKNOWN = {"value": None, "interval": None, "pairs": 0, "prompts": 0, "reason": "Too few."}
REPORT = {
    "accuracy": FIGURE,
    "reviewer_agreement": {**FIGURE, "value": 0.85},
    "longer_is_better": UNKNOWN,
    "calibration": {
        "ece": 0.04,
        "pairs": 40,
        "reason": None,
        "bins": [
            {"low": 0.5, "high": 0.6, "pairs": 30, "evidence": 30.0, "predicted": 0.55, "observed": 0.5},
            {"low": 0.6, "high": 0.7, "pairs": 0, "evidence": 0.0, "predicted": None, "observed": None},
            {"low": 0.9, "high": 1.0, "pairs": 10, "evidence": 10.0, "predicted": 0.95, "observed": 0.9},
        ],
    },
    "length": {"score_spearman": {"value": 0.1, "interval": [0.0, 0.2], "reason": None}},
    "training": {"curve": [[1, 0.7], [2, 0.5]], "steps": 2, "seconds": 3.0, "device": "cpu"},
    "data": {"train": {"prompts": 8, "responses": 24, "rankings": 8, "pairs": 24}},
    "left_out": [{"what": "responses", "split": "train", "why": "longer than 512 tokens", "count": 3}],
    "first_batch": "<b>first</b>",
}  # fmt: skip


def make_run(kind: str = "dpo", **fields: Any) -> Run:
    """Create a run that has ended; `state=running` creates one that is about to end."""
    from django.utils import timezone

    fields = {"state": State.SUCCEEDED, "finished_at": timezone.now(), **fields}
    return Run.objects.create(kind=kind, **fields)


def output_of(run: Run) -> str:
    """Create an empty output folder and return its stored path."""
    folder = workspace.run_dir_of(run).output
    folder.mkdir(parents=True, exist_ok=True)
    return storage.stored(folder)


def make_snapshot(project: Project, prompts: int = 8, **chosen: Any) -> Snapshot:
    """Return a snapshot of new rankings. If it has held-out prompts, some others are for training."""
    reviewer = make_user()
    ranked = [make_prompt(project) for _ in range(prompts)]
    for prompt in ranked:
        rank(make_task(prompt), reviewer)
    filters = (SnapshotFilter(**{"seed": seed, **chosen}) for seed in range(1000))
    filter = next(filters)
    # The texts of the prompts differ from run to run, and a few can all fall on one side.
    while filter.test_fraction and prompts > 1 and "seed" not in chosen:
        if {filter.split_of(prompt.content_hash) for prompt in ranked} == {"train", "test"}:
            break
        filter = next(filters)
    return freeze(project=project, filter=filter, by=None)


def make_base(project: Project, **fields: Any) -> Model:
    number = next(numbers)
    return Model.objects.create(
        project=project, **{"name": f"base-{number}", "base": f"org/base-{number}", **fields}
    )


def make_adapter(parent: Model, snapshot: Snapshot, **fields: Any) -> Model:
    run = make_run("dpo", inputs={"snapshot": snapshot.pk})
    fields = {"name": f"adapter-{run.pk}", "adapter": output_of(run), **fields}
    return Model.objects.create(
        project=parent.project,
        base=parent.base,
        parent=parent,
        run=run,
        snapshot=snapshot,
        **fields,
    )


def make_reward_model(snapshot: Snapshot, **fields: Any) -> RewardModel:
    run = make_run("reward", inputs={"snapshot": snapshot.pk})
    path = fields.pop("path", None) or output_of(run)
    fields = {"name": f"reward-{run.pk}", "report": deepcopy(REPORT), "path": path, **fields}
    return RewardModel.objects.create(
        project=snapshot.project, base="org/base", run=run, snapshot=snapshot, **fields
    )


def make_evaluation(
    candidate: Model,
    *,
    interval: tuple[float, float] = (0.6, 0.8),
    items: int = 3,
    verdicts: Sequence[float | None] | None = None,
    **fields: Any,
) -> Evaluation:
    """Create a registered evaluation with its judge's verdicts, by default a loss, a tie and a win."""
    verdicts = [(0.0, 0.5, 1.0)[n % 3] for n in range(items)] if verdicts is None else verdicts
    win_rate = {
        "value": sum(interval) / 2,
        "interval": list(interval),
        "wins": 1,
        "ties": 1,
        "losses": 1,
        "answers": len(verdicts),
        "prompts": len(verdicts),
        "reason": None,
    }
    assert candidate.parent is not None
    prompts = [make_prompt(candidate.project) for _ in verdicts]
    fields = {
        "baseline": candidate.parent,
        "judge": "a-rule",
        "report": {"win_rate": win_rate},
        "alpha": 0.05,
        "margin": 0.05,
        "sample_seed": 1,
        "verdicts_per_prompt": 1,
        **fields,
    }
    earlier = Evaluation.objects.filter(candidate__in=candidate.same_weights())
    evaluation = Evaluation.objects.create(
        project=candidate.project, run=make_run("evaluate"), candidate=candidate,
        prompts=[prompt.pk for prompt in prompts],
        attempt=earlier.count() + 1 if fields["alpha"] else None, **fields,
    )  # fmt: skip
    EvaluationItem.objects.bulk_create(
        EvaluationItem(
            evaluation=evaluation,
            prompt=prompt,
            baseline_text=f"baseline. {n} <script>bad()</script>",  # as long as the candidate's
            candidate_text=f"candidate {n} <script>bad()</script>",
            baseline_score=1.0,
            candidate_score=float(n),
            verdict=verdict,
        )
        for n, (prompt, verdict) in enumerate(zip(prompts, verdicts, strict=True))
    )
    return evaluation


# --- files of a recipe ---------------------------------------------------------------------------


def laid_out(run: Run) -> RunDir:
    spec = {"kind": run.kind, "run_id": run.pk, "config": run.config, "inputs": run.inputs}
    return RunDir.create(workspace.run_dir_of(run).path, spec)


def publish(run_dir: RunDir, report: dict[str, Any], files: dict[str, str] | None = None) -> None:
    with run_dir.publish() as output:
        (output / "report.json").write_text(json.dumps(report))
        for name, text in (files or {}).items():
            (output / name).write_text(text)


def publish_responses(run_dir: RunDir, sampled: dict[Prompt, list[str]]) -> None:
    rows = [
        {
            "prompt_id": str(prompt.pk),
            "prompt": prompt.messages,
            "response": text,
            "sample": number,
            "seed": number,
            "meta": '{"truncated": false, "tokens": 3}',
        }
        for prompt, texts in sampled.items()
        for number, text in enumerate(texts)
    ]
    with run_dir.publish() as output:
        (output / "report.json").write_text(json.dumps({"prompts": len(sampled)}))
        write_rows(output / "responses.parquet", rows, responses_schema())


def publish_answers(run_dir: RunDir, rows: list[dict[str, Any]]) -> None:
    """Publish rows with a prompt, `baseline` and `candidate`; other fields have defaults."""
    full = []
    for row in rows:
        prompt = row.pop("of")
        full.append(
            {
                "prompt_id": str(prompt.pk),
                "prompt": prompt.messages,
                "sample": 0,
                "seed": 1,
                "baseline_tokens": 5,
                "candidate_tokens": 7,
                "baseline_truncated": False,
                "candidate_truncated": False,
                **row,
            }
        )
    with run_dir.publish() as output:
        (output / "report.json").write_text(json.dumps({"left_out": []}))
        write_rows(output / "answers.parquet", full, answers_schema())


def model_folder(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text('{"model_type": "llama"}')
    return path
