"""The metrics of several runs in one table: their results, and the last values of their curves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from runs import live
from runs.catalog.metrics import Metric, metrics_of
from runs.models import Run
from runs.templatetags.runs import metric as metric_label
from runs.templatetags.runs import value_text

HIGHER_IS_BETTER = frozenset(
    {
        "accuracy", "test_accuracy", "held_out/accuracy", "held_out/accuracies", "pairwise_agreement",
        "rewards/accuracies", "win_rate", "reward_score", "score_change", "agreement",
        "mean_token_accuracy", "tokens_per_s",
    }
)  # fmt: skip
LOWER_IS_BETTER = frozenset(
    {
        "held_out/nll",
        "nll_per_token",
        "nll_change",
        "eval_loss",
        "memory_mb",
        "truncated",
        "unscored",
    }
)
"""Metrics of which the table marks the best value. The training loss is not among them, because
losses of different methods cannot be compared, and a lower one can mean overfitting."""


@dataclass(frozen=True)
class Cell:
    """The value of a metric for one run. `mark` is "best", "highest", "lowest" or ""."""

    text: str
    interval: str = ""
    mark: str = ""


@dataclass(frozen=True)
class Row:
    label: str
    cells: list[Cell]


def rows(runs: Sequence[Run], values: Sequence[Mapping[str, Metric]]) -> list[Row]:
    """Return a row for each metric that a run has. `values` has the metrics of each run."""
    names = dict.fromkeys(name for each in values for name in each)
    return [_row(name, runs, values) for name in names]


def of_results(runs: Sequence[Run]) -> list[Row]:
    return rows(runs, [metrics_of(run.result) for run in runs])


def of_curves(runs: Sequence[Run], last: Sequence[Mapping[str, float]]) -> list[Row]:
    values = [{name: Metric(value) for name, value in each.items()} for each in last]
    return rows(runs, values)


def _row(name: str, runs: Sequence[Run], values: Sequence[Mapping[str, Metric]]) -> Row:
    metrics = [each.get(name) for each in values]
    cells = [_cell(name, run, metric) for run, metric in zip(runs, metrics, strict=True)]
    marks = marks_of(name, metrics)
    return Row(
        metric_label(name),
        [replace(cell, mark=mark) for cell, mark in zip(cells, marks, strict=True)],
    )


def marks_of(name: str, metrics: Sequence[Metric | None]) -> list[str]:
    """Return the marks of the values of a metric.

    A value of a metric with a direction is the best if its interval is separate from those of all
    others. Otherwise, it can be ahead by chance, and is only marked as the highest or the lowest.
    """
    values = {metric.value for metric in metrics if metric}
    unmarked = [""] * len(metrics)
    if len(values) < 2 or name not in HIGHER_IS_BETTER | LOWER_IS_BETTER:
        return unmarked
    best = max(values) if name in HIGHER_IS_BETTER else min(values)
    leaders = [metric for metric in metrics if metric and metric.value == best]
    others = [metric for metric in metrics if metric and metric.value != best]
    separate = all(_separate(leader, other) for leader in leaders for other in others)
    mark = "best" if separate else ("highest" if name in HIGHER_IS_BETTER else "lowest")
    return [mark if metric in leaders else "" for metric in metrics]


def _separate(first: Metric, second: Metric) -> bool:
    """Return whether both values have intervals that do not overlap."""
    if first.interval is None or second.interval is None:
        return False
    return first.interval[0] > second.interval[1] or second.interval[0] > first.interval[1]


def _cell(name: str, run: Run, metric: Metric | None) -> Cell:
    if metric is None:
        return Cell("")
    share = name in live.shares_of(run)
    ends = [value_text(float(end), share=share) for end in metric.interval or ()]
    return Cell(value_text(metric.value, share=share), " to ".join(ends))
