"""Counts of everything that an export leaves out, by reason, for the card and the command.

The counts take a few queries for a project of any size. Reasons that do not occur are not listed.
"""

from collections import Counter
from typing import Any

from django.db.models import Exists, OuterRef, QuerySet

from labeling.models import Adjudication, Gold, Project, Prompt, Ranking, Response, Skip, Task
from recipes.preferences.groups import Group
from reward.models import Snapshot

REASONS = {
    "prompts_withdrawn": "prompts left out: withdrawn",
    "responses_withdrawn": "responses left out: withdrawn",
    "tasks_withdrawn": "tasks left out: withdrawn, or with too few responses",
    "rankings_withdrawn": "rankings left out: their task is withdrawn",
    "prompts_not_ranked": "prompts left out: without a ranking that counts",
    "responses_not_ranked": "responses left out: without a ranking that counts",
    "rationales_left_out": "rationales left out: not in this format",
    "metadata_left_out": "metadata of prompts left out: not in this format",
    "ratings_left_out": "rankings whose ratings are left out: not in this format",
    "flags_left_out": "rankings whose flags are left out: not in this format",
    "skips_left_out": "skips left out",
    "decisions_left_out": "decisions of disputes left out",
    "gold_left_out": "answers of gold tasks left out: retired",
}


def of_everything(project: Project) -> Counter[str]:
    """Count everything that a full export leaves out."""
    return _counted(
        {
            **_withdrawn(project),
            "rankings_withdrawn": _current(project).filter(task__inactive=True),
            "skips_left_out": Skip.objects.filter(task__project=project),
            "decisions_left_out": Adjudication.objects.filter(task__project=project),
            "gold_left_out": Gold.objects.filter(task__project=project, retired_at__isnull=False),
        }
    )


def of_rankings(project: Project) -> Counter[str]:
    """Count everything that an export of a project's current rankings leaves out."""
    used = _current(project).filter(task__inactive=False, task__kind=Task.Kind.RANKING)
    prompts = Prompt.objects.filter(project=project, withdrawn_at=None)
    responses = Response.objects.filter(
        prompt__project=project, prompt__withdrawn_at=None, withdrawn_at=None
    )
    of_prompt = used.filter(task__prompt=OuterRef("pk"))
    of_response = used.filter(task__places__response=OuterRef("pk"))
    return _counted(
        {
            **_withdrawn(project),
            "prompts_not_ranked": prompts.filter(~Exists(of_prompt)),
            "responses_not_ranked": responses.filter(~Exists(of_response)),
            "rationales_left_out": used.exclude(rationale=""),
            "metadata_left_out": prompts.filter(Exists(of_prompt)).exclude(meta={}),
        }
    )


def of_snapshot(snapshot: Snapshot) -> dict[str, int]:
    """Return how many rankings were left out of the snapshot, by reason."""
    return dict(snapshot.counts.get("left_out", {}))


def of_group(group: Group) -> dict[str, int]:
    """Count the rankings with ratings and with flags, which pairs and labels leave out."""
    return {
        f"{name}_left_out": count
        for name in ("ratings", "flags")
        if (count := sum(map(bool, group.meta.get(name) or [])))
    }


def _current(project: Project) -> QuerySet[Ranking]:
    return Ranking.objects.filter(task__project=project, superseded_at=None)


def _withdrawn(
    project: Project,
) -> dict[str, "QuerySet[Prompt] | QuerySet[Response] | QuerySet[Task]"]:
    return {
        "prompts_withdrawn": Prompt.objects.filter(project=project, withdrawn_at__isnull=False),
        "responses_withdrawn": Response.objects.filter(
            prompt__project=project, withdrawn_at__isnull=False
        ),
        "tasks_withdrawn": Task.objects.filter(project=project, inactive=True),
    }


def _counted(rows: "dict[str, QuerySet[Any]]") -> Counter[str]:
    return +Counter({name: queryset.count() for name, queryset in rows.items()})
