"""The models in the memory of the scorer."""

import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch
from cachetools import LRUCache

from recipes.errors import RecipeError
from recipes.machine.memory import free_memory, is_out_of_memory
from recipes.runner import quiet_libraries
from reward.scoring.rows import ScoreRow
from reward.training.score import Conversation, Scorer, Verdict, judge, output_folder
from reward.training.score_rows import figures
from reward.training.serving.process import limit_memory, log

MIN_TOKENS = 512
PROBE: Conversation = ([{"role": "user", "content": "a"}], ["b", "c"])


class ClientLeft(Exception):  # noqa: N818
    """The error if the client has disconnected, so that nobody reads the reply."""


class ModelCache:
    """The last `models` models that were used. The whole process may use `memory_mb` of memory."""

    def __init__(self, models: int, *, memory_mb: int):
        self.memory_mb = memory_mb
        self.ran_out = False
        self.loaded: LRUCache[tuple[str, int], Scorer] = LRUCache(maxsize=models)
        quiet_libraries()
        if not torch.cuda.is_available():  # CUDA reserves more address space than it uses
            limit_memory(memory_mb)

    def answer(
        self, folder: str, conversations: Sequence[Conversation], *, stop: Callable[[], bool]
    ) -> dict[str, Any]:
        """Return the reply to a request, as defined in reward/scoring/wire.py. Raises no error.

        `stop` is called before each forward pass. If it returns True, the work ends.
        """
        try:
            return self._answer(folder, conversations, stop)
        except ClientLeft:
            return {"error": "late", "text": "The client has disconnected."}
        except RecipeError as error:
            return {"error": "model", "text": str(error)}
        except Exception as error:
            if is_out_of_memory(error):
                self.ran_out = True
                text = f"The request needs more memory than the scorer's {self.memory_mb} MB."
                return {"error": "memory", "text": text}
            traceback.print_exc(file=sys.stderr)
            return {"error": "failed", "text": f"{type(error).__name__}: {error}"[:500]}

    def too_large(self) -> bool:
        """Return whether the process uses more memory than allowed, or has run out of memory."""
        return self.ran_out or psutil.Process().memory_info().rss > self.memory_mb * 2**20

    def _answer(
        self, folder: str, conversations: Sequence[Conversation], stop: Callable[[], bool]
    ) -> dict[str, Any]:
        scorer = self._scorer(output_folder(Path(folder)))
        rows = [ScoreRow(prompt, texts, many=len(texts) > 1) for prompt, texts in conversations]
        with counting_tokens(scorer, stop) as forwarded:
            verdicts = judge_in_memory(scorer, rows)
        return {
            "verdicts": [figures(v, scorer.heads, many=True) for v in verdicts],
            "limit": scorer.limit,
            "forwarded": sum(forwarded),
        }

    def _scorer(self, folder: Path) -> Scorer:
        """Return the scorer of a folder. It is loaded if necessary, or if the folder has changed.

        Raises RecipeError if the folder has no model.
        """
        key = (str(folder), _written_at(folder))
        if key not in self.loaded:
            # Unload a model before the new one is loaded, so that they are not in memory together.
            while len(self.loaded) >= self.loaded.maxsize:
                self.loaded.popitem()
                free_memory()
            started = time.monotonic()
            scorer = Scorer(folder)
            scorer.judge([PROBE])  # compares the layouts now instead of during a request
            self.loaded[key] = scorer
            log(f"{folder} is loaded, in {time.monotonic() - started:.1f} seconds.")
        return self.loaded[key]


def _written_at(folder: Path) -> int:
    try:
        return (folder / "report.json").stat().st_mtime_ns
    except OSError:
        return 0


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
