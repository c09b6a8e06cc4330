"""Files of prompts and sampled answers. This module needs pyarrow, but neither Django nor torch.

pyarrow is imported on first use, because it takes 30 MB of memory.

prompts.parquet    prompt_id, prompt [{role, content}], and optionally n, the number of answers
regression.parquet the same, for the prompts of a regression set
responses.parquet  prompt_id, prompt, response, sample, seed, meta (JSON: truncated, tokens)
answers.parquet    one row per prompt and sample, with the answers of both models, the log-ratio of the
                   candidate's answer to its base model in nats, and the verdicts of an LLM judge in both
                   orders: candidate, baseline, TIE, unreadable or null
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.machine import faults
from recipes.preferences.groups import messages_type
from recipes.rundir import atomically

if TYPE_CHECKING:
    import pyarrow as pa


REGRESSION_FILE = "regression.parquet"
"""The file with the prompts of a regression set, like prompts.parquet."""


@cache
def prompts_schema() -> "pa.Schema":
    """Return the schema of prompts.parquet."""
    import pyarrow as pa

    return pa.schema([("prompt_id", pa.string()), ("prompt", messages_type()), ("n", pa.int64())])


@cache
def responses_schema() -> "pa.Schema":
    """Return the schema of responses.parquet."""
    import pyarrow as pa

    return pa.schema(
        [
            ("prompt_id", pa.string()),
            ("prompt", messages_type()),
            ("response", pa.string()),
            ("sample", pa.int64()),
            ("seed", pa.int64()),
            ("meta", pa.string()),
        ]
    )


@cache
def answers_schema() -> "pa.Schema":
    """Return the schema of answers.parquet."""
    import pyarrow as pa

    return pa.schema(
        [
            ("prompt_id", pa.string()),
            ("prompt", messages_type()),
            ("sample", pa.int64()),
            ("seed", pa.int64()),
            ("baseline", pa.string()),
            ("candidate", pa.string()),
            ("baseline_tokens", pa.int64()),
            ("candidate_tokens", pa.int64()),
            ("baseline_truncated", pa.bool_()),
            ("candidate_truncated", pa.bool_()),
            ("candidate_log_ratio", pa.float64()),
            ("baseline_score", pa.float64()),
            ("candidate_score", pa.float64()),
            ("judge_candidate_first", pa.string()),
            ("judge_baseline_first", pa.string()),
            ("judge_verdict", pa.float64()),
        ]
    )


class SampledTextError(ValueError):
    """A file without the expected contents. The text names the file and the reason."""


@dataclass(frozen=True)
class Prompt:
    """A chat to answer. `n` is the number of answers, or None if the settings of the run give it."""

    prompt_id: str
    messages: list[dict[str, str]]
    n: int | None = None


def sample_seed(seed: int, prompt_id: str, sample: int) -> int:
    """Return a seed in [0, 2**63) that depends only on the three arguments."""
    digest = hashlib.sha256(json.dumps([seed, prompt_id, sample]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def write_prompts(path: str | Path, prompts: Iterable[Prompt]) -> int:
    rows = [{"prompt_id": p.prompt_id, "prompt": p.messages, "n": p.n} for p in prompts]
    write_rows(path, rows, prompts_schema())
    return len(rows)


def read_prompts(path: str | Path) -> list[Prompt]:
    """Return the prompts of a file.

    Raises SampledTextError if a column is missing, an id occurs twice or a chat is empty.
    """
    prompts = [
        Prompt(row["prompt_id"], row["prompt"], row.get("n"))
        for row in read_rows(path, required=("prompt_id", "prompt"))
    ]
    ids: set[str] = set()
    for prompt in prompts:
        if prompt.prompt_id in ids:
            raise SampledTextError(f"{path} holds the prompt {prompt.prompt_id} twice.")
        if not prompt.messages:
            raise SampledTextError(f"{path}: the prompt {prompt.prompt_id} has no messages.")
        ids.add(prompt.prompt_id)
    return prompts


def read_rows(path: str | Path, required: Iterable[str] = ()) -> list[dict[str, Any]]:
    """Return all rows. Raises SampledTextError if the file or a required column is missing."""
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
        rows = table.to_pylist()
    except faults.table_errors() as error:
        raise SampledTextError(faults.table_problem(path, error)) from None
    missing = [name for name in required if name not in table.column_names]
    if missing:
        raise SampledTextError(f"{path} lacks the column {', '.join(missing)}.")
    return rows


def write_rows(path: str | Path, rows: list[dict[str, Any]], schema: "pa.Schema") -> None:
    """Write a Parquet file atomically. If a row lacks a column, its value is null."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with atomically(Path(path)) as draft:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), draft, compression="zstd")
