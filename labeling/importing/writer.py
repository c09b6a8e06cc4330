"""Stores what a format's reader yields: in bulk, all or nothing, and nothing twice.

A prompt is known by its chat, a response by its prompt, model, text and id, a task by its
responses, a ranking by its task and reviewer. What is known already is counted, not written again.
A task that brings rankings wants that many, so it is complete; one without goes to reviewers.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

from django.contrib.auth.hashers import make_password
from django.contrib.auth.validators import UnicodeUsernameValidator
from django.core.exceptions import ValidationError
from django.utils import timezone
from psycopg.types.json import Jsonb

from accounts.models import User
from database.copying import copy_rows, reserve_ids
from database.lookups import AnyOf
from labeling.gold import constraints as gold
from labeling.importing import findings
from labeling.importing.cleaning import storable_record
from labeling.importing.records import (
    OTHER_ID,
    BadInput,
    GoldRecord,
    PromptRecord,
    RankingRecord,
    ResponseRecord,
    SeveralProblems,
    Tally,
    TaskRecord,
)
from labeling.models import Criterion, Project, Prompt, Ranking, Response, Task, digest
from labeling.queue.filling import fill_imported
from labeling.queue.tasks import NewTask
from labeling.rankings import recording
from labeling.removal.erasing import unfrozen

PROMPTS_AT_ONCE = 1000
CHARACTERS_AT_ONCE = 8_000_000
"""A batch of long texts has fewer prompts, so that memory stays bounded."""
EXISTING, NEW = "existing", "new"
MOST_SLOTS = 9
HIGHEST_RATING = 10
OTHER_META = "prompts whose metadata differs from what is kept with the same prompt"


@dataclass
class Written:
    """New rows by table; `known` were there before, `read` were in the file."""

    read: Counter[str] = field(default_factory=Counter)
    new: Counter[str] = field(default_factory=Counter)
    held: int = 0
    """New tasks that nobody gets before a lead has looked."""

    def known(self, name: str) -> int:
        return self.read[name] - self.new[name]


@dataclass(frozen=True)
class _Stored:
    record: PromptRecord
    prompt_id: int
    response_ids: list[int]


class Writer:
    """`reviewers`: "new" makes inactive users for the names in the file and refuses the name of an
    active person; "existing" books rankings to the people who have those names. `any_criteria`
    keeps ratings, from 1 to 10, also of criteria that the guideline does not have. `progress` is
    called with the number of prompts read, after each batch. `file_import`: the id of the import,
    kept with what it brings so that it can be undone.
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
        self.written = Written()
        self.users: dict[str, User] = {}
        self.scales = dict(
            Criterion.objects.filter(version=project.current_version_id).values_list(
                "name", "scale"
            )
        )

    def write(self, records: Iterable[PromptRecord]) -> Written:
        """Call it inside a transaction. Raises BadInput."""
        for batch in _batches(self._readable(records)):
            batch = [storable_record(record, self.tally) for record in batch]
            stored = self._store_responses(batch, self._store_prompts(batch))
            self._store_tasks(stored)
            self.progress(self.written.read["prompts"])
        self.tally.problems.raise_any()
        return self.written

    def _readable(self, records: Iterable[PromptRecord]) -> Iterator[PromptRecord]:
        """Yield the records; problems of reading wait for those of the content of other rows."""
        try:
            yield from records
        except SeveralProblems as problem:
            if problem.complete:
                raise
            self.tally.problems.found += problem.problems

    def _accepts(self, step: Callable[[], object]) -> bool:
        """Whether a step succeeds. Its problem is kept, to be raised with those of other rows."""
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
        known = {
            h: (pk, external_id, meta)
            for h, pk, external_id, meta in stored.values_list(
                "content_hash", "pk", "external_id", "meta"
            )
        }
        fresh: dict[str, PromptRecord] = {}
        for number, (h, record) in enumerate(zip(hashes, batch, strict=True)):
            if h in known:
                batch[number] = self._as_kept(record, *known[h][1:])
            elif (first := fresh.setdefault(h, record)) is not record:
                batch[number] = self._as_kept(record, first.external_id, first.meta)
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
        return [known[h][0] if h in known else ids[h] for h in hashes]

    def _as_kept(self, record: PromptRecord, external_id: str, meta: Any) -> PromptRecord:
        """Return a record of a prompt that is kept already; its own id goes to its tasks.

        What differs from the prompt as it is kept, and finds no other place, is counted.
        """
        self.tally.left_out[OTHER_META] += bool(record.meta) and record.meta != meta
        if record.external_id in ("", external_id):
            return record
        if any(task.external_id for task in record.tasks) or not record.tasks:
            self.tally.left_out[OTHER_ID] += 1
            return record
        tasks = [replace(task, external_id=record.external_id) for task in record.tasks]
        return replace(record, tasks=tasks)

    def _store_responses(self, batch: list[PromptRecord], prompts: list[int]) -> list[_Stored]:
        keys = [
            [(prompt, _identity(response)) for response in record.responses]
            for record, prompt in zip(batch, prompts, strict=True)
        ]
        known = {
            (prompt, identity): pk
            for prompt, identity, pk in Response.objects.filter(
                AnyOf("prompt", set(prompts))
            ).values_list("prompt_id", "identity", "pk")
        }
        fresh = {
            key: response
            for record, row in zip(batch, keys, strict=True)
            for key, response in zip(row, record.responses, strict=True)
            if key not in known
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
            _Stored(record, prompt, [known.get(key) or ids[key] for key in row])
            for record, prompt, row in zip(batch, prompts, keys, strict=True)
        ]

    # --- tasks and rankings ---

    def _store_tasks(self, stored: list[_Stored]) -> None:
        rows = [
            (one, task)
            for one in stored
            for task in one.record.tasks
            if self._accepts(partial(_new_task, one, task, 0))
        ]
        reviewers = _reviewers_by_task(rows)
        new = [_new_task(*row, len(reviewers[_task_key(*row)])) for row in rows]
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
        for (one, task), (task_id, _) in zip(rows, added, strict=True):
            if task.gold is not None:
                self._accepts(partial(_store_gold, task_id, task.line, one.response_ids, task.gold))
        made = [
            _Made(one, task, task_id, ranking)
            for (one, task), (task_id, _) in zip(rows, added, strict=True)
            for ranking in task.rankings
        ]
        self._make_users({one.ranking.reviewer: one.task.line for one in reversed(made)})
        self._store_rankings(made, {task_id for task_id, created in added if created})

    def _note_other_ids(self, named: list[tuple[int, str]]) -> None:
        """Count the tasks whose id is not the one that is kept, as the same task was there before."""
        wanted = [(pk, name) for pk, name in named if name]
        kept = (
            dict(
                Task.objects.filter(pk__in=[pk for pk, _ in wanted]).values_list(
                    "pk", "external_id"
                )
            )
            if wanted
            else {}
        )
        self.tally.left_out[OTHER_ID] += sum(kept[pk] != name for pk, name in wanted)

    def _store_rankings(self, made: list["_Made"], new_tasks: set[int]) -> None:
        made = [self._rated(one) for one in made if one.ranking.reviewer in self.users]
        made = [one for one in made if self._accepts(partial(one.check, self._scales_of(one)))]
        keyed: dict[Any, _Made] = {}
        for one in made:
            first = keyed.setdefault(one.key(self.users), one)
            if first is not one:
                self._note_second(first, one)
        self.written.read["rankings"] += len(keyed)
        known = set(
            Ranking.objects.filter(AnyOf("idempotency_key", keyed)).values_list(
                "idempotency_key", flat=True
            )
        )
        fresh = {key: one for key, one in keyed.items() if key not in known}
        bulk = _first_of_each_task(fresh, new_tasks)
        self._copy_rankings(bulk)
        self.written.new["rankings"] += len(bulk)
        for key, one in fresh.items():
            if key not in bulk:
                self._record_one(key, one)

    def _rated(self, one: "_Made") -> "_Made":
        """Without ratings of criteria that only their source has."""
        said = one.ranking
        if not said.own_scales or self.any_criteria:
            return one
        kept = {
            place: {
                name: rating
                for name, rating in rated.items()
                if rating in range(1, self.scales.get(name, 0) + 1)
            }
            for place, rated in said.ratings.items()
        }
        lost = sum(map(len, said.ratings.values())) - sum(map(len, kept.values()))
        self.tally.left_out["ratings of criteria that the guideline does not have"] += lost
        return replace(one, ranking=replace(said, ratings=kept))

    def _scales_of(self, one: "_Made") -> dict[str, int]:
        if not self.any_criteria:
            return self.scales
        named = {str(name) for rated in one.ranking.ratings.values() for name in rated}
        return dict.fromkeys(named, HIGHEST_RATING) | self.scales

    def _note_second(self, first: "_Made", second: "_Made") -> None:
        same = first.tiers() == second.tiers()
        self.tally.left_out[
            "rankings said twice in the file"
            if same
            else "second rankings of the same responses by the same reviewer, which differ"
        ] += 1

    def _copy_rankings(self, fresh: dict[Any, "_Made"]) -> None:
        """Straight into new tasks, whose slots are numbered from 1 and all free."""
        ids = reserve_ids("labeling_ranking", len(fresh))
        now, taken = timezone.now(), Counter[int]()
        rows, filled = [], []
        for pk, (key, one) in zip(ids, fresh.items(), strict=True):
            user, content = self.users[one.ranking.reviewer], one.content.columns()
            taken[one.task_id] += 1
            filled.append((one.task_id, taken[one.task_id], user.pk, pk))
            rows.append(
                (
                    pk,
                    one.task_id,
                    user.pk,
                    *(Jsonb(content[name]) for name in ("tiers", "ratings", "flags")),
                    *(content[name] for name in ("cut", "strength", "rationale")),
                    content["active_seconds"],
                    one.shown_order(),
                    Ranking.Source.IMPORT.value,
                    key,
                    False,
                    self.file_import,
                    min(one.ranking.created_at or now, now),
                )
            )
        copy_rows(
            "labeling_ranking (id, task_id, reviewer_id, tiers, ratings, flags, cut, strength,"
            " rationale, active_seconds, shown_order, source, idempotency_key, extra, file_import_id,"
            " created_at)",
            rows,
        )
        fill_imported(filled)

    def _record_one(self, key: Any, one: "_Made") -> None:
        """Onto a task that was there before."""
        try:
            ranking, _ = recording.record(
                task=Task.objects.get(pk=one.task_id),
                reviewer=self.users[one.ranking.reviewer],
                source=Ranking.Source.IMPORT,
                idempotency_key=key,
                partial=True,
                scales=self._scales_of(one),
                shown_order=one.shown_order(),
                content=one.content,
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
        found = {user.username: user for user in User.objects.filter(username__in=missing)}
        for name in sorted(missing, key=lambda name: (lines[name], name)):
            self._accepts(partial(self._find_user, name, found.get(name), lines[name]))

    def _find_user(self, name: str, user: User | None, line: int) -> None:
        """Take the user of a reviewer's name, or make one. Raises BadInput."""
        if user is None and self.reviewers == EXISTING:
            raise BadInput(f"nobody here has the user name {name!r}.", line)
        if user is not None and user.is_active and self.reviewers == NEW:
            raise BadInput(
                f"the reviewer {name!r} has the user name of a person who works here. Rename "
                "the reviewer, or pass --reviewers existing if they are the same.",
                line,
            )
        self.users[name] = user or self._make_user(name, line)

    def _make_user(self, name: str, line: int) -> User:
        try:
            UnicodeUsernameValidator()(name)
        except ValidationError:
            raise BadInput(
                f"the reviewer {name!r} cannot be a user name: letters, digits and @.+-_ only.",
                line,
            ) from None
        if len(name) > 150:
            raise BadInput("the name of a reviewer has at most 150 characters.", line)
        self.written.new["reviewers"] += 1
        return User.objects.create(username=name, is_active=False, password=make_password(None))

    def _count(self, name: str, read: Sequence[Any], fresh: dict[Any, Any]) -> None:
        self.written.read[name] += len(set(read))
        self.written.new[name] += len(fresh)


@dataclass(frozen=True)
class _Made:
    """A ranking with the ids its places stand for."""

    stored: _Stored
    task: TaskRecord
    task_id: int
    ranking: RankingRecord

    def check(self, scales: dict[str, int]) -> None:
        ids = [self.stored.response_ids[place] for place in self.task.responses]
        if problems := recording.problems(self.content, ids, scales, partial=True):
            who = f"the ranking by {self.ranking.reviewer} is refused"
            raise BadInput(f"{who}: {' '.join(problems.values())}", self.task.line)

    def tiers(self) -> list[list[int]]:
        ids = self.stored.response_ids
        return [sorted(ids[place] for place in tier) for tier in self.ranking.tiers]

    def shown_order(self) -> list[int]:
        return [self.stored.response_ids[place] for place in self.ranking.shown_order]

    @cached_property
    def content(self) -> recording.Content:
        ids, said = self.stored.response_ids, self.ranking
        return recording.Content(
            tiers=self.tiers(),
            cut=said.cut,
            strength=said.strength,
            ratings={ids[place]: rated for place, rated in said.ratings.items()},
            flags={ids[place]: named for place, named in said.flags.items()},
            rationale=said.rationale,
            active_seconds=said.active_seconds,
        )

    def key(self, users: dict[str, User]) -> Any:
        return recording.key_of("import", self.task_id, users[self.ranking.reviewer].pk)


def _batches(records: Iterable[PromptRecord]) -> Iterator[list[PromptRecord]]:
    batch: list[PromptRecord] = []
    characters = 0
    for record in records:
        batch.append(record)
        characters += sum(len(message["content"]) for message in record.messages)
        characters += sum(len(response.text) for response in record.responses)
        if len(batch) == PROMPTS_AT_ONCE or characters > CHARACTERS_AT_ONCE:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _first_of_each_task(fresh: dict[Any, _Made], new_tasks: set[int]) -> dict[Any, _Made]:
    """Those that fill the slots with which a new task begins: nine at most, and none of gold."""
    counts = Counter[int]()
    bulk = {}
    for key, one in fresh.items():
        counts[one.task_id] += 1
        begins_with_slots = one.task_id in new_tasks and one.task.kind != Task.Kind.GOLD
        if begins_with_slots and counts[one.task_id] <= MOST_SLOTS:
            bulk[key] = one
    return bulk


def _identity(response: ResponseRecord) -> str:
    return Response.identity_of(response.model, response.text, response.seed, response.external_id)


def _task_key(stored: _Stored, task: TaskRecord) -> tuple[Any, ...]:
    return stored.prompt_id, task.kind, *sorted(stored.response_ids[n] for n in task.responses)


def _reviewers_by_task(rows: list[tuple[_Stored, TaskRecord]]) -> dict[Any, set[str]]:
    """Return who ranks each task: a file may have a row for each reviewer of the same responses."""
    found: dict[Any, set[str]] = {}
    for row in rows:
        names = {ranking.reviewer for ranking in row[1].rankings}
        found.setdefault(_task_key(*row), set()).update(names)
    return found


def _new_task(stored: _Stored, task: TaskRecord, reviewers: int) -> NewTask:
    ids = [stored.response_ids[place] for place in task.responses]
    if len(set(ids)) < len(ids):
        sentence = "two responses are the same text by the same model. Give them ids, or drop one."
        raise BadInput(sentence, task.line)
    wanted = max(reviewers, task.rankings_wanted or 0)
    return NewTask(
        stored.prompt_id,
        ids,
        task.priority,
        min(wanted, MOST_SLOTS) or None,
        kind=task.kind,
        external_id=task.external_id,
    )


def _store_gold(task_id: int, line: int, ids: list[int], said: GoldRecord) -> None:
    """What is known of a task already stays as it is."""
    constraints = [
        {name: ids[of] if name in ("a", "b") else of for name, of in one.items()}
        if isinstance(one, dict)
        else one
        for one in said.constraints
    ]
    try:
        gold.describe(
            task=Task.objects.get(pk=task_id),
            constraints=constraints,
            purpose=said.purpose,
            explanation=said.explanation,
        )
    except gold.GoldError as error:
        raise BadInput(f"its gold is refused. {error}", line) from None
