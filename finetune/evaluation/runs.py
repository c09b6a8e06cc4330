"""Evaluation runs: the prompts that both models answer, and the verdicts on the answers."""

import random
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from django.db import transaction
from django.urls import reverse

from finetune.engines.generation import limit_of, project_of
from finetune.engines.sampled_text import (
    REGRESSION_FILE,
    SampledTextError,
    read_rows,
    write_prompts,
)
from finetune.engines.sampled_text import Prompt as PromptToAnswer
from finetune.engines.served import endpoint_of, write_endpoint
from finetune.evaluation import agreement, judges, regression
from finetune.evaluation.comparisons import add_comparisons
from finetune.evaluation.judges import Judge, UnknownJudge
from finetune.evaluation.llm_judge import calibrated
from finetune.lineage import train_ids, trained_on
from finetune.models import (
    ALPHA,
    MARGIN,
    MAX_ALPHA,
    MAX_MARGIN,
    MIN_MARGIN,
    Evaluation,
    EvaluationItem,
    Model,
    RegressionItem,
    RegressionSet,
)
from finetune.registry import model_of
from finetune.statistics.divergence import divergence
from finetune.statistics.means import mean_difference
from finetune.statistics.win_rate import outcome, win_rate
from formatting.numbers import percent
from labeling.core.text import storable
from labeling.models import Project, Prompt
from recipes.preferences.groups import PreferenceError, read_groups
from recipes.rundir import RunDir
from reward.models import RewardModel, Snapshot
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
    judge: Judge | None
    """None if only people judge."""
    snapshot: Snapshot
    regression_set: RegressionSet | None = None

    @property
    def reward_model(self) -> RewardModel | None:
        return self.judge.reward_model if self.judge else None


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
    if not baseline.endpoint and roots[0].base != roots[1].base:
        raise CannotRun(
            f"Both models must be built on the same base: {candidate} is built on {roots[0].base}, "
            f"{baseline} is built on {roots[1].base}."
        )
    judge = judge_of(inputs, project)
    regression_set = regression_set_of(inputs, project, judge)
    return Parts(candidate, baseline, judge, snapshot, regression_set)


def regression_set_of(
    inputs: Mapping[str, Any], project: Project, judge: Judge | None
) -> RegressionSet | None:
    """Return the newest regression set of the project, unless the inputs say `regression: false`.

    Raises CannotRun if it cannot be used: if a prompt was withdrawn, or needs a judge without one.
    """
    newest = RegressionSet.newest(project.pk) if inputs.get("regression", True) else None
    if newest is None:
        return None
    withdrawn = Prompt.objects.filter(pk__in=newest.prompt_ids, withdrawn_at__isnull=False)
    if row := withdrawn.first():
        raise CannotRun(
            f"Prompt {row.pk} of {newest} was withdrawn. Create a version of the set without it."
        )
    if newest.needs_a_judge and judge is None:
        raise CannotRun(
            f"{newest.needs_a_judge} prompts of {newest} name no property that an answer must have, so "
            "they need a judge. Choose a judge, add properties, or leave the regression set out."
        )
    return newest


def judge_of(inputs: Mapping[str, Any], project: Project) -> Judge | None:
    """Return the judge that the inputs name, or None if only people judge.

    Raises CannotRun if it does not exist, or if it cannot be used in this project or in this way.
    """
    asks_people, controls = bool(inputs.get("comparisons")), bool(inputs.get("control"))
    name = str(inputs.get("judge") or "")
    if controls and not (name and asks_people):
        raise CannotRun(
            "A judge can save verdicts only if there is a judge and people are asked too."
        )
    order = str(inputs.get("order") or "")
    if order not in Evaluation.Order.values:
        raise CannotRun(
            f"The order must be {', '.join(filter(None, Evaluation.Order.values))} or empty; it is {order}."
        )
    if order and not (name and asks_people):
        raise CannotRun(
            "A judge can order the prompts only if there is a judge and people are asked."
        )
    if order and controls:
        raise CannotRun(
            "A judge that saves verdicts cannot also order the prompts, because people must compare a "
            "random prompt of each block. Choose one of the two."
        )
    if not name:
        if asks_people:
            return None
        raise CannotRun("Nobody would judge the answers. Choose a judge, or ask people.")
    try:
        judge = judges.get(name)
    except UnknownJudge as error:
        raise CannotRun(str(error)) from None
    if not judge.fits(project):
        raise CannotRun(
            f"{judge.title} cannot judge models of {project}: it belongs to another project."
        )
    return judge


