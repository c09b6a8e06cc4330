"""How groups of tokens become tensors: two layouts with the same scores.

shared   [prompt][response 1]…[response K] for each group, P + K·R tokens. Positions restart after
         the prompt for each response, and a block mask keeps responses from seeing each other.
         A row holds one group or, packed, all of a batch, which leaves nothing to pad.
plain    one row a response with its own copy of the prompt, K·(P + R) tokens. What any model reads.

Legend: G groups, K responses in the largest group, B rows, T tokens in the longest row.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from recipes.preferences.tokens import TokenGroup

PROMPT, PADDING = 0, -1
"""Segment numbers; response k (from 0) has k + 1. Groups of a row are numbered from 0, too."""

Batch = dict[str, torch.Tensor]


@dataclass
class Collator:
    """Token groups → one batch. Pads on the right, whatever side the tokenizer prefers."""

    pad_id: int
    layout: str = "plain"
    packed: bool = False

    def __call__(self, groups: Sequence[TokenGroup]) -> Batch:
        if self.layout == "shared":
            tensors = shared_layout(groups, self.pad_id, packed=self.packed)
        else:
            tensors = plain_layout(groups, self.pad_id)
        return {**tensors, **evidence(groups)}

    def tokens(self, group: TokenGroup) -> int:
        """What the group takes to forward, padding to its own longest text included."""
        return group.size() if self.layout == "shared" else len(group.responses) * group.longest()


@dataclass
class StepCollator:
    """A step's groups → its parts, batches that are forwarded one after the other.

    At most `most` groups and `max_tokens` tokens a part, the longest groups first: rows of a part are
    of like length, and memory that suffices for the first part suffices for all. The parts add up
    to the same step however it is cut, and which groups are in it is not decided here.
    """

    collator: Collator
    most: int
    max_tokens: int | None = None

    def __call__(self, groups: Sequence[TokenGroup]) -> dict[str, Any]:
        """→ parts; labels (G,), one a group, for Trainer to count"""
        parts = [self.collator([groups[index] for index in part]) for part in self.cut(groups)]
        return {"parts": parts, "labels": torch.ones(len(groups), dtype=torch.long)}

    def cut(self, groups: Sequence[TokenGroup]) -> list[list[int]]:
        """Indices of the groups in each part."""
        sizes = [self.collator.tokens(group) for group in groups]
        order = sorted(range(len(groups)), key=lambda index: -sizes[index])
        ordered = [sizes[index] for index in order]
        parts = cut(ordered, max_tokens=self.max_tokens, most=self.most)
        return [[order[place] for place in part] for part in parts]


def shared_layout(groups: Sequence[TokenGroup], pad_id: int, *, packed: bool = False) -> Batch:
    """→ input_ids, position_ids, segment_ids, group_ids (B, T); placed (G,): the row of each group;
    ends (G, K): where in it each response's last token is; lengths (G, K + 1): of the prompt and of
    each response, 0 where there is none
    """
    parts = [_group_tokens(group) for group in groups]
    rows = [list(range(len(groups)))] if packed else [[g] for g in range(len(groups))]
    width = max(len(group.responses) for group in groups)
    lengths = [np.array([len(g.prompt), *map(len, g.responses)]) for g in groups]
    starts = _starts(lengths, rows)
    ends = [start + np.cumsum(of)[1:] - 1 for start, of in zip(starts, lengths, strict=True)]
    numbers = [
        np.full(len(part[0]), n) for row in rows for n, part in enumerate(parts[g] for g in row)
    ]

    def laid(values: Sequence[np.ndarray], fill: int) -> torch.Tensor:
        return _stack([np.concatenate([values[g] for g in row]) for row in rows], fill)

    return {
        "input_ids": laid([part[0] for part in parts], pad_id),  # (B, T)
        "position_ids": laid([part[1] for part in parts], 0),  # (B, T)
        "segment_ids": laid([part[2] for part in parts], PADDING),  # (B, T)
        "group_ids": laid(numbers, PADDING),  # (B, T)
        "placed": torch.tensor([number for number, row in enumerate(rows) for _ in row]),  # (G,)
        "ends": _stack(ends, 0, width),  # (G, K)
        "lengths": _stack(lengths, 0, width + 1),  # (G, K + 1)
    }


def _starts(lengths: Sequence[np.ndarray], rows: Sequence[Sequence[int]]) -> list[int]:
    """Where in its row each group begins; rows hold the groups in order."""
    starts = []
    for row in rows:
        sizes = [int(lengths[g].sum()) for g in row]
        starts += [sum(sizes[:n]) for n in range(len(row))]
    return starts


def _group_tokens(group: TokenGroup) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, positions and segments of one group, each (P + ΣR,)"""
    prompt_length = len(group.prompt)
    lengths = [len(response) for response in group.responses]
    positions = [np.arange(prompt_length)]
    positions += [np.arange(prompt_length, prompt_length + length) for length in lengths]
    segments = np.repeat(np.arange(len(lengths) + 1), [prompt_length, *lengths])
    tokens = np.concatenate([group.prompt, *group.responses])
    return tokens, np.concatenate(positions), segments


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


def may_see(looking: tuple, seen: tuple) -> torch.Tensor:
    """Whether tokens may look at tokens: earlier ones of their group's prompt and of their own response.

    Each is (group, segment, place in the row), tensors that broadcast. Padding sees itself, because
    a row with nothing to see would be NaN, and nothing sees padding.
    """
    same_group = looking[0] == seen[0]
    in_sight = (looking[1] == seen[1]) | (seen[1] == PROMPT)
    return same_group & in_sight & (looking[2] >= seen[2])


def block_mask(
    segment_ids: torch.Tensor, group_ids: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """`may_see` for all places of a row, dense and additive, so that SDPA and eager attention both
    take it: B·T² numbers in memory.  (B, T), (B, T) → (B, 1, T, T)
    """
    places = torch.arange(segment_ids.shape[1], device=segment_ids.device)
    token = (group_ids, segment_ids, places[None])
    allowed = may_see(
        tuple(values[:, :, None] for values in token), tuple(values[:, None, :] for values in token)
    )  # (B, T, T)
    mask = torch.zeros(allowed.shape, dtype=dtype, device=segment_ids.device)
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min)[:, None]


def cut(
    sizes: Sequence[int], *, max_tokens: int | None = None, most: int | None = None
) -> Iterator[list[int]]:
    """Indices of groups of these sizes that fit together, in order: at most `most`, and their number
    times the largest stays within `max_tokens`, unless a group alone does not.
    """
    batch: list[int] = []
    largest = 0
    for index, size in enumerate(sizes):
        largest = max(largest, size)
        too_large = max_tokens is not None and largest * (len(batch) + 1) > max_tokens
        if batch and (too_large or len(batch) == most):
            yield batch
            batch, largest = [], size
        batch.append(index)
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
