"""Figures of the simulated taste over the seeds, with intervals, and their drawing.

A row is the result of one arm and one seed.
"""

from collections.abc import Sequence
from math import sqrt
from statistics import mean, stdev
from typing import Any

import numpy as np

from finetune.statistics.win_rate import outcome
from labeling.statistics.intervals import Z95


def cases_of(
    rows: Sequence[dict[str, Any]], comparisons: Sequence[tuple[str, str, str]]
) -> list[dict[str, Any]]:
    """Return a case for each arm, against the base model, and for each comparison of two arms.

    A comparison is a part of the study and two arms.
    """
    names = dict.fromkeys(row["arm"] for row in rows)
    arms = {arm: {row["seed"]: row for row in rows if row["arm"] == arm} for arm in names}
    cases = [arm_case(name, list(by_seed.values())) for name, by_seed in arms.items()]
    return cases + [
        comparison(part, first, second, arms[first], arms[second])
        for part, first, second in comparisons
        if first in arms and second in arms
    ]


def arm_case(name: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    rates = [wins(row["scores"], row["base_scores"]) for row in rows]
    gains = [mean(row["scores"]) - mean(row["base_scores"]) for row in rows]
    return {
        "arm": name,
        "learning_rate": rows[0]["learning_rate"],
        "seeds": len(rows),
        "win_rate": round(mean(rates), 4),
        "interval": interval(rates),
        "win_rates": [round(rate, 4) for rate in rates],
        "score_gain": round(mean(gains), 3),
        "score_gain_interval": interval(gains),
        **{
            figure: round(mean(row[figure] for row in rows), 3)
            for figure in (
                "kl",
                "words",
                "truncated",
                "distinct",
                "steps",
                "tokens",
                "train_seconds",
            )
        },
        "reward_order": rows[0]["reward_order"] and round(mean(r["reward_order"] for r in rows), 3),
    }


def comparison(
    part: str, first: str, second: str, ours: dict[int, Any], theirs: dict[int, Any]
) -> dict[str, Any]:
    """Return the win rate of the first arm's answers against the second's, and differences."""
    pairs = [(ours[seed], theirs[seed]) for seed in sorted(ours.keys() & theirs.keys())]
    our_rates, their_rates = (
        np.array([wins(row["scores"], row["base_scores"]) for row in side])
        for side in zip(*pairs, strict=True)
    )
    gaps = (our_rates - their_rates).tolist()
    rates = [wins(our_row["scores"], their_row["scores"]) for our_row, their_row in pairs]
    scores = [mean(our_row["scores"]) - mean(their_row["scores"]) for our_row, their_row in pairs]
    drifts = [our_row["kl"] - their_row["kl"] for our_row, their_row in pairs]
    return {
        "part": part,
        "arms": [first, second],
        "seeds": len(pairs),
        "win_rate": round(mean(rates), 4),
        "interval": interval(rates),
        "win_rate_difference": round(mean(gaps), 4),
        "win_rate_difference_interval": interval(gaps),
        "score_difference": round(mean(scores), 3),
        "score_difference_interval": interval(scores),
        "kl_difference": round(mean(drifts), 3),
        "kl_difference_interval": interval(drifts),
    }


def wins(scores: Sequence[float], others: Sequence[float]) -> float:
    """Return the share of answers that beat the other answer with the same number; ties count half."""
    return mean(outcome(score, other) for score, other in zip(scores, others, strict=True))


def interval(values: Sequence[float]) -> list[float] | None:
    """Return the 95% t-interval of the mean, or None for a single value."""
    if len(values) < 2:
        return None
    half = t_quantile(len(values) - 1) * stdev(values) / sqrt(len(values))
    return [round(mean(values) + side * half, 4) for side in (-1, 1)]


def t_quantile(freedom: int) -> float:
    """Return the 97.5% quantile of Student's t by its expansion, right to 0.001 from 9 degrees on.

    Abramowitz & Stegun, Handbook of Mathematical Functions, 26.7.5. Too small below 4 degrees.
    """
    z = Z95
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


# --- the drawing ----------------------------------------------------------------------------------

WIDE, ROW, LEFT, RIGHT = 640, 22, 130, 20


def svg(cases: Sequence[dict[str, Any]]) -> str:
    """Return a drawing of the win rates against the base model, with their intervals, by arm."""
    arms = [case for case in cases if "arm" in case]
    ends = [end for case in arms for end in case["interval"] or [case["win_rate"]]]
    low, high = min(0.48, *ends), max(0.52, *ends)
    bottom = ROW * (len(arms) + 1)

    def x(rate: float) -> str:
        return f"{LEFT + (WIDE - LEFT - RIGHT) * (rate - low) / (high - low):.1f}"

    def row(number: int, case: dict[str, Any]) -> str:
        y = ROW * (number + 1)
        start, end = case["interval"] or [case["win_rate"]] * 2
        return (
            f'<text x="4" y="{y + 4}">{case["arm"]}</text>\n'
            f'<line x1="{x(start)}" x2="{x(end)}" y1="{y}" y2="{y}" stroke="#2563eb" '
            'stroke-width="2"/>\n'
            f'<circle cx="{x(case["win_rate"])}" cy="{y}" r="4" fill="#2563eb"/>\n'
        )

    ticks = [tick / 100 for tick in range(0, 101, 5) if low <= tick / 100 <= high]
    axis = "".join(
        f'<line x1="{x(t)}" x2="{x(t)}" y1="8" y2="{bottom}" stroke="{"#888" if t == 0.5 else "#ddd"}"/>\n'
        f'<text x="{x(t)}" y="{bottom + 14}" text-anchor="middle">{t:.0%}</text>\n'
        for t in ticks
    )
    rows = "".join(row(number, case) for number, case in enumerate(arms))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDE} {bottom + 40}" '
        'font-family="system-ui, sans-serif" font-size="11" fill="#555">\n'
        f'<rect width="100%" height="100%" fill="#fff"/>\n{axis}{rows}'
        f'<text x="{LEFT}" y="{bottom + 32}">win rate against the base model by the true scores · '
        f"mean of {max(case['seeds'] for case in arms)} seeds with 95% intervals</text>\n"
        "</svg>\n"
    )
