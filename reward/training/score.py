"""Score responses with a trained reward model.

    python -m reward.training.score RUN/output IN.parquet OUT.parquet

IN is preference data (see recipes/preferences/groups.py) or sampled text (`prompt`, `response` and whatever
else). OUT has the same rows and columns in the same order, with `scores`, a list beside `responses`,
or `score` added; a model of several heads adds `disagreements` or `disagreement` too, their standard
deviation, and one that scores criteria `scores_NAME` or `score_NAME` for each. What is too long for the model gets null, never a score of a part of it.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from recipes import faults
from recipes.errors import RecipeError
from recipes.layout.collate import Collator, cut
from recipes.layout.families import check_shared, window_problem
from recipes.preferences.tokens import ChatFormat, TokenGroup
from recipes.rundir import atomically
from recipes.runner import quiet_libraries
from reward.scoring.rows import Asked
from reward.training.model import load_reward_model, load_tokenizer, outputs_of

Conversation = tuple[list[dict[str, str]], list[str]]
"""A prompt as messages, and responses to it."""

TOGETHER = 16
"""Responses of one prompt in one row: the block mask grows with the square of the row."""

CHARACTERS_A_TOKEN = 64
"""A text of more characters a token, or more than the vocabulary's longest, is too long unread."""


def output_folder(run: Path) -> Path:
    """A run directory's output/, or the folder itself."""
    return run / "output" if (run / "output").is_dir() else run


