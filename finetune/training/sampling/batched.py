"""The engine `batched`: continuous batching of transformers, for GPUs.

As soon as a response ends, the next one takes its place, so the GPU is never left with the few longest
responses of a batch. The keys and values are stored in pages, and responses to the same prompt share
those of the prompt: the first response to a prompt forwards it, and the others start after that.

The tokens are drawn as `seeded` draws them, with the seed of the response. So a response does not depend
on the others, except for rounding, which depends on the responses that are forwarded together. The time
at which a response ends changes these, so a repeated run may give other texts, mostly in bfloat16. An
evaluation needs the same text every time, so it uses `seeded`.

Before the first response, the log-probabilities of a few tokens are compared with those of a plain forward
pass, because some families of models compute something else in pages without an error.

transformers would fetch attention kernels from a hub if the package `kernels` is installed. That is turned
off here. On a GPU, FlashAttention is used if its package is installed and the number format allows it, and
PyTorch's attention otherwise.

Each finished response is added to a journal in checkpoints/, so a restarted run samples only the missing
ones. If memory runs out, the unfinished responses continue with the tokens that they have.

Legend: B rows, V vocabulary, N responses, T tokens of the longest response.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import ceil
from typing import Any
from weakref import WeakSet

import numpy as np
import torch
from transformers import ContinuousBatchingConfig, GenerationConfig, LogitsProcessorList
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
    ContinuousBatchingLogitsProcessorList,
)
from transformers.utils import is_flash_attn_2_available

from finetune.engines.engine import Answers, Request, Sampled
from finetune.engines.journal import Journal
from finetune.settings import SamplingConfig
from finetune.training.models.language_model import PolicyChat
from finetune.training.sampling.decoding import Row, finish
from finetune.training.sampling.distribution import Distribution, draw
from finetune.training.sampling.local import OwnModel
from finetune.training.sampling.progress import emit_progress
from recipes.errors import RecipeError
from recipes.layout.families import MAX_LAYOUT_DIFFERENCE
from recipes.machine.memory import free_memory, is_out_of_memory
from recipes.rundir import RunDir
from recipes.stopping import StopSignal

TOKENS_AT_ONCE = 2048
"""The maximum number of tokens, mostly of prompts, in a forward pass."""
PAGE = 32
"""Tokens per page of the cache. Responses to a prompt share its full pages."""
TABLE_NUMBERS = 2**24
"""The maximum of random numbers on the device, 128 MB. More responses are sampled in several parts."""
CHECKED = 4
"""The number of tokens whose log-probabilities are checked."""
CHECKED_MODELS: WeakSet[Any] = WeakSet()
"""The models in memory that have been checked. Training changes only their weights."""
RELEVANT = 10.0
"""Tokens are checked if their log-probability is at most this many nats below the highest one."""
PATIENCE = 1.0
"""Seconds between two checks of the stop signal while no response ends."""


class BatchedEngine(OwnModel):
    """A model that samples up to `batch_size` responses at the same time, or fewer after memory ran out.

    Raises RecipeError if the distribution has a repetition penalty, and at the first response if continuous
    batching does not work with the model.
    """

    name = "batched"

    def __init__(
        self,
        model: Any,
        chat: PolicyChat,
        config: SamplingConfig,
        distribution: Distribution | None = None,
    ):
        plain = model.get_base_model() if hasattr(model, "get_base_model") else model
        super().__init__(plain, chat, config, distribution)
        if self.distribution.repetition_penalty != 1:
            raise RecipeError(
                "The engine batched does not support a repetition penalty, which the published sampling "
                "of this model has. Set engine to seeded, or sampling to settings."
            )

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
        """Return all responses. Those in the journal `name` of an interrupted run are not sampled again.

        The progress is reported as that of `part` of `parts`.
        """
        journal = AnswerJournal(run_dir, name)
        rows_at_once, total = self.rows_at_once, len(requests)
        recent: list[Sampled] = []
        began = time.monotonic()

        def add(row: Row) -> None:
            nonlocal recent, began
            sampled = finish(row, self.chat)
            journal.add(vars(sampled))
            recent.append(sampled)
            step = len(journal.answers)
            if len(recent) >= self.config.batch_size or step == total:
                seconds, began = time.monotonic() - began, time.monotonic()
                emit_progress(run_dir, part * total + step, parts * total, recent, seconds)
                recent = []

        try:
            missing = [request for request in requests if request.key not in journal.answers]
            self._finish_rows(missing, stop.check, add)
        finally:
            journal.close()
        if self.rows_at_once < rows_at_once:
            run_dir.message(
                f"Memory ran out. At most {self.rows_at_once} responses were sampled at the same time."
            )
        return {request.key: journal.answers[request.key] for request in requests}

    def tokens(
        self, requests: list[Request], check: Callable[[], None] = lambda: None
    ) -> list[list[int]]:
        """Return the tokens of all responses, in the given order. Calls `check` now and then."""
        return [row.written for row in self._finish_rows(requests, check, lambda row: None)]

    # --- rows -------------------------------------------------------------------------------------

    def _finish_rows(
        self, requests: list[Request], check: Callable[[], None], done: Callable[[Row], None]
    ) -> list[Row]:
        """Return the finished rows, and call `done` with each as soon as it is finished."""
        rows = [Row(request, self.config.max_new_tokens) for request in requests]
        if rows and self.model not in CHECKED_MODELS and self._is_checked(requests[0]):
            CHECKED_MODELS.add(self.model)
        at_once = max(1, TABLE_NUMBERS // self.config.max_new_tokens)
        for start in range(0, len(rows), at_once):
            unfinished = rows[start : start + at_once]
            while unfinished:
                check()
                self._run(unfinished, SeededRows(unfinished, self.distribution), check, done)
                unfinished = [row for row in unfinished if not row.finished]
                if unfinished:  # memory ran out
                    free_memory()
                    self.rows_at_once = max(1, min(self.rows_at_once, len(unfinished)) // 2)
        return rows

    @torch.no_grad()
    def _is_checked(self, request: Request) -> bool:
        """Return whether the log-probabilities were compared with those of a plain forward pass.

        Raises RecipeError if they differ. If memory runs out, the result is False.
        """
        row = Row(request, min(CHECKED, self.config.max_new_tokens))
        recorder = SeededRows([row], self.distribution)
        recorder.recorded = []
        self._run([row], recorder, lambda: None, lambda row: None)
        if not row.finished:
            return False
        ids = torch.tensor([row.ids], device=self.model.device)
        logits_TV = self.model(input_ids=ids, use_cache=False).logits[0, -len(row.written) - 1 : -1]
        own_TV = logits_TV.float().log_softmax(dim=-1)
        theirs_TV = torch.cat(recorder.recorded).float().log_softmax(dim=-1)
        chosen_TV = own_TV > own_TV.max(dim=-1, keepdim=True).values - RELEVANT
        difference = float((theirs_TV - own_TV)[chosen_TV].abs().max())
        limit = RELEVANT * MAX_LAYOUT_DIFFERENCE.get(
            self.model.dtype, MAX_LAYOUT_DIFFERENCE[torch.bfloat16]
        )
        if not difference <= limit:
            raise unsupported(
                f"its log-probabilities differ by up to {difference:.2g} nats from those of the model"
            )
        return True

    def _run(
        self,
        rows: list[Row],
        processor: "SeededRows",
        check: Callable[[], None],
        done: Callable[[Row], None],
    ) -> None:
        """Continue the rows until all are finished or memory runs out.

        Raises RecipeError if another error ends the loop, or if memory does not suffice for one row.
        """
        numbers = {str(index): row for index, row in enumerate(rows)}
        before = {name: len(row.written) for name, row in numbers.items()}
        followers = followers_of(rows)
        with self._manager(rows, processor) as manager:

            def submit(name: str) -> None:
                row = numbers[name]
                manager.add_request(
                    row.ids,
                    request_id=name,
                    max_new_tokens=row.most - len(row.written),
                    eos_token_id=self.chat.stop_ids,
                    streaming=name in followers,
                    row=int(name),
                )

            for name in followers:
                submit(name)
            ended = 0
            while ended < len(rows):
                check()
                output = manager.get_result(timeout=PATIENCE)
                if output is None:
                    if not manager.is_running():
                        break
                    continue
                row = numbers[output.request_id]
                row.written[before[output.request_id] :] = output.generated_tokens
                row.ended = bool(row.written) and row.written[-1] in self.chat.stop_ids
                for name in followers.pop(output.request_id, ()):
                    submit(name)
                if row.finished and not output.error:
                    ended += 1
                    done(row)
            else:
                return
            error = manager.background_thread_status.fatal_error
        if error is None or not is_out_of_memory(error):
            raise unsupported(f"{type(error).__name__}: {str(error)[:200]}")
        if self.rows_at_once == 1:
            raise error

    @contextmanager
    def _manager(self, rows: list[Row], processor: "SeededRows") -> Iterator[Any]:
        """Yield the running loop of continuous batching for these rows."""
        attention = self.model.config._attn_implementation
        try:
            if self._has_flash_attention():
                self.model.set_attn_implementation("flash_attention_2")
            with quiet_logs():
                manager = self._new_manager(rows, processor)
                try:
                    manager.start()
                    yield manager
                finally:
                    manager.stop(block=True, hard_stop=True)
                    manager.destroy()
        finally:
            if self.model.config._attn_implementation != attention:
                self.model.set_attn_implementation(attention)

    def _has_flash_attention(self) -> bool:
        half = self.model.dtype in (torch.bfloat16, torch.float16)
        return self.model.device.type == "cuda" and half and is_flash_attn_2_available()

    def _new_manager(self, rows: list[Row], processor: "SeededRows") -> Any:
        """Return the loop, which is not started. Raises RecipeError if it does not fit the model."""
        try:
            manager = self.model.init_continuous_batching(
                GenerationConfig(
                    max_new_tokens=self.config.max_new_tokens,
                    do_sample=False,  # the processor chooses the token
                    eos_token_id=self.chat.stop_ids,
                    pad_token_id=self.chat.tokenizer.pad_token_id,
                ),
                self._settings(rows),
            )
        except (AttributeError, NotImplementedError, ValueError) as error:
            raise unsupported(f"{type(error).__name__}: {str(error)[:200]}") from error
        processor.put_on(self.model.device)
        processors = ContinuousBatchingLogitsProcessorList(LogitsProcessorList([processor]))
        processors.tensors_required = 1
        manager.logit_processor = processors
        return manager

    def _settings(self, rows: list[Row]) -> ContinuousBatchingConfig:
        """Return the settings of the loop, with a cache that is just large enough for the rows.

        By default, transformers would fill the memory with the cache, which a policy in training needs
        again. CUDA graphs would be captured again for each call.
        """
        at_once = min(self.rows_at_once, len(rows))
        longest = max(len(row.request.prompt_ids) + row.most for row in rows)
        return ContinuousBatchingConfig(
            page_size=PAGE,
            max_requests_per_batch=at_once,
            num_blocks=at_once * (ceil(longest / PAGE) + 1),
            max_batch_tokens=max(TOKENS_AT_ONCE, at_once),
            max_memory_percent=0.9,
            use_cuda_graph=False,
            use_async_batching=False,  # it would store the cache's inputs twice
            auto_switch_to_flash=False,  # it would fetch kernels from a hub
            per_request_processors=True,
        )


def unsupported(why: str) -> RecipeError:
    return RecipeError(
        f"Continuous batching does not work with this model ({why}). Set engine to seeded."
    )


def followers_of(rows: list[Row]) -> dict[str, list[str]]:
    """Return the first row of each different text, with the further rows of the same text, by index."""
    first: dict[tuple[int, ...], str] = {}
    followers: dict[str, list[str]] = {}
    for index, row in enumerate(rows):
        leader = first.setdefault(tuple(row.ids), str(index))
        if leader == str(index):
            followers[leader] = []
        else:
            followers[leader].append(str(index))
    return followers


class SeededRows(ContinuousBatchingLogitsProcessor):
    """A processor that leaves one possible token per request, chosen by the request's random number.

    The requests have the index of their row as `row`. The numbers of all rows are on the device as (N·T,).
    The argument of a token is the index of its number. If `recorded` is a list, each call adds its logits.
    """

    supported_kwargs = {"row": int}
    ignored_kwargs = ()

    def __init__(self, rows: list[Row], distribution: Distribution):
        self.recorded: list[torch.Tensor] | None = None
        self.distribution = distribution
        self.longest = max(row.most for row in rows)
        self.prompt_tokens = [len(row.request.prompt_ids) for row in rows]
        self.numbers = torch.tensor(np.stack([row.uniforms_T for row in rows]).reshape(-1))

    def put_on(self, device: torch.device) -> None:
        self.numbers = self.numbers.to(device)

    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: list[Any]) -> torch.Tensor:
        return torch.tensor(
            [self._index(request.state) for request in requests_with_new_token], dtype=torch.int32
        )

    def _index(self, state: Any) -> int:
        row = state.logit_processor_kwargs.get("row", 0)  # requests of the warm-up have none
        # The offset is the number of tokens before the one that is drawn. It stays right if the loop
        # removes a request to make room and forwards it again later.
        return row * self.longest + max(0, state.position_offset - self.prompt_tokens[row])

    def __call__(self, scores: torch.Tensor, tensor_arg: torch.Tensor) -> torch.Tensor:
        if self.recorded is not None:
            self.recorded.append(scores.clone())
        uniform_B1 = self.numbers[tensor_arg[: scores.shape[0]].long()].unsqueeze(1)
        token_B1 = draw(
            scores,
            uniform_B1,
            temperature=self.distribution.temperature,
            top_p=self.distribution.top_p,
            top_k=self.distribution.top_k,
            min_p=self.distribution.min_p,
        )
        return torch.full_like(scores, -torch.inf).scatter_(1, token_B1, 0.0)


class AnswerJournal(Journal):
    """A journal of finished responses. `answers` are those in it."""

    what = "responses"

    def __init__(self, run_dir: RunDir, name: str):
        self.answers: Answers = {}
        super().__init__(run_dir, name)

    def keep(self, line: dict[str, Any]) -> None:
        sampled = Sampled(**line)
        self.answers[sampled.key] = sampled

    def count(self) -> int:
        return len(self.answers)


@contextmanager
def quiet_logs() -> Iterator[None]:
    """Hide the log of the loop, whose errors are reported with a sentence of the run."""
    logger = logging.getLogger("ContinuousBatchingLogger")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
