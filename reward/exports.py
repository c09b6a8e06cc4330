"""Preference data for other tools: K-wise as it is, or as pairs in the form of TRL.

Ties: in `kwise`, a tier of several is a tie, as everywhere. In `pairs`, each two responses of a
prompt give at most one line, decided by all rankings together (a tie is half a win each way); where
neither side has won more, there is no line, and the count says so.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

from reward.preference import Group, wins, write_groups

FORMATS = {
    "parquet": "K-wise: one row a prompt with all its responses and rankings",
    "jsonl": "the same, one JSON object a line",
    "pairs": 'TRL preference data, one pair a line: {"prompt", "chosen", "rejected"} as messages',
}


def export(groups: Iterable[Group], *, path: Path | None, form: str) -> dict[str, int]:
    """Write the groups to `path`, whole or not at all, and count what was written and left out.

    Without a path it only counts.
    """
    counts: Counter[str] = Counter(rows=0)
    counted = _counted(groups, counts)
    objects = pairs_of(counted, counts) if form == "pairs" else map(as_json, counted)
    if path is None:
        counts["rows"] = sum(1 for _ in objects)
    elif form == "parquet":
        counts["rows"] = write_groups(path, counted)
    else:
        _write_lines(path, objects, counts)
    return dict(counts)


def _write_lines(path: Path, objects: Iterable[dict[str, Any]], counts: Counter[str]) -> None:
    draft = path.with_name(f".{path.name}.draft")
    try:
        with draft.open("w", encoding="utf-8") as file:
            for row in objects:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                counts["rows"] += 1
            file.flush()
            os.fsync(file.fileno())
        draft.rename(path)
    finally:
        draft.unlink(missing_ok=True)


def _counted(groups: Iterable[Group], counts: Counter[str]) -> Iterator[Group]:
    for group in groups:
        counts["prompts"] += 1
        counts["rankings"] += len(group.rankings)
        yield group


def as_json(group: Group) -> dict[str, Any]:
    return {**vars(group), "rankings": [vars(ranking) for ranking in group.rankings]}


def pairs_of(groups: Iterable[Group], counts: Counter[str]) -> Iterator[dict[str, Any]]:
    """`margin` is the share of the evidence that the winner has more than the loser, above 0 to 1."""
    for group in groups:
        matrix = wins(group)
        for i, j in combinations(range(len(group.responses)), 2):
            evidence = matrix[i, j] + matrix[j, i]
            if not evidence:
                counts["pairs_never_compared"] += 1
            elif matrix[i, j] == matrix[j, i]:
                counts["pairs_tied"] += 1
            else:
                better, worse = (i, j) if matrix[i, j] > matrix[j, i] else (j, i)
                margin = (matrix[better, worse] - matrix[worse, better]) / evidence
                yield _pair(group, better, worse, float(margin))


def _pair(group: Group, better: int, worse: int, margin: float) -> dict[str, Any]:
    return {
        "prompt": group.prompt,
        "chosen": [{"role": "assistant", "content": group.responses[better]}],
        "rejected": [{"role": "assistant", "content": group.responses[worse]}],
        "margin": round(margin, 6),
        "group_id": group.group_id,
        "split": group.split,
    }
