"""Sample K responses to each prompt, for people to rank.

    python -m finetune.training.generate RUN_DIR

reads   run.json (config: finetune.recipe_config.GenerateConfig), data/prompts.parquet
writes  output/responses.parquet (prompt_id, prompt, response, sample, seed, meta), output/report.json

Ancestral sampling with temperature and nucleus (Holtzman et al. 2019, arXiv:1904.09751), batched over
prompts of similar length, on one device. Left out: continuous batching and paged caches (use vLLM for
millions of responses and import its output), top-k and repetition penalties (they make text that the
model does not believe in, and DPO would learn from it), several GPUs.
"""

import json
import sys
import time
from collections import Counter
from typing import Any

from finetune.recipe_config import GenerateConfig
from finetune.sampled_text import RESPONSES, SampledTextError, read_prompts, write_rows
from finetune.training.language_model import (
    PolicyChat,
    check_vocabulary,
    load_for_sampling,
    load_tokenizer,
)
from finetune.training.sampling import (
    Sampled,
    left_out_sentence,
    plan,
    sample_in_shards,
)
from reward.training.trainer_events import (
    RecipeError,
    StopSignal,
    peak_memory_mb,
    run_recipe,
    versions,
    write_json,
)
from runs.rundir import RunDir


def generate(run_dir: RunDir, stop: StopSignal) -> None:
    """The whole run. Raises Stopped, RecipeError, or what the libraries raise."""
    began = time.monotonic()
    config = GenerateConfig.from_dict(run_dir.spec()["config"])
    try:
        prompts = read_prompts(run_dir.data / "prompts.parquet")
    except SampledTextError as error:
        raise RecipeError(str(error)) from error

    tokenizer = load_tokenizer(config.model)
    model = load_for_sampling(config.model, config.adapter, config.dtype)
    check_vocabulary(model, tokenizer, config.model)
    chat = PolicyChat(tokenizer, model.generation_config)

    requests, left_out = plan(prompts, chat, model.config, config)
    if left_out:
        run_dir.message(left_out_sentence(left_out, len(prompts)), level="warning")

    total = -(-len(requests) // config.batch_size)
    since = time.monotonic()
    done: dict[tuple[str, int], Sampled] = {}
    for number, old, batch in sample_in_shards(
        model, chat, requests, config, run_dir=run_dir, name="responses", stop=stop
    ):
        done |= {(sampled.prompt_id, sampled.sample): sampled for sampled in batch}
        if not old or number == total - 1:
            emit_progress(run_dir, number + 1, total, batch, time.monotonic() - since)
        since = time.monotonic()

    rows = [row(request, done) for request in sorted(requests, key=place_of(prompts))]
    report = {
        "prompts": len(prompts),
        "responses": len(rows),
        "left_out": [
            {"what": "prompts", "why": why, "count": count}
            for why, count in sorted(Counter(left_out.values()).items())
        ],
        "left_out_prompt_ids": list(left_out)[:1000],
        **lengths(list(done.values())),
        "seconds": round(time.monotonic() - began, 2),
        "versions": versions(),
    }
    with run_dir.publish() as output:
        write_rows(output / "responses.parquet", rows, RESPONSES)
        write_json(output / "report.json", report)
    run_dir.emit("result", result=report)


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


def place_of(prompts: list[Any]) -> Any:
    """A sorting key that puts requests back into the order of the prompts."""
    places = {prompt.prompt_id: place for place, prompt in enumerate(prompts)}
    return lambda request: (places[request.prompt.prompt_id], request.sample)


def row(request: Any, done: dict[tuple[str, int], Sampled]) -> dict[str, Any]:
    sampled = done[request.prompt.prompt_id, request.sample]
    meta = {
        "truncated": sampled.truncated,
        "tokens": sampled.tokens,
        "prompt_tokens": sampled.prompt_tokens,
    }
    return {
        "prompt_id": sampled.prompt_id,
        "prompt": request.prompt.messages,
        "response": sampled.text,
        "sample": sampled.sample,
        "seed": sampled.seed,
        "meta": json.dumps(meta),
    }


if __name__ == "__main__":
    sys.exit(run_recipe(generate, __doc__ or ""))
