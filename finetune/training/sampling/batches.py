"""Reproducible sampling of many responses, batch by batch.

Each response has its own seed, which is made from the seed of the run, the id of the prompt and the
number of the sample. The seed gives a uniform random number for each token. The token is the one at
which the cumulative distribution reaches this number (inverse transform sampling). So a response
depends on its own seed, and not on the other rows of its batch. There is one exception: rounding in
the model depends on the shape of a batch, so a few responses may differ with another batch size. With
the same settings, the output is the same byte for byte, even after a restart.

Legend: B rows, T tokens. Tensors carry their shape as a suffix: tokens_BT.
"""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, LogitsProcessorList

from finetune.engines.sampled_text import Prompt, SampledTextError, read_prompts
from finetune.settings import SamplingConfig
from finetune.training.models.language_model import PolicyChat, readable_length
from finetune.training.sampling.distribution import Distribution, SeededSampling
from recipes.errors import RecipeError
from recipes.machine.memory import free_memory, is_out_of_memory, peak_memory_mb
from recipes.models.chat_format import NOTES
from recipes.rundir import RunDir
from recipes.stopping import StopSignal
from recipes.training import checkpoints

FIRST_STAGE = 32
"""The number of tokens that are sampled before finished rows are dropped for the first time."""


@dataclass(frozen=True)
class Request:
    """A response that is to be sampled."""

    prompt: Prompt
    prompt_ids: list[int]
    sample: int
    seed: int
    notes: Counter[str] = field(default_factory=Counter)
    """Counts about the text of the prompt, by the keys of NOTES."""


@dataclass(frozen=True)
class Sampled:
    """A sampled response. `tokens` is the number of tokens of the output, with the end token."""

    prompt_id: str
    sample: int
    seed: int
    text: str
    tokens: int
    prompt_tokens: int
    truncated: bool


Answers = dict[tuple[str, int], Sampled]
"""Sampled responses by prompt id and sample number."""


