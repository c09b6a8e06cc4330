"""Evaluation runs: the prompts that both models answer, and the verdicts on the answers."""

import random
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.db import transaction
from django.urls import reverse

from finetune.engines.generation import limit_of, model_of, project_of, store_responses
from finetune.engines.sampled_text import Prompt as PromptToAnswer
from finetune.engines.sampled_text import SampledTextError, read_rows, write_prompts
from finetune.evaluation import judges
from finetune.evaluation.judges import Judge, UnknownJudge
from finetune.evaluation.means import mean_difference
from finetune.evaluation.win_rate import outcome, win_rate
from finetune.lineage import train_ids, trained_on
from finetune.models import (
    ALPHA,
    MARGIN,
    MAX_ALPHA,
    MAX_MARGIN,
    MIN_MARGIN,
    BlindVerdict,
    Evaluation,
    EvaluationItem,
    Model,
)
from formatting.numbers import percent
from labeling.core.text import storable
from labeling.importing.findings import add_tasks
from labeling.models import Finding, Project, Prompt, Task
from labeling.queue.tasks import NewTask
from recipes.preferences.groups import PreferenceError, read_groups
from recipes.rundir import RunDir
from reward.models import Snapshot
from reward.run_files import read_report, snapshot_of
from runs.kinds import CannotRun
from runs.models import Run

EQUAL = 1e-9
"""The largest difference between two scores that counts as a tie."""


@dataclass(frozen=True)
class Parts:
    """The objects that are named by the inputs of an evaluation."""

    candidate: Model
    baseline: Model
    judge: Judge
    snapshot: Snapshot


def parts_of(inputs: Mapping[str, Any]) -> Parts:
    """Return the objects that the inputs name.

    Raises CannotRun if one does not exist, or if they cannot be used together.
    """
    project = project_of(inputs)
    candidate, baseline = model_of(inputs, "candidate"), model_of(inputs, "baseline")
    snapshot = snapshot_of(dict(inputs))
    for part in (candidate, baseline, snapshot):
        if part.project_id != project.pk:
            raise CannotRun(f"{part} belongs to {part.project}, not to {project}.")
    if candidate.parent is None:
        raise CannotRun(
            f"{candidate} is neither an adapter nor a merged model, so there is nothing to evaluate."
        )
    if candidate == baseline:
        raise CannotRun(f"{candidate} would be compared with itself. Choose another baseline.")
    roots = candidate.root(), baseline.root()
    if roots[0].base != roots[1].base:
        raise CannotRun(
            f"Both models must be built on the same base: {candidate} is built on {roots[0].base}, "
            f"{baseline} is built on {roots[1].base}."
        )
    try:
        judge = judges.get(str(inputs.get("judge", "")))
    except UnknownJudge as error:
        raise CannotRun(str(error)) from None
    if not judge.fits(project):
        raise CannotRun(
            f"{judge.title} cannot judge models of {project}: it belongs to another project."
        )
    return Parts(candidate, baseline, judge, snapshot)


def from_inputs(inputs: Mapping[str, Any]) -> dict[str, Any]:
    parts = parts_of(inputs)
    reward_model = parts.judge.reward_model
    limit_of(inputs)
    check_registration(inputs)
    return {
        "model": parts.candidate.base,
        "baseline_model": other_base(parts),
        "adapter": parts.candidate.adapter or None,
        "baseline_adapter": parts.baseline.adapter or None,
        "reward_model": reward_model.path if reward_model else None,
    }


def check_registration(inputs: Mapping[str, Any]) -> None:
    """Raise CannotRun for an error rate, a margin or a number of verdicts outside its range."""
    for name, low, high, noun in (
        ("alpha", 0.001, MAX_ALPHA, "The error rate"),
        ("margin", MIN_MARGIN, MAX_MARGIN, "The margin"),
        ("verdicts_per_prompt", 1, 9, "The number of verdicts per prompt"),
    ):
        value = inputs.get(name)
        if value is not None and not low <= value <= high:
            raise CannotRun(f"{noun} must be from {low} to {high}; it is {value}.")


def other_base(parts: Parts) -> str | None:
    """Return the base of the baseline if it differs from that of the candidate, otherwise None.

    Through merges, two models can have the same root but different bases.
    """
    return None if parts.baseline.base == parts.candidate.base else parts.baseline.base


# --- prompts -------------------------------------------------------------------------------------


def prepare(run: Run, run_dir: RunDir) -> dict[str, Any]:
    parts = parts_of(run.inputs)
    if parts.judge.reward_model:
        parts.judge.reward_model.folder_to_load()
    try:
        prompts, left_out = held_out_prompts(parts)
    except PreferenceError as error:
        raise CannotRun(f"A snapshot cannot be read: {error}") from error
    if not prompts:
        raise CannotRun(
            f"Snapshot {parts.snapshot.pk} has no held-out prompt that the models were not trained "
            f"on ({left_out} left out). Freeze a snapshot with a held-out share and the same seed."
        )
    evaluation = register(run, parts, prompts)
    by_id = {int(prompt.prompt_id): prompt for prompt in prompts}
    prompts = [by_id[pk] for pk in evaluation.prompts if pk in by_id]
    write_prompts(run_dir.data / "prompts.parquet", prompts)
    return {
        "snapshot_hash": parts.snapshot.content_hash,
        "prompts_written": len(prompts),
        "seen_in_training": left_out,
    }


