"""The curves of a run: the numbers in its progress events, by name."""

from typing import Any


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
