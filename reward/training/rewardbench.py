"""Evaluate a reward model on a file in RewardBench's format: pairs, best-of-N, or both.

    python -m reward.training.rewardbench RUN_DIR FILE.jsonl [--out report.json]

FILE is JSONL or Parquet; `manage.py rewardbench` takes other files too. A row has `prompt`, text or messages; `chosen` and `rejected`, each a text,
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
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from formatting.numbers import percent, percent_range
from recipes.errors import RecipeError
from recipes.rundir import write_json
from recipes.runner import quiet_libraries
from reward.evaluation.report import Tally, share
from reward.scoring.rewardbench_rows import check_rows, read_rows
from reward.scoring.rows import RowsError
from reward.training.score import Scorer, output_folder

ROWS_AT_ONCE = 256


def evaluate(scorer: Scorer, path: Path, *, seed: int = 0) -> dict[str, Any]:
    """Raises RowsError with the numbers of rows that cannot be understood."""
    tallies: dict[str, list[Tally]] = {}
    chances: dict[str, list[float]] = {}
    left_out: Counter[str] = Counter()
    check_rows(path)  # a wrong row at the end would cost the work on all before it
    rows = read_rows(path)
    while batch := list(islice(rows, ROWS_AT_ONCE)):
        scores = scorer.score([(row.prompt, row.responses) for row in batch])
        for row, found in zip(batch, scores, strict=True):
            if not row.whole or np.isnan(found).any():
                left_out[row.subset] += 1
                continue
            tally = Tally(credit(found, row.chosen), 1.0, 1)
            tallies.setdefault(row.subset, []).append(tally)
            chances.setdefault(row.subset, []).append(row.chance)
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
        check_rows(asked.file)  # before the model is loaded
        scorer = Scorer(output_folder(asked.run))
        found = {"file": asked.file.name, **evaluate(scorer, asked.file)}
        for row in [*found["subsets"], {"subset": "all rows", **found["accuracy"]}]:
            print(_line(row), file=sys.stderr)
        print(json.dumps(found, allow_nan=False))
        if asked.out:
            write_to(asked.out, found)
    except (RecipeError, RowsError) as error:
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
