"""Score responses with a trained reward model.

    python -m reward.training.score RUN/output IN.parquet OUT.parquet

IN is preference data (see recipes/preferences/groups.py), or sampled text with the columns `prompt` and
`response`. OUT has the same rows and columns in the same order, and a new column: `score`, or `scores`,
a list in the order of `responses`. If the model has several heads, OUT also has their standard
deviation, in `disagreement` or `disagreements`. If the model scores criteria, OUT has `score_NAME` or
`scores_NAME` for each criterion. Responses that are too long for the model get null. No text is
truncated.
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

from recipes.errors import RecipeError
from recipes.layout.collate import Collator, cut
from recipes.layout.families import check_shared, window_problem
from recipes.layout.forward import default_tokens_at_once, outputs_of
from recipes.machine import faults
from recipes.models.chat_format import ChatFormat
from recipes.models.chat_options import read_options
from recipes.preferences.tokens import TokenGroup
from recipes.rundir import atomically
from recipes.runner import quiet_libraries
from reward.scoring.rows import ScoreRow
from reward.training.models.reward_model import load_reward_model, load_tokenizer

Conversation = tuple[list[dict[str, str]], list[str]]
"""A prompt as messages, and the responses to it."""

TOGETHER = 16
"""The maximum number of responses in a row. The block mask grows with the square of its length."""

CHARACTERS_PER_TOKEN = 64
"""The number of characters per token above which a text is too long, so it is not tokenized.

