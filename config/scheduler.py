"""Celery's scheduler of periodic tasks, for a clock that may be set back."""

from typing import Any

from celery.beat import PersistentScheduler, ScheduleEntry


class Scheduler(PersistentScheduler):
    """A scheduler that starts its intervals again after the clock was set back.

    Celery waits until the clock has caught up. After a change by an hour, lost runs would not return to
    the queue for an hour.
    """

    def tick(self, *args: Any, **kwargs: Any) -> float:
        if any(_is_in_future(entry) for entry in self.schedule.values()):
            for entry in self.schedule.values():
                entry.last_run_at = entry.default_now()
            self._heap = None  # Celery then computes the next times again
        return super().tick(*args, **kwargs)


def _is_in_future(entry: ScheduleEntry) -> bool:
    aware = entry.schedule.maybe_make_aware
    return aware(entry.last_run_at) > aware(entry.default_now())
