import unicodedata
from collections.abc import Collection
from typing import Any

from django import template
from django.utils.translation import gettext_lazy as _

from formatting import glossary
from formatting.numbers import UNKNOWN
from runs import live, preflight, storage
from runs.models import ENDED, Run, State

register = template.Library()

SIGNS = {"\n": "⏎\n", "\t": "⇥\t"}

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
def memory(megabytes: float | None) -> str:
    """Format MiB as 512 MB or 1.4 GB, the units that nvidia-smi and the pages of runs use."""
    if megabytes is None:
        return ""
    return f"{megabytes:.0f} MB" if megabytes < 1024 else f"{megabytes / 1024:,.1f} GB"


@register.inclusion_tag("runs/outcome.html")
def forecast_and_outcome(run: Run) -> dict[str, Any]:
    """Return the forecast of a run and what was measured. Costs a query if there is a forecast."""
    if not run.forecast:
        return {}
    seconds = live.seconds_taken(run)
    return {
        "forecast": run.forecast,
        "ended": run.state in ENDED,
        "memory_mb": live.peak_memory_mb(run),
        "seconds": seconds,
        "cost": "" if seconds is None else preflight.cost_text(seconds),
    }


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


@register.inclusion_tag("runs/tokens.html")
def tokens(text: dict[str, Any]) -> dict[str, Any]:
    """Show the tokens of a text, with the trained ones marked."""
    pieces, trained = text["pieces"], text["trained"]
    first = 0 if trained is None else len(pieces) - trained
    marked = [(visible(piece), index >= first) for index, piece in enumerate(pieces)]
    return {"pieces": marked, "more": text["more"]}


def visible(piece: str) -> str:
    """Return the text of a token with signs for line breaks and tabs, and for characters without one.

    Invisible characters and those that change the direction of text are written as their code.
    """
    return "".join(_visible(character) for character in piece) or "∅"


def _visible(character: str) -> str:
    if character in SIGNS:
        return SIGNS[character]
    hidden = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
    return f"⟨U+{ord(character):04X}⟩" if hidden else character


@register.filter
def setting(value: Any) -> str:
    """Format the value of a setting, which may be the text that a user has typed."""
    if value is None or value == "":
        return "empty"
    if isinstance(value, float):
        return f"{value:g}"
    return value_text(value) if isinstance(value, bool) else str(value)


@register.filter
def metric(name: str) -> str:
    return glossary.label_of(name)


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
