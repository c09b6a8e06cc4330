"""The models that the scorer holds, and what it answers with them."""

import sys
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch

from recipes.errors import RecipeError
from recipes.memory import free_memory, is_out_of_memory
from recipes.runner import quiet_libraries
from reward.scoring.rows import Asked
from reward.training.score import Conversation, Scorer, Verdict, judge, output_folder
from reward.training.score_rows import figures
from reward.training.serve import bound_memory, say

FEWEST_TOKENS = 512
PROBE: Conversation = ([{"role": "user", "content": "a"}], ["b", "c"])


class AskerLeft(Exception):  # noqa: N818
    """Nobody reads the answer any more."""


class Shelf:
    """At most `models` loaded ones, the one longest unused leaving first; all within `memory_mb`."""

    def __init__(self, models: int, *, memory_mb: int):
        self.models = models
        self.memory_mb = memory_mb
        self.spent = False
        self.loaded: OrderedDict[tuple[str, int], Scorer] = OrderedDict()
        quiet_libraries()
        if not torch.cuda.is_available():  # CUDA reserves far more addresses than it uses
            bound_memory(memory_mb)

    def answer(
        self, folder: str, conversations: Sequence[Conversation], *, stop: Callable[[], bool]
    ) -> dict[str, Any]:
        """A message of reward/scoring/wire.py; raises nothing, so that one question cannot end the rest.

        `stop` is asked before each forward pass.
        """
        try:
            return self._answer(folder, conversations, stop)
        except AskerLeft:
            return {"error": "late", "text": "The client has disconnected."}
        except RecipeError as error:
            return {"error": "model", "text": str(error)}
        except Exception as error:
            if is_out_of_memory(error):
                self.spent = True
                text = f"The scorer has no memory for it; it may use {self.memory_mb} MB."
                return {"error": "memory", "text": text}
            traceback.print_exc(file=sys.stderr)
            return {"error": "failed", "text": f"{type(error).__name__}: {error}"[:500]}

    def too_large(self) -> bool:
        """Whether it holds more than it may, or has once run out."""
        return self.spent or psutil.Process().memory_info().rss > self.memory_mb * 2**20

    def _answer(
        self, folder: str, conversations: Sequence[Conversation], stop: Callable[[], bool]
    ) -> dict[str, Any]:
        scorer = self._scorer(output_folder(Path(folder)))
        rows = [Asked(prompt, texts, many=len(texts) > 1) for prompt, texts in conversations]
        with counted(scorer, stop) as forwarded:
            verdicts = judge_within(scorer, rows)
        return {
            "verdicts": [figures(v, scorer.heads, many=True) for v in verdicts],
            "limit": scorer.limit,
            "forwarded": sum(forwarded),
        }

    def _scorer(self, folder: Path) -> Scorer:
        """Raises RecipeError when there is no model. A folder that was rewritten is read again."""
        key = (str(folder), _written_at(folder))
        if key not in self.loaded:
            while len(self.loaded) >= self.models:
                self.loaded.popitem(last=False)
                free_memory()
            started = time.monotonic()
            scorer = Scorer(folder)
            scorer.judge([PROBE])  # compares the layouts now, and not in front of a question
            self.loaded[key] = scorer
            say(f"{folder} is loaded, in {time.monotonic() - started:.1f} seconds.")
        self.loaded.move_to_end(key)
        return self.loaded[key]


def _written_at(folder: Path) -> int:
    try:
        return (folder / "report.json").stat().st_mtime_ns
    except OSError:
        return 0


def judge_within(scorer: Scorer, rows: Sequence[Asked]) -> list[Verdict]:
    """As `score.judge`, with fewer tokens at once where memory does not hold as many."""
    while True:
        try:
            return judge(scorer, rows)
        except Exception as error:
            if not is_out_of_memory(error) or scorer.max_tokens <= FEWEST_TOKENS:
                raise
        free_memory()
        scorer.max_tokens //= 2


@contextmanager
def counted(scorer: Scorer, stop: Callable[[], bool] = lambda: False) -> Iterator[list[int]]:
    """The tokens of each forward pass in the block, without padding.

    Raises AskerLeft before the first pass at which `stop` is true.
    """
    counts: list[int] = []

    def count(module: Any, args: Any, inputs: dict[str, torch.Tensor]) -> None:
        if stop():
            raise AskerLeft
        segments = inputs.get("segment_ids")
        shown = inputs["attention_mask"] > 0 if segments is None else segments >= 0
        counts.append(int(shown.sum()))

    hook = scorer.model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield counts
    finally:
        hook.remove()
