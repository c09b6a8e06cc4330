"""Batches of token groups in two layouts, which give the same scores.

shared   Each group is [prompt][response 1]…[response K], P + K·R tokens. The position ids of each
         response continue those of the prompt, and a block mask hides the other responses from it.
         A row contains one group. If the batch is packed, one row contains all groups, so it has no
         padding.
plain    Each response has its own row with a copy of the prompt, K·(P + R) tokens in all. This
         layout works for every model.

Legend: G groups, K responses in the largest group, B rows, T tokens in the longest row, N tokens of
all responses.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, Protocol

import numpy as np
import torch

from recipes.machine import processes
from recipes.preferences.tokens import TokenGroup

PROMPT, PADDING = 0, -1
"""Numbers of segments. Response k, counted from 0, is segment k + 1.

The groups of a row are numbered from 0.
"""

Batch = dict[str, torch.Tensor]


@dataclass
class Collator:
    """Collation of token groups into one batch.

    The padding is on the right, whatever the tokenizer's setting is. With `targets`, the batch also
    has the positions that predict the tokens of the responses, for language models.
    """

    pad_id: int
    layout: str = "plain"
    packed: bool = False
    targets: bool = False

    def __call__(self, groups: Sequence[TokenGroup]) -> Batch:
        if self.layout == "shared":
            tensors = shared_layout(groups, self.pad_id, packed=self.packed)
        else:
            tensors = plain_layout(groups, self.pad_id)
        if self.targets:
            tensors |= response_targets(groups, self._starts(groups))
        return {**tensors, **loss_tensors(groups)}

    def _starts(self, groups: Sequence[TokenGroup]) -> list[list[tuple[int, int, int]]]:
        """Return where each response of each group begins.

        Each entry is (row, last position of the prompt, first position of the response).
        """
        if self.layout == "plain":
            rows = iter(range(sum(len(group.responses) for group in groups)))
            return [
                [(next(rows), len(group.prompt) - 1, len(group.prompt)) for _ in group.responses]
                for group in groups
            ]
        starts, position = [], 0
        for row, group in enumerate(groups):
            position = position if self.packed else 0
            first = position + len(group.prompt)
            offsets = np.cumsum([0, *map(len, group.responses)])
            row = 0 if self.packed else row
            starts.append([(row, first - 1, first + int(offset)) for offset in offsets[:-1]])
            position = first + int(offsets[-1])
        return starts

    def tokens(self, group: TokenGroup) -> int:
        """Return the number of tokens that are forwarded for the group, including its padding."""
        return group.size() if self.layout == "shared" else len(group.responses) * group.longest()


@dataclass
class StepCollator:
    """Collation of the groups of a step into parts, which are forwarded one after the other.

    Each part is a batch of at most `most` groups and `max_tokens` tokens. The longest groups come
    first, so the rows of a part have similar lengths, and a step that has enough memory for its first
    part has enough for all. The division into parts changes neither the groups nor the result of the
    step.

    If the groups have the signal `items`, such as their number of tokens, each part gets `share`: the
    number of items of each group, divided by the mean number per group of the step. Multiply the mean
    over a group's items by its share, and the mean of these products over the groups is the mean over
    all items of the step.
    """

    collator: Collator
    most: int
    max_tokens: int | None = None

    def __call__(self, groups: Sequence[TokenGroup]) -> dict[str, Any]:
        """Return the parts, and labels, (G,), by which Trainer counts the groups.

        If groups have mismatched responses, `mismatched` contains parts with these responses.
        """
        shares = _shares(groups)
        parts = []
        for indices in self.cut(groups):
            part = self.collator([groups[index] for index in indices])
            parts.append(part if shares is None else {**part, "share": shares[indices]})
        step = {"parts": parts, "labels": torch.ones(len(groups), dtype=torch.long)}
        others = [group.mismatched for group in groups if group.mismatched]
        if others:
            cut = self.cut(others)
            step["mismatched"] = [self.collator([others[i] for i in part]) for part in cut]
        return step

    def cut(self, groups: Sequence[TokenGroup]) -> list[list[int]]:
        """Return the indices of the groups in each part."""
        sizes = [self.collator.tokens(group) for group in groups]
        order = sorted(range(len(groups)), key=lambda index: -sizes[index])
        ordered = [sizes[index] for index in order]
        parts = cut(ordered, max_tokens=self.max_tokens, most=self.most)
        return [[order[index] for index in part] for part in parts]


def _shares(groups: Sequence[TokenGroup]) -> torch.Tensor | None:
    """Return the items of each group divided by their mean, (G,), or None without the signal."""
    if "items" not in groups[0].signals:
        return None
    items = torch.tensor([float(group.signals["items"]) for group in groups])
    return items / items.mean()


class StepSettings(Protocol):
    @property
    def batch_size(self) -> int: ...
    @property
    def micro_batch_size(self) -> int: ...
    @property
    def tokens_at_once(self) -> int | None: ...


def step_collator(config: StepSettings, collator: Collator, micro_batch_size: int) -> StepCollator:
    """Return the collator of a step. A smaller micro-batch also lowers `tokens_at_once`."""
    share = micro_batch_size / config.micro_batch_size
    at_once = config.tokens_at_once and max(1, int(config.tokens_at_once * share))
    most = min(micro_batch_size, ceil(config.batch_size / processes.count()))
    return StepCollator(collator, most, at_once)


def shared_layout(groups: Sequence[TokenGroup], pad_id: int, *, packed: bool = False) -> Batch:
    """Return the tensors of a batch in the shared layout."""
    parts = [_group_tokens(group) for group in groups]
    rows = [list(range(len(groups)))] if packed else [[g] for g in range(len(groups))]
    width = max(len(group.responses) for group in groups)
    lengths = [np.array([len(g.prompt), *map(len, g.responses)]) for g in groups]
    starts = _starts(lengths, rows)
    ends = [start + np.cumsum(n)[1:] - 1 for start, n in zip(starts, lengths, strict=True)]
    numbers = [
        np.full(len(part[0]), n) for row in rows for n, part in enumerate(parts[g] for g in row)
    ]

    def stack_rows(values: Sequence[np.ndarray], fill: int) -> torch.Tensor:
        return _stack([np.concatenate([values[g] for g in row]) for row in rows], fill)

    return {
        "input_ids": stack_rows([part[0] for part in parts], pad_id),  # (B, T)
        "position_ids": stack_rows([part[1] for part in parts], 0),  # (B, T)
        "segment_ids": stack_rows([part[2] for part in parts], PADDING),  # (B, T)
        "group_ids": stack_rows(numbers, PADDING),  # (B, T)
        "placed": torch.tensor(
            [number for number, row in enumerate(rows) for _ in row]
        ),  # (G,): rows
        "ends": _stack(
            ends, 0, width
        ),  # (G, K): each response's last token, as a position in its row
        "lengths": _stack(lengths, 0, width + 1),  # (G, K + 1): prompt and responses, 0 if missing
    }


def _starts(lengths: Sequence[np.ndarray], rows: Sequence[Sequence[int]]) -> list[int]:
    """Return the position in its row at which each group begins. The groups are in order."""
    starts = []
    for row in rows:
        sizes = [int(lengths[g].sum()) for g in row]
        starts += [sum(sizes[:n]) for n in range(len(row))]
    return starts


def _group_tokens(group: TokenGroup) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return tokens, positions and segments of one group, each (P + ΣR,)."""
    prompt_length = len(group.prompt)
    lengths = [len(response) for response in group.responses]
    positions = [np.arange(prompt_length)]
    positions += [np.arange(prompt_length, prompt_length + length) for length in lengths]
    segments = np.repeat(np.arange(len(lengths) + 1), [prompt_length, *lengths])
    tokens = np.concatenate([group.prompt, *group.responses])
    return tokens, np.concatenate(positions), segments


