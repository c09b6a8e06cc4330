"""The run kinds of language models: generate, each fine-tuning method, merge and evaluate."""

from typing import Any

from finetune import merging, tuning
from finetune.engines import generation
from finetune.evaluation import runs
from finetune.forms import (
    EvaluateInputs,
    FinetuneInputs,
    GenerateInputs,
    MergeInputs,
    RewardedInputs,
)
from finetune.methods.method import Method, all_methods
from finetune.registry import links_to_model
from finetune.settings import EvaluateConfig, GenerateConfig, MergeConfig
from reward.evaluation.figures import SHARES
from reward.run_files import snapshot_of
from runs.kinds import RunKind, register


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
    project_of=lambda inputs: generation.model_of(inputs).project_id,
    inputs_form=GenerateInputs,
    from_inputs=generation.from_inputs,
    decided=frozenset({"model", "adapter"}),
    folders=frozenset({"model", "adapter"}),
    figure=_responses,
    shares=frozenset({"truncated"}),
    multi_gpu=False,
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
        multi_gpu=method.multi_gpu,
    )


MERGE = RunKind(
    name="merge",
    title="Merge",
    description="Adds an adapter to the weights of its base, as a model that can be fine-tuned again.",
    config_class=MergeConfig,
    module="finetune.training.merge",
    prepare=merging.prepare,
    finish=merging.finish,
    project_of=lambda inputs: generation.model_of(inputs).project_id,
    inputs_form=MergeInputs,
    from_inputs=merging.from_inputs,
    decided=frozenset({"model", "adapter"}),
    folders=frozenset({"model", "adapter"}),
    figure=merging.figure,
    shares=frozenset({"share"}),
    links=links_to_model,
    uses_gpu=False,
)

EVALUATED = frozenset({"model", "adapter", "baseline_model", "baseline_adapter", "reward_model"})

EVALUATE = RunKind(
    name="evaluate",
    title="Evaluation",
    description="Compares a tuned model with its baseline on held-out prompts.",
    config_class=EvaluateConfig,
    module="finetune.training.evaluate",
    prepare=runs.prepare,
    finish=runs.finish,
    project_of=lambda inputs: generation.model_of(inputs, "candidate").project_id,
    inputs_form=EvaluateInputs,
    from_inputs=runs.from_inputs,
    decided=EVALUATED,
    folders=EVALUATED,
    figure=runs.figure,
    shares=frozenset({"win_rate", "reward_win_rate", "truncated"}),
    links=runs.links,
    multi_gpu=False,
)


def register_kinds() -> None:
    for kind in (GENERATE, *map(kind_of, all_methods()), MERGE, EVALUATE):
        register(kind)
