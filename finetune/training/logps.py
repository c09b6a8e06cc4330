"""log π(response | prompt) of each response, forwarded once however many pairs it is in.

K responses make up to K(K-1)/2 pairs, so forwarding pairs would forward each response K-1 times.

Legend: B rows, T tokens in the longest row.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from recipes.preferences.tokens import TokenGroup
from recipes.stopping import StopSignal

FORWARD_TOKENS = 8192
"""Tokens per forward pass without gradients."""


@torch.no_grad()
def group_logps(trainer: Any, groups: Sequence[TokenGroup], stop: StopSignal) -> list[np.ndarray]:
    """Return the log-probability of each response under the trainer's current model.

    Returns one (K,) float64 array per group: sums over the response's tokens. Uses the head of the
    trainer's loss, so that policy and reference are computed alike. Draws no random numbers, and
    restores the model's mode.
    """
    model = trainer.model
    answers = [(g, k) for g, group in enumerate(groups) for k in range(len(group.responses))]
    answers.sort(key=lambda a: -len(groups[a[0]].prompt) - len(groups[a[0]].responses[a[1]]))
    logps = [np.zeros(len(group.responses)) for group in groups]
    # Without gradients, this many rows need less memory than a micro-batch with gradients.
    most_rows = 4 * trainer.args.per_device_train_batch_size
    was_training = model.training
    model.eval()
    start = 0
    while start < len(answers):
        stop.check()
        g, k = answers[start]
        longest = len(groups[g].prompt) + len(groups[g].responses[k])
        batch = answers[start : start + max(1, min(most_rows, FORWARD_TOKENS // longest))]
        rows = [(groups[g].prompt, groups[g].responses[k]) for g, k in batch]
        for (g, k), value in zip(batch, _forward(trainer, rows), strict=True):
            logps[g][k] = value
        start += len(batch)
    model.train(was_training)
    return logps


def _forward(trainer: Any, rows: list[tuple[np.ndarray, np.ndarray]]) -> list[float]:
    longest = max(len(prompt) + len(response) for prompt, response in rows)
    input_ids = np.full((len(rows), longest), trainer.processing_class.pad_token_id, dtype=np.int64)
    attention_mask = np.zeros_like(input_ids)
    labels = np.full_like(input_ids, -100)  # (B, T): ignored except for tokens of the response
    for row, (prompt, response) in enumerate(rows):
        end = len(prompt) + len(response)
        input_ids[row, : len(prompt)], input_ids[row, len(prompt) : end] = prompt, response
        attention_mask[row, :end] = 1
        labels[row, len(prompt) : end] = response  # not shifted: the head shifts labels by one
    device = trainer.args.device
    with trainer.accelerator.autocast():
        output = trainer.model(
            input_ids=torch.from_numpy(input_ids).to(device),
            attention_mask=torch.from_numpy(attention_mask).to(device),
            labels=torch.from_numpy(labels).to(device),
            use_cache=False,
            fused_lm_head=True,  # TRL's head: log_probs (B, T - 1), without logits (B, T, vocabulary)
        )
    return output.log_probs.double().sum(dim=1).tolist()