def plain_layout(groups: Sequence[TokenGroup], pad_id: int) -> Batch:
    """Return the tensors of a batch with one row per response."""
    texts = [np.concatenate([g.prompt, response]) for g in groups for response in g.responses]
    first = np.cumsum([0, *(len(group.responses) for group in groups)])
    rows = [np.arange(first[g], first[g + 1]) for g in range(len(groups))]
    return {
        "input_ids": _stack(texts, pad_id),  # (B, T)
        "attention_mask": _stack([np.ones(len(text)) for text in texts], 0),  # (B, T)
        "rows": _stack(rows, 0),  # (G, K): the row of each response
    }


def response_targets(
    groups: Sequence[TokenGroup], starts: Sequence[Sequence[tuple[int, int, int]]]
) -> Batch:
    """Return the positions at which the tokens of the responses are predicted.

    `starts` is as in `Collator._starts`. The last token of the prompt predicts the first token of
    every response. Raises ValueError for an empty prompt, which predicts nothing.
    """
    if not all(len(group.prompt) for group in groups):
        raise ValueError("A prompt without tokens cannot predict a response.")
    width = max(len(group.responses) for group in groups)
    rows, positions, tokens, numbers = [], [], [], []
    for g, (group, begins) in enumerate(zip(groups, starts, strict=True)):
        for k, (response, (row, last, first)) in enumerate(
            zip(group.responses, begins, strict=True)
        ):
            length = len(response)
            rows.append(np.full(length, row))
            positions.append(np.r_[last, np.arange(first, first + length - 1)][:length])
            tokens.append(response)
            numbers.append(np.full(length, g * width + k))
    arrays = {
        "target_rows": rows,  # (N,): row of the position that predicts the token
        "target_positions": positions,  # (N,): index of that position in the row
        "target_ids": tokens,  # (N,): the token
        "target_responses": numbers,  # (N,): its response, g·K + k
    }
    return {
        name: torch.from_numpy(np.concatenate(parts).astype(np.int64))
        for name, parts in arrays.items()
    }


