"""Sample answers of a tuned model and its baseline to the same prompts, with the same seeds.

    python -m finetune.training.evaluate RUN_DIR

reads   run.json (config: finetune.settings.EvaluateConfig), data/prompts.parquet
writes  output/answers.parquet (one row per prompt and sample, with both answers), output/report.json

The recipe does not decide which answers are better. Judges do that later: people, a rule or a reward
model. If the config names a reward model, its scores are written next to the answers. Both models use
the same random numbers, because the seed of an answer depends only on the prompt and the number of
the sample. So a model that is compared with itself ties on every prompt, and differences have less
noise.

Left out: metrics other than length, because a single number that is easy to compute is easy to game.
"""

import sys
import time
from typing import Any

import numpy as np

from finetune.engines.sampled_text import answers_schema, write_rows
from finetune.evaluation.means import mean_difference
from finetune.evaluation.win_rate import outcome, win_rate
from finetune.settings import EvaluateConfig
from finetune.training.models.language_model import load_policy, load_tokenizer
from finetune.training.sampling.batches import (
    Answers,
    Request,
    left_out_figures,
    notes_of,
    order_of,
    plan,
    prompts_of,
    report_plan,
    sample_all,
)
from finetune.training.sampling.distribution import Distribution
from recipes.errors import RecipeError
from recipes.machine.memory import free_memory
from recipes.models.chat_options import freeze
from recipes.rundir import RunDir, write_json
from recipes.runner import provenance, run_recipe
from recipes.stopping import StopSignal
from reward.training.score import Scorer

SIDES = ("baseline", "candidate")


def evaluate(run_dir: RunDir, stop: StopSignal) -> None:
    """Run the recipe. Raises Stopped, RecipeError or an error of a library."""
    began = time.monotonic()
    config = EvaluateConfig.from_dict(run_dir.spec()["config"])
    prompts = prompts_of(run_dir)
    tokenizer = load_tokenizer(config.model)
    if config.baseline_model:
        check_same_tokens(tokenizer, config.baseline_model)
    sources = (config.adapter, config.baseline_adapter, config.model, config.baseline_model)
    record = freeze(run_dir, config, tokenizer, sources=sources)
    distribution = Distribution.of_run(config)
    answers: dict[str, Answers] = {}
    for number, side in enumerate(SIDES):
        base, adapter = model_of(config, side)
        run_dir.stage(f"Loading the {side}")
        model, chat = load_policy(base, adapter, config.dtype, tokenizer, record.options)
        if number == 0:  # both models get the same requests
            requests, left_out = plan(prompts, chat, model.config, config)
            report_plan(run_dir, requests, left_out)
        answers[side] = sample_all(
            model,
            chat,
            requests,
            config,
            run_dir=run_dir,
            name=side,
            stop=stop,
            part=number,
            parts=len(SIDES),
            distribution=distribution,
        )
        del model
        free_memory()

    requests.sort(key=order_of(prompts))
    rows = [row(request, answers) for request in requests]
    if config.reward_model:
        run_dir.stage("Scoring the answers with the reward model")
        add_scores(rows, config.reward_model)
    report = {
        "kind": "evaluate",
        **figures(rows, config.seed),
        "prompts": len({request.prompt.prompt_id for request in requests}),
        **left_out_figures(left_out),
        "distribution": distribution.to_dict(),
        "chat": {**record.to_dict(), "notes": notes_of(requests)},
        **provenance(run_dir, config, started=began),
    }
    with run_dir.publish() as output:
        write_rows(output / "answers.parquet", rows, answers_schema())
        write_json(output / "report.json", report)
    names = (
        "prompts",
        "answers",
        "length",
        "truncated",
        "identical",
        "reward_win_rate",
        "left_out",
    )
    run_dir.emit("result", result={name: report[name] for name in names})


def model_of(config: EvaluateConfig, side: str) -> tuple[str, str | None]:
    """Return the model and the adapter of a side, the candidate or the baseline."""
    if side == "candidate":
        return config.model, config.adapter
    return config.baseline_model or config.model, config.baseline_adapter


def check_same_tokens(tokenizer: Any, baseline: str) -> None:
    """Raise RecipeError if the baseline has another vocabulary, with which prompts would differ."""
    if load_tokenizer(baseline).get_vocab() != tokenizer.get_vocab():
        raise RecipeError(
            f"{baseline} has another vocabulary than the candidate, so the two cannot answer with the "
            "same seeds. Compare models with the same base."
        )


def row(request: Request, answers: dict[str, Answers]) -> dict[str, Any]:
    values = {
        "prompt_id": request.prompt.prompt_id,
        "prompt": request.prompt.messages,
        "sample": request.sample,
        "seed": request.seed,
    }
    for side in SIDES:
        sampled = answers[side][request.prompt.prompt_id, request.sample]
        values[side] = sampled.text
        values[f"{side}_tokens"] = sampled.tokens
        values[f"{side}_truncated"] = sampled.truncated
    return values


def add_scores(rows: list[dict[str, Any]], reward_model: str) -> None:
    """Add the scores of both answers to the rows.

    The score is None for an answer that the reward model cannot read.
    """
    scorer = Scorer(reward_model)
    scores = scorer.score([(row["prompt"], [row[side] for side in SIDES]) for row in rows])
    for row, pair in zip(rows, scores, strict=True):
        for side, score in zip(SIDES, pair, strict=True):
            row[f"{side}_score"] = None if np.isnan(score) else float(score)


def figures(rows: list[dict[str, Any]], seed: int) -> dict[str, Any]:
    lengths = [(r["prompt_id"], r["candidate_tokens"], r["baseline_tokens"]) for r in rows]
    scored = [
        (r["prompt_id"], outcome(r["candidate_score"], r["baseline_score"]))
        for r in rows
        if r.get("candidate_score") is not None and r.get("baseline_score") is not None
    ]
    return {
        "answers": len(rows),
        "length": mean_difference(lengths, seed=seed),
        "truncated": {
            side: sum(r[f"{side}_truncated"] for r in rows) / len(rows) for side in SIDES
        },
        "identical": sum(r["baseline"] == r["candidate"] for r in rows) / len(rows),
        "reward_win_rate": win_rate(scored, seed=seed),
    }


if __name__ == "__main__":
    sys.exit(run_recipe(evaluate, __doc__ or ""))
