"""The figures next to a win rate, as text: length, divergence from the base, and answers cut off.

The pages of evaluations, models and certificates share them. They are read from the report of an
evaluation.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from formatting.numbers import UNKNOWN, percent


@dataclass(frozen=True)
class SideFigures:
    """The figures of an evaluation; "–" for one that its report does not have."""

    tokens: str
    """Mean tokens of an answer, candidate : baseline."""
    cut_off: str
    """Shares of the answers that were cut off, candidate : baseline."""
    per_token: str
    """Divergence KL(candidate ‖ base) in nats per token."""
    per_token_interval: str
    per_answer: str
    per_answer_interval: str


def side_figures(report: Mapping[str, Any]) -> SideFigures:
    divergence = report.get("divergence") or {}
    per_token, per_answer = divergence.get("per_token") or {}, divergence.get("per_answer") or {}
    return SideFigures(
        tokens=_pair(report.get("tokens") or {}, lambda value: f"{value:.0f}"),
        cut_off=_pair(report.get("truncated") or {}, percent),
        per_token=_nats(per_token.get("value"), 3),
        per_token_interval=_range(per_token.get("interval"), 3),
        per_answer=_nats(per_answer.get("value"), 1),
        per_answer_interval=_range(per_answer.get("interval"), 1),
    )


def _pair(sides: Mapping[str, Any], text: Any) -> str:
    values = [sides.get(side) for side in ("candidate", "baseline")]
    if all(value is None for value in values):
        return UNKNOWN
    return " : ".join(UNKNOWN if value is None else text(value) for value in values)


def _nats(value: float | None, digits: int) -> str:
    return UNKNOWN if value is None else f"{value:.{digits}f}"


def _range(ends: list[float] | None, digits: int) -> str:
    return " to ".join(f"{end:.{digits}f}" for end in ends or ())