def read_report(folder: Path) -> dict[str, Any]:
    """Raises RecipeError when the folder is not the output of a reward run."""
    try:
        return json.loads((folder / "report.json").read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise RecipeError(f"{folder} is not the output of a reward run: {error}.") from None


@dataclass(frozen=True)
class Verdict:
    """Of one conversation's K responses: what each of N heads and C criteria say."""

    heads: np.ndarray  # (K, N) float32
    criteria: np.ndarray  # (K, C) float32

    @property
    def scores(self) -> np.ndarray:
        """(K,)"""
        return self.heads.mean(axis=-1)

    @property
    def disagreements(self) -> np.ndarray:
        """Standard deviation over the heads; 0 where there is one.  → (K,)"""
        return self.heads.std(axis=-1)

    def row(self, k: int) -> "Verdict":
        """The verdict on one response alone."""
        return Verdict(self.heads[k : k + 1], self.criteria[k : k + 1])

    def figures(self) -> list[list[float | None]]:
        """Scores, disagreements and each criterion, null for NaN."""
        columns = [self.scores, self.disagreements, *self.criteria.T]
        return [[None if np.isnan(v) else float(v) for v in column] for column in columns]


class Scorer:
    """A reward model in memory. Prompts are forwarded once for all their responses where possible."""

    def __init__(self, output: str | Path, *, max_tokens: int = 8192):
        """`output` is a reward run's output/ folder; `max_tokens` bounds one forward pass.

        Raises RecipeError when the folder holds no reward model.
        """
        folder = Path(output)
        made_as = read_report(folder)
        self.tokenizer = load_tokenizer(str(folder), adapter=True)
        outputs = made_as.get("outputs", {})
        self.heads: int = outputs.get("heads", 1)
        self.criteria: list[str] = outputs.get("criteria", [])
        self.model = load_reward_model(
            folder,
            self.tokenizer,
            made_as["config"]["dtype"],
            heads=self.heads,
            criteria=len(self.criteria),
        )
        self.model.to("cuda" if torch.cuda.is_available() else "cpu")
        self.chat = ChatFormat(self.tokenizer)
        self.limit: int = made_as["training"]["max_tokens"]
        self.max_tokens = max_tokens
        longest = max(map(len, self.tokenizer.get_vocab()), default=0)
        self.characters_a_token = max(longest, CHARACTERS_A_TOKEN)
        self.collator = Collator(self.tokenizer.pad_token_id)
        self.wants_shared = made_as["training"]["layout"] == "shared"
        self._holds: bool | None = None
        self.width: int = self.heads + len(self.criteria)
        """Numbers that a response gets."""

    def score(self, conversations: Sequence[Conversation]) -> list[np.ndarray]:
        """Scores of each conversation's responses, NaN for one the model cannot read whole.

        Comparable within a prompt only.  → one (K,) float32 array a conversation
        """
        return [verdict.scores for verdict in self.judge(conversations)]

    def judge(self, conversations: Sequence[Conversation]) -> list["Verdict"]:
        """Scores, how far the heads lie apart, and the criteria, with NaN as in `score`."""
        end = self.heads + len(self.criteria)
        return [
            Verdict(said[:, : self.heads], said[:, self.heads : end])
            for said in self._ask(conversations)
        ]

    def _ask(self, conversations: Sequence[Conversation]) -> list[np.ndarray]:
        """→ one (K, N + C) float32 array a conversation"""
        said = [np.full((len(rs), self.width), np.nan, np.float32) for _, rs in conversations]
        places, groups = self._tokenize(conversations)
        self._check_layout(groups)
        sizes = [self.collator.tokens(group) for group in groups]
        for batch in cut(sizes, max_tokens=self.max_tokens):
            rows = self._forward([groups[index] for index in batch])
            for index, row in zip(batch, rows, strict=True):
                conversation, responses = places[index]
                said[conversation][responses] = row[: len(responses)]
        return said

    def _forward(self, groups: Sequence[TokenGroup]) -> np.ndarray:
        """→ (G, K, width) float32"""
        return outputs_of(self.model, groups, self.collator).numpy()

    def _tokenize(
        self, conversations: Sequence[Conversation]
    ) -> tuple[list[tuple[int, list[int]]], list[TokenGroup]]:
        places, groups = [], []
        for number, (prompt, responses) in enumerate(conversations):
            readable = [k for k, text in enumerate(responses) if self._may_fit(prompt, text)]
            if not readable:
                continue
            try:
                head, ends = self.chat.encode(prompt, [responses[k] for k in readable])
            except ValueError:
                continue
            tails = dict(zip(readable, ends, strict=True))
            fits = [k for k, t in tails.items() if len(t) and len(head) + len(t) <= self.limit]
            for start in range(0, len(fits), TOGETHER):
                together = fits[start : start + TOGETHER]
                none = np.zeros((len(together), len(together)), dtype=np.float32)
                places.append((number, together))
                groups.append(TokenGroup(head, [tails[k] for k in together], none))
        return places, groups

    def _may_fit(self, prompt: list[dict[str, str]], response: str) -> bool:
        """Tell from the number of characters, since tokenizing a long text takes a second."""
        characters = len(response) + sum(len(turn["content"]) for turn in prompt)
        return characters <= self.limit * self.characters_a_token

    def _check_layout(self, groups: Sequence[TokenGroup]) -> None:
        """Both layouts are compared once, on the first prompt that has several responses."""
        shares = [group for group in groups if len(group.responses) > 1]
        self.collator.layout = "plain"
        longest = max((group.longest() for group in groups), default=0)
        if not self.wants_shared or not shares or window_problem(self.model.config, longest):
            return
        if self._holds is None:
            pad_id = self.collator.pad_id
            self._holds = not check_shared(self.model, shares[:2], pad_id, longest=longest)
        self.collator.layout = "shared" if self._holds else "plain"


def score_file(scorer: Scorer, source: Path, target: Path, *, rows_at_once: int = 1024) -> int:
    """Score a Parquet file row by row into another; returns how many responses got a score.

    The target appears whole or not at all.
    """
    try:
        file = pq.ParquetFile(source)
    except faults.TABLE_ERRORS as error:
        raise RecipeError(faults.table_problem(source, error)) from error
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
            said = judge(scorer, [asked_in(row, many) for row in batch.to_pylist()])
            scored += sum(int(np.isfinite(verdict.scores).sum()) for verdict in said)
            figures = [verdict.figures() for verdict in said]
            added = [
                pa.array([f[place] if many else f[place][0] for f in figures], type=column.type)
                for place, column in columns
            ]
            writer.write_batch(pa.record_batch([*batch.columns, *added], schema=writer.schema))
    return scored


def new_columns(scorer: Scorer, many: bool) -> list[tuple[int, pa.Field]]:
    """Which of `Verdict.figures` are written, and as what; one head cannot disagree."""
    score, apart = ("scores", "disagreements") if many else ("score", "disagreement")
    names = [score, apart, *(f"{score}_{name}" for name in scorer.criteria)]
    kind = pa.list_(pa.float32()) if many else pa.float32()
    fields = [(place, pa.field(name, kind)) for place, name in enumerate(names)]
    return [field for field in fields if scorer.heads > 1 or field[0] != 1]


def with_columns(schema: pa.Schema, columns: Sequence[tuple[int, pa.Field]]) -> pa.Schema:
    for _, column in columns:
        schema = schema.append(column)
    return schema


def asked_in(row: dict[str, Any], many: bool) -> Asked:
    return Asked(row["prompt"], row["responses"] if many else [row["response"]], many)


def judge(scorer: Scorer, rows: Sequence[Asked]) -> list[Verdict]:
    """One verdict a row; single responses to the same prompt are forwarded together."""
    together: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        alone = f"{number} " if row.many else ""
        together.setdefault(alone + json.dumps(row.prompt, sort_keys=True), []).append(number)
    members = list(together.values())
    found = scorer.judge(
        [(rows[m[0]].prompt, [r for number in m for r in rows[number].responses]) for m in members]
    )
    said: dict[int, Verdict] = {}
    for numbers, verdict in zip(members, found, strict=True):
        if rows[numbers[0]].many:
            said[numbers[0]] = verdict
        else:
            said |= {number: verdict.row(place) for place, number in enumerate(numbers)}
    for number, row in enumerate(rows):
        unread = sorted(row.unread)
        said[number].heads[unread] = np.nan
        said[number].criteria[unread] = np.nan
    return [said[number] for number in range(len(rows))]


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
