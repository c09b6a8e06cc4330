"""The parts of a run's page that change while it runs: progress, time left, curves and messages."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil
from typing import Any

from django.db.models import F, Max, Min, Q
from django.db.models.functions import Now
from django.utils import timezone

from formatting.numbers import number, percent
from runs import kinds
from runs.kinds import CannotRun, RunKind
from runs.models import ENDED, Run, RunEvent, State

MAX_POINTS = 1500
MAX_MESSAGES = 200
RATE_POINTS = 30


@dataclass(frozen=True)
class Progress:
    """The progress of a run. `stage` names its current activity, and is "" while it trains."""

    percent: float | None
    seconds_left: float | None
    latest: list[tuple[str, str]]
    waiting_for: int
    stage: str


def progress(run: Run) -> Progress:
    """Return the progress of a run. Costs at most two queries."""
    events = run.events.filter(event__in=("progress", "stage")).order_by("-number")
    rows = events.annotate(age=Now() - F("recorded_at")).values_list("event", "at", "data", "age")
    latest = list(rows[:RATE_POINTS])
    recent = [(at, data, age) for name, at, data, age in latest if name == "progress"]
    running = run.state == State.RUNNING
    return Progress(
        percent=100 * run.step / run.total_steps if run.total_steps else None,
        seconds_left=seconds_left(run, recent) if running else None,
        latest=[
            (name, format_value(value, share=name in shares_of(run)))
            for name, value in sorted(latest_values(data for _, data, _ in recent).items())
        ],
        waiting_for=waiting_for(run),
        stage=stage_of([(name, data) for name, _, data, _ in latest]) if running else "",
    )


def stage_of(events: list[tuple[str, dict[str, Any]]]) -> str:
    """Return the current activity, given the progress and stage events, newest first."""
    if not events:
        return "Preparing the data"
    name, data = events[0]
    return str(data.get("text", "")) if name == "stage" else ""


def latest_values(recent: Iterable[dict[str, Any]]) -> dict[str, float]:
    """Return the newest value of each curve, given the data of progress events, newest first."""
    values: dict[str, float] = {}
    step: Any = None
    for data in recent:
        if values and data.get("step") != step:
            break
        values = {**curves_of(data), **values}
        step = data.get("step")
    return values


def waiting_for(run: Run) -> int:
    """Return the number of runs before a queued run in the queue, or 0 for a run in another state."""
    if run.state != State.QUEUED:
        return 0
    before = Q(state=State.RUNNING) | Q(state=State.QUEUED, pk__lt=run.pk)
    return Run.objects.filter(before).count()


def seconds_left(
    run: Run, recent: list[tuple[datetime, dict[str, Any], timedelta]]
) -> float | None:
    """Estimate the seconds left from the last progress events, newest first.

    Each event has its time, data and age. Times are from the clock of the machine that trains, and ages
    from the database's clock. This machine's clock is not used, because it may differ from both.
    """
    steps = [
        (at, float(data["step"]))
        for at, data, _ in recent
        if isinstance(data.get("step"), int | float)
    ]
    # Count the events of this attempt. The newest event before them has a higher step.
    count = 1
    while count < len(steps) and steps[count][1] < steps[count - 1][1]:
        count += 1
    if count < 2:
        return None
    (last_at, last), (first_at, first) = steps[0], steps[count - 1]
    per_step = (last_at - first_at).total_seconds() / (last - first)
    since = recent[0][2].total_seconds()
    return max(0.0, (run.total_steps - last) * per_step - since)


def curves_of(data: dict[str, Any]) -> dict[str, float]:
    """Return the numbers in a progress event that are plotted as curves."""
    metrics = data.get("metrics")
    values = {**(metrics if isinstance(metrics, dict) else {}), "loss": data.get("loss")}
    for name in ("tokens_per_s", "memory_mb"):
        values[name] = data.get(name)
    return {
        name: float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def points(run: Run, *, after: int = 0) -> list[dict[str, Any]]:
    """Return the points of the curves after event number `after`, thinned out to about MAX_POINTS."""
    new = run.events.filter(event="progress", number__gt=after)
    span = new.aggregate(first=Min("number"), last=Max("number"))
    if span["last"] is None:
        return []
    stride = ceil((span["last"] - span["first"] + 1) / MAX_POINTS)
    if stride > 1:
        thinned = Q(offset=0) | Q(number=span["last"])
        new = new.annotate(offset=F("number") % stride).filter(thinned)
    rows = new.order_by("number").values_list("number", "data")
    return [
        {"number": number, "step": data["step"], "values": curves_of(data)}
        for number, data in rows
        if isinstance(data.get("step"), int | float)
    ]


def messages(run: Run) -> list[RunEvent]:
    """Return the newest messages of a run, the oldest of them first."""
    newest = run.events.filter(event="message").order_by("-number")[:MAX_MESSAGES]
    return list(newest)[::-1]


def last_number(run: Run) -> int:
    return run.events.aggregate(last=Max("number"))["last"] or 0


def seconds_taken(run: Run) -> float | None:
    if run.started_at is None:
        return None
    end = run.finished_at if run.state in ENDED and run.finished_at else timezone.now()
    return max(0.0, (end - run.started_at).total_seconds())


def kind_of(run: Run) -> RunKind | None:
    """Return the run's kind, or None if its app is no longer installed."""
    try:
        return kinds.get(run.kind)
    except CannotRun:
        return None


def shares_of(run: Run) -> frozenset[str]:
    """Return which of the run's metrics and results are shares."""
    kind = kind_of(run)
    return kind.shares if kind else frozenset()


def format_value(value: float, *, share: bool) -> str:
    """Format a value of a curve or a result. A share becomes a percentage."""
    return percent(value) if share else number(value)


def figure(run: Run) -> str:
    kind = kind_of(run)
    if kind is None or run.state != State.SUCCEEDED:
        return ""
    try:
        return kind.figure(run.result)
    except (KeyError, TypeError, ValueError):
        return ""


def links(run: Run) -> list[tuple[str, str]]:
    """Return (label, URL) for the pages with the output of a successful run."""
    kind = kind_of(run)
    return kind.links(run) if kind and run.state == State.SUCCEEDED else []
