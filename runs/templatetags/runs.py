from typing import Any

from django import template

from runs import live
from runs.models import Run, State

register = template.Library()

BADGES = {
    State.QUEUED: "",
    State.RUNNING: "badge-info",
    State.SUCCEEDED: "badge-ok",
    State.FAILED: "badge-bad",
    State.CANCELLED: "badge-warn",
}


@register.filter
def duration(seconds: float | None) -> str:
    """Two units at most: 8 s, 3 min 20 s, 2 h 5 min, 3 d 4 h."""
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
    label = "Stopping" if stopping else run.get_state_display()
    return {"label": label, "badge": "badge-warn" if stopping else BADGES[State(run.state)]}


@register.filter
def number(value: Any) -> str:
    """A value as a person reads it: four significant digits of a number."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or abs(value) >= 10_000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


@register.filter
def metric(name: str) -> str:
    return {"tokens_per_s": "tokens/s", "memory_mb": "memory, MB"}.get(
        name, name.replace("_", " ").replace("/", " ")
    )


@register.inclusion_tag("runs/value.html")
def json_value(value: Any) -> dict[str, Any]:
    """A JSON value as nested lists of facts."""
    items = list(value.items()) if isinstance(value, dict) else None
    return {"value": value, "items": items, "is_list": isinstance(value, list)}


@register.inclusion_tag("runs/result.html")
def run_result(result: dict[str, Any]) -> dict[str, Any]:
    """What has a value with its interval stands out; the rest follows as facts."""
    estimates = {name: value for name, value in result.items() if is_estimate(value)}
    rest = {name: value for name, value in result.items() if name not in estimates}
    return {"estimates": estimates.items(), "rest": rest}


def is_estimate(value: Any) -> bool:
    return isinstance(value, dict) and "value" in value and "interval" in value


@register.filter
def settings_of(run: Run) -> dict[str, Any]:
    """The run's config under the labels of its form, in the order of its form."""
    kind = live.kind_of(run)
    labels = {option.name: option.label for option in kind.config_class.options()} if kind else {}
    order = [name for name in labels if name in run.config]
    order += sorted(set(run.config) - set(order))
    return {labels.get(name, name): run.config[name] for name in order}
