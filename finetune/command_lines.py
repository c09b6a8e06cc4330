"""The management commands that start the runs of language models, for `RunKind.command`."""

from typing import Any

from finetune.models import ALPHA, MARGIN, Evaluation
from labeling.models import Project
from runs.kinds import Config, Inputs, options_of

DEFAULT_PAIRS = 200
"""The number of pairs of `measure_judge`."""


def _slug(inputs: Inputs) -> str:
    return Project.objects.only("slug").get(pk=inputs["project"]).slug


def _changed(value: Any, default: Any) -> Any:
    return None if value == default else value


def generate(inputs: Inputs, config: Config) -> list[str]:
    return ["generate", _slug(inputs), *_responses(inputs)]


def ask(inputs: Inputs, config: Config) -> list[str]:
    return ["ask", _slug(inputs), *_responses(inputs)]


def _responses(inputs: Inputs) -> list[str]:
    return options_of(
        model=inputs["model"],
        prompts=_changed(inputs["prompts"], "new"),
        limit=inputs["limit"],
        no_tasks=not inputs["tasks"],
        rankings_wanted=inputs["rankings_wanted"],
    )


def finetune(method: str, inputs: Inputs) -> list[str]:
    options = options_of(
        method=method,
        snapshot=inputs["snapshot"],
        model=inputs["model"],
        reward_model=inputs.get("reward_model"),
    )
    return ["finetune", *options]


def merge(inputs: Inputs, config: Config) -> list[str]:
    return ["merge", str(inputs["model"])]


def push(inputs: Inputs, config: Config) -> list[str]:
    return ["push_model", str(inputs["model"]), config["repo"], *options_of(base=inputs["base"])]


def pull(inputs: Inputs, config: Config) -> list[str]:
    return ["pull_model", _slug(inputs), config["repo"], *options_of(base=inputs["base"])]


def evaluate(inputs: Inputs, config: Config) -> list[str]:
    options = options_of(
        judge=inputs["judge"],
        baseline=inputs["baseline"],
        snapshot=inputs["snapshot"],
        comparisons=inputs["comparisons"] and bool(inputs["judge"]),
        control=inputs["control"],
        order=inputs["order"],
        most_verdicts=inputs["most_verdicts"],
        no_regression=not inputs["regression"],
        question=_changed(inputs["question"], Evaluation.Question.THESE),
        limit=inputs["limit"],
        verdicts_per_prompt=inputs["verdicts_per_prompt"],
        margin=_changed(inputs["margin"], MARGIN),
        alpha=_changed(inputs["alpha"], ALPHA),
    )
    return ["evaluate", str(inputs["candidate"]), *options]


def measure_judge(inputs: Inputs, config: Config) -> list[str]:
    return [
        "measure_judge",
        str(inputs["model"]),
        *options_of(limit=_changed(inputs["limit"], DEFAULT_PAIRS)),
    ]