def from_inputs(inputs: Mapping[str, Any]) -> dict[str, Any]:
    parts = parts_of(inputs)
    reward_model = parts.reward_model
    limit_of(inputs)
    check_registration(inputs)
    return {
        "model": parts.candidate.base,
        "baseline_model": other_base(parts),
        "adapter": parts.candidate.adapter or None,
        "baseline_adapter": parts.baseline.adapter or None,
        "reward_model": reward_model.path if reward_model else None,
        **reference_settings(parts.candidate),
        **judge_settings(parts.judge),
        **baseline_settings(parts.baseline),
    }


def baseline_settings(baseline: Model) -> dict[str, Any]:
    """Return the settings of a baseline on an endpoint, {} for others. Raises CannotRun."""
    if not baseline.endpoint:
        return {}
    return {"baseline_endpoint": endpoint_of(baseline).name, "baseline_name": baseline.base}


def reference_settings(candidate: Model) -> dict[str, Any]:
    """Return the model from which divergence is measured, {} if it is the base of the candidate."""
    root = candidate.root()
    return {} if root.base == candidate.base else {"reference_model": root.base}


def judge_settings(judge: Judge | None) -> dict[str, Any]:
    """Return the settings of an LLM judge, {} for others. Raises CannotRun if it cannot be asked."""
    if judge is None or judge.llm is None:
        return {}
    agreement.guideline_of(judge.llm.project)
    return {"judge_endpoint": endpoint_of(judge.llm).name, "judge_model": judge.llm.base}


def write_judge(run_dir: RunDir, judge: Judge | None) -> dict[str, Any]:
    """Write the files for the questions to an LLM judge. Return the facts for run.json."""
    return agreement.write_judge(run_dir, judge.llm) if judge and judge.llm else {}


def check_registration(inputs: Mapping[str, Any]) -> None:
    """Raise CannotRun for a registered value outside its range."""
    for name, low, high, noun in (
        ("alpha", 0.001, MAX_ALPHA, "The error rate"),
        ("margin", MIN_MARGIN, MAX_MARGIN, "The margin"),
        ("verdicts_per_prompt", 1, 9, "The number of verdicts per prompt"),
    ):
        value = inputs.get(name)
        if value is not None and not low <= value <= high:
            raise CannotRun(f"{noun} must be from {low} to {high}; it is {value}.")
    most = inputs.get("most_verdicts")
    if most is not None and most < 1:
        raise CannotRun(f"The most verdicts must be at least 1; they are {most}.")
    question = inputs.get("question") or Evaluation.Question.THESE
    if question not in Evaluation.Question.values:
        raise CannotRun(
            f"The question must be {' or '.join(Evaluation.Question.values)}; it is {question}."
        )


def other_base(parts: Parts) -> str | None:
    """Return the base of the baseline if it differs from that of the candidate, otherwise None.

    Through merges, two models can have the same root but different bases.
    """
    same = parts.baseline.base == parts.candidate.base
    return None if same or parts.baseline.endpoint else parts.baseline.base


# --- prompts -------------------------------------------------------------------------------------


