"""Replacements of rankings by decisions of disputes, or by rankings under a later guideline.

Both replace rankings of the same prompt, so prompts are processed one at a time.
"""

from collections import Counter, defaultdict
from typing import Any

from labeling.models import Adjudication, Project, RelabelledTask
from reward.preferences.filters import SnapshotFilter

Row = dict[str, Any]


class Substitutes:
    """The replacements of a project. They take at most two queries, and are kept in memory."""

    def __init__(self, project: Project, filter: SnapshotFilter):
        self.outcomes = _outcomes(project, filter) if filter.adjudicated else {}
        self.originals = _originals(project) if filter.relabelled else {}

    def of_prompt(self, used: list[Row], left_out: Counter[str]) -> list[Row]:
        """Return the rankings of a prompt after the replacement, and count the replaced ones.

        `used` are the rankings of the prompt that the filter accepts.
        """
        return self._decided(self._without_first_rankings(used, left_out), left_out)

    def _without_first_rankings(self, used: list[Row], left_out: Counter[str]) -> list[Row]:
        replaced = {self.originals.get(row["task_id"]) for row in used} - {None}
        remaining = [row for row in used if row["task_id"] not in replaced]
        if len(remaining) < len(used):
            left_out["ranked_anew"] += len(used) - len(remaining)
        return remaining

    def _decided(self, used: list[Row], left_out: Counter[str]) -> list[Row]:
        by_task: dict[int, list[Row]] = defaultdict(list)
        for row in used:
            by_task[row["task_id"]].append(row)
        remaining: list[Row] = []
        for task, rows in by_task.items():
            if outcome := self.outcomes.get(task):
                left_out["adjudicated"] += len(rows)
                remaining.append({**rows[0], **outcome})
            else:
                remaining += rows
        return remaining


def _outcomes(project: Project, filter: SnapshotFilter) -> dict[int, Row]:
    """Return the decisions that the filter accepts, by task, as rows of rankings without an id."""
    decisions = Adjudication.objects.filter(task__project=project).values(
        "id",
        "task_id",
        "tiers",
        "cut",
        "by",
        "guideline_version_id",
        "created_at",
        "task__external_id",
    )
    return {
        row["task_id"]: {
            "id": None,
            "adjudication_id": row["id"],
            "task__external_id": row["task__external_id"],
            "reviewer_id": row["by"],
            "reviewer__simulated": False,
            "guideline_version_id": row["guideline_version_id"],
            "tiers": row["tiers"],
            "cut": row["cut"],
            "strength": None,
            "ratings": {},
            "flags": {},
            "active_seconds": 0.0,
            "source": "adjudication",
            "superseded_at": None,
            "created_at": row["created_at"],
        }
        for row in decisions
        if filter.covers(row["created_at"], row["guideline_version_id"])
    }


def _originals(project: Project) -> dict[int, int]:
    """Return the original of each copied task."""
    copies = RelabelledTask.objects.filter(sample__project=project)
    return dict(copies.values_list("copy", "original"))
