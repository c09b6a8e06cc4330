"""The answers of evaluations, for the comparison of runs."""

from collections.abc import Iterable

from finetune.models import Evaluation, EvaluationItem
from labeling.core.text import render
from runs.kinds import Answer
from runs.models import Run

MOST_ANSWERS = 200
"""The number of answers of each evaluation that are read, in the order of the evaluation."""


def of_evaluations(runs: list[Run]) -> dict[int, list[Answer]]:
    """Return the answers of the candidates of evaluation runs. Costs two queries and one per run."""
    evaluations = Evaluation.objects.filter(run__in=[run.pk for run in runs])
    return {row.run_id: answers_of(row) for row in evaluations.select_related("candidate")}


def of_models(runs: list[Run]) -> dict[int, list[Answer]]:
    """Return the answers of the models that runs have trained, from the newest evaluation of each.

    Costs one query, and one per evaluation.
    """
    evaluations = Evaluation.objects.filter(candidate__run__in=[run.pk for run in runs])
    newest = evaluations.exclude(report={}).order_by("candidate_id", "-id").distinct("candidate_id")
    return {
        row.candidate.run_id: answers_of(row)
        for row in newest.select_related("candidate")
        if row.candidate.run_id is not None
    }


def answers_of(evaluation: Evaluation) -> list[Answer]:
    """Return the candidate's first answers to prompts that are not withdrawn."""
    items = evaluation.items.filter(prompt__withdrawn_at=None).select_related("prompt")
    return list(_answers(evaluation, items.order_by("id")[:MOST_ANSWERS]))


def _answers(evaluation: Evaluation, items: Iterable[EvaluationItem]) -> Iterable[Answer]:
    for item in items:
        yield Answer(
            prompt=str(item.prompt_id),
            messages=[(m["role"], render(m["content"])) for m in item.prompt.messages],
            text=render(item.candidate_text),
            note=f"evaluation {evaluation.pk}",
        )
