"""The run kinds of language models: generate, fine-tuning, merge, evaluate, push and pull."""

from typing import Any

from finetune import command_lines, merging, tuning
from finetune.engines import generation, served
from finetune.evaluation import agreement, run_answers
from finetune.evaluation import runs as evaluation_runs
from finetune.forms.evaluation import EvaluateInputs, MeasureJudgeInputs
from finetune.forms.generation import AskInputs, GenerateInputs
from finetune.forms.release import PullInputs, PushInputs
from finetune.forms.tuning import FinetuneInputs, MergeInputs, RewardedInputs
from finetune.methods.method import Method, all_methods
from finetune.registry import links_to_model, model_of
from finetune.release import pulling, pushing
from finetune.settings import (
    AskConfig,
    EvaluateConfig,
    GenerateConfig,
    MeasureJudgeConfig,
    MergeConfig,
    PullConfig,
    PushConfig,
)
from reward.evaluation.figures import SHARES
from reward.run_files import snapshot_of
from runs.kinds import EVALUATION, FILES, RESPONSES, RunKind, register


def _responses(result: dict[str, Any]) -> str:
    return f"{result['responses']:,} responses" if "responses" in result else ""


GENERATE = RunKind(
    name="generate",
    title="Responses",
    description="Samples responses to prompts from a model, for people to rank.",
    config_class=GenerateConfig,
    module="finetune.training.generate",
    prepare=generation.prepare,
    finish=generation.finish,
    project_of=lambda inputs: model_of(inputs).project_id,
    inputs_form=GenerateInputs,
    from_inputs=generation.from_inputs,
    decided=frozenset({"model", "adapter"}),
    folders=frozenset({"model", "adapter"}),
    command=command_lines.generate,
    figure=_responses,
    shares=frozenset({"truncated"}),
    multi_gpu=False,
    group=RESPONSES,
)


ASK = RunKind(
    name="ask",
    title="Responses from an endpoint",
    description="Asks a model on an OpenAI-compatible server for responses to prompts, for people to "
    "rank.",
    config_class=AskConfig,
    module="finetune.training.ask",
    prepare=served.prepare,
    finish=generation.finish,
    project_of=lambda inputs: model_of(inputs).project_id,
    inputs_form=AskInputs,
    from_inputs=served.from_inputs,
    decided=frozenset({"endpoint", "model"}),
    command=command_lines.ask,
    figure=_responses,
    shares=frozenset({"truncated"}),
    variables=served.variables,
    uses_gpu=False,
    group=RESPONSES,
)


def kind_of(method: type[Method]) -> RunKind:
    """Return the run kind of a fine-tuning method."""
    decided = {"model", "adapter"} | ({"reward_model"} if method.reward_model else set())
    return RunKind(
        name=method.name,
        title=method.title,
        description=method.description,
        config_class=method.settings,
        module=method.program,
        prepare=tuning.prepare,
        finish=tuning.finish,
        project_of=lambda inputs: snapshot_of(inputs).project_id,
        inputs_form=RewardedInputs if method.reward_model else FinetuneInputs,
        from_inputs=tuning.from_rewarded_inputs if method.reward_model else tuning.from_inputs,
        decided=frozenset(decided),
        command=lambda inputs, config: command_lines.finetune(method.name, inputs),
        folders=frozenset(decided),
        figure=tuning.figure,
        shares=SHARES
        | {
            "held_out/accuracy",
            "held_out/accuracies",
            "rewards/accuracies",
            "mean_token_accuracy",
            "distinct",
            "truncated",
            "equal_rewards",
            "unscored",
            "clipped",
        },
        links=links_to_model,
        answers=run_answers.of_models,
        first_batch="finetune.training.first_batch",
        multi_gpu=method.multi_gpu,
        forecast=True,
    )


