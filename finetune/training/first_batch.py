"""Print the first batch of a fine-tuning run, as the model will read it.

    python -m finetune.training.first_batch RUN_DIR

RUN_DIR has run.json and data/ as for finetune/training/train.py. The tokens come from the code of the
run, but the model is not loaded. recipes/preferences/first_batch.py describes the output.

Methods that learn from their own samples have no responses before the run. For them, the output has
the first prompts that the model answers.
"""

import sys
from typing import Any, cast

from finetune.engines.sampled_text import Prompt
from finetune.methods.method import Method, PolicyGradientMethod
from finetune.settings import RankedSamplesSettings, SampledSettings
from finetune.training.models.language_model import (
    PolicyChat,
    existing,
    load_tokenizer,
    read_stops,
    readable_length,
)
from finetune.training.samples import prompts_of_round
from finetune.training.sampling.requests import plan
from finetune.training.train import method_of
from recipes.errors import RecipeError
from recipes.models.chat_options import freeze
from recipes.models.loading import read_config, why_not_loaded
from recipes.preferences.first_batch import (
    SHOWN_GROUPS,
    FirstBatch,
    TrainGroups,
    first_rows,
    left_out_sentences,
    print_first_batch,
    shown_group,
    shown_text,
)
from recipes.preferences.tokens import no_training_data, prepare
from recipes.rundir import RunDir


def first_batch(run_dir: RunDir) -> FirstBatch:
    """Return the first batch. Raises RecipeError."""
    method = method_of(run_dir)
    config = method.config
    tokenizer = load_tokenizer(config.model)
    name, revision = existing(config.model)
    try:
        model_config = read_config(name, revision)
    except (OSError, ValueError) as error:
        raise RecipeError(
            f"The model {config.model} cannot be loaded: {why_not_loaded(error)}"
        ) from error
    record = freeze(run_dir, config, tokenizer, sources=(config.adapter, config.model))
    chat = PolicyChat(tokenizer, read_stops(config.model, model_config), record.options)
    groups = TrainGroups(run_dir)
    if method.reward_model:
        return of_samples(method, tokenizer, chat, model_config, groups)
    limit = min(config.max_length, readable_length(model_config) or config.max_length)
    return of_responses(run_dir, method, tokenizer, chat, groups, limit)


def of_responses(
    run_dir: RunDir,
    method: Method,
    tokenizer: Any,
    chat: PolicyChat,
    groups: TrainGroups,
    limit: int,
) -> FirstBatch:
    prepared = prepare(groups, chat, limit, method.loss_inputs, method.objection)
    train = prepared.tokens["train"]
    if not train:
        raise no_training_data(run_dir, prepared, method.lacking)
    method.prepare(prepared)
    rows = first_rows(len(train), method.config.batch_size, method.config.seed)
    batch = [train[row] for row in rows[:SHOWN_GROUPS]]
    marks = [[None if used else 0 for used in method.trained_responses(group)] for group in batch]
    return {
        "groups": [shown_group(tokenizer, *pair) for pair in zip(batch, marks, strict=True)],
        "prompts": len(rows),
        "usable": len(train),
        "all_read": groups.all_read,
        "left_out": left_out_sentences(prepared),
        "format": chat.name,
        "note": "The loss reads the probabilities of the marked tokens.",
    }


def of_samples(
    method: Method, tokenizer: Any, chat: PolicyChat, model_config: Any, groups: TrainGroups
) -> FirstBatch:
    config = cast(SampledSettings, method.config)
    prompts = [Prompt(group.group_id, group.prompt) for group in groups]
    if isinstance(method, PolicyGradientMethod):
        # The run leaves out long prompts before it draws those of a step.
        sampling = config.sampling_of_round(1)
        _, left_out = plan(prompts, chat, model_config, sampling)
        usable = [prompt for prompt in prompts if prompt.prompt_id not in left_out]
        batch = prompts_of_round(usable, 1, min(config.batch_size, len(usable)), config.seed)
        when = "step"
    else:
        count = cast(RankedSamplesSettings, config).prompts_per_round
        of_round = prompts_of_round(prompts, 1, count, config.seed)
        _, left_out = plan(of_round, chat, model_config, config.sampling_of_round(1))
        usable = batch = [prompt for prompt in of_round if prompt.prompt_id not in left_out]
        when = "round"
    reasons = dict.fromkeys(left_out.values())
    counts = {why: list(left_out.values()).count(why) for why in reasons}
    return {
        "groups": [
            {
                "prompt": shown_text(tokenizer, chat.prompt_ids(prompt.messages), trained=0),
                "responses": [],
            }
            for prompt in batch[:SHOWN_GROUPS]
        ],
        "prompts": len(batch),
        "usable": len(usable),
        "all_read": groups.all_read,
        "left_out": [f"{count} prompts: {why}." for why, count in counts.items()],
        "format": chat.name,
        "note": f"In each {when}, the model samples {config.samples_per_prompt} responses to each "
        "prompt. It is trained on their tokens, which do not exist yet.",
    }


if __name__ == "__main__":
    sys.exit(print_first_batch(first_batch, sys.argv[1:]))
