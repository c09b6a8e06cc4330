"""Score the responses of a project with a reward model.

    python -m reward.training.score_project RUN_DIR

reads   run.json (config: reward.scoring.settings.ScoreConfig), data/responses.parquet: one prompt per
        row (prompt, response_ids, responses)
writes  output/scores.parquet: one response per row (response_id, score, uncertainty, features); the
        last three are null if the response is too long for the model; output/report.json

A prompt is forwarded once for all its responses. The scores of each batch of prompts are written to a
file in checkpoints/, so a stopped run resumes after the last batch. Several GPUs are not supported.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recipes.errors import RecipeError
from recipes.machine import faults
from recipes.machine.checks import device_of
from recipes.machine.memory import free_memory, is_out_of_memory, peak_memory_mb
from recipes.rundir import RunDir, versions, write_json
from recipes.runner import run_recipe
from recipes.stopping import StopSignal
from recipes.training import checkpoints
from reward.scoring.settings import ScoreConfig
from reward.training.features import FeatureScorer
from reward.training.score import Verdict

PROMPT_BATCH_SIZE = 256
SCORES = pa.schema(
    [
        ("response_id", pa.int64()),
        ("score", pa.float64()),
        ("uncertainty", pa.float64()),
        ("features", pa.binary()),
    ]
)


def score_all(run_dir: RunDir, stop: StopSignal) -> None:
    """Run the recipe. Raises Stopped, RecipeError or an error of a library."""
    started = time.monotonic()
    config = ScoreConfig.from_dict(run_dir.spec()["config"])
    path = run_dir.data / "responses.parquet"
    try:
        source = pq.ParquetFile(path)
    except faults.table_errors() as error:
        raise RecipeError(faults.table_problem(path, error)) from error
    total = -(-source.metadata.num_rows // PROMPT_BATCH_SIZE)
    scorer: FeatureScorer | None = None
    for number, rows in enumerate(source.iter_batches(batch_size=PROMPT_BATCH_SIZE)):
        stop.check()
        part = part_path(run_dir, number)
        checkpoints.delete_if_damaged(run_dir, part)
        if part.exists():
            continue
        scorer = scorer or load_scorer(config)
        batch_started = time.monotonic()
        scores = score_batch(scorer, rows.to_pylist(), run_dir)
        with checkpoints.sealed(part) as draft:
            pq.write_table(pa.Table.from_pylist(scores, schema=SCORES), draft)
        seconds = max(time.monotonic() - batch_started, 1e-6)
        run_dir.emit(
            "progress",
            step=number + 1,
            total=total,
            epoch=round((number + 1) / total, 4),
            metrics={"responses_per_s": round(len(scores) / seconds, 1)},
            memory_mb=peak_memory_mb(),
        )
    publish(run_dir, [part_path(run_dir, number) for number in range(total)], started)


def part_path(run_dir: RunDir, number: int) -> Path:
    return run_dir.checkpoints / f"scores-{number:06}.parquet"


def load_scorer(config: ScoreConfig) -> FeatureScorer:
    return FeatureScorer(config.reward_model, dims=config.dims, max_tokens=config.batch_tokens)


def score_batch(
    scorer: FeatureScorer, rows: Sequence[dict[str, Any]], run_dir: RunDir
) -> list[dict[str, Any]]:
    """Return a row for each response. If memory runs out, forward passes are halved."""
    while True:
        try:
            judged = scorer.judge_with_features([(r["prompt"], r["responses"]) for r in rows])
            break
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if scorer.max_tokens <= 64:
                raise RecipeError(
                    "Out of memory even with one prompt at a time. Score with a smaller model."
                ) from None
        scorer.max_tokens //= 2
        run_dir.message(
            f"Out of memory; continuing with {scorer.max_tokens} tokens per forward pass.",
            level="warning",
        )
        free_memory()
    return [
        line
        for row, (verdict, features) in zip(rows, judged, strict=True)
        for line in lines(row["response_ids"], verdict, features, heads=scorer.heads)
    ]


def lines(
    ids: Sequence[int], verdict: Verdict, features: np.ndarray, *, heads: int
) -> Iterator[dict[str, Any]]:
    """Yield a row of SCORES for each of the K responses. `features` is (K, dims)."""
    scores, spread = verdict.scores, verdict.disagreements
    for k, response in enumerate(ids):
        is_scored = bool(np.isfinite(scores[k]))
        yield {
            "response_id": response,
            "score": float(scores[k]) if is_scored else None,
            "uncertainty": float(spread[k]) if is_scored and heads > 1 else None,
            "features": features[k].astype("<f4").tobytes()
            if is_scored and features.shape[1]
            else None,
        }


def publish(run_dir: RunDir, parts: Sequence[Path], started: float) -> None:
    responses = unread = 0
    with run_dir.publish() as output:
        with pq.ParquetWriter(output / "scores.parquet", SCORES) as writer:
            for part in parts:
                table = pq.read_table(part)
                writer.write_table(table)
                responses += table.num_rows
                unread += table["score"].null_count
        report = {
            "responses": responses,
            "scored": responses - unread,
            "unread": unread,
            "seconds": round(time.monotonic() - started, 2),
            "versions": versions(),
            "device": device_of("auto"),
        }
        write_json(output / "report.json", report)
    if unread:
        run_dir.message(
            f"{unread} of {responses} responses are too long for the model and have no score.",
            level="warning",
        )
    run_dir.emit("result", result=report)


if __name__ == "__main__":
    sys.exit(run_recipe(score_all, __doc__ or ""))
