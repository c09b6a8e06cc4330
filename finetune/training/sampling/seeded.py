"""The engine `seeded`: reproducible sampling of many responses, batch by batch.

Each response has its own seed, which is made from the seed of the run, the id of the prompt and the
number of the sample. The seed gives a uniform random number for each token. The token is the one at
which the cumulative distribution reaches this number (inverse transform sampling). So a response
depends on its own seed, and not on the other rows of its batch. There is one exception: rounding in
the model depends on the shape of a batch, so a few responses may differ with another batch size. With
the same settings, the output is the same byte for byte, even after a restart.
"""

import json
import time
from collections.abc import Callable
from math import ceil
from typing import Any

import torch

from finetune.engines.engine import Answers, Request, Sampled
from finetune.settings import SamplingConfig
from finetune.training.models.language_model import PolicyChat
from finetune.training.sampling.decoding import Row, decode, finish
from finetune.training.sampling.distribution import Distribution
from finetune.training.sampling.local import OwnModel
from finetune.training.sampling.progress import emit_progress
from recipes.machine.memory import free_memory, is_out_of_memory
from recipes.rundir import RunDir
from recipes.stopping import StopSignal
from recipes.training import checkpoints


class SeededEngine(OwnModel):
    """A model that samples in batches of `batch_size` responses, or fewer after memory ran out."""

    name = "seeded"

    def sample(
        self,
        requests: list[Request],
        *,
        run_dir: RunDir,
        name: str,
        stop: StopSignal,
        part: int = 0,
        parts: int = 1,
    ) -> Answers:
        """Return all responses, which are sampled batch by batch.

        The progress is reported as that of `part` of `parts`. Each finished batch is written to a file
        in checkpoints/, whose name begins with `name`. The batches depend only on the config, so a
        restarted run gives the same output as an uninterrupted one.
        """
        size = self.config.batch_size
        shards = ceil(len(requests) / size)
        answers: Answers = {}
        for number in range(shards):
            began = time.monotonic()
            shard = run_dir.checkpoints / f"{name}-{number:06d}.json"
            checkpoints.delete_if_damaged(run_dir, shard)
            old = shard.exists()
            if old:
                batch = [Sampled(**values) for values in json.loads(shard.read_text())]
            else:
                stop.check()
                rows_at_once = self.rows_at_once
                batch = self.batch(requests[number * size : (number + 1) * size])
                if self.rows_at_once < rows_at_once:
                    run_dir.message(
                        f"Memory ran out. From now on, at most {self.rows_at_once} responses are "
                        "sampled at the same time."
                    )
                with checkpoints.sealed(shard) as draft:
                    draft.write_text(json.dumps([vars(sampled) for sampled in batch]))
            answers |= {sampled.key: sampled for sampled in batch}
            if not old or number == shards - 1:
                step, seconds = part * shards + number + 1, time.monotonic() - began
                emit_progress(run_dir, step, parts * shards, batch, seconds)
        return answers

    def batch(self, requests: list[Request]) -> list[Sampled]:
        """Return the responses of one batch, in the given order."""
        return [finish(row, self.chat) for row in self._rows(requests)]

    def tokens(
        self, requests: list[Request], check: Callable[[], None] = lambda: None
    ) -> list[list[int]]:
        """Return the tokens of all responses, in the given order. Calls `check` before each batch."""
        order = sorted(range(len(requests)), key=lambda index: -len(requests[index].prompt_ids))
        written: dict[int, list[int]] = {}
        for start in range(0, len(order), self.config.batch_size):
            check()
            indices = order[start : start + self.config.batch_size]
            rows = self._rows([requests[index] for index in indices])
            written |= {index: row.written for index, row in zip(indices, rows, strict=True)}
        return [written[index] for index in range(len(requests))]

    @torch.no_grad()
    def _rows(self, requests: list[Request]) -> list[Row]:
        """Return the finished rows of one batch.

        If memory runs out, a part of the batch is halved. Both halves continue with the tokens that
        they have, and the further parts are not larger.
        """
        rows = [Row(request, self.config.max_new_tokens) for request in requests]
        waiting = [rows]
        while waiting:
            part = waiting.pop()
            if len(part) > self.rows_at_once:
                half = max(self.rows_at_once, len(part) // 2)
                waiting += [part[half:], part[:half]]
                continue
            try:
                decode(self.model, self.chat, part, self.distribution)
                continue
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or len(part) == 1:
                    raise
            free_memory()  # after the handler, because the error refers to the tensors
            self.rows_at_once = len(part) // 2
            waiting.append([row for row in part if not row.finished])
        return rows


def sample_batch(
    model: Any,
    chat: PolicyChat,
    requests: list[Request],
    config: SamplingConfig,
    distribution: Distribution | None = None,
) -> list[Sampled]:
    """Return the responses of SeededEngine to the requests, in the given order, as one batch."""
    engine = SeededEngine(model, chat, config, distribution)
    engine.rows_at_once = len(requests)
    return engine.batch(requests)
