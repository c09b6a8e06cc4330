"""The metrics in the results of runs, for filters, sorting and comparisons.

A metric is a number in a result, such as {"loss": 0.4}, or an estimate with an interval, such as
{"accuracy": {"value": 0.7, "interval": [0.6, 0.8]}}.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

from django.db.models import FloatField
from django.db.models.expressions import RawSQL

from runs.models import RunQuerySet

NEWEST = 500
"""The number of runs whose results are searched for the names of metrics."""

NOT_METRICS = frozenset({"model", "reward_model", "evaluation", "snapshot", "seed"})
"""Numbers in results that are ids of rows or seeds."""

VALUE = """
CASE jsonb_typeof(runs_run.result -> %s)
    WHEN 'number' THEN (runs_run.result ->> %s)::double precision
    WHEN 'object' THEN CASE jsonb_typeof(runs_run.result -> %s -> 'value')
        WHEN 'number' THEN (runs_run.result -> %s ->> 'value')::double precision END
END
"""


@dataclass(frozen=True)
class Metric:
    """The value of a metric of one run. `interval` is None without an interval."""

    value: float
    interval: tuple[float, float] | None = None


def metric_value(name: str) -> RawSQL:
    """Return an expression for the value of a metric, NULL for runs without it."""
    return RawSQL(VALUE, [name] * 4, output_field=FloatField())  # noqa: S611 - a constant


def metrics_of(result: Mapping[str, Any]) -> dict[str, Metric]:
    """Return the metrics in a result, in its order."""
    metrics = {name: _metric(value) for name, value in result.items() if name not in NOT_METRICS}
    return {name: metric for name, metric in metrics.items() if metric is not None}


def _metric(value: Any) -> Metric | None:
    if not isinstance(value, dict):
        return Metric(float(value)) if _is_number(value) else None
    if not _is_number(value.get("value")):
        return None
    ends = value.get("interval")
    if isinstance(ends, list) and len(ends) == 2 and all(map(_is_number, ends)):
        return Metric(float(value["value"]), (ends[0], ends[1]))
    return Metric(float(value["value"]))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def metric_names(runs: RunQuerySet) -> list[str]:
    """Return the names of the metrics of the newest runs in alphabetical order. Costs one query."""
    results = runs.exclude(result={}).order_by("-id").values_list("result", flat=True)[:NEWEST]
    return sorted({name for result in results for name in metrics_of(result)})
