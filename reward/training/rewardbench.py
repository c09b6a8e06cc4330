"""Evaluate a reward model on a file in RewardBench's format: pairs, best-of-N, or both.

    python -m reward.training.rewardbench RUN_DIR FILE.jsonl [--out report.json]

FILE is JSONL or Parquet. `manage.py rewardbench` can read other files too. A row has `prompt`, which is
a text or messages, and `chosen` and `rejected`, each a text, a list of texts, or a conversation that
ends with the answer. It can have `subset` and `id`. This is the format of RewardBench (Lambert et al.
2024, arXiv:2403.13787), RewardBench 2 (Malik et al. 2025, arXiv:2506.01937) and most preference data
sets.

A row counts 1 if the chosen response has the highest score, 1/k if k responses have this score, and 0
otherwise. A row with several chosen responses counts 1 if all of them have higher scores than all
rejected responses. This is only one term of the score that RewardBench 2 uses for such rows, its
accuracy. Rows with a response that is too long for the model are left out and counted. The report
contains the accuracy of each subset and the mean over the subsets, in which all count the same. The
leaderboards give some subsets other weights.

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

ROW_BATCH_SIZE = 256


def evaluate(scorer: Scorer, path: Path, *, seed: int = 0) -> dict[str, Any]:
    """Return the accuracy of each subset and their mean.

    Raises RowsError with the numbers of wrong rows.
    """
    tallies: dict[str, list[Tally]] = {}
    chances: dict[str, list[float]] = {}
    left_out: Counter[str] = Counter()
    check_rows(path)  # before scoring, so that a wrong row at the end does not waste the work
    rows = read_rows(path)
    while batch := list(islice(rows, ROW_BATCH_SIZE)):
        scores = scorer.score([(row.prompt, row.responses) for row in batch])
        for row, values in zip(batch, scores, strict=True):
            if not row.whole or np.isnan(values).any():
                left_out[row.subset] += 1
                continue
            tally = Tally(credit(values, row.chosen), 1.0, 1)
            tallies.setdefault(row.subset, []).append(tally)
            chances.setdefault(row.subset, []).append(row.chance)
    return summary(tallies, chances, left_out, seed)


def credit(scores: np.ndarray, chosen: int) -> float:
    """Return how much a row counts, from 0 to 1.

    `scores`, (K,), begins with the scores of the chosen responses.
    """
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
    none = "Every row is too long for the model."
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
    values = [row["value"] for row in subsets if row["value"] is not None]
    return {
        "accuracy": _figure(everything, seed, none),
        "mean_of_subsets": float(np.mean(values)) if values else None,
        "chance": float(np.mean([c for each in chances.values() for c in each]))
        if chances
        else None,
        "left_out": sum(left_out.values()),
        "subsets": subsets,
    }


def _figure(tallies: Sequence[Tally], seed: int, none: str) -> dict[str, Any]:
    figure = share(tallies, seed, none=none)
    return {
        "value": figure["value"],
        "interval": figure["interval"],
        "rows": figure["prompts"],
        "reason": figure["reason"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="a reward run's directory, or its output/")
    parser.add_argument("file", type=Path, help="JSONL or Parquet with prompt, chosen, rejected")
    parser.add_argument(
        "--out", type=Path, help="also write the figures to this file; creates its folder"
    )
    options = parser.parse_args()
    quiet_libraries()
    try:
        if options.out:
            check_writable(options.out)
        check_rows(options.file)  # before the model is loaded
        scorer = Scorer(output_folder(options.run))
        figures = {"file": options.file.name, **evaluate(scorer, options.file)}
        for row in [*figures["subsets"], {"subset": "all rows", **figures["accuracy"]}]:
            print(_line(row), file=sys.stderr)
        print(json.dumps(figures, allow_nan=False))
        if options.out:
            write_to(options.out, figures)
    except (RecipeError, RowsError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def check_writable(path: Path) -> None:
    """Create the folder of `path`. Raises RecipeError if the file could not be written there."""
    with as_recipe_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            path.open("a").close()
        else:
            tempfile.TemporaryFile(dir=path.parent).close()


def write_to(path: Path, figures: dict[str, Any]) -> None:
    with as_recipe_error(path):
        write_json(path, figures)


@contextmanager
def as_recipe_error(path: Path) -> Iterator[None]:
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
