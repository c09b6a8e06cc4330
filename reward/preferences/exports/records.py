"""Full records of a project in the format of `import_data`, one row per prompt.

Values with arbitrary keys (`meta`, `sampling`, `ratings`, `flags`) are JSON text, so that all rows have
the same columns. Rankings refer to responses by their index in the row.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from datetime import UTC
from typing import Any

import pyarrow as pa

from accounts.models import User
from labeling.core.letter_references import own_letters
from labeling.core.lettering import letters_of, resolved
from labeling.models import (
    Gold,
    GuidelineVersion,
    Project,
    Prompt,
    Ranking,
    Response,
    Task,
    TaskResponse,
)
from labeling.queue.withdrawals import among
from reward.preferences.exports import left_out
from reward.preferences.exports.shapes import MESSAGES, Row
from reward.preferences.pseudonyms import pseudonyms

PROMPT_BATCH_SIZE = 256

_INDICES = pa.list_(pa.int64())
_RANKING = pa.struct(
    [
        ("reviewer", pa.string()), ("tiers", pa.list_(_INDICES)), ("cut", pa.int64()),
        ("strength", pa.float64()), ("ratings", pa.string()), ("flags", pa.string()),
        ("rationale", pa.string()), ("rationale_letters", pa.string()),
        ("rationale_resolved", pa.string()), ("active_seconds", pa.float64()), ("shown_order", _INDICES),
        ("created_at", pa.string()), ("source", pa.string()), ("guideline_version", pa.int64()),
    ]
)  # fmt: skip
_TASK = pa.struct(
    [
        ("id", pa.string()), ("responses", _INDICES), ("priority", pa.int64()), ("rankings_wanted", pa.int64()),
        ("kind", pa.string()), ("gold", pa.string()), ("rankings", pa.list_(_RANKING)),
    ]
)  # fmt: skip
_RESPONSE = pa.struct(
    [
        ("text", pa.string()), ("model", pa.string()), ("external_id", pa.string()),
        ("seed", pa.int64()), ("sampling", pa.string()),
    ]
)  # fmt: skip
RECORDS = pa.schema(
    [
        ("id", pa.string()), ("messages", MESSAGES), ("meta", pa.string()),
        ("responses", pa.list_(_RESPONSE)), ("tasks", pa.list_(_TASK)),
    ]
)  # fmt: skip


class Records:
    """Full records in batches, ordered by prompt. Each batch of 256 prompts takes six queries.

    With `names`, reviewers have their usernames, and otherwise the pseudonyms of the project.
    """

    def __init__(self, project: Project, *, names: bool):
        self.project = project
        self.pseudonym = None if names else pseudonyms(project)
        self.users: dict[int, str] = {}
        self.versions = dict(
            GuidelineVersion.objects.filter(guideline__project=project).values_list("pk", "number")
        )

    def batches(self, counts: Counter[str], after: int | None) -> Iterator[tuple[int, list[Row]]]:
        """Yield (id of the last prompt, rows) for prompts with an id above `after`."""
        last = after or 0
        counts.update(left_out.of_everything(self.project) if after is None else {})
        while True:
            prompts = list(
                Prompt.objects.filter(
                    project=self.project, withdrawn_at=None, pk__gt=last
                ).order_by("pk")[:PROMPT_BATCH_SIZE]
            )
            if not prompts:
                return
            last = prompts[-1].pk
            yield last, self._rows(prompts, counts)

    def _rows(self, prompts: list[Prompt], counts: Counter[str]) -> list[Row]:
        ids = [prompt.pk for prompt in prompts]
        in_use = Response.objects.filter(prompt__in=ids, withdrawn_at=None)
        responses = _by(in_use.order_by("pk"), "prompt_id")
        tasks_in_use = Task.objects.filter(prompt__in=ids, inactive=False)
        tasks = _by(tasks_in_use.order_by("pk"), "prompt_id")
        responses_in_use = TaskResponse.objects.filter(task__prompt__in=ids, withdrawn=False)
        task_responses = _by(responses_in_use.order_by("task_id", "position"), "task_id")
        rankings = self._rankings(ids, counts)
        current_gold = Gold.objects.filter(task__prompt__in=ids, retired_at=None)
        golds = {gold.task_id: gold for gold in current_gold}
        counts["prompts"] += len(prompts)
        return [
            self._row(
                prompt, responses[prompt.pk], tasks[prompt.pk], task_responses, rankings, golds
            )
            for prompt in prompts
        ]

    def _rankings(self, prompts: list[int], counts: Counter[str]) -> dict[int, list[Ranking]]:
        in_use = Ranking.objects.filter(task__prompt__in=prompts, task__inactive=False)
        rankings = list(in_use.order_by("pk"))
        current = [ranking for ranking in rankings if ranking.superseded_at is None]
        counts["rankings"] += len(current)
        counts["rankings_superseded"] += len(rankings) - len(current)
        self._learn_names({ranking.reviewer_id for ranking in current})
        return _by(current, "task_id")

    def _learn_names(self, reviewers: set[int]) -> None:
        if unknown := reviewers - self.users.keys():
            names = User.objects.filter(pk__in=unknown).values_list("pk", "username")
            for pk, name in names:
                self.users[pk] = self.pseudonym(pk) if self.pseudonym else name

    def _row(
        self,
        prompt: Prompt,
        responses: list[Response],
        tasks: list[Task],
        task_responses: dict[int, list[TaskResponse]],
        rankings: dict[int, list[Ranking]],
        golds: dict[int, Gold],
    ) -> Row:
        at = {response.pk: index for index, response in enumerate(responses)}
        prompt_text = "\n".join(str(message["content"]) for message in prompt.messages)
        own = own_letters(prompt_text, [response.text for response in responses])
        return {
            "id": prompt.external_id,
            "messages": [{"role": m["role"], "content": m["content"]} for m in prompt.messages],
            "meta": as_text(prompt.meta),
            "responses": [
                {
                    "text": response.text,
                    "model": response.model_name,
                    "external_id": response.external_id,
                    "seed": response.seed,
                    "sampling": as_text(response.sampling),
                }
                for response in responses
            ],
            "tasks": [
                {
                    "id": task.external_id,
                    "responses": [at[row.response_id] for row in task_responses[task.pk]],
                    "priority": task.priority,
                    "rankings_wanted": task.rankings_wanted,
                    "kind": task.kind,
                    "gold": _gold(golds.get(task.pk), at),
                    "rankings": [self._ranking(ranking, at, own) for ranking in rankings[task.pk]],
                }
                for task in tasks
            ],
        }

    def _ranking(self, ranking: Ranking, at: dict[int, int], own: frozenset[str]) -> Row:
        tiers, cut = among(ranking.tiers, ranking.cut, at)
        ratings, flags = (
            {str(at[int(pk)]): value for pk, value in of.items() if int(pk) in at}
            for of in (ranking.ratings, ranking.flags)
        )
        letters = letters_of(ranking.shown_order).items()
        return {
            "reviewer": self.users[ranking.reviewer_id],
            "tiers": [[at[pk] for pk in tier] for tier in tiers],
            "cut": cut,
            "strength": ranking.strength,
            "ratings": as_text(ratings),
            "flags": as_text(flags),
            "rationale": ranking.rationale,
            "rationale_letters": as_text({letter: at[pk] for pk, letter in letters if pk in at}),
            "rationale_resolved": resolved(ranking.rationale, ranking.shown_order, at, own),
            "active_seconds": ranking.active_seconds,
            "shown_order": [at[pk] for pk in ranking.shown_order if pk in at],
            "created_at": ranking.created_at.astimezone(UTC).isoformat(),
            "source": ranking.source,
            "guideline_version": self.versions.get(ranking.guideline_version_id or 0),
        }


def _gold(gold: Gold | None, at: dict[int, int]) -> str | None:
    """Return the answer of a gold task as JSON, with responses by index, or None."""
    if gold is None:
        return None
    constraints = [
        {name: at[value] if name in ("a", "b") else value for name, value in constraint.items()}
        for constraint in gold.constraints
    ]
    answer = {
        "constraints": constraints, "purpose": gold.purpose, "explanation": gold.explanation,
    }  # fmt: skip
    return as_text(answer)


def as_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _by(rows: Iterable[Any], name: str) -> dict[int, list[Any]]:
    by_key: dict[int, list[Any]] = defaultdict(list)
    for row in rows:
        by_key[getattr(row, name)].append(row)
    return by_key