def register(run: Run, parts: Parts, prompts: Sequence[PromptToAnswer]) -> Evaluation:
    """Return the registration of the run, made with a random sample of the prompts if it is new.

    The sample has at most as many prompts as the inputs allow. Its seed is drawn here, so nobody can
    try several.
    """
    existing = Evaluation.objects.filter(run=run).first()
    if existing:
        return existing
    seed = secrets.randbelow(2**31)
    ids = sorted(int(prompt.prompt_id) for prompt in prompts)
    most = min(limit_of(run.inputs) or len(ids), len(ids))
    project = parts.candidate.project
    return Evaluation.objects.create(
        project=project,
        run=run,
        candidate=parts.candidate,
        baseline=parts.baseline,
        judge=parts.judge.name,
        reward_model=parts.judge.reward_model,
        alpha=run.inputs.get("alpha") or ALPHA,
        margin=run.inputs.get("margin") or MARGIN,
        sample_seed=seed,
        prompts=random.Random(seed).sample(ids, most),
        verdicts_per_prompt=run.inputs.get("verdicts_per_prompt") or project.rankings_per_task,
    )


def held_out_prompts(parts: Parts) -> tuple[list[PromptToAnswer], int]:
    """Return the test prompts of the snapshot, and the number of those left out.

    Prompts that either model was trained on are left out.
    """
    learned = trained_on((parts.candidate, parts.baseline))
    if parts.judge.reward_model:
        learned |= train_ids([parts.judge.reward_model.snapshot])
    held_out = [
        PromptToAnswer(group.group_id, group.prompt)
        for group in read_groups(parts.snapshot.file)
        if group.split == "test"
    ]
    withdrawn = withdrawn_prompts(parts.snapshot.project_id)
    held_out = [prompt for prompt in held_out if prompt.prompt_id not in withdrawn]
    unseen = [prompt for prompt in held_out if prompt.prompt_id not in learned]
    return unseen, len(held_out) - len(unseen)


def withdrawn_prompts(project_id: int) -> set[str]:
    """Return the ids of the withdrawn prompts, in the form that snapshots use.

    This takes one query, which uses a partial index.
    """
    withdrawn = Prompt.objects.filter(project=project_id, withdrawn_at__isnull=False)
    return {str(pk) for pk in withdrawn.values_list("pk", flat=True)}


# --- verdicts ------------------------------------------------------------------------------------


def finish(run: Run, run_dir: RunDir) -> dict[str, Any]:
    parts, recipe_report = parts_of(run.inputs), read_report(run_dir)
    try:
        rows = read_rows(run_dir.output / "answers.parquet", required=("baseline", "candidate"))
    except SampledTextError as error:
        raise CannotRun(str(error)) from error
    items, unscored = evaluation_items(rows, parts.judge)
    if not items:
        raise CannotRun("The judge could score none of the answers, so there is no verdict.")
    report = {
        **summary(items, rows, run.config["seed"]),
        "unscored": unscored,
        "seen_in_training": run_dir.spec()["inputs"].get("seen_in_training", 0),
        "left_out": recipe_report.get("left_out", {}),
        "judge": parts.judge.title,
        "snapshot": parts.snapshot.pk,
    }
    evaluation = start_attempt(run)
    for item in items:
        item.evaluation = evaluation
    if run.inputs.get("comparisons"):
        report["comparisons"] = add_comparisons(evaluation, items, rows)
    evaluation.report = report
    evaluation.save(update_fields=["report"])
    EvaluationItem.objects.bulk_create(items, batch_size=1000)
    return {"evaluation": evaluation.pk, **report}


@transaction.atomic
def start_attempt(run: Run) -> Evaluation:
    """Number the run's evaluation among those of its two models, and return it.

    The number decides its share of the error rate, which is at most that of earlier evaluations of the
    two models. Earlier ones without a registration count as attempts. Raises CannotRun for a run that
    was prepared by a version of Tiebreak without registrations.
    """
    evaluation = Evaluation.objects.filter(run=run).select_related("project").first()
    if evaluation is None or evaluation.alpha is None:
        raise CannotRun("The evaluation was not registered before it started. Start it again.")
    Project.objects.select_for_update(no_key=True).get(pk=evaluation.project_id)
    earlier = Evaluation.objects.filter(
        candidate=evaluation.candidate_id, baseline=evaluation.baseline_id
    ).exclude(report={})
    alphas = [alpha for alpha in earlier.values_list("alpha", flat=True) if alpha is not None]
    evaluation.alpha = min([evaluation.alpha, *alphas])
    evaluation.attempt = earlier.count() + 1
    evaluation.save(update_fields=["alpha", "attempt"])
    return evaluation


