"""Counts over a whole project are exact, and where they are large they are some minutes old.

Counting a million rows takes about a second, which nobody should wait for at each visit.
"""

import time
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from labeling.models import Project

LARGE = 100_000
KEPT_SECONDS = 300
KEPT_AT_MOST = 200

P = ParamSpec("P")
T = TypeVar("T")
Counting = Callable[Concatenate[Project, P], T]


def kept_when_large(size: Callable[[T], int]) -> Callable[[Counting[P, T]], Counting[P, T]]:
    """Keep what was counted in this process, for KEPT_SECONDS, if its `size` is at least LARGE."""

    def keeping(count: Counting[P, T]) -> Counting[P, T]:
        kept: dict[object, tuple[float, T]] = {}

        @wraps(count)
        def counted(project: Project, *args: P.args, **kwargs: P.kwargs) -> T:
            key = (project.pk, args, *sorted(kwargs.items()))
            if key in kept and kept[key][0] > time.monotonic():
                return kept[key][1]
            found = count(project, *args, **kwargs)
            if size(found) >= LARGE:
                if len(kept) >= KEPT_AT_MOST:
                    kept.clear()
                kept[key] = (time.monotonic() + KEPT_SECONDS, found)
            return found

        return counted

    return keeping
