"""The interface of generation engines, which sample responses to requests.

An engine is made for one model. `sample` returns the responses, and stores finished ones in checkpoints/ of
the run directory, so a restarted run samples only the missing ones.

seeded    finetune/training/sampling/seeded.py: batches of fixed composition. The text follows from the
          seed. The engine of evaluations, and of machines without a GPU
batched   finetune/training/sampling/batched.py: continuous batching of transformers, for GPUs
endpoint  finetune/engines/endpoint.py: an OpenAI-compatible server
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from finetune.engines.sampled_text import Prompt
from recipes.rundir import RunDir
from recipes.stopping import StopSignal


@dataclass(frozen=True)
class Request:
    """A response that is to be sampled. `prompt_ids` is empty if the engine tokenizes the prompt."""

    prompt: Prompt
    prompt_ids: list[int]
    sample: int
    seed: int
    notes: Counter[str] = field(default_factory=Counter)
    """Counts about the text of the prompt, by the keys of NOTES."""

    @property
    def key(self) -> tuple[str, int]:
        return self.prompt.prompt_id, self.sample


@dataclass(frozen=True)
class Sampled:
    """A sampled response. `tokens` is the number of tokens of the output, with the end token.

    `token_ids` are these tokens. They are empty in the files of runs of an earlier version.
    """

    prompt_id: str
    sample: int
    seed: int
    text: str
    tokens: int
    prompt_tokens: int
    truncated: bool
    token_ids: list[int] = field(default_factory=list)

    @property
    def key(self) -> tuple[str, int]:
        return self.prompt_id, self.sample


Answers = dict[tuple[str, int], Sampled]
"""Sampled responses by prompt id and sample number."""


class Engine(Protocol):
    """A model that answers requests."""

    name: str

    def sample(
        self, requests: list[Request], *, run_dir: RunDir, name: str, stop: StopSignal
    ) -> Mapping[tuple[str, int], Any]:
        """Return the responses by prompt id and sample number, each with `text` and `truncated`.

        `name` is the beginning of the names of the files in checkpoints/. Raises Stopped if the run was
        asked to stop, and RecipeError.
        """


class LocalEngine(Engine, Protocol):
    """A model on this machine that answers requests. Its responses have their tokens."""

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
        """Return all responses. The progress is reported as that of `part` of `parts`."""

    def tokens(
        self, requests: list[Request], check: Callable[[], None] = lambda: None
    ) -> list[list[int]]:
        """Return the tokens of all responses, in the given order, and call `check` now and then."""
