"""Score responses with a trained reward model.

    python -m reward.training.score RUN/output IN.parquet OUT.parquet

IN is preference data (see reward/preference.py) or sampled text (`prompt`, `response` and whatever
else). OUT has the same rows and columns in the same order, with `scores`, a list beside `responses`,
or `score` added; a model of several heads adds `disagreements` or `disagreement` too, their standard
deviation. What is too long for the model gets null, never a score of a part of it.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from reward.training.layout import Collator, batches
from reward.training.model import check_shared, load_reward_model, load_tokenizer, outputs_of
from reward.training.tokens import ChatFormat, TokenGroup
from reward.training.trainer_events import RecipeError, quiet_libraries
from runs.rundir import atomically

Conversation = tuple[list[dict[str, str]], list[str]]
"""A prompt as messages, and responses to it."""

TOGETHER = 16
"""Responses of one prompt in one row: the block mask grows with the square of the row."""


class Scorer:
    """A reward model in memory. Prompts are forwarded once for all their responses where possible."""

    def __init__(self, output: str | Path, *, max_tokens: int = 8192):
        """`output` is a reward run's output/ folder; `max_tokens` bounds one forward pass.

        Raises RecipeError when the folder holds no reward model.
        """
        folder = Path(output)
        try:
            made_as = json.loads((folder / "report.json").read_text())
        except (OSError, json.JSONDecodeError) as error:
            raise RecipeError(f"{folder} is no output of a reward run: {error}.") from None
        self.tokenizer = load_tokenizer(str(folder), adapter=True)
        self.heads: int = made_as.get("outputs", {}).get("heads", 1)
        self.model = load_reward_model(
            folder, self.tokenizer, made_as["config"]["dtype"], outputs=self.heads
        )
        self.model.to("cuda" if torch.cuda.is_available() else "cpu")
        self.chat = ChatFormat(self.tokenizer)
        self.limit: int = made_as["training"]["max_tokens"]
        self.max_tokens = max_tokens
        self.collator = Collator(self.tokenizer.pad_token_id)
        self.wants_shared = made_as["training"]["layout"] == "shared"

    def score(self, conversations: Sequence[Conversation]) -> list[np.ndarray]:
        """Scores of each conversation's responses, NaN for one the model cannot read whole.

        Comparable within a prompt only.  → one (K,) float32 array a conversation
        """
        return [said.mean(axis=-1) for said in self.ask_heads(conversations)]

    def ask_heads(self, conversations: Sequence[Conversation]) -> list[np.ndarray]:
        """What each head says: their mean is the score, their spread how unsure it is.

        → one (K, N) float32 array a conversation, NaN for a response the model cannot read whole
        """
        said = [np.full((len(rs), self.heads), np.nan, np.float32) for _, rs in conversations]
        places, groups = self._tokenize(conversations)
        self._check_layout(groups)
        for batch in batches(groups, max_tokens=self.max_tokens):
            rows = outputs_of(self.model, [groups[index] for index in batch], self.collator)
            for index, row in zip(batch, rows.numpy(), strict=True):
                conversation, responses = places[index]
                said[conversation][responses] = row[: len(responses)]
        return said

    def _tokenize(
        self, conversations: Sequence[Conversation]
    ) -> tuple[list[tuple[int, list[int]]], list[TokenGroup]]:
        places, groups = [], []
        for number, (prompt, responses) in enumerate(conversations):
            try:
                head, tails = self.chat.encode(prompt, responses)
            except ValueError:
                continue
            fits = [k for k, t in enumerate(tails) if len(t) and len(head) + len(t) <= self.limit]
            for start in range(0, len(fits), TOGETHER):
                together = fits[start : start + TOGETHER]
                none = np.zeros((len(together), len(together)), dtype=np.float32)
                places.append((number, together))
                groups.append(TokenGroup(head, [tails[k] for k in together], none))
        return places, groups

    def _check_layout(self, groups: Sequence[TokenGroup]) -> None:
        shares = [group for group in groups if len(group.responses) > 1]
        self.collator.layout = "plain"
        if self.wants_shared and shares:
            longest = max(group.longest() for group in groups)
            problem = check_shared(self.model, shares[:2], self.collator.pad_id, longest=longest)
            self.collator.layout = "plain" if problem else "shared"


def score_file(scorer: Scorer, source: Path, target: Path, *, rows_at_once: int = 1024) -> int:
    """Score a Parquet file row by row into another; returns how many responses got a score.

    The target appears whole or not at all.
    """
    file = pq.ParquetFile(source)
    names = file.schema_arrow.names
    if "prompt" not in names or not {"responses", "response"} & set(names):
        raise RecipeError(f"{source} has no columns prompt and responses (or response) to score.")
    many = "responses" in names
    columns = new_columns(scorer, many)
    scored = 0
    with (
        atomically(target) as draft,
        pq.ParquetWriter(draft, with_columns(file.schema_arrow, columns)) as writer,
    ):
        for batch in file.iter_batches(batch_size=rows_at_once):
            rows = batch.to_pylist()
            said = ask_lists(scorer, rows) if many else ask_single(scorer, rows)
            figures = [[_or_nulls(heads.mean(axis=-1)) for heads in said]]
            figures.append([_or_nulls(heads.std(axis=-1)) for heads in said])
            scored += sum(value is not None for value in chain.from_iterable(figures[0]))
            added = [
                pa.array(values if many else [row[0] for row in values], type=column.type)
                for column, values in zip(columns, figures, strict=False)
            ]
            writer.write_batch(pa.record_batch([*batch.columns, *added], schema=writer.schema))
    return scored


def new_columns(scorer: Scorer, many: bool) -> list[pa.Field]:
    """Of the figures, in order; one head cannot disagree."""
    names = ["scores", "disagreements"] if many else ["score", "disagreement"]
    kind = pa.list_(pa.float32()) if many else pa.float32()
    return [pa.field(name, kind) for name in names[: 1 if scorer.heads == 1 else 2]]


def with_columns(schema: pa.Schema, columns: Sequence[pa.Field]) -> pa.Schema:
    for column in columns:
        schema = schema.append(column)
    return schema


def ask_lists(scorer: Scorer, rows: Sequence[dict[str, Any]]) -> list[np.ndarray]:
    """→ one (K, N) array a row"""
    return scorer.ask_heads([(row["prompt"], row["responses"]) for row in rows])


def ask_single(scorer: Scorer, rows: Sequence[dict[str, Any]]) -> list[np.ndarray]:
    """One response a row; rows with the same prompt are forwarded together.  → one (1, N) array a row"""
    together: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        together.setdefault(json.dumps(row["prompt"], sort_keys=True), []).append(number)
    members = list(together.values())
    found = scorer.ask_heads(
        [(rows[m[0]]["prompt"], [rows[number]["response"] for number in m]) for m in members]
    )
    said: dict[int, np.ndarray] = {}
    for numbers, values in zip(members, found, strict=True):
        said |= {number: value[None] for number, value in zip(numbers, values, strict=True)}
    return [said[number] for number in range(len(rows))]


def _or_nulls(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path, help="a reward run's output/ folder")
    parser.add_argument("source", type=Path, help="Parquet to score")
    parser.add_argument("target", type=Path, help="Parquet to write")
    options = parser.parse_args()
    quiet_libraries()
    try:
        scored = score_file(Scorer(options.output), options.source, options.target)
    except (RecipeError, OSError, pa.ArrowInvalid) as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps({"scored": scored, "written": str(options.target)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
