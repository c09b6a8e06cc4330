"""The curves of several runs, thinned out for charts that show all of them."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from math import ceil
from typing import Any

from django.db.models import F, Max, Min, Q

from runs.live import curves_of
from runs.models import Run, RunEvent

MOST_POINTS = 600
"""The number of points of each curve, about."""

Columns = dict[str, Any]
"""The curves of a run: `steps`, `seconds` since the first event, and `values` by name. `values` has a
number or None for each step."""


def curves(runs: Sequence[Run]) -> dict[int, Columns]:
    """Return the curves by the id of the run. Costs two queries for any number of runs."""
    events = RunEvent.objects.filter(run__in=[run.pk for run in runs], event="progress")
    spans = events.order_by().values("run").annotate(first=Min("number"), last=Max("number"))
    chosen = Q(pk__in=[])
    for span in spans:
        stride = ceil((span["last"] - span["first"] + 1) / MOST_POINTS)
        ends = Q(number=span["first"]) | Q(number=span["last"])
        chosen |= Q(run=span["run"]) & (Q(**{f"by_{stride}": 0}) | ends if stride > 1 else Q())
        if stride > 1:
            events = events.annotate(**{f"by_{stride}": F("number") % stride})
    rows: dict[int, list[tuple[datetime, dict[str, Any]]]] = {run.pk: [] for run in runs}
    read = events.filter(chosen).order_by("run", "number").values_list("run", "at", "data")
    for run, at, data in read:
        rows[run].append((at, data))
    return {run: columns(events) for run, events in rows.items()}


def columns(events: Iterable[tuple[datetime, dict[str, Any]]]) -> Columns:
    """Return the curves of one run. A resumed run repeats steps; the later value counts."""
    steps: dict[float, dict[str, float]] = {}
    seconds: dict[float, float] = {}
    start = None
    for at, data in events:
        step = data.get("step")
        if not isinstance(step, int | float) or isinstance(step, bool):
            continue
        start = start or at
        steps[step] = {**steps.get(step, {}), **curves_of(data)}
        seconds[step] = max(0.0, (at - start).total_seconds())
    order = sorted(steps)
    names = list(dict.fromkeys(name for step in order for name in steps[step]))
    return {
        "steps": order,
        "seconds": [round(seconds[step], 1) for step in order],
        "values": {name: [steps[step].get(name) for step in order] for name in names},
    }


def last_values(columns: Columns) -> dict[str, float]:
    """Return the last value of each curve."""
    return {
        name: next(value for value in reversed(values) if value is not None)
        for name, values in columns["values"].items()
        if any(value is not None for value in values)
    }
