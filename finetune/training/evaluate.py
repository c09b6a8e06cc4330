"""Sample answers of a tuned model and its baseline to the same prompts, with the same seeds.

    python -m finetune.training.evaluate RUN_DIR

reads   run.json (config: finetune.settings.EvaluateConfig), data/prompts.parquet; with a regression set
        data/regression.parquet; for an LLM judge data/judge.json and data/endpoint-judge.json
writes  output/answers.parquet (one row per prompt and sample, with both answers), output/report.json

The recipe does not decide which answers are better. Judges do that later: people, a rule or a reward
model. If the config names a reward model, its scores are written next to the answers, and if it names
an LLM judge, its verdicts in both orders. Both models use
the same random numbers, because the seed of an answer depends only on the prompt and the number of
the sample. So a model that is compared with itself ties on every prompt, and differences have less
noise. If the baseline is on an OpenAI-compatible server, it gets the same seeds, but its randomness
differs.

Left out: metrics other than length and divergence, because a single number that is easy to compute is
easy to game.
"""

import sys
import time
from typing import Any

import numpy as np

from finetune.engines.endpoint import EndpointEngine
from finetune.engines.engine import Answers, Request
from finetune.engines.journal import Reply
from finetune.engines.remote import Sampling, read_endpoint
from finetune.engines.sampled_text import (
    REGRESSION_FILE,
    Prompt,
    SampledTextError,
    answers_schema,
    read_prompts,
    write_rows,
)
from finetune.evaluation import llm_judge
from finetune.settings import EvaluateConfig
from finetune.statistics.divergence import divergence
from finetune.statistics.means import mean_difference
from finetune.statistics.win_rate import outcome, win_rate
from finetune.training.models.language_model import load_policy, load_tokenizer
from finetune.training.sampling.distribution import Distribution
from finetune.training.sampling.divergence import Answer, answer_logps
from finetune.training.sampling.requests import (
    left_out_figures,
    notes_of,
    order_of,
    plan,
    prompts_of,
    report_plan,
)
from finetune.training.sampling.seeded import SeededEngine
from recipes.errors import RecipeError
from recipes.machine.memory import free_memory
from recipes.models.chat_options import freeze
from recipes.rundir import RunDir, write_json
from recipes.runner import provenance, run_recipe
from recipes.stopping import StopSignal
from reward.training.score import Scorer

SIDES = ("baseline", "candidate")
BASELINE_FILE = "endpoint-baseline.json"
"""The file in data/ with the declaration of the baseline's endpoint."""


def evaluate(run_dir: RunDir, stop: StopSignal) -> None:
    """Run the recipe. Raises Stopped, RecipeError or an error of a library."""
    began = time.monotonic()
    config = EvaluateConfig.from_dict(run_dir.spec()["config"])
    drawn = prompts_of(run_dir)
    prompts = drawn + regression_prompts(run_dir, drawn)
    tokenizer = load_tokenizer(config.model)
    if config.baseline_model:
        check_same_tokens(tokenizer, config.baseline_model)
    sources = (config.adapter, config.baseline_adapter, config.model, config.baseline_model)
    record = freeze(run_dir, config, tokenizer, sources=sources)
    distribution = Distribution.of_run(config)
    answers: dict[str, Any] = {}
    sides = ("candidate",) if config.baseline_name else SIDES
    for number, side in enumerate(sides):
        base, adapter = model_of(config, side)
        run_dir.stage(f"Loading the {side}")
        model, chat = load_policy(base, adapter, config.dtype, tokenizer, record.options)
        if number == 0:  # both models get the same requests
            requests, left_out = plan(prompts, chat, model.config, config)
            report_plan(run_dir, requests, left_out)
        engine = SeededEngine(model, chat, config, distribution)
        answers[side] = engine.sample(
            requests, run_dir=run_dir, name=side, stop=stop, part=number, parts=len(sides)
        )
        if side == "candidate":
            drawn_ids = {prompt.prompt_id for prompt in drawn}
            rated = [request for request in requests if request.prompt.prompt_id in drawn_ids]
            logps = answer_logps(model, own_answers(rated, answers[side]), stop)
        del model, engine
        free_memory()

    ratios = log_ratios(
        rated, answers["candidate"], logps, config, tokenizer, record, run_dir, stop
    )
    requests_to_baseline: dict[str, Any] = {}
    if config.baseline_name:
        answers["baseline"], requests_to_baseline = ask_baseline(requests, config, run_dir, stop)
        requests = [request for request in requests if request.key in answers["baseline"]]
    requests.sort(key=order_of(prompts))
    rows = [{**row(request, answers), **ratios.get(request.key, {})} for request in requests]
    if config.reward_model:
        run_dir.stage("Scoring the answers with the reward model")
        add_scores(rows, config.reward_model)
    if not of_prompts(rows, drawn):
        raise RecipeError(
            "None of the drawn prompts has two answers, only those of the regression set."
        )
    judged = add_verdicts(rows, config, run_dir, stop) if config.judge_model else {}
    report = {
        "kind": "evaluate",
        **judged,
        **requests_to_baseline,
        **figures(of_prompts(rows, drawn), config.seed),
        "prompts": len({row["prompt_id"] for row in of_prompts(rows, drawn)}),
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
        "divergence",
        "truncated",
        "identical",
        "reward_win_rate",
        "left_out",
    )
    run_dir.emit("result", result={name: report[name] for name in names})