The longest token of the vocabulary raises this limit.
"""


def output_folder(run: Path) -> Path:
    """Return the folder output/ of a run directory, or the folder itself."""
    return run / "output" if (run / "output").is_dir() else run


def read_report(folder: Path) -> dict[str, Any]:
    """Return the report in the folder.

    Raises RecipeError if the folder is not the output of a run that trained a reward model.
    """
    try:
        return json.loads((folder / "report.json").read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise RecipeError(f"{folder} is not the output of a reward run: {error}.") from None


@dataclass(frozen=True)
class Verdict:
    """The outputs of N heads and C criteria for the K responses of a conversation."""

    heads: np.ndarray  # (K, N) float32
    criteria: np.ndarray  # (K, C) float32

    @property
    def scores(self) -> np.ndarray:
        """Return the means over the heads, (K,)."""
        return self.heads.mean(axis=-1)

    @property
    def disagreements(self) -> np.ndarray:
        """Return the standard deviations over the heads, (K,). They are 0 for a single head."""
        return self.heads.std(axis=-1)

    def row(self, k: int) -> "Verdict":
        """Return the verdict on one response."""
        return Verdict(self.heads[k : k + 1], self.criteria[k : k + 1])

    def figures(self) -> list[list[float | None]]:
        """Return the scores, the disagreements and the scores of each criterion. NaN becomes None."""
        columns = [self.scores, self.disagreements, *self.criteria.T]
        return [[None if np.isnan(v) else float(v) for v in column] for column in columns]


class Scorer:
    """A reward model in memory. If possible, it forwards a prompt once for all its responses."""

    def __init__(self, output: str | Path, *, max_tokens: int | None = None):
        """Load the model from the output/ folder of a reward run.

        `max_tokens` is the limit of a forward pass, or None for the default of this machine. Raises
        RecipeError if the folder has no reward model.
        """
        folder = Path(output)
        report = read_report(folder)
        self.tokenizer = load_tokenizer(str(folder), adapter=True)
        outputs = report.get("outputs", {})
        self.heads: int = outputs.get("heads", 1)
        self.criteria: list[str] = outputs.get("criteria", [])
        self.model = load_reward_model(
            folder,
            self.tokenizer,
            report["config"]["dtype"],
            heads=self.heads,
            criteria=len(self.criteria),
        )
        self.model.to("cuda" if torch.cuda.is_available() else "cpu")
        self.chat = ChatFormat(self.tokenizer, read_options(folder, self.tokenizer))
        self.limit: int = report["training"]["max_tokens"]
        self.max_tokens = max_tokens or default_tokens_at_once()
        longest = max(map(len, self.tokenizer.get_vocab()), default=0)
        self.characters_per_token = max(longest, CHARACTERS_PER_TOKEN)
        self.collator = Collator(self.tokenizer.pad_token_id)
        self.wants_shared = report["training"]["layout"] == "shared"
        self._shared_layout_agrees: bool | None = None
        self.width: int = self.heads + len(self.criteria)
        """The number of outputs per response."""

    def score(self, conversations: Sequence[Conversation]) -> list[np.ndarray]:
        """Return the scores of the responses in each conversation, as float32 arrays (K,).

        The score of a response that is too long for the model is NaN. Only scores of responses to
        the same prompt can be compared.
        """
        return [verdict.scores for verdict in self.judge(conversations)]

    def judge(self, conversations: Sequence[Conversation]) -> list["Verdict"]:
        """Return the outputs of the heads and criteria for each conversation. NaN is as in `score`."""
        end = self.heads + len(self.criteria)
        return [
            Verdict(outputs[:, : self.heads], outputs[:, self.heads : end])
            for outputs in self._outputs(conversations)
        ]

    def _outputs(self, conversations: Sequence[Conversation]) -> list[np.ndarray]:
        """Return all outputs for each conversation, as float32 arrays (K, width)."""
        outputs = [np.full((len(rs), self.width), np.nan, np.float32) for _, rs in conversations]
        members, groups = self._tokenize(conversations)
        self._check_layout(groups)
        sizes = [self.collator.tokens(group) for group in groups]
        for batch in cut(sizes, max_tokens=self.max_tokens):
            rows = self._forward([groups[index] for index in batch])
            for index, row in zip(batch, rows, strict=True):
                conversation, responses = members[index]
                outputs[conversation][responses] = row[: len(responses)]
        return outputs

    def _forward(self, groups: Sequence[TokenGroup]) -> np.ndarray:
        """Return the outputs of a forward pass, (G, K, width) float32."""
        return outputs_of(self.model, groups, self.collator).numpy()

    def _tokenize(
        self, conversations: Sequence[Conversation]
    ) -> tuple[list[tuple[int, list[int]]], list[TokenGroup]]:
        """Return the groups to forward, and the indices of the conversation and responses of each."""
        members, groups = [], []
        for number, (prompt, responses) in enumerate(conversations):
            head, tails = self._readable(prompt, responses)
            fits = list(tails)
            for start in range(0, len(fits), TOGETHER):
                indices = fits[start : start + TOGETHER]
                wins = np.zeros((len(indices), len(indices)), dtype=np.float32)
                members.append((number, indices))
                groups.append(TokenGroup(head, [tails[k] for k in indices], wins))
        return members, groups

    def can_read(self, prompt: list[dict[str, str]], response: str) -> bool:
        """Return whether the response gets a score: it is short enough, and the template accepts it."""
        return bool(self._readable(prompt, [response])[1])

    def _readable(
        self, prompt: list[dict[str, str]], responses: Sequence[str]
    ) -> tuple[np.ndarray, dict[int, np.ndarray]]:
        """Return the tokens of the prompt, and the tokens of each readable response, by its index."""
        empty = np.zeros(0, dtype=np.int32)
        readable = [k for k, text in enumerate(responses) if self._may_fit(prompt, text)]
        if not readable:
            return empty, {}
        try:
            head, ends = self.chat.encode(prompt, [responses[k] for k in readable])
        except ValueError:
            return empty, {}
        tails = zip(readable, ends, strict=True)
        return head, {k: t for k, t in tails if len(t) and len(head) + len(t) <= self.limit}

    def _may_fit(self, prompt: list[dict[str, str]], response: str) -> bool:
        """Return False for texts that are certainly too long. It would take a second to tokenize them."""
        characters = len(response) + sum(len(turn["content"]) for turn in prompt)
        return characters <= self.limit * self.characters_per_token

    def _check_layout(self, groups: Sequence[TokenGroup]) -> None:
        """Choose the layout. Both are compared once, on the first prompt with several responses."""
        shares = [group for group in groups if len(group.responses) > 1]
        self.collator.layout = "plain"
        longest = max((group.longest() for group in groups), default=0)
        if not self.wants_shared or not shares or window_problem(self.model.config, longest):
            return
        if self._shared_layout_agrees is None:
            pad_id = self.collator.pad_id
            self._shared_layout_agrees = not check_shared(
                self.model, shares[:2], pad_id, longest=longest
            )
        self.collator.layout = "shared" if self._shared_layout_agrees else "plain"


def score_file(scorer: Scorer, source: Path, target: Path, *, rows_at_once: int = 1024) -> int:
    """Score the rows of a Parquet file, write them to another, and return how many responses got a score.

    The other file appears only when it is complete.
    """
    try:
        file = pq.ParquetFile(source)
    except faults.table_errors() as error:
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
            verdicts = judge(scorer, [score_row(row, many) for row in batch.to_pylist()])
            scored += sum(int(np.isfinite(verdict.scores).sum()) for verdict in verdicts)
            figures = [verdict.figures() for verdict in verdicts]
            added = [
                pa.array([f[index] if many else f[index][0] for f in figures], type=column.type)
                for index, column in columns
            ]
            writer.write_batch(pa.record_batch([*batch.columns, *added], schema=writer.schema))
    return scored


def new_columns(scorer: Scorer, many: bool) -> list[tuple[int, pa.Field]]:
    """Return each new column: its index in `Verdict.figures`, and its field.

    A model with one head has no column of disagreements.
    """
    score, spread = ("scores", "disagreements") if many else ("score", "disagreement")
    names = [score, spread, *(f"{score}_{name}" for name in scorer.criteria)]
    kind = pa.list_(pa.float32()) if many else pa.float32()
    fields = [(index, pa.field(name, kind)) for index, name in enumerate(names)]
    return [field for field in fields if scorer.heads > 1 or field[0] != 1]


def with_columns(schema: pa.Schema, columns: Sequence[tuple[int, pa.Field]]) -> pa.Schema:
    for _, column in columns:
        schema = schema.append(column)
    return schema


def score_row(row: dict[str, Any], many: bool) -> ScoreRow:
    return ScoreRow(row["prompt"], row["responses"] if many else [row["response"]], many)


def judge(scorer: Scorer, rows: Sequence[ScoreRow]) -> list[Verdict]:
    """Return a verdict for each row. Single responses to the same prompt are forwarded together."""
    by_prompt: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        prefix = f"{number} " if row.many else ""  # a row with a list is forwarded alone
        by_prompt.setdefault(prefix + json.dumps(row.prompt, sort_keys=True), []).append(number)
    members = list(by_prompt.values())
    judged = scorer.judge(
        [(rows[m[0]].prompt, [r for number in m for r in rows[number].responses]) for m in members]
    )
    verdicts: dict[int, Verdict] = {}
    for numbers, verdict in zip(members, judged, strict=True):
        if rows[numbers[0]].many:
            verdicts[numbers[0]] = verdict
        else:
            verdicts |= {number: verdict.row(index) for index, number in enumerate(numbers)}
    for number, row in enumerate(rows):
        unread = sorted(row.unread)
        verdicts[number].heads[unread] = np.nan
        verdicts[number].criteria[unread] = np.nan
    return [verdicts[number] for number in range(len(rows))]


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
