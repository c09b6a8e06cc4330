"""The first batch of a training run as tokens, to be shown before the run is queued.

The programs `reward.training.first_batch` and `finetune.training.first_batch` compute it with the
code of the run, and print it as one JSON object. A model's files and all texts may be hostile, so a
program has limits, and the numbers of tokens and prompts in the output are limited too.

Legend: P tokens of the prompt, R_k tokens of response k, K responses.
"""

import json
import resource
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from recipes.errors import RecipeError
from recipes.preferences.groups import Group, PreferenceError, read_folder
from recipes.preferences.tokens import Prepared, TokenGroup
from recipes.rundir import RunDir

MOST_GROUPS = 5000
"""Training prompts that are tokenized. A batch is drawn from all of them, as in the run."""
SHOWN_GROUPS = 4
SHOWN_RESPONSES = 9
SHOWN_TOKENS = 600
"""Tokens of a prompt or a response that are shown."""
PIECE = 8
"""The largest number of tokens that encode one character together."""
SECONDS = 60
MEMORY = 4 << 30
BROKEN = "\ufffd"


class Text(TypedDict):
    """The tokens of a prompt or of a response.

    pieces   a text for each token, or for several that encode one character together
    trained  the number of pieces at the end that are trained, or None for all of them
    tokens   the number of tokens
    more     the number of tokens that are not in `pieces`
    note     a few words about the response
    """

    pieces: list[str]
    trained: int | None
    tokens: int
    more: int
    note: str


class ShownGroup(TypedDict):
    prompt: Text
    responses: list[Text]


class FirstBatch(TypedDict):
    """The first batch.

    groups    the first prompts of the batch, with their responses
    prompts   the number of prompts in the batch
    usable    the number of prompts that the run trains on, among those that were read
    all_read  whether all prompts were read. If not, the batch of the run has other prompts
    left_out  sentences about data that is left out
    format    the name of the text format
    note      a sentence about the trained tokens
    """

    groups: list[ShownGroup]
    prompts: int
    usable: int
    all_read: bool
    left_out: list[str]
    format: str
    note: str


# --- reading -------------------------------------------------------------------------------------


class TrainGroups:
    """The first groups of the train split of a run. `all_read` is false if there are more."""

    def __init__(self, run_dir: RunDir):
        self.run_dir = run_dir
        self.all_read = True

    def __iter__(self) -> Iterator[Group]:
        number = 0
        try:
            for group in read_folder(self.run_dir.data):
                if group.split != "train":
                    continue
                number += 1
                if number > MOST_GROUPS:
                    self.all_read = False
                    return
                yield group
        except PreferenceError as error:
            raise RecipeError(str(error)) from error


def first_rows(count: int, batch_size: int, seed: int) -> list[int]:
    """Return the indices of the groups in the first step, as Trainer draws them from this seed.

    Trainer shuffles with the sampler of accelerate, which permutes the indices by torch.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(count, generator=generator)[:batch_size].tolist()


# --- the output ----------------------------------------------------------------------------------


def shown_text(
    tokenizer: Any, ids: Sequence[int] | np.ndarray, *, trained: int | None, note: str = ""
) -> Text:
    """Return the tokens as text. `trained` is 0 for none, None for all, 1 for only the last one.

    The last token is always shown, because the score of a reward model is read there.
    """
    numbers = [int(number) for number in ids]
    more = max(0, len(numbers) - SHOWN_TOKENS)
    displayed = numbers if not more else [*numbers[: SHOWN_TOKENS - 1], numbers[-1]]
    return {
        "pieces": pieces(tokenizer, displayed),
        "trained": trained,
        "tokens": len(numbers),
        "more": more,
        "note": note,
    }


def pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """Return the text of each token. Tokens that encode one character together are one piece."""
    texts: list[str] = []
    start = 0
    while start < len(ids):
        for end in range(start + 1, min(start + PIECE, len(ids)) + 1):
            text = decoded(tokenizer, ids[start:end])
            if BROKEN not in text:
                break
        else:
            end, text = start + 1, decoded(tokenizer, ids[start : start + 1])
        texts.append(text)
        start = end
    return texts


def decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    return tokenizer.decode(
        list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
    )


def shown_group(
    tokenizer: Any, group: TokenGroup, trained: Sequence[int | None], notes: Sequence[str] = ()
) -> ShownGroup:
    """Return a group as text. `trained` has a value of `shown_text` for each response."""
    notes = notes or [wins_and_losses(group, k) for k in range(len(group.responses))]
    responses = zip(group.responses, trained, notes, strict=True)
    return {
        "prompt": shown_text(tokenizer, group.prompt, trained=0),
        "responses": [
            shown_text(tokenizer, ids, trained=count, note=note)
            for ids, count, note in list(responses)[:SHOWN_RESPONSES]
        ],
    }


def wins_and_losses(group: TokenGroup, k: int) -> str:
    """Return the wins and the losses of response k in the rankings, as a few words."""
    won, lost = group.wins[k].sum(), group.wins[:, k].sum()
    if not (won or lost):
        return "not compared"
    return f"{won:g} {'win' if won == 1 else 'wins'}, {lost:g} {'loss' if lost == 1 else 'losses'}"


def left_out_sentences(prepared: Prepared) -> list[str]:
    return [
        f"{row['count']} {row['what']}: {row['why']}."
        for row in prepared.account()
        if row["split"] == "train"
    ]


# --- the program ---------------------------------------------------------------------------------


def limit_resources() -> None:
    """Limit the memory and the processor time of this process."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 5))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def print_first_batch(compute: Callable[[RunDir], FirstBatch], arguments: Iterable[str]) -> int:
    """Compute the first batch of the run directory in `arguments`, and print it.

    If it cannot be computed, {"problem": "…"} is printed. Returns the exit status.
    """
    (path,) = arguments
    limit_resources()
    try:
        result: Any = compute(RunDir(Path(path)))
    except RecipeError as error:
        result = {"problem": str(error)}
    except MemoryError:
        result = {"problem": f"It needs more than {MEMORY >> 30} GB of memory."}
    except Exception as error:
        traceback.print_exc()
        result = {"problem": f"{type(error).__name__}: {error}"[:500]}
    json.dump(result, sys.stdout)
    return 0
