"""Cached counts over a whole project. Large counts may be a few minutes old.

Counting a million rows takes about a second, which is too long for a page. A worker therefore counts
large projects every few minutes. All web processes read the results from the `shared` cache, which is a
table in the database.
"""

from collections.abc import Callable
from functools import wraps
from typing import Generic, TypeVar

from django.core.cache import caches

from labeling.models import Project, Slot

LARGE = 100_000
CACHE_SECONDS = 900
"""Longer than the interval between two counts by the worker. If no worker runs, the pages count."""

T = TypeVar("T")


class CachedCount(Generic[T]):
    """A function that counts something in a project. A count is cached if its `size` is at least LARGE."""

    def __init__(self, count: Callable[[Project], T], size: Callable[[T], int]):
        self.count, self.size = count, size
        wraps(count)(self)

    def __call__(self, project: Project) -> T:
        """Return the cached count, which costs one query, or count now."""
        cached = caches["shared"].get(self._key(project))
        return self.recount(project) if cached is None else cached

    def recount(self, project: Project) -> T:
        """Count now, cache a large count, and return it."""
        counted = self.count(project)
        if self.size(counted) >= LARGE:
            caches["shared"].set(self._key(project), counted, CACHE_SECONDS)
        return counted

    def _key(self, project: Project) -> str:
        return f"{self.count.__module__}.{self.count.__qualname__}:{project.pk}"


def cached_if_large(size: Callable[[T], int]) -> Callable[[Callable[[Project], T]], CachedCount[T]]:
    return lambda count: CachedCount(count, size)


def is_large(project: Project) -> bool:
    """Return whether the project has at least LARGE slots, reading at most LARGE index entries."""
    slots = Slot.objects.filter(project=project).order_by().values("project")
    return slots[LARGE - 1 : LARGE].exists()
