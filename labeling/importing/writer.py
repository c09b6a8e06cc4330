"""Store the records of a file in bulk: all or none of them, and without duplicates.

A prompt is identified by its chat, a response by its prompt, model, text and id, a task by its responses,
and a ranking by its task and reviewer. Rows that already exist are counted but not written again. A task
that has rankings in the file needs no others; a task without rankings is given to reviewers.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from django.contrib.auth.hashers import make_password
from django.contrib.auth.validators import UnicodeUsernameValidator
from django.core.exceptions import ValidationError
from django.utils import timezone
from psycopg.types.json import Jsonb

from accounts.models import User
from database.copying import copy_rows, reserve_ids
from database.lookups import AnyOf
from labeling.gold import making
from labeling.importing import findings
from labeling.importing.cleaning import storable_record
from labeling.importing.links import (
    ImportedRanking,
    StoredPrompt,
    first_of_each_task,
    identity_of,
    new_task,
    reviewers_by_task,
    task_key,
)
from labeling.importing.records import (
    OTHER_ID,
    BadInput,
    GoldRecord,
    PromptRecord,
    SeveralProblems,
    Tally,
)
from labeling.models import Criterion, Project, Prompt, Ranking, Response, Task, digest
from labeling.queue.filling import fill_imported
from labeling.rankings import recording
from labeling.removal.erasing import unfrozen

PROMPT_BATCH_SIZE = 1000
MAX_BATCH_CHARACTERS = 8_000_000
"""Maximum number of characters in a batch, so that long texts do not need too much memory."""
EXISTING, NEW = "existing", "new"
HIGHEST_RATING = 10
OTHER_META = "prompts whose metadata differs from that of the same prompt stored before"


@dataclass
class WrittenRows:
    """Numbers of rows by table: rows `read` from the file, and `new` rows that were added."""

    read: Counter[str] = field(default_factory=Counter)
    new: Counter[str] = field(default_factory=Counter)
    held: int = 0
    """Number of new tasks that are held until a lead has checked their findings."""

    def known(self, name: str) -> int:
        return self.read[name] - self.new[name]


class Writer:
    """Stores prompts with their responses, tasks and rankings.

    If `reviewers` is "new", reviewers in the file become inactive users, and the name of an active user
    is refused. If it is "existing", rankings are credited to the users with these names. With
    `any_criteria`, ratings from 1 to 10 for criteria that the guideline does not have are stored. After
    each batch, `progress` is called with the number of prompts read so far. `file_import` is the id of
    the import's row, which is stored with each new row so that the import can be undone.
    """

    def __init__(
        self,
        project: Project,
        tally: Tally,
        reviewers: str = NEW,
        any_criteria: bool = False,
        progress: Callable[[int], None] = lambda prompts: None,
        file_import: int | None = None,
    ):
        self.file_import = file_import
        self.progress = progress
        self.project = project
        self.tally = tally
        self.reviewers = reviewers
        self.any_criteria = any_criteria
        self.written = WrittenRows()
        self.users: dict[str, User] = {}
        self.scales = dict(
            Criterion.objects.filter(version=project.current_version_id).values_list(
                "name", "scale"
            )
        )

    def write(self, records: Iterable[PromptRecord]) -> WrittenRows:
        """Store the records. Call this in a transaction. Raises BadInput if there are problems."""
        for batch in _batches(self._readable(records)):
            batch = [storable_record(record, self.tally) for record in batch]
            stored = self._store_responses(batch, self._store_prompts(batch))
            self._store_tasks(stored)
            self.progress(self.written.read["prompts"])
        self.tally.problems.raise_any()
        return self.written

    def _readable(self, records: Iterable[PromptRecord]) -> Iterator[PromptRecord]:
        """Yield the records.

        Problems found while reading are reported together with those found while storing.
        """
        try:
            yield from records
        except SeveralProblems as problem:
            if problem.complete:
                raise
            self.tally.problems.items += problem.problems

    def _accepts(self, step: Callable[[], object]) -> bool:
        """Run a step; return whether it succeeded. A problem is kept and reported with others later."""
        try:
            step()
        except BadInput as problem:
            self.tally.problems.add(problem)
            return False
        return True

    # --- prompts and responses ---

    def _store_prompts(self, batch: list[PromptRecord]) -> list[int]:
        hashes = [digest(record.messages) for record in batch]
        stored = Prompt.objects.filter(project=self.project, content_hash__in=hashes)
        existing = {
            h: (pk, external_id, meta)
            for h, pk, external_id, meta in stored.values_list(
                "content_hash", "pk", "external_id", "meta"
            )
        }
        fresh: dict[str, PromptRecord] = {}
        for number, (h, record) in enumerate(zip(hashes, batch, strict=True)):
            if h in existing:
                batch[number] = self._existing_record(record, *existing[h][1:])
            elif (first := fresh.setdefault(h, record)) is not record:
                batch[number] = self._existing_record(record, first.external_id, first.meta)
        ids = dict(zip(fresh, reserve_ids("labeling_prompt", len(fresh)), strict=True))
        now = timezone.now()
        copy_rows(
            "labeling_prompt"
            " (id, project_id, messages, content_hash, external_id, meta, created_at,"
            " file_import_id)",
            (
                (
                    ids[h],
                    self.project.pk,
                    Jsonb(r.messages),
                    h,
                    r.external_id,
                    Jsonb(r.meta),
                    now,
                    self.file_import,
                )
                for h, r in fresh.items()
            ),
        )
        self._count("prompts", hashes, fresh)
        return [existing[h][0] if h in existing else ids[h] for h in hashes]

    def _existing_record(self, record: PromptRecord, external_id: str, meta: Any) -> PromptRecord:
        """Return the record of a prompt that already exists.

        If the id in the file differs from the stored one, it becomes the id of the tasks instead. Ids that
        no task can get, and
        metadata that differs from the stored metadata, are counted as left out.
        """
        self.tally.left_out[OTHER_META] += bool(record.meta) and record.meta != meta
        if record.external_id in ("", external_id):
            return record
        if any(task.external_id for task in record.tasks) or not record.tasks:
            self.tally.left_out[OTHER_ID] += 1
            return record
        tasks = [replace(task, external_id=record.external_id) for task in record.tasks]
        return replace(record, tasks=tasks)

    def _store_responses(self, batch: list[PromptRecord], prompts: list[int]) -> list[StoredPrompt]:
        keys = [
            [(prompt, identity_of(response)) for response in record.responses]
            for record, prompt in zip(batch, prompts, strict=True)
        ]
        existing = {
            (prompt, identity): pk
            for prompt, identity, pk in Response.objects.filter(
                AnyOf("prompt", set(prompts))
            ).values_list("prompt_id", "identity", "pk")
        }
        fresh = {
            key: response
            for record, row in zip(batch, keys, strict=True)
            for key, response in zip(row, record.responses, strict=True)
            if key not in existing
        }
        ids = dict(zip(fresh, reserve_ids("labeling_response", len(fresh)), strict=True))
        now = timezone.now()
        copy_rows(
            "labeling_response"
            " (id, prompt_id, text, model_name, sampling, seed, external_id, identity, created_at,"
            " file_import_id)",
            (
                (
                    ids[key],
                    key[0],
                    r.text,
                    r.model,
                    Jsonb(dict(r.sampling)),
                    r.seed,
                    r.external_id,
                    key[1],
                    now,
                    self.file_import,
                )
                for key, r in fresh.items()
            ),
        )
        self._count("responses", [key for row in keys for key in row], fresh)
        return [
            StoredPrompt(record, prompt, [existing.get(key) or ids[key] for key in row])
            for record, prompt, row in zip(batch, prompts, keys, strict=True)
        ]

    # --- tasks and rankings ---

    def _store_tasks(self, stored: list[StoredPrompt]) -> None:
        rows = [
            (stored_prompt, task)
            for stored_prompt in stored
            for task in stored_prompt.record.tasks
            if self._accepts(partial(new_task, stored_prompt, task, 0))
        ]
        reviewers = reviewers_by_task(rows)
        new = [new_task(*row, len(reviewers[task_key(*row)])) for row in rows]
        added = findings.add_tasks(
            project=self.project,
            tasks=[replace(task, file_import_id=self.file_import) for task in new],
            ranked=[bool(task.rankings) for _, task in rows],
        )
        self.written.read["tasks"] += len(rows)
        self._note_other_ids(
            [(pk, t.external_id) for (_, t), (pk, _) in zip(rows, added, strict=True)]
        )
        fresh = [pk for pk, created in added if created]
        self.written.new["tasks"] += len(fresh)
        self.written.held += Task.objects.filter(AnyOf("pk", fresh), held=True).count()
        for (stored_prompt, task), (task_id, _) in zip(rows, added, strict=True):
            if task.gold is not None:
                self._accepts(
                    partial(_store_gold, task_id, task.line, stored_prompt.response_ids, task.gold)
                )
        rankings = [
            ImportedRanking(stored_prompt, task, task_id, ranking)
            for (stored_prompt, task), (task_id, _) in zip(rows, added, strict=True)
            for ranking in task.rankings
        ]
        self._make_users(
            {imported.ranking.reviewer: imported.task.line for imported in reversed(rankings)}
        )
        self._store_rankings(rankings, {task_id for task_id, created in added if created})

    def _note_other_ids(self, named: list[tuple[int, str]]) -> None:
        """Count the tasks whose id is lost because the same task exists under another id."""
        named_rows = [(pk, name) for pk, name in named if name]
        stored_names = (
            dict(
                Task.objects.filter(pk__in=[pk for pk, _ in named_rows]).values_list(
                    "pk", "external_id"
                )
            )
            if named_rows
            else {}
        )
        self.tally.left_out[OTHER_ID] += sum(stored_names[pk] != name for pk, name in named_rows)

    def _store_rankings(self, imported: list[ImportedRanking], new_tasks: set[int]) -> None:
        rated = [
            self._rated(ranking) for ranking in imported if ranking.ranking.reviewer in self.users
        ]
        keyed: dict[Any, ImportedRanking] = {}
        for ranking in rated:
            if not self._accepts(partial(ranking.check, self._scales_of(ranking))):
                continue
            first = keyed.setdefault(ranking.key(self.users), ranking)
            if first is not ranking:
                self._note_second(first, ranking)
        self.written.read["rankings"] += len(keyed)
        existing = set(
            Ranking.objects.filter(AnyOf("idempotency_key", keyed)).values_list(
                "idempotency_key", flat=True
            )
        )
        fresh = {key: ranking for key, ranking in keyed.items() if key not in existing}
        bulk = first_of_each_task(fresh, new_tasks)
        self._copy_rankings(bulk)
        self.written.new["rankings"] += len(bulk)
        for key, ranking in fresh.items():
            if key not in bulk:
                self._record_one(key, ranking)

    def _rated(self, imported: ImportedRanking) -> ImportedRanking:
        """Return the ranking without ratings for criteria that the guideline does not have."""
        ranking = imported.ranking
        if not ranking.own_scales or self.any_criteria:
            return imported
        accepted = {
            index: {
                name: rating
                for name, rating in rated.items()
                if rating in range(1, self.scales.get(name, 0) + 1)
            }
            for index, rated in ranking.ratings.items()
        }
        lost = sum(map(len, ranking.ratings.values())) - sum(map(len, accepted.values()))
        self.tally.left_out["ratings of criteria that the guideline does not have"] += lost
        return replace(imported, ranking=replace(ranking, ratings=accepted))

    def _scales_of(self, imported: ImportedRanking) -> dict[str, int]:
        if not self.any_criteria:
            return self.scales
        named = {str(name) for rated in imported.ranking.ratings.values() for name in rated}
        return dict.fromkeys(named, HIGHEST_RATING) | self.scales

    def _note_second(self, first: ImportedRanking, second: ImportedRanking) -> None:
        same = first.tiers() == second.tiers()
        self.tally.left_out[
            "rankings that occur twice in the file"
            if same
            else "second rankings of the same responses by the same reviewer, which differ"
        ] += 1

    def _copy_rankings(self, fresh: dict[Any, ImportedRanking]) -> None:
        """Copy rankings into new tasks, all of whose slots are free and numbered from 1."""
        ids = reserve_ids("labeling_ranking", len(fresh))
        now, slot_numbers = timezone.now(), Counter[int]()
        rows, filled = [], []
        for pk, (key, imported) in zip(ids, fresh.items(), strict=True):
            user, content = self.users[imported.ranking.reviewer], imported.content.columns()
            slot_numbers[imported.task_id] += 1
            filled.append((imported.task_id, slot_numbers[imported.task_id], user.pk, pk))
            rows.append(
                (
                    pk,
                    imported.task_id,
                    user.pk,
                    *(Jsonb(content[name]) for name in ("tiers", "ratings", "flags")),
                    *(content[name] for name in ("cut", "strength", "rationale")),
                    content["active_seconds"],
                    imported.shown_order(),
                    Ranking.Source.IMPORT.value,
                    key,
                    False,
                    self.file_import,
                    min(imported.ranking.created_at or now, now),
                )
            )
        copy_rows(
            "labeling_ranking (id, task_id, reviewer_id, tiers, ratings, flags, cut, strength,"
            " rationale, active_seconds, shown_order, source, idempotency_key, extra, file_import_id,"
            " created_at)",
            rows,
        )
        fill_imported(filled)

    def _record_one(self, key: Any, imported: ImportedRanking) -> None:
        """Add a ranking to an existing task, or count it if its reviewer has already ranked the task."""
        try:
            ranking, _ = recording.record(
                task=Task.objects.get(pk=imported.task_id),
                reviewer=self.users[imported.ranking.reviewer],
                source=Ranking.Source.IMPORT,
                idempotency_key=key,
                partial=True,
                scales=self._scales_of(imported),
                shown_order=imported.shown_order(),
                content=imported.content,
            )
        except recording.InvalidRanking:
            self.tally.left_out["rankings of tasks their reviewer had ranked before"] += 1
        else:
            self.written.new["rankings"] += 1
            if self.file_import is not None:
                with unfrozen():
                    Ranking.objects.filter(pk=ranking.pk).update(file_import=self.file_import)

    # --- reviewers ---

    def _make_users(self, lines: dict[str, int]) -> None:
        missing = lines.keys() - self.users.keys()
        users = {user.username: user for user in User.objects.filter(username__in=missing)}
        for name in sorted(missing, key=lambda name: (lines[name], name)):
            self._accepts(partial(self._find_user, name, users.get(name), lines[name]))

    def _find_user(self, name: str, user: User | None, line: int) -> None:
        """Find or create the user with a reviewer's name. Raises BadInput if that is not possible."""
        if user is None and self.reviewers == EXISTING:
            raise BadInput(f"no user is named {name!r}.", line)
        if user is not None and user.is_active and self.reviewers == NEW:
            raise BadInput(
                f"the reviewer {name!r} has the username of an active user. Rename "
                "the reviewer, or pass --reviewers existing if both are the same person.",
                line,
            )
        self.users[name] = user or self._make_user(name, line)

    def _make_user(self, name: str, line: int) -> User:
        try:
            UnicodeUsernameValidator()(name)
        except ValidationError:
            raise BadInput(
                f"{name!r} is not a valid username. A reviewer's name may contain letters, digits and "
                "@.+-_ only.",
                line,
            ) from None
        if len(name) > 150:
            raise BadInput("a reviewer's name may have at most 150 characters.", line)
        self.written.new["reviewers"] += 1
        return User.objects.create(username=name, is_active=False, password=make_password(None))

    def _count(self, name: str, read: Sequence[Any], fresh: dict[Any, Any]) -> None:
        self.written.read[name] += len(set(read))
        self.written.new[name] += len(fresh)


def _batches(records: Iterable[PromptRecord]) -> Iterator[list[PromptRecord]]:
    batch: list[PromptRecord] = []
    characters = 0
    for record in records:
        batch.append(record)
        characters += sum(len(message["content"]) for message in record.messages)
        characters += sum(len(response.text) for response in record.responses)
        if len(batch) == PROMPT_BATCH_SIZE or characters > MAX_BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _store_gold(task_id: int, line: int, ids: list[int], gold_record: GoldRecord) -> None:
    """Store a task's known answer, unless the task already has one."""
    constraints = [
        {key: ids[name] if key in ("a", "b") else name for key, name in constraint.items()}
        if isinstance(constraint, dict)
        else constraint
        for constraint in gold_record.constraints
    ]
    try:
        making.describe(
            task=Task.objects.get(pk=task_id),
            constraints=constraints,
            purpose=gold_record.purpose,
            explanation=gold_record.explanation,
        )
    except making.GoldError as error:
        raise BadInput(f"its gold is refused. {error}", line) from None
