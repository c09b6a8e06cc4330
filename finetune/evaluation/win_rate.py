"""Win rate of one model's answers against another's, with an interval. Pure numpy.

A win counts 1, a tie ½, a loss 0. Several answers to one prompt are not independent, so the unit
of the interval is the prompt: a bootstrap over prompts if there are enough, otherwise Wilson's
interval with each prompt as one trial.
"""

from collections.abc import Hashable, Iterable
from typing import Any

import numpy as np

from labeling.statistics.intervals import ratio_interval, share_interval

WIN, TIE, LOSS = 1.0, 0.5, 0.0


def outcome(candidate: float, baseline: float, *, tie_within: float = 0.0) -> float:
    """Return 1, ½ or 0 for the candidate from two scores, of which the higher is better."""
    if abs(candidate - baseline) <= tie_within:
        return TIE
    return WIN if candidate > baseline else LOSS


def win_rate(outcomes: Iterable[tuple[Hashable, float]], *, seed: int = 0) -> dict[str, Any]:
    """Return the mean outcome over answers, with a 95% interval over prompts.

    `outcomes` holds (prompt, outcome).

    Keys: value, interval [low, high], method (bootstrap or wilson), wins, ties, losses, answers,
    prompts and reason. Without answers the value is None, and `reason` says so. Raises ValueError
    for an outcome other than 0, ½ and 1.
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
    won, answers = _by_prompt([prompt for prompt, _ in rows], values)
    interval, method = share_interval(won, answers, seed)
    estimate = {"value": float(values.mean()), "interval": interval, "method": method}
    return {**estimate, "prompts": len(answers), **counts, "reason": None}


def mean_difference(
    rows: Iterable[tuple[Hashable, float, float]], *, seed: int = 0
) -> dict[str, Any]:
    """Return the mean of candidate minus baseline, for example of lengths.

    `rows` holds (prompt, candidate, baseline).

    Keys: value, interval (95%, a bootstrap over prompts; None for a single prompt), candidate and
    baseline (their means) and prompts. All are None without rows.
    """
    rows = list(rows)
    if not rows:
        return {"value": None, "interval": None, "candidate": None, "baseline": None, "prompts": 0}
    ours = np.array([row[1] for row in rows], dtype=float)
    theirs = np.array([row[2] for row in rows], dtype=float)
    total, answers = _by_prompt([row[0] for row in rows], ours - theirs)
    return {
        "value": float((ours - theirs).mean()),
        "interval": ratio_interval(total, answers, seed),
        "candidate": float(ours.mean()),
        "baseline": float(theirs.mean()),
        "prompts": len(answers),
    }


def _by_prompt(prompts: list[Hashable], values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the sum and the number of the values of each prompt, (prompts,) each."""
    numbers = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompts))}
    index = np.array([numbers[prompt] for prompt in prompts])  # (answers,)
    return np.bincount(index, weights=values), np.bincount(index).astype(float)