def evaluation_items(rows: list[dict[str, Any]], judge: Judge) -> tuple[list[EvaluationItem], int]:
    """Return items that are not saved yet, and the number of answers without an item.

    Only prompts for which both answers have a score get an item.
    """
    items = []
    for row in rows:
        baseline, candidate = scores_of(row, judge)
        if baseline is None or candidate is None:
            continue
        items.append(
            EvaluationItem(
                prompt_id=int(row["prompt_id"]),
                sample=row["sample"],
                baseline_text=storable(row["baseline"]),
                candidate_text=storable(row["candidate"]),
                baseline_score=baseline,
                candidate_score=candidate,
                verdict=outcome(candidate, baseline, tie_within=EQUAL),
            )
        )
    return items, len(rows) - len(items)


def scores_of(row: dict[str, Any], judge: Judge) -> tuple[float | None, float | None]:
    """Return the scores of the answers of the baseline and of the candidate."""
    if judge.score is None:
        return row["baseline_score"], row["candidate_score"]
    baseline = judge.score(row["prompt"], row["baseline"])
    return float(baseline), float(judge.score(row["prompt"], row["candidate"]))


def summary(items: list[EvaluationItem], rows: list[dict[str, Any]], seed: int) -> dict[str, Any]:
    """Return the win rate with its interval, and the lengths and shares of the answers."""
    lengths = (
        (row["prompt_id"], row["candidate_tokens"] or 0, row["baseline_tokens"] or 0)
        for row in rows
    )
    return {
        "win_rate": win_rate(((item.prompt_id, item.verdict) for item in items), seed=seed),
        "tokens": mean_difference(lengths, seed=seed),
        "truncated": {
            side: sum(bool(row[f"{side}_truncated"]) for row in rows) / len(rows)
            for side in ("candidate", "baseline")
        },
        "identical": sum(item.baseline_text == item.candidate_text for item in items),
    }


# --- people --------------------------------------------------------------------------------------


def add_comparisons(
    evaluation: Evaluation, items: list[EvaluationItem], rows: list[dict[str, Any]]
) -> int:
    """Queue a blind comparison of the two first answers to each prompt, and return how many.

    Identical and empty answers are skipped, because nobody could choose between them. The two answers
    are stored in random order, so that neither ids nor positions reveal which model wrote which.
    """
    sampled = {(int(row["prompt_id"]), row["sample"]): row for row in rows}
    chosen = [item for item in items if item.sample == 0 and _is_distinguishable(item)]
    prompts = Prompt.objects.in_bulk({item.prompt_id for item in chosen})
    tasks = []
    for item in chosen:
        sides = [
            (evaluation.baseline, "baseline", item.baseline_text),
            (evaluation.candidate, "candidate", item.candidate_text),
        ]
        random.shuffle(sides)
        prompt, row = prompts[item.prompt_id], sampled[item.prompt_id, item.sample]
        stored = {
            model: store_responses(
                prompt,
                model.name,
                {"run": evaluation.run_id, "truncated": bool(row[f"{side}_truncated"])},
                [{"response": text, "seed": row["seed"]}],
            )[0]
            for model, side, text in sides
        }
        item.candidate_response = stored[evaluation.candidate]
        order = [response.pk for response in stored.values()]
        # Texts that were already stored keep their ids, so the ids alone are not random.
        random.shuffle(order)
        tasks.append(
            NewTask(
                item.prompt_id,
                order,
                rankings_wanted=evaluation.verdicts_per_prompt,
                kind=Task.Kind.COMPARISON,
            )
        )
    # Truncated answers may be compared, but answers that name their model would not be blind.
    added = add_tasks(project=evaluation.project, tasks=tasks, kinds=[Finding.Kind.IDENTITY])
    for item, (task_id, _) in zip(chosen, added, strict=True):
        item.task_id = task_id
    return len(chosen)


def _is_distinguishable(item: EvaluationItem) -> bool:
    baseline, candidate = item.baseline_text.strip(), item.candidate_text.strip()
    return bool(baseline and candidate) and baseline != candidate


def peoples_verdicts(verdicts: Sequence[BlindVerdict]) -> dict[str, Any] | None:
    """Return the win rate of all verdicts of people, or None if there are none.

    `simulated` counts those made by programs.
    """
    if not verdicts:
        return None
    simulated = sum(verdict.simulated for verdict in verdicts)
    return {**win_rate((v.prompt, v.value) for v in verdicts), "simulated": simulated}


def figure(result: dict[str, Any]) -> str:
    value = (result.get("win_rate") or {}).get("value")
    return "" if value is None else f"{percent(value)} won"


def links(run: Run) -> list[tuple[str, str]]:
    evaluation = Evaluation.objects.filter(run=run).exclude(report={}).first()
    if evaluation is None:
        return []
    return [("Both models' answers", reverse("evaluation", args=[evaluation.pk]))]
