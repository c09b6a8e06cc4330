"""Score the rows of a file with a trained reward model.

    python -m reward.training.score_rows RUN_DIR IN OUT

IN is Parquet if its name ends in .parquet, and otherwise JSON lines. Its rows are {messages}, {prompt,
response} or {prompt, responses}. OUT has the same rows in the same order, with `score` and
`uncertainty`, or with `scores` and `uncertainties` for several responses. It is Parquet if its name
ends in .parquet, and otherwise JSON lines. `-` writes JSON lines to stdout. All rows are checked before
the first is scored, and a file appears only when it is complete. Responses that are too long for the
model get null. The uncertainty is the standard deviation over the heads of the model. It is null for a
model with one head.

The last line on stderr is one JSON object.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recipes.errors import RecipeError
from recipes.rundir import atomically
from recipes.runner import quiet_libraries
from reward.scoring.columns import columns_of, legible
from reward.scoring.rows import ROW_BATCH_SIZE, RowsError, is_parquet, read_rows, survey
from reward.training.score import Scorer, Verdict, judge, output_folder

Row = dict[str, Any]
ONE = pa.float32()
KINDS = {
    "with_one": {"score": ONE, "uncertainty": ONE},
    "with_many": {"scores": pa.list_(ONE), "uncertainties": pa.list_(ONE)},
}


def score_rows(scorer: Scorer, source: Path, target: Path | None) -> dict[str, int]:
    """Score the rows of a file, and return the numbers of rows, responses and scored responses.

    Without `target`, the rows are written to stdout. If rows are wrong, RowsError is raised with their
    numbers before anything is written.
    """
    counts = survey(source)
    schema = columns_of(source) if target and is_parquet(target) else None
    scored = 0
    with _writer(target, schema, counts) as write:
        rows = read_rows(source)
        while batch := list(islice(rows, ROW_BATCH_SIZE)):
            verdicts = judge(scorer, [row for _, _, row in batch])
            scored += sum(int(np.isfinite(v.scores).sum()) for v in verdicts)
            write(
                {**raw, **figures(verdict, scorer.heads, many=row.many)}
                for (_, raw, row), verdict in zip(batch, verdicts, strict=True)
            )
    return {"rows": counts["rows"], "responses": counts["responses"], "scored": scored}


def figures(verdict: Verdict, heads: int, *, many: bool) -> Row:
    """Return the fields that are added to a row. NaN becomes None."""
    scores = [_number(value) for value in verdict.scores]
    spread = [_number(value) if heads > 1 else None for value in verdict.disagreements]
    if many:
        return {"scores": scores, "uncertainties": spread}
    return {"score": scores[0], "uncertainty": spread[0]}


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


# --- writing --------------------------------------------------------------------------------------


@contextmanager
def _writer(target: Path | None, schema: pa.Schema | None, counts: dict[str, int]) -> Iterator[Any]:
    if target is None:
        yield lambda rows: _write_lines(sys.stdout, rows)
        sys.stdout.flush()
        return
    with atomically(target) as draft:
        try:
            if is_parquet(target):
                with ParquetRows(draft, schema or pa.schema([]), counts) as parquet:
                    yield parquet.write
            else:
                with draft.open("w", encoding="utf-8") as file:
                    yield lambda rows: _write_lines(file, rows)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise


def _write_lines(file: Any, rows: Iterable[Row]) -> None:
    for row in rows:
        file.write(_line(row) + "\n")


def _line(row: Row) -> str:
    """Return a row as JSON. Lone surrogates are escaped, and NaN becomes null."""
    row = finite(row)
    text = json.dumps(row, ensure_ascii=False, default=str)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(row, default=str)
    return text


def finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list) else value


class ParquetRows:
    """A writer that writes rows with these columns, and their scores, to a Parquet file."""

    def __init__(self, path: Path, schema: pa.Schema, counts: dict[str, int]):
        self.path = path
        self.added = [
            pa.field(name, kind)
            for shape, columns in KINDS.items() if counts[shape]
            for name, kind in columns.items()
        ]  # fmt: skip
        self.schema = self._with_scores(schema)
        self.writer: pq.ParquetWriter | None = None

    def __enter__(self) -> "ParquetRows":
        return self

    def __exit__(self, *exc: object) -> None:
        if self.writer:
            self.writer.close()

    def write(self, rows: Iterable[Row]) -> None:
        batch = pa.RecordBatch.from_pylist(list(map(legible, rows)), schema=self.schema)
        self.writer = self.writer or pq.ParquetWriter(self.path, self.schema)
        self.writer.write_batch(batch)

    def _with_scores(self, schema: pa.Schema) -> pa.Schema:
        names = {field.name for field in self.added}
        return pa.schema([*(f for f in schema if f.name not in names), *self.added])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="a reward run's directory, or its output/")
    parser.add_argument("source", type=Path, help="JSON lines or Parquet to score")
    parser.add_argument("target", help="the file to write, or - for stdout")
    options = parser.parse_args()
    quiet_libraries()
    target = None if options.target == "-" else Path(options.target)
    try:
        survey(options.source)  # before the model is loaded
        if target and is_parquet(target):
            columns_of(options.source)
        counts = score_rows(Scorer(output_folder(options.run)), options.source, target)
    except (RecipeError, RowsError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(counts), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
