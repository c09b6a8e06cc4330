"""Blind comparisons by people: the prompts that they compare, the tasks, and their win rate."""

import random
from collections.abc import Sequence
from typing import Any

from finetune.engines.generation import store_responses
from finetune.models import BlindVerdict, Evaluation, EvaluationItem
from finetune.statistics.evidence import ORDER_BLOCK
from finetune.statistics.win_rate import win_rate
from labeling.importing.findings import add_tasks
from labeling.models import Finding, Prompt, Task
from labeling.queue.tasks import NewTask

PROMPTS_PER_BLOCK = 4
"""Prompts of which people judge one by default, if the judge is a control variate."""


def add_comparisons(
    evaluation: Evaluation, items: list[EvaluationItem], rows: list[dict[str, Any]]
) -> int:
    """Queue blind comparisons of the two first answers to prompts, and return how many.

    Identical and empty answers are skipped, because nobody could choose between them. The two answers
    are stored in random order, so that neither ids nor positions reveal which model wrote which.
    """
    sampled = {(int(row["prompt_id"]), row["sample"]): row for row in rows}
    chosen = prompts_to_ask(evaluation, items)
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


def prompts_to_ask(evaluation: Evaluation, items: Sequence[EvaluationItem]) -> list[EvaluationItem]:
    """Return the items that people compare, in the registered random order of their prompts.

    They are at most as many as the most verdicts allow. If the judge is a control variate, all items
    are divided into as many blocks, each with one item that people compare and at least one other. If the
    judge orders the prompts, they are in its order within blocks.
    """
    order = {prompt: index for index, prompt in enumerate(evaluation.prompts)}
    candidates = [item for item in items if item.sample == 0 and _is_distinguishable(item)]
    candidates.sort(key=lambda item: order.get(item.prompt_id, len(order)))
    count = len(candidates)
    if evaluation.judge_controls:
        count //= 2 if evaluation.most_verdicts else PROMPTS_PER_BLOCK
    if evaluation.most_verdicts:
        count = min(count, evaluation.most_verdicts // (evaluation.verdicts_per_prompt or 1))
    count = max(count, 1)
    if evaluation.judge_controls:
        for index, item in enumerate(candidates):
            item.block = index % count
    items_to_compare = candidates[:count]
    return (
        in_order_of_judge(evaluation, items_to_compare)
        if evaluation.judge_order
        else items_to_compare
    )


def in_order_of_judge(
    evaluation: Evaluation, items_to_compare: Sequence[EvaluationItem]
) -> list[EvaluationItem]:
    """Return the items, which have random order, by the certainty of the judge within their block."""
    graded = evaluation.reward_model_id is not None
    sign = 1 if evaluation.judge_order == Evaluation.Order.UNCERTAIN else -1
    for index, item in enumerate(items_to_compare):
        item.block = index // ORDER_BLOCK
    return sorted(
        items_to_compare,
        key=lambda item: (item.block, sign * abs(item.judge_value(graded=graded) - 0.5)),
    )


def _is_distinguishable(item: EvaluationItem) -> bool:
    baseline, candidate = item.baseline_text.strip(), item.candidate_text.strip()
    return bool(baseline and candidate) and baseline != candidate


def peoples_verdicts(verdicts: Sequence[BlindVerdict]) -> dict[str, Any] | None:
    """Return the win rate of all verdicts of people, or None if there are none.

    `simulated` counts those made by programs. Verdicts on withdrawn prompts are left out.
    """
    verdicts = [verdict for verdict in verdicts if not verdict.withdrawn]
    if not verdicts:
        return None
    simulated = sum(verdict.simulated for verdict in verdicts)
    return {**win_rate((v.prompt, v.value) for v in verdicts), "simulated": simulated}