def sample_seed(seed: int, prompt_id: str, sample: int) -> int:
    """Return a seed in [0, 2**63) that depends only on the three arguments."""
    digest = hashlib.sha256(json.dumps([seed, prompt_id, sample]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


# --- what to sample -------------------------------------------------------------------------------


def prompts_of(run_dir: RunDir) -> list[Prompt]:
    """Return the prompts of the run. Raises RecipeError if the file does not contain prompts."""
    try:
        return read_prompts(run_dir.data / "prompts.parquet")
    except SampledTextError as error:
        raise RecipeError(str(error)) from error


def plan(
    prompts: list[Prompt], chat: PolicyChat, model_config: Any, config: Any
) -> tuple[list[Request], dict[str, str]]:
    """Return the requests, and the reasons for leaving out prompts, by the id of the prompt.

    The requests with the longest prompts come first. Neighbouring requests have similar lengths, so
    there is little padding. The first requests need the most memory, so a run that does not fit into
    memory fails within its first minute.
    """
    limit = readable_length(model_config)
    longest = min(
        config.max_prompt_tokens or 10**9, 10**9 if limit is None else limit - config.max_new_tokens
    )
    requests: list[Request] = []
    left_out: dict[str, str] = {}
    for prompt in prompts:
        try:
            encoded = chat.read(prompt.messages, [])
        except ValueError as error:
            left_out[prompt.prompt_id] = str(error)
            continue
        prompt_ids = encoded.prompt.tolist()
        if len(prompt_ids) > longest:
            left_out[prompt.prompt_id] = f"longer than {max(0, longest)} tokens"
            continue
        for sample in range(config.samples_per_prompt if prompt.n is None else prompt.n):
            seed = sample_seed(config.seed, prompt.prompt_id, sample)
            requests.append(Request(prompt, prompt_ids, sample, seed, encoded.notes))
    if not requests:
        raise RecipeError(
            f"Nothing to sample. {left_out_sentence(left_out, len(prompts))} Allow shorter "
            "responses or longer prompts, or choose another model."
            if left_out
            else f"Nothing to sample: {len(prompts)} prompts request 0 responses."
        )
    return sorted(requests, key=lambda request: -len(request.prompt_ids)), left_out


def report_plan(run_dir: RunDir, requests: list[Request], left_out: dict[str, str]) -> None:
    """Emit messages about prompts that were left out or are unusual."""
    if left_out:
        total = len(left_out) + len({request.prompt.prompt_id for request in requests})
        run_dir.message(left_out_sentence(left_out, total), level="warning")
    for note, count in notes_of(requests).items():
        run_dir.message(f"In the prompts: {count} {NOTES[note]}.")


def notes_of(requests: list[Request]) -> dict[str, int]:
    """Return the sums of the counts of NOTES over all prompts."""
    of_prompts = {request.prompt.prompt_id: request.notes for request in requests}
    return dict(sum(of_prompts.values(), Counter()))


def left_out_sentence(left_out: dict[str, str], total: int) -> str:
    reasons = "; ".join(f"{count} {why}" for why, count in Counter(left_out.values()).most_common())
    some = ", ".join(list(left_out)[:5]) + (" …" if len(left_out) > 5 else "")
    return f"{len(left_out)} of {total} prompts were left out ({reasons}): {some}."


def left_out_figures(left_out: dict[str, str]) -> dict[str, Any]:
    """Return figures for the report: counts by reason, and the ids of the first thousand prompts."""
    return {
        "left_out": [
            {"what": "prompts", "why": why, "count": count}
            for why, count in sorted(Counter(left_out.values()).items())
        ],
        "left_out_prompt_ids": list(left_out)[:1000],
    }


def order_of(prompts: list[Prompt]) -> Callable[[Request], tuple[int, int]]:
    """Return a sort key that restores the order of the prompts."""
    index = {prompt.prompt_id: number for number, prompt in enumerate(prompts)}
    return lambda request: (index[request.prompt.prompt_id], request.sample)


# --- a batch --------------------------------------------------------------------------------------


def sample_batch(
    model: Any,
    chat: PolicyChat,
    requests: list[Request],
    config: SamplingConfig,
    distribution: Distribution | None = None,
) -> list[Sampled]:
    """Return the responses of one batch, in the given order. The batch is halved until it fits.

    Without a `distribution`, the temperature and top-p of the settings apply.
    """
    return [_finish(row, chat) for row in sample_rows(model, chat, requests, config, distribution)]


@torch.no_grad()
def sample_rows(
    model: Any,
    chat: PolicyChat,
    requests: list[Request],
    config: SamplingConfig,
    distribution: Distribution | None = None,
) -> list["Row"]:
    """Return the responses of one batch as tokens. `sample_batch` returns them as text."""
    distribution = distribution or Distribution.of_settings(config)
    try:
        return _sample_rows(model, chat, requests, config, distribution)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error) or len(requests) == 1:
            raise
    free_memory()
    half = len(requests) // 2
    first = sample_rows(model, chat, requests[:half], config, distribution)
    return first + sample_rows(model, chat, requests[half:], config, distribution)


def _sample_rows(
    model: Any,
    chat: PolicyChat,
    requests: list[Request],
    config: SamplingConfig,
    distribution: Distribution,
) -> list["Row"]:
    """Sample in stages of doubling length, and drop finished rows between the stages.

    Most responses are much shorter than the limit. So reading the text again at the start of a stage
    takes less time than keeping finished rows in the batch.
    """
    rows = [Row(request, config.max_new_tokens) for request in requests]
    running, upto = rows, FIRST_STAGE
    while running:
        _continue(model, chat, running, min(upto, config.max_new_tokens), distribution)
        more = upto < config.max_new_tokens
        running = [row for row in running if more and not row.ended]
        upto *= 2
    return rows


@dataclass
class Row:
    """The tokens of a response, in progress. `written` includes the token that ended it."""

    request: Request
    most: int
    written: list[int] = field(default_factory=list)
    ended: bool = False

    def __post_init__(self) -> None:
        self.uniforms_T = np.random.Generator(np.random.Philox(self.request.seed)).random(self.most)

    @property
    def ids(self) -> list[int]:
        return self.request.prompt_ids + self.written

    def extend(self, tokens: list[int], stop_ids: list[int]) -> None:
        end = next((index for index, token in enumerate(tokens) if token in stop_ids), None)
        self.ended = end is not None
        self.written += tokens if end is None else tokens[: end + 1]


def _continue(
    model: Any, chat: PolicyChat, rows: list[Row], upto: int, distribution: Distribution
) -> None:
    """Continue the rows, which have the same number of new tokens, up to `upto` tokens."""
    # The prompts of the rows have different lengths, so the rows are padded on the left.
    pad, done = chat.tokenizer.pad_token_id, len(rows[0].written)
    length = max(len(row.ids) for row in rows)
    padded = [[pad] * (length - len(row.ids)) + row.ids for row in rows]
    mask = [[0] * (length - len(row.ids)) + [1] * len(row.ids) for row in rows]
    uniforms_BT = np.stack([row.uniforms_T[done:upto] for row in rows])
    tokens_BT = model.generate(
        input_ids=torch.tensor(padded, device=model.device),
        attention_mask=torch.tensor(mask, device=model.device),
        generation_config=GenerationConfig(
            max_new_tokens=upto - done,
            do_sample=False,  # SeededSampling chooses the token
            eos_token_id=chat.stop_ids,
            pad_token_id=pad,
        ),
        logits_processor=LogitsProcessorList(
            [SeededSampling(uniforms_BT, distribution, mask, model.device)]
        ),
    )[:, length:]
    for row, tokens in zip(rows, tokens_BT.tolist(), strict=True):
        row.extend(tokens, chat.stop_ids)


def _finish(row: Row, chat: PolicyChat) -> Sampled:
    return Sampled(
        prompt_id=row.request.prompt.prompt_id,
        sample=row.request.sample,
        seed=row.request.seed,
        text=chat.response_text(row.written[:-1] if row.ended else row.written),
        tokens=len(row.written),
        prompt_tokens=len(row.request.prompt_ids),
        truncated=not row.ended,
    )


# --- shards, which a restarted run does not sample again ------------------------------------------


def sample_all(
    model: Any,
    chat: PolicyChat,
    requests: list[Request],
    config: SamplingConfig,
    *,
    run_dir: RunDir,
    name: str,
    stop: StopSignal,
    part: int = 0,
    parts: int = 1,
    distribution: Distribution | None = None,
) -> Answers:
    """Return all responses, which are sampled batch by batch.

    The progress is reported as that of `part` of `parts`. Each finished batch is written to a file in
    checkpoints/, whose name begins with `name`. The batches depend only on the config, so a restarted
    run gives the same output as an uninterrupted one.
    """
    shards = ceil(len(requests) / config.batch_size)
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
            start = number * config.batch_size
            share = requests[start : start + config.batch_size]
            batch = sample_batch(model, chat, share, config, distribution)
            with checkpoints.sealed(shard) as draft:
                draft.write_text(json.dumps([vars(sampled) for sampled in batch]))
        answers |= {(sampled.prompt_id, sampled.sample): sampled for sampled in batch}
        if not old or number == shards - 1:
            step, seconds = part * shards + number + 1, time.monotonic() - began
            emit_progress(run_dir, step, parts * shards, batch, seconds)
    return answers


def emit_progress(
    run_dir: RunDir, step: int, total: int, batch: list[Sampled], seconds: float
) -> None:
    tokens = sum(sampled.tokens for sampled in batch)
    run_dir.emit(
        "progress",
        step=step,
        total=total,
        epoch=round(step / total, 4),
        metrics=lengths(batch),
        tokens_per_s=round(tokens / max(seconds, 1e-6), 1),
        memory_mb=peak_memory_mb(),
    )


def lengths(batch: list[Sampled]) -> dict[str, float]:
    return {
        "mean_tokens": round(sum(s.tokens for s in batch) / len(batch), 2),
        "truncated": round(sum(s.truncated for s in batch) / len(batch), 4),
    }
