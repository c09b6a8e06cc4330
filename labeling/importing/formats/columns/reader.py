"""Read rows according to the meaning of their columns.

Rows with a single response belong to one task if they have the same prompt, wherever they are in the
file. A row with several responses, or with a preference between them, is a task of its own.
"""

from collections.abc import Hashable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from labeling.importing.files.source import each_row
from labeling.importing.formats.columns.answers import Row
from labeling.importing.formats.columns.drafts import draft_of
from labeling.importing.formats.columns.grouping import all_groups, consecutive_groups
from labeling.importing.formats.columns.mapping import Mapping
from labeling.importing.formats.columns.pairs import read_pair
from labeling.importing.formats.columns.responses import read_responses
from labeling.importing.formats.columns.source_row import SourceRow
from labeling.importing.records import PromptRecord, Tally


def read(
    path: Path, tally: Tally, mapping: Mapping, reviewer: str, *, scattered: bool = False
) -> Iterator[PromptRecord]:
    """Yield the prompts of a file whose columns have the meanings in `mapping`. Raises BadInput.

    Raises ScatteredRows if the rows of a prompt are not consecutive, unless `scattered` is set.
    """
    rows_read = each_row(path, tally, partial(_row, mapping, tally))
    group = all_groups if scattered else consecutive_groups
    for rows in group(rows_read, _key):
        yield from draft_of(rows, reviewer, tally).records(tally)


def _key(row: Row) -> Hashable:
    """Return the row's prompt if other rows may contain more responses to it, otherwise None."""
    if row.verdict is not None or len(row.answers) > 1:
        return None
    return tuple([(message["role"], message["content"]) for message in row.messages])


def _row(mapping: Mapping, tally: Tally, line: int, values: dict[str, Any]) -> list[Row]:
    columns = mapping.of(values)
    tally.read["rows"] += 1
    tally.columns.add(values, columns.meaning)
    row = SourceRow(line, values, columns.by_meaning, columns.metadata, tally)
    is_pair = columns.by_meaning["chosen"] or columns.by_meaning["rejected"]
    content = read_pair(row) if is_pair else read_responses(row)
    if content is None:
        return []
    messages, answers, verdict = content
    return [
        Row(
            line,
            messages,
            answers,
            verdict,
            external_id=row.id("id"),
            task_id=row.id("task_id"),
            meta=row.meta(),
            reviewer=row.id("reviewer"),
            rationale=row.text("rationale"),
        )
    ]
