"""The run kinds of language models: generate, dpo, merge and evaluate."""

from typing import Any

from finetune import merging
from finetune.engines import generation
from finetune.evaluation import runs
from finetune.forms import DPOInputs, EvaluateInputs, GenerateInputs, MergeInputs
from finetune.methods import dpo
from finetune.settings import DPOSettings, EvaluateConfig, GenerateConfig, MergeConfig
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

DPO = RunKind(
    name="dpo",
    title="LoRA fine-tune (DPO)",
    description="Fine-tunes a model on reviewers' preferences, as a LoRA adapter.",
    config_class=DPOSettings,
    module="finetune.training.train",
    prepare=dpo.prepare,
    finish=dpo.finish,
    project_of=lambda inputs: snapshot_of(inputs).project_id,
    inputs_form=DPOInputs,
    from_inputs=dpo.from_inputs,
    decided=frozenset({"model"}),
    folders=frozenset({"model"}),
    figure=dpo.figure,
    shares=SHARES
    | {"held_out/accuracy", "held_out/accuracies", "rewards/accuracies", "mean_token_accuracy"},
    links=dpo.links,
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
    links=merging.links,
    multi_gpu=False,
)

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
    decided=frozenset({"model", "adapter", "baseline_adapter", "reward_model"}),
    folders=frozenset({"model", "adapter", "baseline_adapter", "reward_model"}),
    figure=runs.figure,
    shares=frozenset({"win_rate", "reward_win_rate", "truncated"}),
    links=runs.links,
    multi_gpu=False,
)


def register_kinds() -> None:
    for kind in (GENERATE, DPO, MERGE, EVALUATE):
        register(kind)
