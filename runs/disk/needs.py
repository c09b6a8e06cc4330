"""The runs whose published files are needed, and why.

`runs` knows no models. Each app that uses files of runs registers a function here.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any

from django.db.models import Q

from runs.models import Run, State

Needs = dict[int, str]
"""The reasons not to remove the published files, by the id of the run, each as a sentence."""

STORED = re.compile(r"^runs:(\d+)/")

_providers: list[Callable[[bool], Needs]] = []


def register(provider: Callable[[bool], Needs]) -> None:
    """Register a function that returns the runs whose published files are needed.

    With its argument `lock`, it also locks the rows on which its answer depends, until the end of the
    transaction.
    """
    if provider not in _providers:
        _providers.append(provider)


def needs(*, lock: bool = False) -> Needs:
    """Return the runs whose published files are needed. The first reason of each run counts."""
    result: Needs = {}
    for provider in (*_providers, _of_other_runs):
        for pk, reason in provider(lock).items():
            result.setdefault(pk, reason)
    return result


def runs_in(values: Iterable[Any]) -> set[int]:
    """Return the runs whose folders stored paths name, such as 12 for `runs:12/output`."""
    matches = (STORED.match(value) for value in values if isinstance(value, str))
    return {int(match[1]) for match in matches if match}


def _of_other_runs(lock: bool) -> Needs:
    """Return the runs whose files a run in the queue, or one that can be continued, reads."""
    waiting = Q(state__in=[State.QUEUED, State.RUNNING])
    resumable = Q(state__in=[State.FAILED, State.CANCELLED], archived_at=None)
    result: Needs = {}
    for pk, config in Run.objects.filter(waiting | resumable).values_list("pk", "config"):
        for needed in runs_in(config.values()) - {pk}:
            result.setdefault(needed, f"Run {pk} reads its files.")
    return result
