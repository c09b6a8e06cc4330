"""Preference data as plain files: one row per prompt, with all its responses and judgments.

This module needs pyarrow and numpy, but neither Django nor torch, so that the web, the recipes and a
notebook can read the same files. pyarrow is imported on first use, because it takes 30 MB of memory
and most processes of the web server and the workers never need it. Rankings are not expanded to
pairs, because the losses read the matrix of `wins`.

Legend: K responses of a group, in the order of `response_ids`.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import combinations, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recipes.machine import faults
from recipes.rundir import atomically

if TYPE_CHECKING:
    import pyarrow as pa

SPLITS = ("train", "test")
RESPONSES_CUT_OFF = "responses_cut_off"
"""The entry of `meta` with the responses that were cut off by a length limit, if there are any."""
PER_RESPONSE: tuple[str, ...] = ("response_models", "response_external_ids", RESPONSES_CUT_OFF)
PER_RANKING: tuple[str, ...] = (
    "ratings", "flags", "ranking_ids", "adjudication_ids", "simulated", "task_external_ids",
)  # fmt: skip
"""Lists in `meta`, with one entry per response or per ranking, in the same order."""


class PreferenceError(ValueError):
    """A row or a file that is not valid preference data. The text names it and the reason."""


@dataclass(frozen=True)
class Judgment:
    """One reviewer's weak order over the responses of a group.

    `tiers` contains the ids of the responses, best first. Tied responses share a tier, and responses
    in no tier were not compared. `cut` is the number of tiers above the unacceptable line, or None
    without a line. Only graded pairs have a `strength`, from 1 to 3. `reviewer` is a pseudonym.
    """

    reviewer: str
    tiers: list[list[int]]
    cut: int | None = None
    strength: float | None = None
    weight: float = 1.0
    guideline_version: int | None = None


@dataclass(frozen=True)
class Group:
    """One prompt with its responses and all judgments about them."""

    group_id: str
    prompt: list[dict[str, str]]
    response_ids: list[int]
    responses: list[str]
    rankings: list[Judgment]
    split: str = "train"
    meta: dict[str, Any] = field(default_factory=dict)

    def problem(self) -> str | None:
        """Return the reason why the row is unusable, as a clause that follows its name, or None."""
        ids = set(self.response_ids)
        if len(ids) != len(self.response_ids):
            return "lists a response id twice"
        if len(self.response_ids) != len(self.responses):
            return f"has {len(self.response_ids)} response ids for {len(self.responses)} responses"
        if self.split not in SPLITS:
            return f"has the split {self.split!r}, which is neither train nor test"
        for names, listed, what in (
            (PER_RESPONSE, self.responses, "responses"),
            (PER_RANKING, self.rankings, "rankings"),
        ):
            for name in names:
                entries = self.meta.get(name)
                if entries is not None and not isinstance(entries, list):
                    return f"has {name} in its meta that is not a list"
                if entries is not None and len(entries) != len(listed):
                    return f"has {len(entries)} entries of {name} for {len(listed)} {what}"
        problems = (_judgment_problem(ranking, ids) for ranking in self.rankings)
        return next((problem for problem in problems if problem), None)


def _judgment_problem(ranking: Judgment, ids: set[int]) -> str | None:
    ranked = [response for tier in ranking.tiers for response in tier]
    if len(set(ranked)) != len(ranked):
        return f"has a ranking by {ranking.reviewer} that places a response twice"
    if not set(ranked) <= ids:
        missing = sorted(set(ranked) - ids)
        return f"has a ranking by {ranking.reviewer} of responses that it does not hold: {missing}"
    if not (math.isfinite(ranking.weight) and ranking.weight >= 0):
        return f"has a ranking by {ranking.reviewer} with the weight {ranking.weight}"
    if ranking.strength is not None and not (
        math.isfinite(ranking.strength) and ranking.strength > 0
    ):
        return f"has a ranking by {ranking.reviewer} with the strength {ranking.strength}"
    if ranking.cut is not None and not 0 <= ranking.cut <= len(ranking.tiers):
        return f"has a ranking by {ranking.reviewer} whose line is outside its tiers"
    return None


def wins(group: Group) -> np.ndarray:
    """Return the evidence that response i beats response j, (K, K) float64 with a zero diagonal.

    It is a sum over the rankings. A ranking adds its weight if i is in a better tier, half its weight
    if the two are tied, and nothing if they were not compared.
    """
    return _count_wins(group, tie_share=0.5)


def strict_wins(group: Group) -> np.ndarray:
    """Return `wins` without ties, (K, K) float64."""
    return _count_wins(group, tie_share=0.0)


def strengths(group: Group) -> np.ndarray:
    """Return the mean strength with which i beats j, by weight, (K, K).

    It is 0 if no graded judgment prefers i to j.
    """
    graded = [r for r in group.rankings if r.strength is not None]
    marked = replace(
        group, rankings=[replace(r, weight=r.weight * (r.strength or 0.0)) for r in graded]
    )
    total, weight = strict_wins(marked), strict_wins(replace(group, rankings=graded))
    return np.divide(total, weight, out=np.zeros_like(total), where=weight > 0)


def line(group: Group) -> tuple[np.ndarray, np.ndarray]:
    """Return the total weights of the reviewers who accept and who reject each response, (K,) each.

    A reviewer accepts the responses above their line and rejects those below it. Rankings without a
    line and responses that were not ranked do not count.
    """
    index = {response: k for k, response in enumerate(group.response_ids)}
    above, below = np.zeros(len(index)), np.zeros(len(index))
    for ranking in group.rankings:
        if ranking.cut is None:
            continue
        for number, tier in enumerate(ranking.tiers):
            side = above if number < ranking.cut else below
            side[[index[response] for response in tier]] += ranking.weight
    return above, below


def rated_criteria(group: Group) -> set[str]:
    """Return the keys of all criteria that the group's rankings rate."""
    rated = group.meta.get("ratings") or []
    return {name for ranking in rated for ratings in ranking.values() for name in ratings}