def regression_prompts(run_dir: RunDir, drawn: list[Prompt]) -> list[Prompt]:
    """Return the prompts of the regression set that are not among the drawn ones."""
    path = run_dir.data / REGRESSION_FILE
    if not path.exists():
        return []
    ids = {prompt.prompt_id for prompt in drawn}
    try:
        return [prompt for prompt in read_prompts(path) if prompt.prompt_id not in ids]
    except SampledTextError as error:
        raise RecipeError(str(error)) from error


def of_prompts(rows: list[dict[str, Any]], prompts: list[Prompt]) -> list[dict[str, Any]]:
    """Return the rows of these prompts. The figures of the report are about the drawn ones."""
    ids = {prompt.prompt_id for prompt in prompts}
    return [row for row in rows if row["prompt_id"] in ids]


def own_answers(requests: list[Request], answers: Answers) -> list[Answer]:
    """Return the tokens of the prompts and of the answers to them."""
    return [(request.prompt_ids, answers[request.key].token_ids) for request in requests]


def log_ratios(
    requests: list[Request],
    answers: Answers,
    logps: list[float],
    config: EvaluateConfig,
    tokenizer: Any,
    record: Any,
    run_dir: RunDir,
    stop: StopSignal,
) -> dict[tuple[str, int], dict[str, float]]:
    """Return the entry of the row with the log-ratio of each answer to the reference model.

    `logps` are those of the candidate. The result is empty, with a warning, if the reference cannot be
    loaded, and also if it is the candidate itself.
    """
    reference = config.reference_model or config.model
    if reference == config.model and not config.adapter:
        return {}
    run_dir.stage("Measuring the divergence from the base model")
    try:
        if reference != config.model:
            check_same_tokens(tokenizer, reference)
        model, _ = load_policy(reference, None, config.dtype, tokenizer, record.options)
    except RecipeError as error:
        run_dir.message(
            f"The divergence from {reference} is not measured: {error}", level="warning"
        )
        return {}
    theirs = answer_logps(model, own_answers(requests, answers), stop)
    del model
    free_memory()
    return {
        request.key: {"candidate_log_ratio": own - other}
        for request, own, other in zip(requests, logps, theirs, strict=True)
        if answers[request.key].token_ids
    }


def ask_baseline(
    requests: list[Request], config: EvaluateConfig, run_dir: RunDir, stop: StopSignal
) -> tuple[dict[tuple[str, int], Reply], dict[str, Any]]:
    """Return the replies of a baseline on an endpoint by prompt and sample, and entries of the report.

    The seeds of the requests are those of the candidate, below 2³¹. A request without a reply is counted
    with its reason. Raises RecipeError if there is no reply at all.
    """
    endpoint = read_endpoint(run_dir.data / BASELINE_FILE)
    run_dir.stage(f"Asking {config.baseline_name} at {endpoint.name}")
    sampling = Sampling(config.temperature, config.top_p, config.max_new_tokens)
    engine = EndpointEngine(endpoint, config.baseline_name or "", sampling)
    answers = engine.sample(requests, run_dir=run_dir, name="asked", stop=stop)
    if not answers:
        raise RecipeError("The endpoint gave no answer to any prompt.")
    figures = engine.replies.usage.figures(endpoint)
    missing = engine.replies.missing_figures()
    return answers, {"baseline_requests": {**figures, "missing": missing}}


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


def row(request: Request, answers: dict[str, Any]) -> dict[str, Any]:
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


def add_verdicts(
    rows: list[dict[str, Any]], config: EvaluateConfig, run_dir: RunDir, stop: StopSignal
) -> dict[str, Any]:
    """Add the verdicts of the LLM judge to the rows, and return its figures as {"judge": …}."""
    endpoint = read_endpoint(run_dir.data / llm_judge.ENDPOINT_FILE)
    run_dir.stage(f"Asking the judge {config.judge_model} at {endpoint.name}")
    pairs = [
        llm_judge.Pair(
            f"{row['prompt_id']}/{row['sample']}", row["prompt"], row["candidate"], row["baseline"]
        )
        for row in rows
    ]
    outcomes, judge_figures = llm_judge.judge_all(
        pairs,
        endpoint=endpoint,
        model=config.judge_model or "",
        max_tokens=config.judge_max_tokens,
        instructions=llm_judge.read_instructions(run_dir.data / llm_judge.FILE),
        run_dir=run_dir,
        stop=stop,
    )
    for row, pair in zip(rows, pairs, strict=True):
        outcome = outcomes[pair.key]
        row["judge_candidate_first"], row["judge_baseline_first"] = outcome.both
        row["judge_verdict"] = outcome.verdict
    return {"judge": judge_figures}


def figures(rows: list[dict[str, Any]], seed: int) -> dict[str, Any]:
    lengths = [
        (r["prompt_id"], r["candidate_tokens"], r["baseline_tokens"])
        for r in rows
        if r["baseline_tokens"] is not None  # an endpoint may not report it
    ]
    scored = [
        (r["prompt_id"], outcome(r["candidate_score"], r["baseline_score"]))
        for r in rows
        if r.get("candidate_score") is not None and r.get("baseline_score") is not None
    ]
    return {
        "answers": len(rows),
        "length": mean_difference(lengths, seed=seed),
        "divergence": divergence(rows, seed),
        "truncated": {
            side: sum(r[f"{side}_truncated"] for r in rows) / len(rows) for side in SIDES
        },
        "identical": sum(r["baseline"] == r["candidate"] for r in rows) / len(rows),
        "reward_win_rate": win_rate(scored, seed=seed),
    }


if __name__ == "__main__":
    sys.exit(run_recipe(evaluate, __doc__ or ""))
