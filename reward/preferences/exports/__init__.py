"""Exports of a project's rankings for other tools, and of full records for importing again.

The database is read once, and at most 256 prompts are in memory. The card next to the file explains
how ties are treated, and counts everything that was left out, by reason.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from labeling.models import Project
from labeling.quality.measures import quality_of
from labeling.statistics.agreement import pairwise_json
from recipes.preferences.groups import SPLITS, Group, PreferenceError, read_groups
from recipes.preferences.pairs import PairOptions
from reward.models import Snapshot
from reward.preferences.exports import card, left_out
from reward.preferences.exports.files import Batch, ExportError, Parts, encoded, plain
from reward.preferences.exports.records import RECORDS, Records
from reward.preferences.exports.shapes import SHAPES, TIES
from reward.preferences.filters import SnapshotFilter
from reward.preferences.snapshots import Account, batches_of

__all__ = ["FORMATS", "SPLITS", "SUFFIXES", "TIES", "Export", "ExportError", "PreferenceError"]

FORMATS = {
    "kwise": "one row per prompt with all its responses and rankings",
    "pairs": "TRL preference: prompt, chosen and rejected as messages, margin, group_id",
    "pairs-implicit": "the same, with the prompt at the beginning of chosen and rejected",
    "unpaired": "TRL unpaired preference: prompt, completion, label",
    "full": "full records for import_data: prompts, responses, tasks and current rankings",
}
SUFFIXES = {".jsonl": "JSON lines", ".parquet": "Parquet"}
GROUP_BATCH_SIZE = 256


@dataclass(frozen=True, kw_only=True)
class Export:
    """An export of a snapshot or, without one, of the current rankings of the project.

    `pairs` has the options of pairs. Its option `ties` also applies to labels.
    """

    project: Project
    snapshot: Snapshot | None = None
    form: str = "kwise"
    pairs: PairOptions = field(default_factory=PairOptions)
    split: str | None = None
    names: bool = False

    @property
    def schema(self) -> pa.Schema:
        return RECORDS if self.form == "full" else SHAPES[self.form][1]

    def plan(self, suffix: str) -> dict[str, Any]:
        return {
            "project": self.project.slug,
            "snapshot": self.snapshot.pk if self.snapshot else None,
            "format": self.form,
            "file": SUFFIXES[suffix],
            "ties": self.pairs.ties if self.form not in ("kwise", "full") else None,
            **self._limits(),
            "split": self.split,
            "reviewers": "names" if self.names else "pseudonyms",
        }

    def _limits(self) -> dict[str, Any]:
        if self.form not in ("pairs", "pairs-implicit"):
            return {}
        return {
            "keep_identical": self.pairs.keep_identical,
            "min_margin": self.pairs.min_margin,
            "max_pairs_per_prompt": self.pairs.max_per_prompt,
        }

    # --- rows ---

    def batches(self, counts: Counter[str], after: Any = None) -> Iterator[Batch]:
        """Yield (cursor, rows) for the rows after the cursor `after`.

        After each batch, `counts` includes this batch.
        """
        source = self._records if self.form == "full" else self._shaped
        for cursor, rows in source(counts, after):
            counts["rows"] += len(rows)
            yield cursor, rows

    def _records(self, counts: Counter[str], after: Any) -> Iterator[Batch]:
        yield from Records(self.project, names=self.names).batches(counts, after)

    def _shaped(self, counts: Counter[str], after: Any) -> Iterator[Batch]:
        shape = SHAPES[self.form][0]
        source = self._of_snapshot if self.snapshot else self._of_current_rankings
        for cursor, groups in source(counts, after):
            chosen = [group for group in groups if self.split in (None, group.split)]
            counts["prompts"] += len(chosen)
            if self.form != "kwise":
                for group in chosen:
                    counts.update(left_out.of_group(group))
            counts["rankings"] += sum(len(group.rankings) for group in chosen)
            counts["prompts_of_the_other_split"] += len(groups) - len(chosen)
            yield cursor, [row for group in chosen for row in shape(group, self.pairs, counts)]

    def _of_snapshot(self, counts: Counter[str], after: Any) -> Iterator[tuple[Any, list[Group]]]:
        if self.snapshot is None:
            return
        if after is None:
            for reason, count in left_out.of_snapshot(self.snapshot).items():
                counts[LEFT_OUT + reason] = count
        groups = islice(read_groups(self.snapshot.file), after or 0, None)
        done = after or 0
        while batch := list(islice(groups, GROUP_BATCH_SIZE)):
            done += len(batch)
            yield done, batch

    def _of_current_rankings(
        self, counts: Counter[str], after: Any
    ) -> Iterator[tuple[Any, list[Group]]]:
        account = Account()
        before = {name: count for name, count in counts.items() if name.startswith(LEFT_OUT)}
        if after is None:
            counts.update(left_out.of_rankings(self.project))
        for groups in batches_of(self.project, SnapshotFilter(), account, after=after):
            _account(counts, before, account)
            yield int(groups[-1].group_id), groups
        _account(counts, before, account)

    def agreement(self) -> dict[str, Any] | None:
        """Return the pairwise agreement of the snapshot, or of the project as shown on its pages.

        A snapshot of an earlier version has none, so the result is None.
        """
        if self.snapshot:
            return self.snapshot.counts.get("pairwise_agreement")
        quality = quality_of(self.project)
        return pairwise_json(quality.agreement, f"of {quality.sample}")

    # --- files ---

    def count(self) -> dict[str, int]:
        """Count the rows of the export, and everything left out. All rankings are read."""
        counts: Counter[str] = Counter(rows=0)
        for _ in self.batches(counts):
            pass
        return plain(counts)

    def stream(self, suffix: str, ended: Callable[[dict[str, int]], None]) -> Iterator[bytes]:
        """Yield the file in pieces, then call `ended` with the counts."""
        counts: Counter[str] = Counter(rows=0)
        rows = (row for _, batch in self.batches(counts) for row in batch)
        yield from encoded(rows, self.schema, suffix)
        ended(plain(counts))

    def write(
        self, path: Path, *, restart: bool = False, resumed: Callable[[dict[str, int]], None]
    ) -> dict[str, int]:
        """Write the file and its card, and return the counts.

        An interrupted export with the same plan is resumed, and `resumed` is called with the counts
        so far. Raises ExportError and OSError.
        """
        parts = Parts(path, self.plan(path.suffix))
        if parts.begin(restart=restart):
            resumed(parts.cursor["counts"])
        counts = Counter({"rows": 0, **parts.cursor["counts"]})
        batches = self.batches(counts, parts.cursor["after"])
        while not parts.is_complete:
            parts.add(batches, self.schema, counts)
        cuts = parts.cursor["cuts"]
        parts.finish(self.schema)
        card.write(
            path, self.plan(path.suffix), plain(counts), cuts=cuts, agreement=self.agreement()
        )
        return plain(counts)


LEFT_OUT = "rankings_left_out_"


def _account(counts: Counter[str], before: dict[str, int], account: Account) -> None:
    for reason, count in account.left_out.items():
        name = LEFT_OUT + reason
        counts[name] = before.get(name, 0) + count
