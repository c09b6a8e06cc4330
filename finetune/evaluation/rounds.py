"""Figures of a round of sampling: scores, diversity, and divergence from the original model.

Pure numpy. A sample is a row of `SAMPLES` in finetune/training/samples.py.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from finetune.report import RoundFigures
from finetune.statistics.means import mean_difference, mean_figure
from reward.evaluation.schema import Figure

Samples = list[dict[str, Any]]


def by_prompt(samples: Samples) -> dict[str, Samples]:
    rows: dict[str, Samples] = defaultdict(list)
    for row in samples:
        rows[row["prompt_id"]].append(row)
    return dict(rows)


def round_figures(
    samples: Samples, ratios: dict[str, list[tuple[float, int]]], seed: int
) -> RoundFigures:
    """Return the figures of a round.

    `ratios` has pairs of log π - log π_ref and the number of samples with this value, by prompt.
    """
    rows = by_prompt(samples)
    scores = [[(s["score"], 1) for s in some if s["score"] is not None] for some in rows.values()]
    different = sum(len({row["response"] for row in some}) for some in rows.values())
    return {
        "prompts": len(rows),
        "samples": len(samples),
        "unscored": sum(row["score"] is None for row in samples),
        "score": cluster_mean(scores, seed, missing="No sample has a score."),
        "distinct": different / len(samples),
        "kl": cluster_mean(ratios.values(), seed, missing="No sample fits with its prompt."),
        "truncated": sum(row["truncated"] for row in samples) / len(samples),
        "mean_tokens": sum(row["tokens"] for row in samples) / len(samples),
    }


def cluster_mean(
    clusters: Iterable[Sequence[tuple[float, int]]], seed: int, *, missing: str
) -> Figure:
    """Return the mean of the values, with an interval.

    `clusters` has pairs of a value and how many times it occurs, by prompt.
    """
    filled = [cluster for cluster in clusters if cluster]
    sums = np.array([sum(value * n for value, n in cluster) for cluster in filled])
    sizes = np.array([float(sum(n for _, n in cluster)) for cluster in filled])
    return mean_figure(sums, sizes, seed, missing=missing)


def score_change(before: Samples, after: Samples, seed: int) -> Figure:
    """Return the mean change of the score, over the samples that both have.

    Samples are matched by their prompt and their number.
    """
    earlier = {(row["prompt_id"], row["sample"]): row["score"] for row in before}
    rows = [
        (row["prompt_id"], row["score"], old)
        for row in after
        if row["score"] is not None
        and (old := earlier.get((row["prompt_id"], row["sample"]))) is not None
    ]
    change = mean_difference(rows, seed=seed)
    reason = None if rows else "No sample has a score before and after."
    return {"value": change["value"], "interval": change["interval"], "reason": reason}


def sentence(figures: RoundFigures) -> str:
    """Return a sentence with the figures of a round, for the log of the run."""
    score, kl = figures["score"], figures["kl"]
    text = f"{figures['samples']} samples of {figures['prompts']} prompts"
    if score["value"] is not None:
        text += f", mean score {score['value']:.3f}"
        if score["interval"]:
            text += f" (95% interval {score['interval'][0]:.3f} to {score['interval'][1]:.3f})"
    if kl["value"] is not None:
        text += f", KL to the original model {kl['value']:.3f} nats per response"
    return f"{text}, {figures['distinct']:.0%} different."


def curve_point(figures: RoundFigures) -> dict[str, float]:
    """Return the figures of a round as points of curves by round."""
    values = {
        "reward_score": figures["score"]["value"],
        "kl": figures["kl"]["value"],
        "distinct": figures["distinct"],
        "mean_tokens": figures["mean_tokens"],
    }
    return {name: value for name, value in values.items() if value is not None}
