"""Snapshots: rankings frozen into a Parquet file that never changes.

One statement reads all rankings of the project, so the file and its account are about the same
rankings. Withdrawn responses, the replacements of reward.preferences.substitutes and the weights of
reviewers are read before the first ranking. Prompts and responses are read in batches. The memory
contains one batch of prompts, 32 bytes for each prompt, and the replacements if the filter has them.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations, groupby, islice
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from django.conf import settings
from django.db import transaction

from accounts.models import User, audit
from buckets import files
from buckets.bucket import StorageError
from labeling.importing.scan import reached_limit
from labeling.models import FileImport, Project, Prompt, Ranking, Response, TaskResponse
from labeling.queue.withdrawals import without
from labeling.statistics.agreement import pairwise_json, pairwise_of, strict_counts
from labeling.statistics.intervals import ShareSums
from labeling.statistics.pairs import Judgment as Statement
from labeling.statistics.reliability import fit
from recipes.machine import faults
from recipes.preferences.groups import (
    RESPONSES_CUT_OFF,
    Group,
    Judgment,
    PreferenceError,
    content_hash,
    read_groups,
    write_groups,
)
from reward.models import Snapshot
from reward.preferences.chats import chat_groups, splits_of_chats
from reward.preferences.filters import FilterError, SnapshotFilter
from reward.preferences.pseudonyms import Pseudonyms, pseudonyms
from reward.preferences.reviewer_weights import Weights
from reward.preferences.substitutes import Substitutes

__all__ = ["Account", "FilterError", "SnapshotError", "SnapshotFilter", "freeze", "survey"]

PROMPT_BATCH_SIZE = 256
RANKING_BATCH_SIZE = 2000
WEIGHED_BY = 30_000

COLUMNS = (
    "id", "task_id", "task__prompt_id", "task__kind", "task__inactive", "reviewer_id", "reviewer__simulated",
    "guideline_version_id", "tiers", "cut", "strength", "ratings", "flags", "active_seconds",
    "source", "superseded_at", "removed_at", "created_at", "task__external_id",
)  # fmt: skip


class SnapshotError(Exception):
    """The error if there is nothing to freeze. The text contains the reason and a remedy."""


@dataclass
class Account:
    """Counts of a snapshot, and of the rankings left out. `considered` = `used` + Σ `left_out`.

    `outcomes` is the number of leads' decisions that replace rankings. `used` does not include them.
    """

    considered: int = 0
    used: int = 0
    outcomes: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    chats: int = 0
    responses_withdrawn: int = 0
    """The number of withdrawn responses to prompts in the snapshot."""
    splits: dict[str, Counter[str]] = field(
        default_factory=lambda: {"train": Counter(), "test": Counter()}
    )
    sizes: Counter[int] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    guideline_versions: Counter[int | None] = field(default_factory=Counter)
    reviewers: set[int] = field(default_factory=set)
    simulated: int = 0
    agreement: ShareSums = field(default_factory=ShareSums)
    """The sums for the pairwise agreement, by prompt, over pairs that two reviewers of a task ordered."""

    def add(self, prompt: "JudgedPrompt") -> None:
        split = self.splits[prompt.split]
        split["prompts"] += 1
        split["responses"] += len(prompt.response_ids)
        self.sizes[len(prompt.response_ids)] += 1
        for ranking in prompt.rankings:
            split["rankings"] += 1
            split.update(_pairs(ranking["tiers"]))
            if ranking["id"] is None:
                self.outcomes += 1
                continue
            self.used += 1
            self.sources[ranking["source"]] += 1
            self.guideline_versions[ranking["guideline_version_id"]] += 1
            self.reviewers.add(ranking["reviewer_id"])
            self.simulated += _is_simulated(ranking)
        self.agreement.add(*_agreeing(prompt.rankings))

    def add_chat(self, split: str) -> None:
        """Count a plain chat: a prompt with one response and no ranking."""
        self.chats += 1
        self.splits[split].update(prompts=1, responses=1)
        self.sizes[1] += 1

    def to_dict(self) -> dict[str, Any]:
        """Return the counts as plain JSON, for Snapshot.counts."""
        return {
            **({"chats": self.chats} if self.chats else {}),
            "considered": self.considered,
            "used": self.used,
            "outcomes": self.outcomes,
            "left_out": dict(sorted(self.left_out.items())),
            "responses_withdrawn": self.responses_withdrawn,
            **{
                name: sum(split[name] for split in self.splits.values())
                for name in ("prompts", "responses", "pairs", "ties")
            },
            "splits": {name: dict(sorted(split.items())) for name, split in self.splits.items()},
            "sizes": {str(size): count for size, count in sorted(self.sizes.items())},
            "sources": dict(sorted(self.sources.items())),
            "guideline_versions": {
                str(version or "none"): count
                for version, count in sorted(
                    self.guideline_versions.items(), key=lambda item: item[0] or 0
                )
            },
            "reviewers": len(self.reviewers),
            "simulated": self.simulated,
            "pairwise_agreement": pairwise_json(
                pairwise_of(self.agreement), "of the whole snapshot"
            ),
        }


@dataclass
class JudgedPrompt:
    """A prompt with the rankings that are used, and the responses of their tasks."""

    prompt_id: int
    split: str
    rankings: list[dict[str, Any]]
    response_ids: list[int]


def survey(*, project: Project, filter: SnapshotFilter) -> Account:
    """Return the account of `freeze` without writing a snapshot.

    All rankings of the project are read, but no texts.
    """
    account = Account()
    for _ in _judged_prompts(project, filter, account):
        pass
    for split in splits_of_chats(project, filter) if filter.chats else ():
        account.add_chat(split)
    return account


def freeze(*, project: Project, filter: SnapshotFilter, by: User | None) -> Snapshot:
    """Write the current rankings of the project to a file, and return its snapshot.

    If a snapshot of the same rankings with the same filter exists, it is returned. All rankings of the
    project are read. Raises SnapshotError if there is nothing to freeze.
    """
    folder = Path(settings.SNAPSHOTS_DIR)
    folder.mkdir(parents=True, exist_ok=True)
    account = Account()
    with faults.writing(folder), TemporaryDirectory(prefix=".draft-", dir=folder) as drafts:
        draft = Path(drafts) / "preferences.parquet"
        if not write_groups(draft, groups_of(project, filter, account)):
            raise SnapshotError(nothing_to_freeze(project, filter, account))
        digest = content_hash(read_groups(draft))
        path = folder / f"{digest}.parquet"
        draft.replace(path)
    publish_file(path)
    return _record(project, filter, by, digest, account)


def publish_file(path: Path) -> None:
    """Copy the file of a snapshot to the storage. Raises SnapshotError if that fails."""
    try:
        files.publish(path)
    except StorageError as problem:
        raise SnapshotError(f"The snapshot cannot be stored: {problem}") from None


def nothing_to_freeze(project: Project, filter: SnapshotFilter, account: Account) -> str:
    if filter.chats and not account.considered:
        return (
            f"{project} has neither rankings nor imported prompts with one response and no task. Import "
            "some chats first."
        )
    if not account.considered:
        return f"{project} has no rankings yet. Have some tasks ranked first."
    return (
        f"None of the {account.considered} rankings of {project} passes the filter. Check the reasons, "
        "and widen the filter."
    )


@transaction.atomic
def _record(
    project: Project, filter: SnapshotFilter, by: User | None, digest: str, account: Account
) -> Snapshot:
    snapshot, created = Snapshot.objects.get_or_create(
        project=project,
        content_hash=digest,
        filter=filter.to_dict(),
        erased_at=None,
        defaults={"path": f"{digest}.parquet", "counts": account.to_dict(), "created_by": by},
    )
    if created:
        audit(by, "snapshot frozen", snapshot, rankings=account.used)
    return snapshot


# --- reading -------------------------------------------------------------------------------------


def _rankings(project: Project, after: int | None = None) -> Iterator[dict[str, Any]]:
    """Yield all rankings of the project, ordered by prompt, through a server-side cursor."""
    rows = Ranking.objects.filter(task__project=project).order_by("task__prompt_id", "id")
    if after is not None:
        rows = rows.filter(task__prompt_id__gt=after)
    return rows.values(*COLUMNS).iterator(chunk_size=RANKING_BATCH_SIZE)


def _used_by_prompt(
    project: Project, filter: SnapshotFilter, account: Account, after: int | None
) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    substitutes = Substitutes(project, filter)
    withdrawn = withdrawn_responses(project)
    for prompt_id, rankings in groupby(_rankings(project, after), itemgetter("task__prompt_id")):
        passed = []
        for ranking in rankings:
            account.considered += 1
            ranking = _without_withdrawn(ranking, withdrawn)
            if reason := filter.objection_to(ranking):
                account.left_out[reason] += 1
            else:
                passed.append(ranking)
        if used := substitutes.of_prompt(passed, account.left_out):
            yield prompt_id, [_without_withdrawn(ranking, withdrawn) for ranking in used]


def withdrawn_responses(project: Project) -> frozenset[int]:
    """Return the ids of the withdrawn responses. This takes one query, which uses a partial index."""
    withdrawn = Response.objects.filter(prompt__project=project, withdrawn_at__isnull=False)
    return frozenset(withdrawn.values_list("pk", flat=True))


def _without_withdrawn(ranking: dict[str, Any], withdrawn: frozenset[int]) -> dict[str, Any]:
    """Return the ranking without withdrawn responses."""
    if withdrawn.isdisjoint(pk for tier in ranking["tiers"] for pk in tier):
        return ranking
    tiers, cut = without(ranking["tiers"], ranking["cut"], withdrawn)
    marks = {
        name: {pk: value for pk, value in ranking[name].items() if int(pk) not in withdrawn}
        for name in ("ratings", "flags")
    }
    return {**ranking, **marks, "tiers": tiers, "cut": cut}


def _judged_prompts(
    project: Project, filter: SnapshotFilter, account: Account, after: int | None = None
) -> Iterator[list[JudgedPrompt]]:
    used = _used_by_prompt(project, filter, account, after)
    while batch := dict(islice(used, PROMPT_BATCH_SIZE)):
        hashes = dict(Prompt.objects.filter(pk__in=batch).values_list("pk", "content_hash"))
        responses = _responses_of_tasks(
            {r["task_id"] for rs in batch.values() for r in rs}, account
        )
        prompts = []
        for prompt_id, all_rankings in batch.items():
            split, rankings = _split(filter, hashes[prompt_id], all_rankings)
            if unused := len(all_rankings) - len(rankings):
                account.left_out["chat_held_out"] += unused
            response_ids = sorted(set().union(*(responses[r["task_id"]] for r in rankings)))
            prompts.append(JudgedPrompt(prompt_id, split, rankings, response_ids))
        for prompt in prompts:
            account.add(prompt)
        yield prompts


def _split(
    filter: SnapshotFilter, prompt_hash: str, rankings: list[dict[str, Any]]
) -> tuple[str, list[dict[str, Any]]]:
    """Return the split of a prompt, and those of its rankings that belong there.

    Rankings from chats are for training only. A prompt with no other rankings is never held out.
    """
    others = [ranking for ranking in rankings if ranking["source"] != Ranking.Source.CHAT]
    if not others:
        return "train", rankings
    split = filter.split_of(prompt_hash)
    return split, rankings if split == "train" else others


def _responses_of_tasks(task_ids: Iterable[int], account: Account) -> dict[int, set[int]]:
    """Return the responses of each task that are not withdrawn, and count the withdrawn ones."""
    responses: dict[int, set[int]] = {task_id: set() for task_id in task_ids}
    withdrawn = set()
    rows = TaskResponse.objects.filter(task_id__in=responses).order_by()
    for task_id, response_id, is_withdrawn in rows.values_list(
        "task_id", "response_id", "withdrawn"
    ):
        if is_withdrawn:
            withdrawn.add(response_id)
        else:
            responses[task_id].add(response_id)
    account.responses_withdrawn += len(withdrawn)
    return responses


def groups_of(project: Project, filter: SnapshotFilter, account: Account) -> Iterator[Group]:
    """Yield the rows that `freeze` writes. After the last row, `account` is complete."""
    for batch in batches_of(project, filter, account):
        yield from batch
    for chat in chat_groups(project, filter) if filter.chats else ():
        account.add_chat(chat.split)
        yield chat


def batches_of(
    project: Project, filter: SnapshotFilter, account: Account, *, after: int | None = None
) -> Iterator[list[Group]]:
    """Yield the rows of `groups_of` in batches of at most 256, for prompts with an id above `after`.

    After each batch, `account` includes exactly the batches so far.
    """
    pseudonym = pseudonyms(project)
    weight = reviewer_weights(project) if filter.weigh_reviewers else None
    for batch in _judged_prompts(project, filter, account, after):
        prompts = Prompt.objects.only("messages", "external_id").in_bulk(
            [prompt.prompt_id for prompt in batch]
        )
        responses = {
            response.pk: response
            for response in Response.objects.filter(
                pk__in=[pk for prompt in batch for pk in prompt.response_ids]
            ).only("text", "model_name", "external_id", "sampling")
        }
        yield [
            Group(
                group_id=str(prompt.prompt_id),
                prompt=prompts[prompt.prompt_id].messages,
                response_ids=prompt.response_ids,
                responses=[responses[pk].text for pk in prompt.response_ids],
                rankings=[_judgment(ranking, pseudonym, weight) for ranking in prompt.rankings],
                split=prompt.split,
                meta=_meta(
                    prompt,
                    prompts[prompt.prompt_id].external_id,
                    [responses[pk] for pk in prompt.response_ids],
                ),
            )
            for prompt in batch
        ]


def _judgment(ranking: dict[str, Any], pseudonym: Pseudonyms, weight: Weights | None) -> Judgment:
    """Return the judgment of a row. The decision of a lead has no ranking id, and the weight 1."""
    return Judgment(
        reviewer=pseudonym(ranking["reviewer_id"]),
        tiers=ranking["tiers"],
        cut=ranking["cut"],
        strength=ranking["strength"],
        weight=weight(ranking["reviewer_id"]) if weight and ranking["id"] else 1.0,
        guideline_version=ranking["guideline_version_id"],
    )


def _meta(prompt: JudgedPrompt, external_id: str, responses: Sequence[Response]) -> dict[str, Any]:
    """Return the metadata of a row.

    `ranking_ids`, `ratings` and `flags` are in the order of the rankings. The decision of a dispute has
    an id in `adjudication_ids` instead of `ranking_ids`. External ids, and the responses that were cut
    off by a length limit, are included only if there are any, so that the hashes of rows without them
    are the same as in earlier versions.
    """
    meta: dict[str, Any] = {
        "response_models": [response.model_name for response in responses],
        "ranking_ids": [ranking["id"] for ranking in prompt.rankings],
    }
    if external_id:
        meta["prompt_external_id"] = external_id
    if any(response.external_id for response in responses):
        meta["response_external_ids"] = [response.external_id for response in responses]
    if any(cut_off := [reached_limit(response.sampling) for response in responses]):
        meta[RESPONSES_CUT_OFF] = cut_off
    if any(ranking["task__external_id"] for ranking in prompt.rankings):
        meta["task_external_ids"] = [r["task__external_id"] for r in prompt.rankings]
    if any(_is_simulated(ranking) for ranking in prompt.rankings):
        meta["simulated"] = [_is_simulated(ranking) for ranking in prompt.rankings]
    if any(ranking["id"] is None for ranking in prompt.rankings):
        meta["adjudication_ids"] = [r.get("adjudication_id") for r in prompt.rankings]
    for name in ("ratings", "flags"):
        if any(ranking[name] for ranking in prompt.rankings):
            meta[name] = [ranking[name] for ranking in prompt.rankings]
    return meta


def _agreeing(rankings: list[dict[str, Any]]) -> tuple[int, int]:
    """Return how many pairs two reviewers of a task order in the same way, and how many both order.

    The decisions of leads, which have no ranking id, do not count.
    """
    same = both = 0
    for a, b in combinations([row for row in rankings if row["id"] is not None], 2):
        if a["task_id"] == b["task_id"]:
            agreeing, common = strict_counts(a["tiers"], b["tiers"])
            same, both = same + agreeing, both + common
    return same, both


def _is_simulated(ranking: dict[str, Any]) -> bool:
    return ranking["source"] == Ranking.Source.SIMULATION or ranking["reviewer__simulated"]


def _pairs(tiers: list[list[int]]) -> Counter[str]:
    """Count the pairs that a ranking orders strictly, and those that it ties."""
    placed = sum(map(len, tiers))
    ties = sum(len(tier) * (len(tier) - 1) // 2 for tier in tiers)
    return Counter(pairs=placed * (placed - 1) // 2 - ties, ties=ties)


def reviewer_weights(project: Project) -> Weights:
    """Return weights from the latest 30,000 rankings of the project, whatever the filter is.

    This takes a query and some seconds. The cached figures of the quality pages are not used, because
    equal rankings must give equal snapshots.
    """
    current = Ranking.objects.filter(
        task__project=project, task__inactive=False, superseded_at=None
    ).order_by("-id")
    withdrawn = withdrawn_responses(project)
    rankings = current.values_list("task_id", "reviewer_id", "tiers")[:WEIGHED_BY]
    return Weights(
        fit(
            sorted(
                Statement(task, reviewer, without(tiers, None, withdrawn)[0])
                for task, reviewer, tiers in rankings
            )
        )
    )


# --- frozen snapshots ---------------------------------------------------------------------------


def ranking_ids(snapshot: Snapshot) -> Iterator[int]:
    """Yield the ids of the rankings of a snapshot, row by row. One column of the file is read.

    Raises PreferenceError if the file is missing or damaged.
    """
    try:
        yield from _ranking_ids(snapshot)
    except faults.table_errors() as error:
        raise PreferenceError(faults.table_problem(snapshot.file, error)) from None


def _ranking_ids(snapshot: Snapshot) -> Iterator[int]:
    import pyarrow.parquet as pq  # takes 30 MB, which most processes never need

    with pq.ParquetFile(snapshot.file) as file:
        for batch in file.iter_batches(batch_size=1024, columns=["meta"]):
            for meta in batch.column(0).to_pylist():
                yield from (pk for pk in json.loads(meta)["ranking_ids"] if pk is not None)


def frozen_since(file_import: FileImport) -> str:
    """Return the reason why an import cannot be undone, or "" if no snapshot can contain its rows."""
    if file_import.finished_at is None:
        return ""
    later = Snapshot.objects.filter(
        project=file_import.project_id, created_at__gte=file_import.finished_at
    )
    if (snapshot := later.first()) is None:
        return ""
    return f"Snapshot {snapshot} was frozen after this import, so it can no longer be undone."