def by_criterion(group: Group, criterion: str) -> Group:
    """Return the group as if it had been ranked by this criterion alone, with one tier per rating.

    Reviewers use the scale differently, so only the order of each reviewer's own ratings counts.
    """
    rated = group.meta.get("ratings") or [{}] * len(group.rankings)
    pairs = zip(group.rankings, rated, strict=True)
    return replace(
        group, rankings=[_by_criterion(r, ratings, group, criterion) for r, ratings in pairs]
    )


def _by_criterion(
    ranking: Judgment, rated: dict[str, dict[str, float]], group: Group, criterion: str
) -> Judgment:
    ratings = {i: rated.get(str(i), {}).get(criterion) for i in group.response_ids}
    levels = sorted({level for level in ratings.values() if level is not None}, reverse=True)
    tiers = [[i for i, value in ratings.items() if value == level] for level in levels]
    return replace(ranking, tiers=tiers, cut=None, strength=None)


def _count_wins(group: Group, tie_share: float) -> np.ndarray:
    index = {response: k for k, response in enumerate(group.response_ids)}
    matrix = np.zeros((len(index), len(index)))
    for ranking in group.rankings:
        tiers = [[index[response] for response in tier] for tier in ranking.tiers]
        for tied in tiers:
            for i, j in combinations(tied, 2):
                matrix[i, j] += tie_share * ranking.weight
                matrix[j, i] += tie_share * ranking.weight
        for better, worse in combinations(tiers, 2):
            matrix[np.ix_(better, worse)] += ranking.weight
    return matrix


def keep_responses(group: Group, response_ids: Sequence[int]) -> Group:
    """Return the group with only these responses. Empty tiers are removed."""
    ids = set(response_ids)
    indices = [k for k, number in enumerate(group.response_ids) if number in ids]
    listed = {name: group.meta[name] for name in PER_RESPONSE if group.meta.get(name)}
    return replace(
        group,
        response_ids=[group.response_ids[k] for k in indices],
        responses=[group.responses[k] for k in indices],
        rankings=[_keep_in_judgment(ranking, ids) for ranking in group.rankings],
        meta={**group.meta, **{n: [row[k] for k in indices] for n, row in listed.items()}},
    )


def _keep_in_judgment(ranking: Judgment, ids: set[int]) -> Judgment:
    tiers = [[response for response in tier if response in ids] for tier in ranking.tiers]
    cut = None if ranking.cut is None else sum(1 for tier in tiers[: ranking.cut] if tier)
    return replace(ranking, tiers=[tier for tier in tiers if tier], cut=cut)


# --- files ---------------------------------------------------------------------------------------


@cache
def messages_type() -> "pa.DataType":
    """Return the Arrow type of a chat, a list of {"role", "content"}."""
    import pyarrow as pa

    return pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))


