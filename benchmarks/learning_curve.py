"""Coverage of the learning curve's forecasts, on simulated rankings.

As in benchmarks/labels.py, a linear model of known features stands for the backbone. The curve is
measured on nested halves of the rankings and extrapolated to twice and four times as many. A model
trained on that many rankings is then measured on the same held-out prompts, and on thousands of
others, to which the forecast applies.

    python -m benchmarks.learning_curve            30 worlds of each kind, a few minutes
    python -m benchmarks.learning_curve --quick    4 of each

Progress on stderr; the last line of stdout is one JSON object. `held` is the share of worlds whose
95% interval contained the later measurement, and `held_gain` is the same share for the gain.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.support.accelerator import commit, cpu_name
from benchmarks.support.label_world import (
    MEASURED,
    World,
    fit,
    judge_groups,
    make_world,
    order,
    perceived,
    with_constant,
)
from recipes.preferences.groups import Group, Judgment
from reward.evaluation.learning_curve import AHEAD, learning_curve, point, subsets
from reward.evaluation.report import Scored, accuracy
from reward.settings import RewardConfig

CONFIG = RewardConfig.from_dict({"base_model": "none"})
OTHERS = 2000
"""Held-out prompts that represent all prompts of the kind."""


@dataclass(frozen=True)
class Kind:
    """A kind of data: training and held-out prompts, responses per prompt, reviewers' noise."""

    name: str
    prompts: int
    held_out: int
    k: int
    noise: float = 1.0


KINDS = [
    Kind("few pairs", 100, 100, 2),
    Kind("pairs", 400, 150, 2),
    Kind("many pairs", 1000, 400, 2),
    Kind("few rankings of four", 80, 60, 4),
    Kind("rankings of four", 300, 150, 4),
    Kind("careful reviewers", 200, 150, 4, noise=0.4),
    Kind("careless reviewers", 300, 150, 4, noise=3.0),
]


def parts(kind: Kind, seed: int, others: int) -> tuple[World, list[Group], World, list[Group]]:
    """Return training data for the largest forecast, and held-out data."""
    rng = np.random.default_rng([seed, kind.prompts, kind.k])

    def judge(_: int, truth: np.ndarray, rng: np.random.Generator) -> list[Judgment]:
        return [Judgment("r", order(perceived(truth, rng, kind.noise)))]

    train = make_world(rng, kind.prompts * max(AHEAD), kind.k)
    fresh = make_world(rng, kind.held_out + others, kind.k)
    return train, judge_groups(train, judge, rng), fresh, judge_groups(fresh, judge, rng)


def scored(theta: np.ndarray, world: World, groups: Sequence[Group]) -> list[Scored]:
    all_scores = with_constant(world.features) @ theta
    return [
        Scored(group, scores, np.ones(len(scores)))
        for group, scores in zip(groups, all_scores, strict=True)
    ]


def simulate(
    kind: Kind, seed: int, times: int = 4, others: int | None = None
) -> list[dict[str, Any]]:
    """Return a row for each forecast: its interval and the two later measurements."""
    world, groups, fresh, fresh_groups = parts(kind, seed, others or OTHERS)

    def trained_on(indices: Sequence[int]) -> list[Scored]:
        part = World(world.features[list(indices)], world.truth[list(indices)])
        theta = fit(part, [groups[index] for index in indices], CONFIG)
        return scored(theta, fresh, fresh_groups)

    measured = [*subsets(kind.prompts, times, seed), range(kind.prompts)]
    results = [trained_on(indices) for indices in measured]
    curve = learning_curve(
        [
            point([groups[index] for index in indices], scores[: kind.held_out])
            for indices, scores in zip(measured, results, strict=True)
        ],
        seed=seed,
    )
    now, rows = accuracy_of(results[-1][kind.held_out :]), []
    for forecast in curve["forecast"]:
        later = trained_on(range(forecast["times"] * kind.prompts))
        (low, high), (less, more) = forecast["interval"], forecast["gain"]["interval"]
        on_same = accuracy_of(later[: kind.held_out])
        on_others = accuracy_of(later[kind.held_out :])
        rows.append({
            "times": forecast["times"],
            "now": now,
            "forecast": forecast["value"],
            "width": high - low,
            "others": on_others,
            "held_others": low <= on_others <= high,
            "held_same": low <= on_same <= high,
            "held_gain": less <= on_others - now <= more,
            "width_of_gain": more - less,
        })  # fmt: skip
    return rows


def accuracy_of(scored: list[Scored]) -> float:
    value = accuracy(scored)["value"]
    assert value is not None
    return value


def case(kind: Kind, rows: list[dict[str, Any]]) -> dict[str, Any]:
    columns = {name: np.array([row[name] for row in rows], dtype=float) for name in rows[0]}
    return {
        "kind": kind.name,
        "prompts": kind.prompts,
        "held_out": kind.held_out,
        "k": kind.k,
        "times": int(columns["times"][0]),
        "worlds": len(rows),
        "held": round(float(columns["held_others"].mean()), 3),
        "held_on_the_same_prompts": round(float(columns["held_same"].mean()), 3),
        "held_gain": round(float(columns["held_gain"].mean()), 3),
        "width_of_gain": round(float(np.median(columns["width_of_gain"])), 4),
        "width": round(float(np.median(columns["width"])), 4),
        "bias": round(float((columns["forecast"] - columns["others"]).mean()), 4),
        "gained": round(float((columns["others"] - columns["now"]).mean()), 4),
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="4 worlds of each kind")
    parser.add_argument("--worlds", type=int, help="simulations of each kind (default 30)")
    parser.add_argument("--kind", action="append", help="only this kind; may be repeated")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    worlds = options.worlds or (4 if options.quick else 30)
    measured, cases = commit("benchmarks/learning_curve.py", *MEASURED), []
    for kind in KINDS:
        if options.kind and kind.name not in options.kind:
            continue
        rows = [row for seed in range(worlds) for row in simulate(kind, seed)]
        for times in AHEAD:
            cases.append(case(kind, [row for row in rows if row["times"] == times]))
            print(cases[-1], file=sys.stderr, flush=True)
    hardware = {"cpu": cpu_name(), "threads": 1}
    result = {"name": "learning_curve", "commit": measured, "hardware": hardware, "cases": cases}
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
