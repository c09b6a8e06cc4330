"""The reward models in the memory of the model server."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from recipes.errors import RecipeError
from recipes.machine.memory import free_memory, is_out_of_memory, module_bytes, stored_bytes
from reward.scoring.rows import ScoreRow
from reward.training.score import Conversation, Scorer, Verdict, judge, output_folder
from serving.server.engine import JobError
from serving.server.memory import ModelMemory, written_at

LoadKey = tuple[str, int]
MIN_TOKENS = 512
PROBE: Conversation = ([{"role": "user", "content": "a"}], ["b", "c"])


class ClientLeft(Exception):  # noqa: N818
    """The error if the client has disconnected, so that nobody reads the reply."""


class LoadedScorer(Scorer):
    """A reward model on the model server."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.judge([PROBE])  # compares the layouts now instead of during a request

    @property
    def nbytes(self) -> int:
        return module_bytes(self.model)


@dataclass
class Lease:
    """A reward model that a job uses until `release`."""

    scorer: LoadedScorer
    memory: ModelMemory
    key: LoadKey

    def release(self) -> None:
        self.memory.release(self.key)


def acquire(memory: ModelMemory, run: str) -> Lease:
    """Return the reward model of a run's folder. It is loaded if necessary, or if the folder has changed.

    Raises JobError if the folder has no model, and WaitForModel if other jobs use the memory.
    """
    folder = output_folder(Path(run))
    key = (str(folder), written_at(folder / "report.json"))
    try:
        scorer = memory.acquire(
            key,
            lambda: LoadedScorer(folder),
            name=f"The reward model {folder}",
            size=stored_bytes(folder),
        )
    except RecipeError as error:
        raise JobError("FAILED_PRECONDITION", str(error)) from None
    return Lease(scorer, memory, key)


def judge_in_memory(scorer: Scorer, rows: Sequence[ScoreRow]) -> list[Verdict]:
    """Return the verdicts of `score.judge`. If memory runs out, forward passes are halved."""
    while True:
        try:
            return judge(scorer, rows)
        except Exception as error:
            if not is_out_of_memory(error) or scorer.max_tokens <= MIN_TOKENS:
                raise
        free_memory()
        scorer.max_tokens //= 2


@contextmanager
def counting_tokens(
    scorer: Scorer, stop: Callable[[], bool] = lambda: False
) -> Iterator[list[int]]:
    """Yield a list that collects the number of tokens, without padding, of each forward pass.

    Before a pass, ClientLeft is raised if `stop` returns True.
    """
    counts: list[int] = []

    def count(module: Any, args: Any, inputs: dict[str, torch.Tensor]) -> None:
        if stop():
            raise ClientLeft
        segments = inputs.get("segment_ids")
        is_token = inputs["attention_mask"] > 0 if segments is None else segments >= 0
        counts.append(int(is_token.sum()))

    hook = scorer.model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield counts
    finally:
        hook.remove()