def prepare(run: Run, run_dir: RunDir) -> dict[str, Any]:
    parts = parts_of(run.inputs)
    if parts.reward_model:
        parts.reward_model.folder_to_load()
    try:
        prompts, left_out = held_out_prompts(parts)
    except PreferenceError as error:
        raise CannotRun(f"A snapshot cannot be read: {error}") from error
    if not prompts:
        raise CannotRun(
            f"Snapshot {parts.snapshot.pk} has no held-out prompt that the models were not trained "
            f"on ({left_out} left out). Freeze a snapshot with a held-out share and the same seed."
        )
    if parts.baseline.endpoint:
        write_endpoint(run_dir, endpoint_of(parts.baseline), "endpoint-baseline.json")
    registered = Evaluation.objects.filter(run=run).select_related("regression_set").first()
    if registered:  # the run is prepared again, and the project may have a newer set
        parts = replace(parts, regression_set=registered.regression_set)
    fixed = regression_prompts(parts)
    judge_facts = write_judge(run_dir, parts.judge)
    evaluation = register(run, parts, prompts)
    by_id = {int(prompt.prompt_id): prompt for prompt in prompts}
    prompts = [by_id[pk] for pk in evaluation.prompts if pk in by_id]
    write_prompts(run_dir.data / "prompts.parquet", prompts)
    if fixed:
        write_prompts(run_dir.data / REGRESSION_FILE, fixed)
    return {
        "snapshot_hash": parts.snapshot.content_hash,
        "prompts_written": len(prompts),
        "seen_in_training": left_out,
        **judge_facts,
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
    per_prompt = run.inputs.get("verdicts_per_prompt") or project.rankings_per_task
    most_verdicts = run.inputs.get("most_verdicts")
    if most_verdicts and most_verdicts < per_prompt:
        raise CannotRun(
            f"One prompt needs {per_prompt} verdicts, but at most {most_verdicts} may be asked for."
        )
    return Evaluation.objects.create(
        project=project,
        run=run,
        candidate=parts.candidate,
        baseline=parts.baseline,
        judge=parts.judge.name if parts.judge else "",
        reward_model=parts.reward_model,
        asks_people=bool(run.inputs.get("comparisons")),
        judge_controls=bool(run.inputs.get("control")),
        judge_order=run.inputs.get("order") or Evaluation.Order.RANDOM,
        most_verdicts=most_verdicts,
        question=run.inputs.get("question") or Evaluation.Question.THESE,
        alpha=run.inputs.get("alpha") or ALPHA,
        margin=run.inputs.get("margin") or MARGIN,
        sample_seed=seed,
        prompts=random.Random(seed).sample(ids, most),
        verdicts_per_prompt=per_prompt,
        regression_set=parts.regression_set,
    )


def regression_prompts(parts: Parts) -> list[PromptToAnswer]:
    """Return the prompts of the regression set. Raises CannotRun if a model was trained on one."""
    if parts.regression_set is None:
        return []
    ids = parts.regression_set.prompt_ids
    if trained := sorted(set(map(str, ids)) & learned_prompts(parts), key=int):
        raise CannotRun(
            f"A model or the judge was trained on {len(trained)} prompts of {parts.regression_set}, for "
            f"example on prompt {trained[0]}, so they cannot test it. Create a version of the set "
            "without them."
        )
    messages = Prompt.objects.in_bulk(ids)
    return [PromptToAnswer(str(pk), messages[pk].messages) for pk in ids]


def learned_prompts(parts: Parts) -> set[str]:
    """Return the ids of the prompts that a model, or the judge, was trained on."""
    learned = trained_on((parts.candidate, parts.baseline))
    if parts.reward_model:
        learned |= train_ids([parts.reward_model.snapshot])
    return learned


def held_out_prompts(parts: Parts) -> tuple[list[PromptToAnswer], int]:
    """Return the test prompts of the snapshot, and the number of those left out.

    Prompts that either model was trained on are left out.
    """
    learned = learned_prompts(parts)
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
    rows, fixed = rows_of(run, rows)
    items, unscored = evaluation_items(rows, parts.judge)
    if not items or (parts.judge and all(item.verdict is None for item in items)):
        raise CannotRun("None of the answers can be judged, so there is no verdict.")
    report = {
        **summary(items, rows, run.config["seed"]),
        "prompts": len({item.prompt_id for item in items}),
        "unscored": unscored,
        "seen_in_training": run_dir.spec()["inputs"].get("seen_in_training", 0),
        "left_out": recipe_report.get("left_out", {}),
        "judge": parts.judge.title if parts.judge else None,
        "snapshot": parts.snapshot.pk,
        **{name: recipe_report[name] for name in ("baseline_requests",) if name in recipe_report},
        **llm_report(parts.judge, items, run, run_dir),
    }
    evaluation = start_attempt(run)
    for item in items:
        item.evaluation = evaluation
    if evaluation.asks_people:
        report["comparisons"] = add_comparisons(evaluation, items, rows)
    evaluation.report = report
    evaluation.save(update_fields=["report"])
    EvaluationItem.objects.bulk_create(items, batch_size=1000)
    store_regression(evaluation, fixed, parts.judge)
    return {"evaluation": evaluation.pk, **report}


def rows_of(
    run: Run, rows: list[dict[str, Any]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the answers to the random sample of prompts, and those to the regression set.

    A prompt can be in both.
    """
    evaluation = Evaluation.objects.filter(run=run).select_related("regression_set").first()
    if evaluation is None or evaluation.regression_set is None:
        return rows, []
    fixed, drawn = set(evaluation.regression_set.prompt_ids), set(evaluation.prompts)
    return (
        [row for row in rows if int(row["prompt_id"]) not in fixed - drawn],
        [row for row in rows if int(row["prompt_id"]) in fixed],
    )


def store_regression(
    evaluation: Evaluation, rows: list[dict[str, Any]], judge: Judge | None
) -> None:
    """Store the answers to the prompts of the regression set with their verdicts."""
    if evaluation.regression_set is None:
        return
    judged = evaluation_items(rows, judge)[0] if judge else []
    verdicts = {(item.prompt_id, item.sample): item.verdict for item in judged}
    items = regression.items_of(evaluation.regression_set, rows, verdicts)
    for item in items:
        item.evaluation = evaluation
    RegressionItem.objects.bulk_create(items, batch_size=1000)


@transaction.atomic
def start_attempt(run: Run) -> Evaluation:
    """Number the run's evaluation among those of its candidate, and return it.

    The number decides its share of the error rate, which is at most that of earlier evaluations.
    Evaluations of models with the same weights count, against any baseline, and also those without a
    registration. Raises CannotRun for a run that was prepared by a version of Tiebreak without
    registrations.
    """
    evaluation = Evaluation.objects.filter(run=run).select_related("project", "candidate").first()
    if evaluation is None or evaluation.alpha is None:
        raise CannotRun("The evaluation was not registered before it started. Start it again.")
    Project.objects.select_for_update(no_key=True).get(pk=evaluation.project_id)
    family = evaluation.candidate.same_weights()
    earlier = Evaluation.objects.filter(candidate__in=family).exclude(report={})
    alphas = [alpha for alpha in earlier.values_list("alpha", flat=True) if alpha is not None]
    evaluation.alpha = min([evaluation.alpha, *alphas])
    evaluation.attempt = earlier.count() + 1
    evaluation.save(update_fields=["alpha", "attempt"])
    return evaluation


def llm_report(
    judge: Judge | None, items: Sequence[EvaluationItem], run: Run, run_dir: RunDir
) -> dict[str, Any]:
    """Return the entries of the report about an LLM judge, {} for others.

    `agreement` is the measurement at this time, without the verdicts by prompt, and `calibrated` the win
    rate that the reviewers are estimated to give.
    """
    if judge is None or judge.llm is None:
        return {}
    inputs = run_dir.spec()["inputs"]
    values: dict[str, Any] = {
        "llm_judge": {
            **read_report(run_dir).get("judge", {}),
            "guideline_version": inputs.get("judge_guideline_version"),
        }
    }
    if judge.agreement:
        measured = judge.agreement.report
        verdicts = [(str(i.prompt_id), i.verdict) for i in items if i.verdict is not None]
        values["agreement"] = {**measured["agreement"], "measurement": judge.agreement.pk}
        values["calibrated"] = calibrated(verdicts, measured["by_prompt"], run.config["seed"])
    return values


def evaluation_items(
    rows: list[dict[str, Any]], judge: Judge | None
) -> tuple[list[EvaluationItem], int]:
    """Return items that are not saved yet, and the number of answers that the judge could not score.

    If there is a judge, only prompts for which both answers have a score get an item. With an LLM judge,
    all of them get an item, so that a response without a readable verdict can still be compared by
    people.
    """
    if judge and judge.llm:
        items = [_judged_item(row) for row in rows]
        return items, sum(item.verdict is None for item in items)
    items = []
    for row in rows:
        baseline, candidate = scores_of(row, judge) if judge else (None, None)
        verdict = None
        if baseline is not None and candidate is not None:
            verdict = outcome(candidate, baseline, tie_within=EQUAL)
        elif judge:
            continue
        items.append(
            EvaluationItem(
                prompt_id=int(row["prompt_id"]),
                sample=row["sample"],
                baseline_text=storable(row["baseline"]),
                candidate_text=storable(row["candidate"]),
                baseline_score=baseline,
                candidate_score=candidate,
                verdict=verdict,
            )
        )
    return items, len(rows) - len(items)


def _judged_item(row: dict[str, Any]) -> EvaluationItem:
    return EvaluationItem(
        prompt_id=int(row["prompt_id"]),
        sample=row["sample"],
        baseline_text=storable(row["baseline"]),
        candidate_text=storable(row["candidate"]),
        verdict=row["judge_verdict"],
    )


def scores_of(row: dict[str, Any], judge: Judge) -> tuple[float | None, float | None]:
    """Return the scores of the answers of the baseline and of the candidate."""
    if judge.score is None:
        return row["baseline_score"], row["candidate_score"]
    baseline = judge.score(row["prompt"], row["baseline"])
    return float(baseline), float(judge.score(row["prompt"], row["candidate"]))


def summary(items: list[EvaluationItem], rows: list[dict[str, Any]], seed: int) -> dict[str, Any]:
    """Return the judge's win rate with its interval, and the lengths and shares of the answers."""
    lengths = (
        (row["prompt_id"], row["candidate_tokens"] or 0, row["baseline_tokens"] or 0)
        for row in rows
        if row["baseline_tokens"] is not None  # an endpoint may not report it
    )
    judged = [(item.prompt_id, item.verdict) for item in items if item.verdict is not None]
    return {
        **({"win_rate": win_rate(judged, seed=seed)} if judged else {}),
        "tokens": mean_difference(lengths, seed=seed),
        "divergence": divergence(rows, seed),
        "truncated": {
            side: sum(bool(row[f"{side}_truncated"]) for row in rows) / len(rows)
            for side in ("candidate", "baseline")
        },
        "identical": sum(item.baseline_text == item.candidate_text for item in items),
    }


def figure(result: dict[str, Any]) -> str:
    value = (result.get("win_rate") or {}).get("value")
    return "" if value is None else f"{percent(value)} won"


def links(run: Run) -> list[tuple[str, str]]:
    evaluation = Evaluation.objects.filter(run=run).exclude(report={}).first()
    if evaluation is None:
        return []
    return [("Both models' answers", reverse("evaluation", args=[evaluation.pk]))]
