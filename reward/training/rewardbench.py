"""Evaluate a reward model on a file in RewardBench's format: pairs, best-of-N, or both.

    python -m reward.training.rewardbench RUN_DIR FILE.jsonl [--out report.json]

FILE is JSONL or Parquet. A row has `prompt`, text or messages; `chosen` and `rejected`, each a text,
a list of texts, or a conversation that ends with the answer; and optionally `subset` and `id`. That
is what RewardBench (Lambert et al. 2024, arXiv:2403.13787) and RewardBench 2 (Malik et al. 2025,
arXiv:2506.01937) publish, and most preference sets too.

A row counts 1 where the chosen response has the highest score, 1/k where it shares it with k - 1
others, else 0. A row of several chosen responses counts 1 where all of them outscore all the
rejected: that is the accuracy within RewardBench 2's score for ties, not the whole of that score.
Rows with a response that the model cannot read whole are left out and counted, never cut. Subsets
are reported one by one and as their plain mean; the leaderboards weigh some of theirs otherwise.

The last line on stdout is one JSON object.
"""

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from formatting.numbers import percent, percent_range
from reward.score_rows import RowsError, raw_rows
from reward.training.report import Tally, share
from reward.training.score import Scorer, output_folder
from reward.training.trainer_events import RecipeError, quiet_libraries, write_json

ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class Row:
    """The chosen responses come first."""

    subset: str
    prompt: list[dict[str, str]]
    responses: list[str]
    chosen: int

    @property
    def chance(self) -> float:
        """What scores drawn at random would get."""
        return 1 / float(_choose(len(self.responses), self.chosen))


def _choose(count: int, chosen: int) -> int:
    total = 1
    for k in range(chosen):
        total = total * (count - k) // (k + 1)
    return total


def evaluate(scorer: Scorer, path: Path, *, seed: int = 0) -> dict[str, Any]:
    """Raises RecipeError with the line of a row that cannot be understood."""
    tallies: dict[str, list[Tally]] = {}
    chances: dict[str, list[float]] = {}
    left_out: Counter[str] = Counter()
    for _ in read_rows(path):  # a wrong row at the end would cost the work on all before it
        pass
    rows = read_rows(path)
    while batch := list(islice(rows, ROWS_AT_ONCE)):
        scores = scorer.score([(row.prompt, row.responses) for row in batch])
        for row, found in zip(batch, scores, strict=True):
            if np.isnan(found).any():
                left_out[row.subset] += 1
                continue
            tally = Tally(credit(found, row.chosen), 1.0, 1)
            tallies.setdefault(row.subset, []).append(tally)
            chances.setdefault(row.subset, []).append(row.chance)
    if not tallies and not left_out:
        raise RecipeError(f"{path} has no rows.")
    return summary(tallies, chances, left_out, seed)


def credit(scores: np.ndarray, chosen: int) -> float:
    """Scores (K,), those of the chosen first."""
    if chosen > 1:
        return float(scores[:chosen].min() > scores[chosen:].max())
    highest = scores == scores.max()
    return float(highest[0] / highest.sum())


def summary(
    tallies: dict[str, list[Tally]],
    chances: dict[str, list[float]],
    left_out: Counter[str],
    seed: int,
) -> dict[str, Any]:
    none = "The model can read no row whole."
    everything = [tally for each in tallies.values() for tally in each]
    subsets = [
        {
            "subset": name,
            **_figure(tallies.get(name, []), seed, none),
            "chance": float(np.mean(chances[name])) if name in chances else None,
            "left_out": left_out[name],
        }
        for name in sorted({*tallies, *left_out})
    ]
    known = [row["value"] for row in subsets if row["value"] is not None]
    return {
        "accuracy": _figure(everything, seed, none),
        "mean_of_subsets": float(np.mean(known)) if known else None,
        "chance": float(np.mean([c for each in chances.values() for c in each]))
        if chances
        else None,
        "left_out": sum(left_out.values()),
        "subsets": subsets,
    }


