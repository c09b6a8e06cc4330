"""Measure how often an LLM judge agrees with the reviewers, on pairs whose order they have decided.

    python -m finetune.training.measure_judge RUN_DIR

reads   run.json (config: finetune.settings.MeasureJudgeConfig), data/pairs.json, data/judge.json,
        data/endpoint-judge.json
writes  output/report.json

The judge decides each pair twice, once in each order, with the same questions as in an evaluation
(finetune/evaluation/llm_judge.py).

Left out: searching for better instructions, because the agreement would then be measured on the pairs
that chose them.
"""

import json
import sys
import time
from collections import Counter, defaultdict
from typing import Any

from finetune.engines.remote import read_endpoint
from finetune.evaluation import llm_judge
from finetune.evaluation.llm_judge import Outcome, Pair
from finetune.settings import MeasureJudgeConfig
from recipes.errors import RecipeError
from recipes.rundir import RunDir, versions, write_json
from recipes.runner import run_recipe
from recipes.stopping import StopSignal


def measure(run_dir: RunDir, stop: StopSignal) -> None:
    """Run the recipe. Raises Stopped, RecipeError or an error of a library."""
    began = time.monotonic()
    config = MeasureJudgeConfig.from_dict(run_dir.spec()["config"])
    endpoint = read_endpoint(run_dir.data / llm_judge.ENDPOINT_FILE)
    rows = read_pairs(run_dir)
    run_dir.stage(f"Asking the judge {config.model} at {endpoint.name}")
    pairs = [Pair(row["key"], row["prompt"], row["better"], row["worse"]) for row in rows]
    outcomes, figures = llm_judge.judge_all(
        pairs,
        endpoint=endpoint,
        model=config.model,
        max_tokens=config.max_new_tokens,
        instructions=llm_judge.read_instructions(run_dir.data / llm_judge.FILE),
        run_dir=run_dir,
        stop=stop,
    )
    counts = counts_of(rows, outcomes)
    report = {
        "agreement": llm_judge.agreement_of(counts, config.seed),
        "sources": dict(Counter(row["source"] for row in rows)),
        "judge": figures,
        "by_prompt": counts,
        "seconds": round(time.monotonic() - began, 2),
        "versions": versions(),
    }
    with run_dir.publish() as output:
        write_json(output / "report.json", report)
    run_dir.emit("result", result={n: v for n, v in report.items() if n != "by_prompt"})


def read_pairs(run_dir: RunDir) -> list[dict[str, Any]]:
    path = run_dir.data / "pairs.json"
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path} cannot be read: {error}") from None


def counts_of(rows: list[dict[str, Any]], outcomes: dict[str, Outcome]) -> llm_judge.Counts:
    """Return the counts by prompt. The better response of each pair is the candidate."""
    counts: llm_judge.Counts = defaultdict(lambda: [0, 0, 0])
    for row in rows:
        verdict = outcomes[row["key"]].verdict
        if verdict is not None:
            counts[row["prompt_id"]][{1.0: 0, 0.0: 1, 0.5: 2}[verdict]] += 1
    return dict(counts)


if __name__ == "__main__":
    sys.exit(run_recipe(measure, __doc__ or "", uses_gpu=False))
