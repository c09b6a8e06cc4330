"""Plain chats: imported prompts with one response and no ranking, as examples to imitate.

A snapshot contains them if its filter has `chats`, as rows without rankings. They are used in
supervised fine-tuning. Other methods and reward models leave them out and count them.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from django.db.models import Exists, OuterRef, QuerySet

from labeling.importing.scan import reached_limit
from labeling.models import Project, Prompt, Response, Task
from recipes.preferences.groups import RESPONSES_CUT_OFF, Group
from reward.preferences.filters import SnapshotFilter

BATCH_SIZE = 256


def chat_responses(project: Project) -> QuerySet[Response]:
    """Return the responses of the plain chats of a project, ordered by prompt.

    Withdrawn prompts and responses are left out.
    """
    in_use = Response.objects.filter(prompt__project=project, withdrawn_at=None)
    others = Response.objects.filter(prompt=OuterRef("prompt"), withdrawn_at=None)
    tasks = Task.objects.filter(prompt=OuterRef("prompt"))
    alone = in_use.filter(prompt__withdrawn_at=None).exclude(
        Exists(tasks) | Exists(others.exclude(pk=OuterRef("pk")))
    )
    # A model trained on its own samples would only imitate itself.
    return alone.exclude(sampling__has_key="run").order_by("prompt_id", "pk")


def splits_of_chats(project: Project, filter: SnapshotFilter) -> Iterator[str]:
    """Yield the split of each plain chat, without reading its text."""
    hashes = chat_responses(project).values_list("prompt__content_hash", flat=True)
    yield from map(filter.split_of, hashes.iterator(chunk_size=BATCH_SIZE))


def chat_groups(project: Project, filter: SnapshotFilter) -> Iterator[Group]:
    """Yield a row for each plain chat. At most 256 rows are in memory at the same time."""
    rows = chat_responses(project).values_list("prompt_id", "pk").iterator(chunk_size=BATCH_SIZE)
    while batch := dict(islice(rows, BATCH_SIZE)):
        prompts = Prompt.objects.in_bulk(batch)
        responses = Response.objects.in_bulk(batch.values())
        for prompt_id, response_id in batch.items():
            yield _group(prompts[prompt_id], responses[response_id], filter)


def _group(prompt: Prompt, response: Response, filter: SnapshotFilter) -> Group:
    meta: dict[str, Any] = {"response_models": [response.model_name], "ranking_ids": []}
    if prompt.external_id:
        meta["prompt_external_id"] = prompt.external_id
    if reached_limit(response.sampling):
        meta[RESPONSES_CUT_OFF] = [True]
    if response.external_id:
        meta["response_external_ids"] = [response.external_id]
    return Group(
        group_id=str(prompt.pk),
        prompt=prompt.messages,
        response_ids=[response.pk],
        responses=[response.text],
        rankings=[],
        split=filter.split_of(prompt.content_hash),
        meta=meta,
    )
