"""How often one model's answers are better than another's, with an interval. Pure numpy.

A win counts 1, a tie ½, a loss 0. Several answers to one prompt are not independent, so the interval
treats the prompt as the unit: a bootstrap over prompts where there are enough of them to speak, else
Wilson's interval with each prompt as one trial.
"""

from collections.abc import Hashable, Iterable
from typing import Any

import numpy as np

from labeling.statistics.intervals import resamples, share_interval

WIN, TIE, LOSS = 1.0, 0.5, 0.0


def outcome(candidate: float, baseline: float, *, tie_within: float = 0.0) -> float:
    """1, ½ or 0 for the candidate, by two scores of which the higher is better."""
    if abs(candidate - baseline) <= tie_within:
        return TIE
    return WIN if candidate > baseline else LOSS


def win_rate(outcomes: Iterable[tuple[Hashable, float]], *, seed: int = 0) -> dict[str, Any]:
    """The mean outcome over answers, with a 95 % interval over prompts, from (prompt, outcome).

    → value, interval [low, high], method (bootstrap or wilson), wins, ties, losses, answers, prompts,
    reason. Without answers the value is None and the reason says so. Raises ValueError for an
    outcome other than 0, ½ and 1.
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
        return {**nothing, **counts, "reason": "There is nothing to compare."}
    won, answers = _by_prompt([prompt for prompt, _ in rows], values)
    interval, method = share_interval(won, answers, seed)
    found = {"value": float(values.mean()), "interval": interval, "method": method}
    return {**found, "prompts": len(answers), **counts, "reason": None}


def mean_difference(
    rows: Iterable[tuple[Hashable, float, float]], *, seed: int = 0
) -> dict[str, Any]:
    """Mean of candidate minus baseline, of length say, from (prompt, candidate, baseline).

    → value, interval (95 %, a bootstrap over prompts; None for a single prompt), candidate and
    baseline (their means), prompts. All None where there are no rows.
    """
    rows = list(rows)
    if not rows:
        return {"value": None, "interval": None, "candidate": None, "baseline": None, "prompts": 0}
    ours = np.array([row[1] for row in rows], dtype=float)
    theirs = np.array([row[2] for row in rows], dtype=float)
    total, answers = _by_prompt([row[0] for row in rows], ours - theirs)
    interval = None
    if len(answers) > 1:
        drawn = resamples(len(answers), seed)  # (n, prompts) each
        means = np.concatenate([(counts @ total) / (counts @ answers) for counts in drawn])
        interval = [float(bound) for bound in np.quantile(means, [0.025, 0.975])]
    return {
        "value": float((ours - theirs).mean()),
        "interval": interval,
        "candidate": float(ours.mean()),
        "baseline": float(theirs.mean()),
        "prompts": len(answers),
    }


def _by_prompt(prompts: list[Hashable], values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sum and the number of the values of each prompt.  → (prompts,), (prompts,)"""
    places = {prompt: place for place, prompt in enumerate(dict.fromkeys(prompts))}
    place = np.array([places[prompt] for prompt in prompts])
    return np.bincount(place, weights=values), np.bincount(place).astype(float)
