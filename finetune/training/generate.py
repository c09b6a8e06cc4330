"""Sample K responses to each prompt, for people to rank.

    python -m finetune.training.generate RUN_DIR

reads   run.json (config: finetune.settings.GenerateConfig), data/prompts.parquet
writes  output/responses.parquet (prompt_id, prompt, response, sample, seed, meta), output/report.json,
        output/chat.json (the options of the chat template)

The recipe draws token after token with a temperature from a nucleus (Holtzman et al. 2019,
arXiv:1904.09751). The setting `engine` selects how the responses are batched. It uses one device.

Deliberately not implemented:
- speculative decoding and quantized caches: for millions of responses, serve the model with vLLM, and ask
  it as an endpoint
- top-k and repetition penalties as settings: they change the model's distribution, and DPO would
  learn the change. With `sampling: published`, those that the model's publisher recommends are used.
- several GPUs
"""

import json
import sys
import time
from typing import Any

from finetune.engines.engine import Answers, Request
from finetune.engines.sampled_text import responses_schema, write_rows
from finetune.settings import GenerateConfig
from finetune.training.models.language_model import adapter_state, load_policy, load_tokenizer
from finetune.training.sampling.distribution import Distribution
from finetune.training.sampling.engines import make_engine
from finetune.training.sampling.progress import lengths
from finetune.training.sampling.requests import (
    left_out_figures,
    notes_of,
    order_of,
    plan,
    prompts_of,
    report_plan,
)
from recipes.machine.checks import device_of
from recipes.models.chat_options import freeze
from recipes.rundir import RunDir, versions, write_json
from recipes.runner import run_recipe
from recipes.stopping import StopSignal


def generate(run_dir: RunDir, stop: StopSignal) -> None:
    """Run the recipe. Raises Stopped, RecipeError or an error of a library."""
    began = time.monotonic()
    config = GenerateConfig.from_dict(run_dir.spec()["config"])
    prompts = prompts_of(run_dir)
    run_dir.stage("Loading the model")
    tokenizer = load_tokenizer(config.model)
    record = freeze(run_dir, config, tokenizer, sources=(config.adapter, config.model))
    model, chat = load_policy(config.model, config.adapter, config.dtype, tokenizer, record.options)
    distribution = Distribution.of_run(config)
    requests, left_out = plan(prompts, chat, model.config, config)
    report_plan(run_dir, requests, left_out)

    engine = make_engine(config.engine, model, chat, config, distribution)
    answers = engine.sample(requests, run_dir=run_dir, name="responses", stop=stop)
    rows = [row(request, answers) for request in sorted(requests, key=order_of(prompts))]
    report = {
        "prompts": len(prompts),
        "responses": len(rows),
        **left_out_figures(left_out),
        "engine": config.engine,
        "adapter": adapter_state(model, config.adapter),
        "distribution": distribution.to_dict(),
        "chat": {**record.to_dict(), "notes": notes_of(requests)},
        **lengths(list(answers.values())),
        "seconds": round(time.monotonic() - began, 2),
        "versions": versions(),
        "device": device_of(config.dtype),
    }
    with run_dir.publish() as output:
        write_rows(output / "responses.parquet", rows, responses_schema())
        record.write(output)
        write_json(output / "report.json", report)
    run_dir.emit("result", result=report)


def row(request: Request, answers: Answers) -> dict[str, Any]:
    sampled = answers[request.prompt.prompt_id, request.sample]
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
