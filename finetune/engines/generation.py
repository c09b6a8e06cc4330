"""Generation runs: the prompts to answer, and the rows that are made from sampled text."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from finetune.engines.sampled_text import Prompt as PromptToAnswer
from finetune.engines.sampled_text import SampledTextError, read_rows, write_prompts
from finetune.models import Model, RegressionSet
from finetune.registry import model_of, own_model_of
from labeling.core.text import storable
from labeling.importing.findings import add_tasks
from labeling.models import Project, Prompt, Response, Task
from labeling.queue.tasks import NewTask
from recipes.rundir import RunDir
from reward.run_files import read_report
from runs.kinds import CannotRun
from runs.models import Run

NEW = "new"
ALL = "all"
MAX_RESPONSES_PER_TASK = 9


def project_of(inputs: Mapping[str, Any]) -> Project:
    """Return the project that the inputs name. Raises CannotRun if there is none."""
    number: Any = inputs.get("project")
    try:
        return Project.objects.get(pk=number, archived_at=None)
    except (Project.DoesNotExist, TypeError, ValueError):
        raise CannotRun(f"There is no open project {number}.") from None


def limit_of(inputs: Mapping[str, Any]) -> int | None:
    """Return the maximum number of prompts, or None for all. Raises CannotRun if it is below 1."""
    limit: int | None = inputs.get("limit")
    if limit is not None and limit < 1:
        raise CannotRun(f"The limit must be 1 or more prompts; it is {limit}.")
    return limit


def from_inputs(inputs: Mapping[str, Any]) -> dict[str, Any]:
    own_model_of(inputs)
    model = checked_model(inputs)
    return {"model": model.base, "adapter": model.adapter or None}


def checked_model(inputs: Mapping[str, Any]) -> Model:
    """Return the model to sample from. Raises CannotRun if it cannot be used, or without prompts."""
    project, model = project_of(inputs), model_of(inputs)
    if model.project_id != project.pk:
        raise CannotRun(f"The model {model} belongs to {model.project}, not to {project}.")
    if not prompts_to_answer(inputs).exists():
        raise CannotRun(
            f"{project} has no prompt to answer. Import prompts, or choose all prompts instead of "
            "those without a task."
        )
    return model


def prompts_to_answer(inputs: Mapping[str, Any]) -> Any:
    """Return the prompts to answer, the oldest first.

    `prompts` in the inputs is "new" for prompts without a task, or "all". `limit` is the maximum
    number of prompts. Prompts of the newest regression set are left out, because a model that is trained
    on them cannot be tested with them.
    """
    prompts = Prompt.objects.filter(project=inputs.get("project"), withdrawn_at=None).order_by("id")
    if inputs.get("prompts", NEW) == NEW:
        prompts = prompts.filter(tasks=None)
    if regression_set := RegressionSet.newest(inputs.get("project") or 0):
        prompts = prompts.exclude(pk__in=regression_set.prompt_ids)
    return prompts[: limit_of(inputs)]


def prepare(run: Run, run_dir: RunDir) -> dict[str, Any]:
    prompts = prompts_to_answer(run.inputs).values_list("pk", "messages")
    count = write_prompts(
        run_dir.data / "prompts.parquet",
        (PromptToAnswer(str(pk), messages) for pk, messages in prompts.iterator()),
    )
    if not count:
        raise CannotRun("No prompts left to answer: each has a task now.")
    return {"prompts_written": count}


def finish(run: Run, run_dir: RunDir) -> dict[str, Any]:
    project, model, report = project_of(run.inputs), model_of(run.inputs), read_report(run_dir)
    answers: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in sampled_rows(run_dir):
        answers[int(row["prompt_id"])].append(row)
    counts = {"responses": 0, "identical": 0, "empty": 0}
    tasks: list[NewTask] = []
    too_few = 0
    for prompt in Prompt.objects.filter(pk__in=answers).order_by("id"):
        rows = answers[prompt.pk]
        distinct = distinct_answers(rows)
        empty = sum(not row["response"].strip() for row in rows)
        counts["empty"] += empty
        counts["identical"] += len(rows) - empty - len(distinct)
        counts["responses"] += len(distinct)
        responses = store_responses(prompt, model.name, sampling_of(run, report), distinct)
        too_few += len(responses) < 2
        tasks += [new_task(prompt, part, run.inputs) for part in share_out(responses)]
    if run.inputs.get("tasks", True):
        added = [pk for pk, new in add_tasks(project=project, tasks=tasks) if new]
        counts["tasks"] = len(added)
        counts["tasks_held"] = Task.objects.filter(pk__in=added, held=True).count()
        counts["prompts_without_task"] = too_few
    return {
        **counts,
        "prompts": report.get("prompts"),
        "left_out": report.get("left_out", {}),
        **{name: report[name] for name in ("mean_tokens", "truncated", "usage") if name in report},
    }


def sampled_rows(run_dir: RunDir) -> list[dict[str, Any]]:
    try:
        return read_rows(
            run_dir.output / "responses.parquet", required=("prompt_id", "response", "seed")
        )
    except SampledTextError as error:
        raise CannotRun(str(error)) from error


def distinct_answers(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one answer for each different text, in the order of sampling, without empty ones."""
    by_text: dict[str, dict[str, Any]] = {}
    for row in rows:
        text = row["response"].strip()
        if text:
            by_text.setdefault(text, row)
    return list(by_text.values())


def sampling_of(run: Run, report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sampling parameters of a run: its settings, or the published values it used."""
    names = ("temperature", "top_p", "max_new_tokens", "seed", "chat_template_kwargs", "chat_date")
    settings = {name: run.config.get(name) for name in names} | report.get("distribution", {})
    return {"run": run.pk, **{n: v for n, v in settings.items() if v not in (None, "")}}


def store_responses(
    prompt: Prompt, model_name: str, sampling: dict[str, Any], rows: Sequence[dict[str, Any]]
) -> list[Response]:
    """Store sampled texts as responses, and return the responses in the same order.

    A text that is already stored keeps its row.
    """
    rows_to_store = [
        Response(
            prompt=prompt,
            text=(text := storable(row["response"])),
            model_name=model_name,
            seed=row["seed"],
            sampling={**sampling, **_marks(row)},
            identity=Response.identity_of(model_name, text, row["seed"], ""),
        )
        for row in rows
    ]
    Response.objects.bulk_create(rows_to_store, ignore_conflicts=True)
    stored = Response.objects.filter(
        prompt=prompt, identity__in=[r.identity for r in rows_to_store]
    )
    by_identity = {response.identity: response for response in stored}
    return [by_identity[response.identity] for response in rows_to_store]


def _marks(row: dict[str, Any]) -> dict[str, Any]:
    meta = json.loads(row.get("meta") or "{}")
    return {name: meta[name] for name in ("truncated", "tokens") if name in meta}


def new_task(prompt: Prompt, responses: Sequence[Response], inputs: Mapping[str, Any]) -> NewTask:
    return NewTask(
        prompt_id=prompt.pk,
        response_ids=[response.pk for response in responses],
        priority=inputs.get("priority", 5),
        rankings_wanted=inputs.get("rankings_wanted"),
    )


def share_out(responses: Sequence[Response]) -> list[Sequence[Response]]:
    """Divide the responses into tasks of 2 to 9 each. A single response gives no task."""
    if len(responses) < 2:
        return []
    tasks = -(-len(responses) // MAX_RESPONSES_PER_TASK)
    return [responses[number::tasks] for number in range(tasks)]