@cache
def group_schema() -> "pa.Schema":
    """Return the Arrow schema of a file of groups."""
    import pyarrow as pa

    return pa.schema(
        [
            ("group_id", pa.string()),
            ("prompt", messages_type()),
            ("response_ids", pa.list_(pa.int64())),
            ("responses", pa.list_(pa.string())),
            (
                "rankings",
                pa.list_(
                    pa.struct(
                        [
                            ("reviewer", pa.string()),
                            ("tiers", pa.list_(pa.list_(pa.int64()))),
                            ("cut", pa.int64()),
                            ("strength", pa.float64()),
                            ("weight", pa.float64()),
                            ("guideline_version", pa.int64()),
                        ]
                    )
                ),
            ),
            ("split", pa.string()),
            ("meta", pa.string()),
        ]
    )


def write_groups(path: str | Path, groups: Iterable[Group], *, rows_at_once: int = 1024) -> int:
    """Write the groups as Parquet and return their number.

    `rows_at_once` groups are in memory at the same time. The file is written atomically. Raises
    PreferenceError for an invalid row.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    source, count = iter(groups), 0
    with (
        atomically(Path(path)) as draft,
        pq.ParquetWriter(draft, group_schema(), compression="zstd") as writer,
    ):
        while rows := [to_row(group) for group in islice(source, rows_at_once)]:
            writer.write_table(pa.Table.from_pylist(rows, schema=group_schema()))
            count += len(rows)
    return count


def read_groups(path: str | Path, *, rows_at_once: int = 1024) -> Iterator[Group]:
    """Yield the groups of a Parquet file in order, without reading the whole file into memory.

    Raises PreferenceError if the file is missing or damaged, is not Parquet, lacks a column, or
    contains an invalid row.
    """
    try:
        yield from _read_groups(Path(path), rows_at_once)
    except PreferenceError:
        raise
    except faults.table_errors() as error:
        raise PreferenceError(faults.table_problem(path, error)) from None


def _read_groups(path: Path, rows_at_once: int) -> Iterator[Group]:
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    missing = [name for name in group_schema().names if name not in file.schema_arrow.names]
    if missing:
        raise PreferenceError(
            f"{path} does not hold preference data: it lacks {', '.join(missing)}."
        )
    with file:
        for batch in file.iter_batches(batch_size=rows_at_once, columns=group_schema().names):
            for row in batch.to_pylist():
                yield _from_row(row)


def read_folder(folder: str | Path) -> Iterator[Group]:
    """Yield the groups of all *.parquet files in the folder, in order of file names."""
    for path in sorted(Path(folder).glob("*.parquet")):
        yield from read_groups(path)


def to_row(group: Group) -> dict[str, Any]:
    """Return the group as a row of `group_schema`. Raises PreferenceError for an invalid group."""
    _check(group)
    return {
        "group_id": group.group_id,
        "prompt": [{"role": m["role"], "content": m["content"]} for m in group.prompt],
        "response_ids": group.response_ids,
        "responses": group.responses,
        "rankings": [vars(ranking) for ranking in group.rankings],
        "split": group.split,
        "meta": json.dumps(group.meta, ensure_ascii=False, sort_keys=True),
    }


def _from_row(row: dict[str, Any]) -> Group:
    fields = {**row, "rankings": [Judgment(**ranking) for ranking in row["rankings"] or []]}
    group = Group(**{**fields, "meta": json.loads(row["meta"] or "{}")})
    _check(group)
    return group


def _check(group: Group) -> None:
    if problem := group.problem():
        raise PreferenceError(f"Group {group.group_id} {problem}.")


# --- identity ------------------------------------------------------------------------------------


def content_hash(groups: Iterable[Group]) -> str:
    """Return the SHA-256 of the content of the rows.

    It does not depend on the order of the rows, the row groups of the file or its compression. The
    order of the rankings in a row and of the ids in a tier has no meaning, so it is ignored too.
    """
    digests = sorted(hashlib.sha256(_canonical(group)).digest() for group in groups)
    return hashlib.sha256(b"".join(digests)).hexdigest()


def _canonical(group: Group) -> bytes:
    row = to_row(group)
    rankings = []
    for ranking in row["rankings"]:
        tiers = [sorted(tier) for tier in ranking["tiers"]]
        numbers = {name: _as_float(ranking[name]) for name in ("strength", "weight")}
        rankings.append(json.dumps({**ranking, **numbers, "tiers": tiers}, sort_keys=True))
    return json.dumps({**row, "rankings": sorted(rankings)}, sort_keys=True).encode()


def _as_float(value: float | None) -> float | None:
    return None if value is None else float(value)
