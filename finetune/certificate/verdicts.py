"""The verdicts of a certificate that count, and the comparison of values. Needs Python and numpy."""

import math
from typing import Any

from finetune.statistics.evidence import AskedPrompt, complete, in_registered_order

SOURCES = ("people", "judge")
TOLERANCE = 5e-6
"""Machines may round logarithms differently, and the bounds are exact to 1e-6."""


def counted(evaluation: dict[str, Any], *, simulated: bool) -> list[dict[str, Any]]:
    """Return people's verdicts that count (`evidence.complete`). Those of programs need `simulated`."""
    verdicts, registration = evaluation["people"]["verdicts"], evaluation["registration"]
    usable = (row for row in verdicts if simulated or not row["simulated"])
    rows = ((row["prompt"], row) for row in usable)
    return complete(rows, registration["verdicts_per_prompt"], asked_prompts(evaluation))


def asked_prompts(evaluation: dict[str, Any]) -> list[AskedPrompt] | None:
    """Return the prompts that people were asked about, in random order, if a judge ordered them."""
    registration = evaluation["registration"]
    if not registration["judge_order"]:
        return None
    prompts = [
        AskedPrompt(row["prompt"], row["block"], row["withdrawn"])
        for row in evaluation["judge"]["verdicts"]
        if row["asked"]
    ]
    return in_registered_order(prompts, registration["prompts"])


def is_close(value: Any, other: Any) -> bool:
    if isinstance(value, list) and isinstance(other, list):
        pairs = zip(value, other, strict=False)
        return len(value) == len(other) and all(is_close(a, b) for a, b in pairs)
    numbers = all(isinstance(x, int | float) and not isinstance(x, bool) for x in (value, other))
    return (
        math.isclose(value, other, rel_tol=1e-9, abs_tol=TOLERANCE) if numbers else value == other
    )
