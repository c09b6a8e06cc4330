from collections.abc import Collection
from typing import Any

from django import template
from django.utils.translation import gettext_lazy as _

from formatting.numbers import UNKNOWN
from runs import live, storage
from runs.models import Run, State

register = template.Library()

BADGES = {
    State.QUEUED: (_("Queued"), ""),
    State.RUNNING: (_("Running"), "badge-info"),
    State.SUCCEEDED: (_("Succeeded"), "badge-ok"),
    State.FAILED: (_("Failed"), "badge-bad"),
    State.CANCELLED: (_("Cancelled"), "badge-warn"),
}
STOPPING = (_("Stopping"), "badge-warn")


@register.filter
def duration(seconds: float | None) -> str:
    """Format seconds with at most two units, such as 8 s, 3 min 20 s, 2 h 5 min or 3 d 4 h."""
    if seconds is None:
        return ""
    rest = round(seconds)
    units = [("d", 86400), ("h", 3600), ("min", 60), ("s", 1)]
    first = next((n for n, (_, size) in enumerate(units) if rest >= size), 3)
    words: list[str] = []
    for name, size in units[first : first + 2]:
        count, rest = divmod(rest, size)
        if count or not words:
            words.append(f"{count} {name}")
    return " ".join(words)


@register.filter
def taken(run: Run) -> str:
    return duration(live.seconds_taken(run))


@register.filter
def figure(run: Run) -> str:
    return live.figure(run)


@register.filter
def kind_title(run: Run) -> str:
    kind = live.kind_of(run)
    return kind.title if kind else run.kind


@register.filter
def run_name(run: Run) -> str:
    return run.title or f"{kind_title(run)} #{run.pk}"


@register.inclusion_tag("runs/state.html")
def run_state(run: Run) -> dict[str, Any]:
    stopping = run.state == State.RUNNING and run.cancel_requested_at
    label, badge = STOPPING if stopping else BADGES[State(run.state)]
    return {"label": label, "badge": badge}


def value_text(value: Any, *, share: bool = False) -> str:
    """Format a value of any type as text. A share becomes a percentage."""
    if value is None:
        return UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, int | float):
        return str(value)
    return live.format_value(value, share=share and isinstance(value, float))


METRICS = {
    "tokens_per_s": "tokens/s",
    "memory_mb": "memory, MB",
    "nll_per_token": "nats per token, best response",
    "nll_per_token_before": "nats per token, before training",
    "nll_change": "change in nats per token",
    "held_out/nll": "held out, nats per token",
    "drift": "drift on other prompts",
    "reward_score": "mean score of samples",
    "kl": "KL to the original model, nats",
    "kl_per_token": "KL to the original model, nats per token",
    "reward_spread": "spread of the scores of samples",
    "equal_rewards": "prompts whose samples have equal scores",
    "mean_tokens": "mean length of samples, tokens",
    "truncated": "samples cut off",
    "clipped": "share clipped",
    "unscored": "samples without a score",
    "distinct": "different samples",
    "score_change": "change in the mean score of samples",
}
"""Labels for metrics and results, where replacing the underscores in the name is not enough."""


@register.filter
def metric(name: str) -> str:
    return METRICS.get(name, name.replace("_", " ").replace("/", " "))


@register.inclusion_tag("runs/value.html")
def json_value(value: Any, shares: Collection[str] = (), share: bool = False) -> dict[str, Any]:
    """Show a JSON value as nested lists. Values whose names are in `shares` are shown as percentages."""
    items = None
    if isinstance(value, dict):
        items = [(name, item, share or name in shares) for name, item in value.items()]
    is_list = isinstance(value, list)
    text = "" if items is not None or is_list else value_text(value, share=share)
    return {
        "value": value, "text": text, "items": items, "is_list": is_list,
        "shares": shares, "share": share,
    }  # fmt: skip


@register.inclusion_tag("runs/result.html")
def run_result(run: Run) -> dict[str, Any]:
    """Show the result of a run: first the values that have an interval, and then the others."""
    shares = live.shares_of(run)
    estimates = {name: value for name, value in run.result.items() if is_estimate(value)}
    rows = [_estimate_row(name, value, name in shares) for name, value in estimates.items()]
    rest = {name: value for name, value in run.result.items() if name not in estimates}
    return {"estimates": rows, "rest": rest, "shares": shares}


def _estimate_row(name: str, estimate: dict[str, Any], share: bool) -> dict[str, str]:
    ends = [value_text(end, share=share) for end in estimate["interval"] or ()]
    return {
        "name": name,
        "value": value_text(estimate["value"], share=share),
        "interval": " to ".join(ends) or estimate.get("reason") or "",
    }


def is_estimate(value: Any) -> bool:
    return isinstance(value, dict) and "value" in value and "interval" in value


@register.filter
def inputs_of(run: Run) -> dict[str, Any]:
    """Return the run's inputs with their labels. A row is shown as its id, such as "#1".

    The project is left out, because the header of the page shows it.
    """
    rows = {name: value for name, value in run.inputs.items() if name != "project"}
    return {
        metric(name).capitalize(): f"#{value}" if isinstance(value, int) else value
        for name, value in rows.items()
    }


@register.filter
def settings_of(run: Run) -> dict[str, Any]:
    """Return the run's settings with full paths, and with the labels and in the order of its form."""
    kind = live.kind_of(run)
    labels = {option.name: option.label for option in kind.config_class.options()} if kind else {}
    order = [name for name in labels if name in run.config]
    order += sorted(set(run.config) - set(order))
    return {labels.get(name, name): _full(run.config[name]) for name in order}


def _full(value: Any) -> Any:
    return storage.resolve(value) if isinstance(value, str) else value