def _figure(tallies: Sequence[Tally], seed: int, none: str) -> dict[str, Any]:
    found = share(tallies, seed, none=none)
    return {
        "value": found["value"],
        "interval": found["interval"],
        "rows": found["prompts"],
        "reason": found["reason"],
    }


# --- reading --------------------------------------------------------------------------------------


def read_rows(path: Path) -> Iterator[Row]:
    """Streams. Raises RecipeError for a file or row that is not in the format, with its number."""
    try:
        for number, raw in raw_rows(path):
            yield _row_numbered(path, number, raw)
    except RowsError as error:
        raise RecipeError(str(error)) from None


def _row_numbered(path: Path, number: int, raw: Any) -> Row:
    try:
        if isinstance(raw, ValueError):
            raise raw
        return read_row(raw)
    except ValueError as error:
        raise RecipeError(f"{path}, row {number}: {error}.") from None


def read_row(raw: Any) -> Row:
    """Raises ValueError with a clause that says what is wrong."""
    missing = [
        name for name in ("chosen", "rejected") if not isinstance(raw, dict) or not raw.get(name)
    ]
    if missing:
        raise ValueError(f"it has no {' and no '.join(missing)}")
    prompt, chosen = _answers(raw.get("prompt"), raw["chosen"], "chosen")
    prompt_too, rejected = _answers(raw.get("prompt"), raw["rejected"], "rejected")
    if prompt != prompt_too:
        raise ValueError("chosen and rejected answer different prompts")
    return Row(str(raw.get("subset") or "all"), prompt, [*chosen, *rejected], len(chosen))


def _answers(prompt: Any, value: Any, name: str) -> tuple[list[dict[str, str]], list[str]]:
    """The prompt as messages, and the texts of one side."""
    if isinstance(value, str):
        return _messages(prompt), [value]
    if isinstance(value, list) and all(isinstance(text, str) for text in value):
        return _messages(prompt), value
    turns = _messages(value, name)
    if turns[-1]["role"] != "assistant":
        raise ValueError(f"{name} is a conversation that does not end with an answer")
    before, answer = turns[:-1], turns[-1]["content"]
    return before or _messages(prompt), [answer]


def _messages(value: Any, name: str = "prompt") -> list[dict[str, str]]:
    if isinstance(value, str) and value:
        return [{"role": "user", "content": value}]
    sound = isinstance(value, list) and value and all(map(_is_turn, value))
    if not sound:
        raise ValueError(f"{name} is neither text nor messages")
    return [{"role": turn["role"], "content": turn["content"]} for turn in value]


def _is_turn(value: Any) -> bool:
    fields = ("role", "content")
    return isinstance(value, dict) and all(isinstance(value.get(name), str) for name in fields)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="a reward run's directory, or its output/")
    parser.add_argument("file", type=Path, help="JSONL or Parquet with prompt, chosen, rejected")
    parser.add_argument("--out", type=Path, help="write the figures there too; its folder is made")
    asked = parser.parse_args()
    quiet_libraries()
    try:
        if asked.out:
            make_room(asked.out)
        scorer = Scorer(output_folder(asked.run))
        found = {"file": asked.file.name, **evaluate(scorer, asked.file)}
        for row in [*found["subsets"], {"subset": "all rows", **found["accuracy"]}]:
            print(_line(row), file=sys.stderr)
        print(json.dumps(found, allow_nan=False))
        if asked.out:
            write_to(asked.out, found)
    except RecipeError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def make_room(path: Path) -> None:
    """The folder of `path`. Raises RecipeError when no file can be written there; none is yet."""
    with sentence(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            path.open("a").close()
        else:
            tempfile.TemporaryFile(dir=path.parent).close()


def write_to(path: Path, found: dict[str, Any]) -> None:
    with sentence(path):
        write_json(path, found)


@contextmanager
def sentence(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RecipeError(f"{path} cannot be written: {error.strerror}.") from None


def _line(row: dict[str, Any]) -> str:
    if row["value"] is None:
        return f"{row['subset']}: {row['reason']}"
    low, high = row["interval"]
    return f"{row['subset']}: {percent(row['value'])} ({percent_range([low, high])}) of {row['rows']} rows"


if __name__ == "__main__":
    sys.exit(main())
