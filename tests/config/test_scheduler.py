"""Tests of the scheduler of periodic tasks, with a fake clock."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from celery import Celery
from celery.schedules import schedule

from config.scheduler import Scheduler

START = datetime(2026, 11, 30, tzinfo=UTC)
clock = {"now": START}


def now() -> datetime:
    return clock["now"]


def scheduler(folder: Path) -> Scheduler:
    app = Celery("clock", broker="memory://")
    app.conf.beat_schedule = {"reap": {"task": "reap", "schedule": schedule(10, nowfun=now)}}
    return Scheduler(app=app, schedule_filename=str(folder / "schedule"))


def runs_after(plan: Scheduler, seconds: float) -> int:
    """Move the clock, and return how often the task has been sent."""
    clock["now"] += timedelta(seconds=seconds)
    plan.tick()
    plan.tick()
    return plan.schedule["reap"].total_run_count


@pytest.mark.parametrize("jump", [timedelta(hours=-1), timedelta(hours=1)])
def test_tasks_are_sent_at_their_interval_after_the_clock_was_set(tmp_path, jump):
    clock["now"] = START
    plan = scheduler(tmp_path)
    first = runs_after(plan, 11)
    assert first == 1
    assert runs_after(plan, 5) == 1
    before = runs_after(plan, jump.total_seconds())
    assert runs_after(plan, 11) == before + 1
