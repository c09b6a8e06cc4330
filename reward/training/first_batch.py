"""Print the first batch of the training of a reward model, as the model will read it.

    python -m reward.training.first_batch RUN_DIR

RUN_DIR has run.json and data/ as for reward/training/train.py. The tokens come from the code of the
run, but the model is not loaded. recipes/preferences/first_batch.py describes the output.
"""

import sys
from functools import partial

import torch
from transformers import AutoModelForSequenceClassification

from recipes.models.chat_format import ChatFormat
from recipes.models.chat_options import freeze
from recipes.models.loading import read_config
from recipes.models.references import split_reference
from recipes.preferences.first_batch import (
    SHOWN_GROUPS,
    FirstBatch,
    TrainGroups,
    first_rows,
    left_out_sentences,
    print_first_batch,
    shown_group,
)
from recipes.preferences.groups import rated_criteria
from recipes.preferences.loss_inputs import compared, loss_inputs
from recipes.preferences.tokens import no_training_data, prepare
from recipes.rundir import RunDir
from reward.settings import RewardConfig
from reward.training.models.reward_model import load_tokenizer, readable_tokens, refuse_family

READ_AT_LAST = (
    "The model reads all tokens of a prompt and a response. The score, on which the loss depends, is "
    "read at the marked token."
)
READ_AT_ALL = "The model reads all tokens of a prompt and a response, and computes one score from all of them."


def first_batch(run_dir: RunDir) -> FirstBatch:
    """Return the first batch. Raises RecipeError."""
    config = RewardConfig.from_dict(run_dir.spec()["config"])
    refuse_family(config.base_model)
    tokenizer = load_tokenizer(config.base_model)
    record = freeze(run_dir, config, tokenizer, sources=(config.base_model,))
    chat = ChatFormat(tokenizer, record.options)
    limit = readable_tokens(config.base_model, tokenizer, config.max_tokens)
    groups = TrainGroups(run_dir)
    rated = set().union(*map(rated_criteria, groups)) if config.criteria_weight else set()
    inputs_of = partial(loss_inputs, config=config, criteria=sorted(rated))
    prepared = prepare(groups, chat, limit, inputs_of)
    train = prepared.tokens["train"]
    if not train:
        raise no_training_data(run_dir, prepared, "two readable responses that somebody compared")
    rows = first_rows(len(train), config.batch_size, config.seed)
    batch = [train[row] for row in rows[:SHOWN_GROUPS]]
    last = 1 if reads_last_token(config.base_model) else 0
    marks = [[last if used else 0 for used in compared(group)] for group in batch]
    return {
        "groups": [shown_group(tokenizer, *pair) for pair in zip(batch, marks, strict=True)],
        "prompts": len(rows),
        "usable": len(train),
        "all_read": groups.all_read,
        "left_out": left_out_sentences(prepared),
        "format": chat.name,
        "note": READ_AT_LAST if last else READ_AT_ALL,
    }


def reads_last_token(reference: str) -> bool:
    """Return whether the base model is a decoder, whose classifier reads the score at the last token.

    The classifier is built without weights.
    """
    name, revision = split_reference(reference)
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(read_config(name, revision))
    return hasattr(model, "score")


if __name__ == "__main__":
    sys.exit(print_first_batch(first_batch, sys.argv[1:]))
