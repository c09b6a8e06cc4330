"""The win rate of a model's answers against those of another model, with an interval. Pure numpy.

A win counts 1, a tie ½ and a loss 0. Several answers to one prompt are not independent, so the unit
of the interval is the prompt. The interval is bootstrapped by prompt if there are enough prompts.
Otherwise it is Wilson's interval, with each prompt as one trial.
"""

from collections.abc import Hashable, Iterable
from typing import Any

import numpy as np

from finetune.statistics.means import sums_by_prompt
from labeling.statistics.intervals import share_interval

WIN, TIE, LOSS = 1.0, 0.5, 0.0


def outcome(candidate: float, baseline: float, *, tie_within: float = 0.0) -> float:
    """Return 1 if the candidate has the higher score, ½ for a tie, and 0 otherwise."""
    if abs(candidate - baseline) <= tie_within:
        return TIE
    return WIN if candidate > baseline else LOSS


def win_rate(outcomes: Iterable[tuple[Hashable, float]], *, seed: int = 0) -> dict[str, Any]:
    """Return the mean outcome over answers, with a 95% interval over prompts.

    Each entry of `outcomes` is (prompt, outcome). The result has the keys `value`, `interval` [low,
    high], `method` (bootstrap or wilson), `wins`, `ties`, `losses`, `answers`, `prompts` and `reason`.
    Without answers the value is None, and `reason` says why. Raises ValueError for an outcome other
    than 0, ½ and 1.
    """
    rows = list(outcomes)
    values = np.array([value for _, value in rows], dtype=float)
    if not np.isin(values, (WIN, TIE, LOSS)).all():
        raise ValueError("An outcome is 1 for a win, 0.5 for a tie or 0 for a loss.")
    counts = {
        "wins": int((values == WIN).sum()),
        "ties": int((values == TIE).sum()),
        "losses": int((values == LOSS).sum()),
        "answers": len(rows),
    }
    if not rows:
        nothing = {"value": None, "interval": None, "method": None, "prompts": 0}
        return {**nothing, **counts, "reason": "No answers to compare."}
    won, answers = sums_by_prompt([prompt for prompt, _ in rows], values)
    interval, method = share_interval(won, answers, seed)
    estimate = {"value": float(values.mean()), "interval": interval, "method": method}
    return {**estimate, "prompts": len(answers), **counts, "reason": None}
