"""How groups of tokens become tensors: two layouts with the same scores.

shared   one row a group, [prompt][response 1]…[response K], P + K·R tokens. Positions restart after
         the prompt for each response, and a block mask keeps responses from seeing each other.
plain    one row a response with its own copy of the prompt, K·(P + R) tokens. What any model reads.

Legend: G groups, K responses in the largest group, T tokens in the longest row.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from reward.training.tokens import TokenGroup

PROMPT, PADDING = 0, -1
"""Segment numbers; response k (from 0) has k + 1."""

Batch = dict[str, torch.Tensor]


@dataclass
class Collator:
    """Token groups → one batch. Pads on the right, whatever side the tokenizer prefers."""

    pad_id: int
    layout: str = "plain"

    def __call__(self, groups: Sequence[TokenGroup]) -> Batch:
        lay = shared_layout if self.layout == "shared" else plain_layout
        return {**lay(groups, self.pad_id), **evidence(groups)}


def shared_layout(groups: Sequence[TokenGroup], pad_id: int) -> Batch:
    """→ input_ids, position_ids, segment_ids (G, T); ends (G, K): where each response's last token is;
    lengths (G, K + 1): of the prompt and of each response, 0 where there is none
    """
    rows = [_shared_row(group) for group in groups]
    width = max(len(group.responses) for group in groups)
    lengths = [np.array([len(g.prompt), *map(len, g.responses)]) for g in groups]
    return {
        "input_ids": _stack([row[0] for row in rows], pad_id),  # (G, T)
        "position_ids": _stack([row[1] for row in rows], 0),  # (G, T)
        "segment_ids": _stack([row[2] for row in rows], PADDING),  # (G, T)
        "ends": _stack([row[3] for row in rows], 0, width),  # (G, K)
        "lengths": _stack(lengths, 0, width + 1),  # (G, K + 1)
    }


def _shared_row(group: TokenGroup) -> tuple[np.ndarray, ...]:
    prompt_length = len(group.prompt)
    lengths = [len(response) for response in group.responses]
    positions = [np.arange(prompt_length)]
    positions += [np.arange(prompt_length, prompt_length + length) for length in lengths]
    segments = np.repeat(np.arange(len(lengths) + 1), [prompt_length, *lengths])
    ends = prompt_length + np.cumsum(lengths) - 1
    tokens = np.concatenate([group.prompt, *group.responses])
    return tokens, np.concatenate(positions), segments, ends


def plain_layout(groups: Sequence[TokenGroup], pad_id: int) -> Batch:
    """→ input_ids, attention_mask (rows, T); rows (G, K): which row each response became"""
    texts = [np.concatenate([g.prompt, response]) for g in groups for response in g.responses]
    first = np.cumsum([0, *(len(group.responses) for group in groups)])
    rows = [np.arange(first[g], first[g + 1]) for g in range(len(groups))]
    return {
        "input_ids": _stack(texts, pad_id),  # (rows, T)
        "attention_mask": _stack([np.ones(len(text)) for text in texts], 0),  # (rows, T)
        "rows": _stack(rows, 0),  # (G, K)
    }


EVIDENCE = frozenset(
    {"wins", "labels", "weight", "ties", "graded", "margins", "above", "below", "draws", "criteria"}
)
"""What a batch holds for the loss alone; the model is not shown it."""


def for_model(batch: Batch) -> Batch:
    return {name: values for name, values in batch.items() if name not in EVIDENCE}


def evidence(groups: Sequence[TokenGroup]) -> Batch:
    """→ present (G, K) bool; wins (G, K, K); labels (G,): one item a group, for Trainer to count;
    signals, each padded with zeros to the largest group's K
    """
    width = max(len(group.responses) for group in groups)
    wins = np.zeros((len(groups), width, width), dtype=np.float32)
    present = np.zeros((len(groups), width), dtype=bool)
    for g, group in enumerate(groups):
        k = len(group.responses)
        wins[g, :k, :k] = group.wins
        present[g, :k] = True
    return {
        "present": torch.from_numpy(present),
        "wins": torch.from_numpy(wins),
        "labels": torch.ones(len(groups), dtype=torch.long),
        **{name: _pad([g.signals[name] for g in groups]) for name in groups[0].signals},
    }


def _pad(arrays: Sequence[np.ndarray]) -> torch.Tensor:
    """Arrays of the same number of dimensions, zeros where one is smaller than the largest."""
    shape = np.max([array.shape for array in arrays], axis=0).astype(int)
    padded = np.zeros((len(arrays), *shape), dtype=np.float32)
    for row, array in enumerate(arrays):
        place = [slice(size) for size in array.shape]
        padded[(slice(row, row + 1), *place)] = array
    return torch.from_numpy(padded)


def block_mask(segment_ids: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What each token may look at: earlier tokens of the prompt and of its own response.

    Dense and additive, so that SDPA and eager attention both take it: G·T² numbers in memory.
    Padding sees itself, because a row with nothing to see would be NaN.  (G, T) → (G, 1, T, T)
    """
    looking, seen = segment_ids[:, :, None], segment_ids[:, None, :]
    length = segment_ids.shape[1]
    earlier = torch.ones(length, length, dtype=torch.bool, device=segment_ids.device).tril()
    allowed = ((seen == looking) | (seen == PROMPT)) & earlier  # (G, T, T)
    mask = torch.zeros(allowed.shape, dtype=dtype, device=segment_ids.device)
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min)[:, None]


def batches(groups: Sequence[TokenGroup], *, max_tokens: int) -> Iterator[list[int]]:
    """Indices of groups that fit together, in order: rows times the longest row stays in bounds."""
    batch: list[int] = []
    longest = 0
    for index, group in enumerate(groups):
        size = len(group.prompt) + sum(len(response) for response in group.responses)
        if batch and max(longest, size) * (len(batch) + 1) > max_tokens:
            yield batch
            batch, longest = [], 0
        batch.append(index)
        longest = max(longest, size)
    if batch:
        yield batch


def describe(groups: Sequence[TokenGroup], tokenizer: Any, *, shared: bool, most: int = 4) -> str:
    """The first groups of a batch as the model reads them, for a person to check by eye."""
    parts = []
    for number, group in enumerate(groups[:most], 1):
        end = len(group.prompt)
        parts.append(f"— group {number}: {'one row' if shared else 'one row a response'}")
        parts.append(f"[prompt · positions 0–{end - 1}]\n{tokenizer.decode(group.prompt)}")
        for k, response in enumerate(group.responses, 1):
            span = f"positions {end}–{end + len(response) - 1}"
            won, lost = group.wins[k - 1].sum(), group.wins[:, k - 1].sum()
            head = f"[response {k} · {span} · wins {won:g}, losses {lost:g}]"
            parts.append(f"{head}\n{tokenizer.decode(response)}")
    return "\n".join(parts)


def _stack(arrays: Sequence[np.ndarray], fill: int, width: int | None = None) -> torch.Tensor:
    width = width or max(len(array) for array in arrays)
    stacked = np.full((len(arrays), width), fill, dtype=np.int64)
    for row, array in enumerate(arrays):
        stacked[row, : len(array)] = array
    return torch.from_numpy(stacked)
