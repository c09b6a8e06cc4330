"""Records from a file, linked to the ids of the rows in which they are stored."""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from accounts.models import User
from labeling.importing.records import (
    BadInput,
    PromptRecord,
    RankingRecord,
    ResponseRecord,
    TaskRecord,
)
from labeling.models import Response, Task
from labeling.queue.tasks import NewTask
from labeling.rankings import recording
from labeling.rankings.content import Content, problems

MAX_SLOTS = 9


@dataclass(frozen=True)
class StoredPrompt:
    """A prompt with the ids of its row and of its responses' rows, in the order of the record."""

    record: PromptRecord
    prompt_id: int
    response_ids: list[int]


def identity_of(response: ResponseRecord) -> str:
    return Response.identity_of(response.model, response.text, response.seed, response.external_id)


def task_key(stored: StoredPrompt, task: TaskRecord) -> tuple[Any, ...]:
    return stored.prompt_id, task.kind, *sorted(stored.response_ids[n] for n in task.responses)


def reviewers_by_task(rows: list[tuple[StoredPrompt, TaskRecord]]) -> dict[Any, set[str]]:
    """Return each task's reviewers, who may be in several rows of a file."""
    by_task: dict[Any, set[str]] = {}
    for row in rows:
        names = {ranking.reviewer for ranking in row[1].rankings}
        by_task.setdefault(task_key(*row), set()).update(names)
    return by_task


def new_task(stored: StoredPrompt, task: TaskRecord, reviewers: int) -> NewTask:
    """Return the task to add. Raises BadInput if two of its responses are the same."""
    ids = [stored.response_ids[index] for index in task.responses]
    if len(set(ids)) < len(ids):
        sentence = "two responses have the same text and model. Give them ids, or remove one."
        raise BadInput(sentence, task.line)
    rankings = max(reviewers, task.rankings_wanted or 0)
    return NewTask(
        stored.prompt_id,
        ids,
        task.priority,
        min(rankings, MAX_SLOTS) or None,
        kind=task.kind,
        external_id=task.external_id,
    )


@dataclass(frozen=True)
class ImportedRanking:
    """A ranking from a file, with the ids to which its indexes refer."""

    stored: StoredPrompt
    task: TaskRecord
    task_id: int
    ranking: RankingRecord

    def check(self, scales: dict[str, int]) -> None:
        """Raise BadInput unless the ranking is valid for its task and these rating scales."""
        ids = [self.stored.response_ids[index] for index in self.task.responses]
        if errors := problems(self.content, ids, scales, partial=True):
            who = f"the ranking by {self.ranking.reviewer} is refused"
            raise BadInput(f"{who}: {' '.join(errors.values())}", self.task.line)

    def tiers(self) -> list[list[int]]:
        ids = self.stored.response_ids
        return [sorted(ids[index] for index in tier) for tier in self.ranking.tiers]

    def shown_order(self) -> list[int]:
        return [self.stored.response_ids[index] for index in self.ranking.shown_order]

    @cached_property
    def content(self) -> Content:
        ids, ranking = self.stored.response_ids, self.ranking
        return Content(
            tiers=self.tiers(),
            cut=ranking.cut,
            strength=ranking.strength,
            ratings={ids[index]: rated for index, rated in ranking.ratings.items()},
            flags={ids[index]: named for index, named in ranking.flags.items()},
            rationale=ranking.rationale,
            active_seconds=ranking.active_seconds,
        )

    def key(self, users: dict[str, User]) -> Any:
        return recording.key_of("import", self.task_id, users[self.ranking.reviewer].pk)


def first_of_each_task(
    fresh: dict[Any, ImportedRanking], new_tasks: set[int]
) -> dict[Any, ImportedRanking]:
    """Return the rankings to copy in bulk: those of new tasks, at most nine per task, except gold."""
    counts = Counter[int]()
    bulk = {}
    for key, imported in fresh.items():
        counts[imported.task_id] += 1
        begins_with_slots = imported.task_id in new_tasks and imported.task.kind != Task.Kind.GOLD
        if begins_with_slots and counts[imported.task_id] <= MAX_SLOTS:
            bulk[key] = imported
    return bulk