LAYOUT = frozenset(
    {
        *("input_ids", "position_ids", "segment_ids", "group_ids", "placed", "ends", "lengths"),
        *("attention_mask", "rows", "present"),
        *("target_rows", "target_positions", "target_ids", "target_responses"),
    }
)
"""The tensors of a batch that the model reads. The loss reads the others."""


def for_model(batch: Batch) -> Batch:
    return {name: values for name, values in batch.items() if name in LAYOUT}


def loss_tensors(groups: Sequence[TokenGroup]) -> Batch:
    """Return the tensors that the loss reads, padded with zeros to K responses.

    They include the `signals` of preferences/loss_inputs.py.
    """
    width = max(len(group.responses) for group in groups)
    wins = np.zeros((len(groups), width, width), dtype=np.float32)
    present = np.zeros((len(groups), width), dtype=bool)
    for g, group in enumerate(groups):
        k = len(group.responses)
        wins[g, :k, :k] = group.wins
        present[g, :k] = True
    return {
        "present": torch.from_numpy(present),  # (G, K) bool
        "wins": torch.from_numpy(wins),  # (G, K, K)
        "labels": torch.ones(len(groups), dtype=torch.long),  # (G,): for Trainer to count
        **{name: _pad([g.signals[name] for g in groups]) for name in groups[0].signals},
    }


def _pad(arrays: Sequence[np.ndarray]) -> torch.Tensor:
    """Return the arrays stacked, each padded with zeros to the size of the largest.

    All of them must have the same number of dimensions.
    """
    shape = np.max([array.shape for array in arrays], axis=0).astype(int)
    padded = np.zeros((len(arrays), *shape), dtype=np.float32)
    for row, array in enumerate(arrays):
        corner = [slice(size) for size in array.shape]
        padded[(slice(row, row + 1), *corner)] = array
    return torch.from_numpy(padded)


def can_attend(query: tuple, key: tuple) -> torch.Tensor:
    """Return whether each query token may attend to each key token.

    A token attends to the earlier tokens of its response and of the prompt of its group. Each
    argument is (group, segment, position in the row), three tensors that broadcast. No token attends
    to padding, except that padding attends to itself: a softmax over nothing would be NaN.
    """
    same_group = query[0] == key[0]
    same_segment_or_prompt = (query[1] == key[1]) | (key[1] == PROMPT)
    return same_group & same_segment_or_prompt & (query[2] >= key[2])


def block_mask(
    segment_ids: torch.Tensor, group_ids: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """Return `can_attend` for all positions of each row, as an additive mask, (B, 1, T, T).

    Both SDPA and eager attention accept this mask. It takes B·T² numbers of memory.
    """
    positions = torch.arange(segment_ids.shape[1], device=segment_ids.device)  # (T,)
    token = (group_ids, segment_ids, positions[None])
    allowed = can_attend(
        tuple(values[:, :, None] for values in token), tuple(values[:, None, :] for values in token)
    )  # (B, T, T)
    mask = torch.zeros(allowed.shape, dtype=dtype, device=segment_ids.device)
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min)[:, None]


def cut(
    sizes: Sequence[int], *, max_tokens: int | None = None, most: int | None = None
) -> Iterator[list[int]]:
    """Yield the indices of the groups of each batch, in order, with at most `most` groups each.

    In each batch, the number of groups times the largest size is at most `max_tokens`. Only a batch of
    one group may be larger.
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
    """Return the first groups of a batch as text, in the form in which the model reads them.

    A person can check this text.
    """
    parts = []
    for number, group in enumerate(groups[:most], 1):
        end = len(group.prompt)
        parts.append(f"— group {number}: {'one row' if shared else 'one row per response'}")
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
