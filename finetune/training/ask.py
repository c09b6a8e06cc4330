"""Ask a model on an OpenAI-compatible server for K responses to each prompt, for people to rank.

    python -m finetune.training.ask RUN_DIR

reads   run.json (config: finetune.settings.AskConfig), data/prompts.parquet, data/endpoint.json
writes  output/responses.parquet (prompt_id, prompt, response, sample, seed, meta), output/report.json

The key of the server is in the environment variable that data/endpoint.json names. Replies are kept in
checkpoints/ as they arrive, so a restarted run asks only for the missing ones. The server applies its own
chat template, and the same seed gives the same response only if the server ensures it.

Left out: streaming, because only complete responses are ranked, and batch interfaces, which few servers
have.
"""

import json
import sys
import time
from typing import Any

from finetune.engines.endpoint import EndpointEngine, question_of
from finetune.engines.engine import Request
from finetune.engines.journal import Replies, Reply, mean_tokens
from finetune.engines.remote import FILE, Sampling, read_endpoint
from finetune.engines.sampled_text import (
    Prompt,
    SampledTextError,
    read_prompts,
    responses_schema,
    sample_seed,
    write_rows,
)
from finetune.settings import AskConfig
from recipes.errors import RecipeError
from recipes.rundir import RunDir, versions, write_json
from recipes.runner import run_recipe
from recipes.stopping import StopSignal


def ask(run_dir: RunDir, stop: StopSignal) -> None:
    """Run the recipe. Raises Stopped, RecipeError or an error of a library."""
    began = time.monotonic()
    config = AskConfig.from_dict(run_dir.spec()["config"])
    endpoint = read_endpoint(run_dir.data / FILE)
    try:
        prompts = read_prompts(run_dir.data / "prompts.parquet")
    except SampledTextError as error:
        raise RecipeError(str(error)) from error
    run_dir.stage(f"Asking {config.model} at {endpoint.name}")
    requests = requests_of(prompts, config.samples_per_prompt, config.seed)
    sampling = Sampling(config.temperature, config.top_p, config.max_new_tokens)
    engine = EndpointEngine(endpoint, config.model, sampling)
    answers = engine.sample(requests, run_dir=run_dir, name="responses", stop=stop)
    replies = engine.replies
    rows = [
        row(request, answers[request.key], seeded=endpoint.seeds)
        for request in requests
        if request.key in answers
    ]
    if not rows:
        raise RecipeError(f"There is no response. {reasons(replies)}")
    if replies.missing:
        run_dir.message(
            f"{len(replies.missing)} of {len(requests)} responses are missing. {reasons(replies)}",
            level="warning",
        )
    report = {
        "prompts": len(prompts),
        "responses": len(rows),
        "left_out": replies.missing_figures(),
        "distribution": {"endpoint": endpoint.name, "model": config.model},
        "mean_tokens": mean_tokens(replies.replies.values()),
        "truncated": round(
            sum(reply.truncated for reply in replies.replies.values()) / len(rows), 4
        ),
        "usage": replies.usage.figures(endpoint),
        "seconds": round(time.monotonic() - began, 2),
        "versions": versions(),
    }
    with run_dir.publish() as output:
        write_rows(output / "responses.parquet", rows, responses_schema())
        write_json(output / "report.json", report)
    run_dir.emit("result", result=report)


def requests_of(prompts: list[Prompt], per_prompt: int, seed: int) -> list[Request]:
    """Return the request of each sample. A prompt's own `n` overrides `per_prompt`."""
    return [
        Request(prompt, [], sample, sample_seed(seed, prompt.prompt_id, sample))
        for prompt in prompts
        for sample in range(per_prompt if prompt.n is None else prompt.n)
    ]


def reasons(replies: Replies) -> str:
    """Return the reasons for missing replies with their counts, the most frequent first."""
    counts = [f"{row['count']}: {row['why']}" for row in replies.missing_figures()[:3]]
    return "Reasons: " + "; ".join(counts) + "."


def row(request: Request, reply: Reply, *, seeded: bool) -> dict[str, Any]:
    """Return the row of a response. If the server is not `seeded`, its seed is unknown."""
    meta = {
        "truncated": reply.truncated,
        "tokens": reply.tokens,
        "prompt_tokens": reply.prompt_tokens,
    }
    return {
        "prompt_id": request.prompt.prompt_id,
        "prompt": request.prompt.messages,
        "response": reply.text,
        "sample": request.sample,
        "seed": question_of(request).seed if seeded else None,
        "meta": json.dumps(meta),
    }


if __name__ == "__main__":
    sys.exit(run_recipe(ask, __doc__ or "", uses_gpu=False))
