"""What stands in for rankings when a filter asks for it: a lead's decision of a dispute, and the
rankings that a task got when it was given out again under a later guideline.

Both belong to the prompt they are about, so one prompt's rankings are all that is looked at.
"""

from collections import Counter, defaultdict
from typing import Any

from labeling.models import Adjudication, Project, RelabelledTask
from reward.preferences.filters import SnapshotFilter

Row = dict[str, Any]


class Substitutes:
    """Two queries at most, and a row in memory for each decision and each copied task."""

    def __init__(self, project: Project, filter: SnapshotFilter):
        self.outcomes = _outcomes(project, filter) if filter.adjudicated else {}
        self.originals = _originals(project) if filter.relabelled else {}

    def of_prompt(self, used: list[Row], left_out: Counter[str]) -> list[Row]:
        """The rankings of one prompt that the filter let through → those that stay, and what
        stands in for the others, which are counted in `left_out`.
        """
        return self._decided(self._ranked_anew(used, left_out), left_out)

    def _ranked_anew(self, used: list[Row], left_out: Counter[str]) -> list[Row]:
        replaced = {self.originals.get(row["task_id"]) for row in used} - {None}
        stay = [row for row in used if row["task_id"] not in replaced]
        if len(stay) < len(used):
            left_out["ranked_anew"] += len(used) - len(stay)
        return stay

    def _decided(self, used: list[Row], left_out: Counter[str]) -> list[Row]:
        by_task: dict[int, list[Row]] = defaultdict(list)
        for row in used:
            by_task[row["task_id"]].append(row)
        stay: list[Row] = []
        for task, rows in by_task.items():
            if outcome := self.outcomes.get(task):
                left_out["adjudicated"] += len(rows)
                stay.append({**rows[0], **outcome})
            else:
                stay += rows
        return stay


def _outcomes(project: Project, filter: SnapshotFilter) -> dict[int, Row]:
    """By task, as rows of rankings without an id. The filter's versions and days hold for them."""
    decided = Adjudication.objects.filter(task__project=project).values(
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
        for row in decided
        if filter.covers(row["created_at"], row["guideline_version_id"])
    }


def _originals(project: Project) -> dict[int, int]:
    """The original of each copied task."""
    copied = RelabelledTask.objects.filter(sample__project=project)
    return dict(copied.values_list("copy", "original"))
