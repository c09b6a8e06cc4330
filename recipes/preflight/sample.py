"""The prompts of a rehearsal: those that need the most memory, and some at random.

Legend: K responses of a prompt, P tokens of the prompt, R tokens of a response.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from recipes.errors import RecipeError
from recipes.models.chat_format import ChatFormat
from recipes.models.chat_options import ChatOptions
from recipes.models.loading import read_tokenizer, why_not_loaded
from recipes.models.references import split_reference
from recipes.preferences.groups import Group, PreferenceError, keep_responses, read_folder
from recipes.preflight.forecast import Amounts

CANDIDATES = 64
"""The number of prompts with the most characters whose tokens are counted."""
RANDOM = 256
"""The number of random prompts whose tokens are counted, to estimate those of all prompts."""


@dataclass(frozen=True)
class Measured:
    """A prompt with the number of tokens of a forward pass over all its responses, P + ΣR."""

    group: Group
    tokens: int
    sequence: int
    """The tokens of the prompt with its longest response, P + R."""


def choose(
    folder: Path,
    reference: str,
    limit: int,
    *,
    longest: int,
    count: int,
    held_out: int,
    only_prompts: bool,
) -> tuple[list[Group], Amounts, Amounts]:
    """Return the prompts of a rehearsal, and the amounts of data in the run and in the rehearsal.

    There are `count` training prompts, the `longest` ones first, and `held_out` held-out prompts.
    Responses with more than `limit` tokens are left out, as in the run. With `only_prompts`, the
    responses of training prompts are not used. Raises RecipeError.
    """
    try:
        groups = list(read_folder(folder))
    except PreferenceError as error:
        raise RecipeError(str(error)) from error
    chat = _chat(reference)
    train = [group for group in groups if group.split == "train"]
    test = [group for group in groups if group.split == "test"]
    if only_prompts:
        train = [keep_responses(group, []) for group in train]
    draw = random.Random(0)
    typical = _measured(draw.sample(train, min(RANDOM, len(train))), chat, limit)
    large = _measured(sorted(train, key=_characters, reverse=True)[:CANDIDATES], chat, limit)
    first = sorted(large, key=lambda item: -item.tokens)[:longest]
    names = {item.group.group_id for item in first}
    others = [item for item in typical if item.group.group_id not in names]
    chosen = [*first, *others[: max(0, count - len(first))]]
    if not chosen:
        raise RecipeError(
            f"There is nothing to train on: no prompt of the train split of {folder} has at most "
            f"{limit} tokens with a response."
        )
    held = _measured(draw.sample(test, min(RANDOM, len(test))), chat, limit)
    some = held[:held_out]
    tokens, sequence = chosen[0].tokens, max(item.sequence for item in chosen)
    whole = Amounts(
        len(train), len(train) * _mean(typical or chosen), len(test), len(test) * _mean(held),
        sum(len(group.responses) for group in test), tokens, sequence,
    )  # fmt: skip
    part = Amounts(
        len(chosen), len(chosen) * _mean(chosen), len(some), len(some) * _mean(some),
        sum(len(item.group.responses) for item in some), tokens, sequence,
    )  # fmt: skip
    return [item.group for item in (*chosen, *some)], whole, part


def _mean(items: Sequence[Measured]) -> float:
    return sum(item.tokens for item in items) / len(items) if items else 0.0


def _characters(group: Group) -> int:
    return sum(map(len, group.responses)) + sum(len(turn["content"]) for turn in group.prompt)


def _measured(groups: Sequence[Group], chat: ChatFormat, limit: int) -> list[Measured]:
    measured = []
    for group in groups:
        try:
            encoded = chat.read(group.prompt, group.responses)
        except ValueError:
            continue  # the run leaves it out too, and reports it
        prompt = len(encoded.prompt)
        fits = [k for k, ids in enumerate(encoded.responses) if prompt + len(ids) <= limit]
        if not fits and group.responses:
            continue
        tokens = prompt + sum(len(encoded.responses[k]) for k in fits)
        readable = keep_responses(group, [group.response_ids[k] for k in fits])
        longest = max((len(encoded.responses[k]) for k in fits), default=0)
        measured.append(Measured(readable, tokens, prompt + longest))
    return measured


def _chat(reference: str) -> ChatFormat:
    name, revision = split_reference(reference)
    try:
        tokenizer = read_tokenizer(name, revision)
    except (OSError, ValueError) as error:
        raise RecipeError(
            f"The tokenizer of {reference} cannot be loaded: {why_not_loaded(error)}"
        ) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return ChatFormat(tokenizer, ChatOptions())