MERGE = RunKind(
    name="merge",
    title="Merge",
    description="Adds an adapter to the weights of its base, as a model that can be fine-tuned again.",
    config_class=MergeConfig,
    module="finetune.training.merge",
    prepare=merging.prepare,
    finish=merging.finish,
    project_of=lambda inputs: model_of(inputs).project_id,
    inputs_form=MergeInputs,
    from_inputs=merging.from_inputs,
    decided=frozenset({"model", "adapter"}),
    folders=frozenset({"model", "adapter"}),
    command=command_lines.merge,
    figure=merging.figure,
    shares=frozenset({"share"}),
    links=links_to_model,
    answers=run_answers.of_models,
    uses_gpu=False,
    group=FILES,
)

PUSH = RunKind(
    name="push",
    title="Push to a hub",
    description="Puts an adapter or a merged model, with its model card, into a repository of a hub.",
    config_class=PushConfig,
    module="finetune.training.release.push",
    prepare=pushing.prepare,
    finish=pushing.finish,
    project_of=lambda inputs: model_of(inputs).project_id,
    inputs_form=PushInputs,
    from_inputs=pushing.from_inputs,
    decided=frozenset({"folder"}),
    folders=frozenset({"folder"}),
    command=command_lines.push,
    arguments=frozenset({"repo"}),
    figure=pushing.figure,
    uses_gpu=False,
    group=FILES,
)

PULL = RunKind(
    name="pull",
    title="Pull from a hub",
    description="Adds a model or an adapter from a repository of a hub, with its files, to a project.",
    config_class=PullConfig,
    module="finetune.training.release.pull",
    prepare=pulling.prepare,
    finish=pulling.finish,
    project_of=lambda inputs: generation.project_of(inputs).pk,
    inputs_form=PullInputs,
    from_inputs=pulling.from_inputs,
    command=command_lines.pull,
    arguments=frozenset({"repo"}),
    figure=pulling.figure,
    links=links_to_model,
    uses_gpu=False,
    group=FILES,
)

EVALUATED = frozenset(
    {"model", "adapter", "baseline_model", "baseline_adapter", "reward_model", "reference_model"}
)

EVALUATE = RunKind(
    name="evaluate",
    title="Evaluation",
    description="Compares a tuned model with its baseline on held-out prompts.",
    config_class=EvaluateConfig,
    module="finetune.training.evaluate",
    prepare=evaluation_runs.prepare,
    finish=evaluation_runs.finish,
    project_of=lambda inputs: model_of(inputs, "candidate").project_id,
    inputs_form=EvaluateInputs,
    from_inputs=evaluation_runs.from_inputs,
    decided=EVALUATED | {"judge_endpoint", "judge_model", "baseline_endpoint", "baseline_name"},
    folders=EVALUATED,
    command=command_lines.evaluate,
    figure=evaluation_runs.figure,
    variables=served.variables,
    shares=frozenset({"win_rate", "reward_win_rate", "truncated"}),
    links=evaluation_runs.links,
    answers=run_answers.of_evaluations,
    multi_gpu=False,
    group=EVALUATION,
)


MEASURE_JUDGE = RunKind(
    name="measure_judge",
    title="Judge agreement",
    description="Measures how often an LLM judge agrees with the reviewers.",
    config_class=MeasureJudgeConfig,
    module="finetune.training.measure_judge",
    prepare=agreement.prepare,
    finish=agreement.finish,
    project_of=lambda inputs: model_of(inputs).project_id,
    inputs_form=MeasureJudgeInputs,
    from_inputs=agreement.from_inputs,
    decided=frozenset({"endpoint", "model"}),
    command=command_lines.measure_judge,
    figure=agreement.figure,
    shares=frozenset({"agreement", "decisive", "first_preferred"}),
    variables=served.variables,
    uses_gpu=False,
    group=EVALUATION,
)


def register_kinds() -> None:
    for kind in (
        GENERATE,
        ASK,
        *map(kind_of, all_methods()),
        MERGE,
        EVALUATE,
        MEASURE_JUDGE,
        PUSH,
        PULL,
    ):
        register(kind)
