"""Rankings saved by active selection, on simulated reviewers with known preferences.

A linear score with known weights ranks tasks of K responses with Bradley-Terry noise; a linear model
of the same features learns from the rankings. The waiting tasks are ordered by
reward.ordering.selection, as in the product, or drawn at random. Both start from the same random
rankings. One order serves `--batch` rankings: docs/active-learning.md recommends 200; 20 stands for
continuous training. The benchmark measures the share of pairs ordered correctly on prompts outside the
queue. Each point of a curve is a model fitted to all rankings so far.

    python -m benchmarks.active            10 seeds of each world, a few minutes
    python -m benchmarks.active --quick    3 seeds

Progress on stderr; the last line of stdout is one JSON object with both curves, medians over the
seeds. The target is the final accuracy of random selection. `saved_to` is the number of rankings
with which active selection first reaches it, divided by the number with which random selection
first does; `needed` has both numbers. Because curves are noisy, random selection often reaches the
target early. `possible` is the theoretical share for a selector that knows the true weights. Values
are medians over the seeds, or null where the target was not reached. `--svg FILE` draws the curves.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.support.accelerator import commit, cpu_name
from reward.ordering import selection
from reward.ordering.selection import Tasks

MEASURED = ("benchmarks/active.py", "reward/ordering/selection.py")
FEATURES, K = 32, 4
FRESH = 3000
FIRST, STEP, BUDGET = 40, 20, 600
BATCHES = (200, 20)
"""Rankings per order. The first is drawn as the active curve, the others as thinner lines."""
SMOOTHED = 3
"""Width, in points, of the running median applied to a seed's curve before comparisons."""


@dataclass(frozen=True)
class World:
    """A distribution of tasks and scores.

    spectrum: variance of feature n falls as n^-spectrum. spread: standard deviation of the log of
    the distance between a prompt's responses. topics: number of topics with Zipf frequencies; a
    prompt's responses differ mostly in the features of its topic. gap: typical difference of two
    true scores, in units of the reviewers' noise. unseen: standard deviation of the part of a score
    that the features do not explain, in units of that difference. waiting: tasks to choose from.
    """

    name: str
    spectrum: float = 0.0
    spread: float = 0.0
    topics: int = 1
    gap: float = 2.0
    unseen: float = 0.0
    waiting: int = 3000


WORLDS = [
    World("alike"),
    World("many", waiting=30_000),
    World("topics", topics=8),
    World("spectrum", spectrum=1.0),
    World("spread", spread=0.5),
    World("lifelike", spectrum=1.0, spread=0.5),
    World("noisy", spectrum=1.0, spread=0.5, gap=1.0),
    World("misfit", spectrum=1.0, spread=0.5, unseen=0.3),
]
"""Embeddings of OASST's sibling responses (mean-pooled MiniLM, 90 prompts) had a spectrum of n^-0.99
and a spread of 0.50; "lifelike" has both, other worlds one or neither. "many" has more tasks, "noisy"
twice the reviewers' noise, and "misfit" a score that the features explain only in part."""


def make_tasks(world: World, count: int, rng: np.random.Generator) -> Tasks:
    """Return tasks with features (count, K, D) and scores of 0."""
    scales = np.arange(1, FEATURES + 1.0) ** (-world.spectrum / 2)
    x = rng.normal(size=(count, K, FEATURES)) * scales
    if world.topics > 1:
        common = 1 / np.arange(1, world.topics + 1)
        topic = rng.choice(world.topics, size=count, p=common / common.sum())
        own = np.arange(FEATURES) % world.topics == topic[:, None]
        x *= np.where(own, 1.0, 0.25)[:, None, :]
    x *= np.exp(rng.normal(size=(count, 1, 1)) * world.spread)
    return Tasks(x, np.zeros((count, K)), np.ones((count, K), dtype=bool))


def make_taste(world: World, tasks: Tasks, rng: np.random.Generator) -> np.ndarray:
    """Return weights θ (D,) with which all features matter equally."""
    scales = tasks.features.reshape(-1, FEATURES).std(axis=0)
    theta = rng.normal(size=FEATURES) / scales
    truth = tasks.features @ theta
    gaps = np.abs(truth[:, 0] - truth[:, 1])
    return theta * world.gap / np.median(gaps)


def make_truth(
    world: World, tasks: Tasks, theta: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Return the true scores (N, K)."""
    explained = tasks.features @ theta
    return explained + rng.normal(size=explained.shape) * world.unseen * world.gap


def rankings(truth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return one ranking per task as wins (n, K, K), drawn from Plackett-Luce with scores (n, K)."""
    perceived = truth + rng.gumbel(size=truth.shape)
    return (perceived[:, :, None] > perceived[:, None, :]).astype(float)


def fit(x: np.ndarray, wins: np.ndarray, precision: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """Return the maximum a posteriori θ of Bradley-Terry with a Gaussian prior.  x (n, K, D)"""
    i, j = np.triu_indices(x.shape[1], 1)
    gaps = (x[:, i] - x[:, j]).reshape(-1, x.shape[2])  # (pairs, D)
    won = wins[:, i, j].reshape(-1)
    for _ in range(30):
        p = 1 / (1 + np.exp(-np.clip(gaps @ theta, -60, 60)))
        gradient = gaps.T @ (p - won) + precision @ theta
        hessian = (gaps * (p * (1 - p))[:, None]).T @ gaps + precision
        step = np.linalg.solve(hessian, gradient)
        theta = theta - step * min(1.0, 5.0 / (1e-12 + np.abs(gaps @ step).max()))
        if np.abs(step).max() < 1e-6:
            break
    return theta


def accuracy(theta: np.ndarray, fresh: Tasks, truth: np.ndarray) -> float:
    scores = fresh.features @ theta
    i, j = np.triu_indices(K, 1)
    return float((((scores[:, i] - scores[:, j]) > 0) == ((truth[:, i] - truth[:, j]) > 0)).mean())


Chooser = Callable[[Tasks, np.ndarray, np.ndarray, int, np.random.Generator], np.ndarray]
"""(tasks with the model's scores, waiting, ranked, n, rng) → n waiting tasks, in order"""


def at_random(
    tasks: Tasks, waits: np.ndarray, ranked: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
    return rng.choice(waits, count, replace=False)


def most_to_learn(
    tasks: Tasks, waits: np.ndarray, ranked: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Return the most informative tasks, as reward.ordering.queue orders them."""
    waiting = tasks.some(waits)
    information = selection.prior(waiting) + selection.information(tasks.some(ranked))
    return waits[selection.in_order(waiting, information, most=count).chosen[:count]]


def curve(world: World, seed: int, choose: Chooser, batch: int = STEP) -> list[float]:
    """Return the accuracy after FIRST, FIRST + STEP, … rankings, with a new order per `batch`.

    All curves of a seed use the same ranking of a task.
    """
    rng = np.random.default_rng([seed, 1])
    tasks, fresh = make_tasks(world, world.waiting, rng), make_tasks(world, FRESH, rng)
    theta = make_taste(world, tasks, rng)
    truth, fresh_truth = (make_truth(world, each, theta, rng) for each in (tasks, fresh))
    wins = rankings(truth, rng)
    ranked = rng.permutation(world.waiting)[:FIRST]
    drawn = np.random.default_rng([seed, 2])
    precision, learned, points = selection.prior(tasks), np.zeros(FEATURES), []
    order = np.zeros(0, dtype=int)
    while True:
        learned = fit(tasks.features[ranked], wins[ranked], precision, learned)
        points.append(accuracy(learned, fresh, fresh_truth))
        if len(ranked) >= BUDGET:
            return points
        if not len(order):
            scored = Tasks(tasks.features, tasks.features @ learned, tasks.present)
            waits = np.setdiff1d(np.arange(world.waiting), ranked)
            order = choose(scored, waits, ranked, batch, drawn)
        ranked, order = np.concatenate([ranked, order[:STEP]]), order[STEP:]


def counts() -> np.ndarray:
    return np.arange(FIRST, BUDGET + 1, STEP)


def rankings_to_reach(points: Sequence[float] | np.ndarray, target: float) -> float | None:
    """Return the number of rankings at which a smoothed curve reaches the target, interpolated."""
    smooth = smooth_curve(points)
    above = np.flatnonzero(smooth >= target)
    if not len(above):
        return None
    first = int(above[0])
    if first == 0:
        return float(counts()[0])
    low, high = smooth[first - 1], smooth[first]
    return float(counts()[first - 1] + STEP * (target - low) / (high - low))


def smooth_curve(points: Sequence[float] | np.ndarray) -> np.ndarray:
    half = SMOOTHED // 2
    padded = np.pad(np.array(points), half, mode="edge")
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, SMOOTHED), axis=1)


def measure(world: World, seeds: int, batches: Sequence[int]) -> list[dict[str, Any]]:
    """Return a case for each batch size. The random curve is the same in all."""
    drawn = [curve(world, seed, at_random) for seed in range(seeds)]
    shares = [share for seed in range(seeds) if (share := possible(world, seed)) is not None]
    best = {"possible": finite(np.median(shares), 3) if shares else None}
    cases = []
    for batch in batches:
        chosen = [curve(world, seed, most_to_learn, batch) for seed in range(seeds)]
        cases.append(
            {"world": world.name, "batch": batch, "seeds": seeds, **best, **compare(drawn, chosen)}
        )
        print(f"{world.name}, {batch}: {cases[-1]['saved_to']}", file=sys.stderr, flush=True)
    return cases


def possible(world: World, seed: int) -> float | None:
    """Return the share of random rankings that a selector with the true weights would need.

    By large-sample theory, the fit has a variance V = A⁻¹(P + Σ XᵀJX)A⁻¹ with the prior P and the
    covariance J of the wins in one ranking, whose pairs are dependent (Godambe 1960). The error rate
    of two responses with similar true scores is proportional to √(dᵀVd), with d the difference of
    their features. Returns None if the features do not explain the scores.
    """
    if world.unseen:
        return None
    rng = np.random.default_rng([seed, 1])
    bare, fresh = make_tasks(world, world.waiting, rng), make_tasks(world, FRESH, rng)
    theta = make_taste(world, bare, rng)
    tasks = Tasks(bare.features, bare.features @ theta, bare.present)
    first, rest = np.split(rng.permutation(world.waiting), [FIRST])
    prior = selection.prior(tasks)
    information = prior + selection.information(tasks.some(first))
    best = selection.in_order(tasks.some(rest), information, most=BUDGET - FIRST).chosen
    close = close_pairs(fresh.features, theta)
    drawn, chosen = (
        errors(tasks.some(np.concatenate([first, which])[:BUDGET]), close, prior, rng)
        for which in (rest, rest[best])
    )
    needed = rankings_to_reach(-chosen, -drawn[-1])
    return None if needed is None else needed / BUDGET


def noise_of(truth: np.ndarray, rng: np.random.Generator, draws: int = 300) -> np.ndarray:
    """Return the covariance J (N, K, K) of the numbers of wins of a task's K responses."""
    wins = np.array([rankings(truth, rng).sum(axis=2) for _ in range(draws)])
    wins -= wins.mean(axis=0)
    return np.einsum("snk,snl->nkl", wins, wins) / draws


def close_pairs(x: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """Return feature differences (pairs, D) of responses with similar true scores.  x (N, K, D)"""
    i, j = np.triu_indices(x.shape[1], 1)
    gaps = (x[:, i] - x[:, j]).reshape(-1, x.shape[2])
    return gaps[np.abs(gaps @ theta) < 0.5]


def errors(
    tasks: Tasks, close: np.ndarray, prior: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Return errors (points,), up to a factor, after FIRST, FIRST + STEP, … of the tasks."""
    x, laplacians, noise = tasks.features, tasks.laplacians(), noise_of(tasks.scores, rng)
    points = []
    for count in counts():
        of = x[:count]
        bread = np.linalg.inv(prior + np.tensordot(of, laplacians[:count] @ of, ([0, 1], [0, 1])))
        meat = prior + np.tensordot(of, noise[:count] @ of, ([0, 1], [0, 1]))
        variance = bread @ meat @ bread
        points.append(np.sqrt(((close @ variance) * close).sum(axis=1)).mean())
    return np.array(points)


def compare(drawn: Sequence[list[float]], chosen: Sequence[list[float]]) -> dict[str, Any]:
    """Return the figures of random and active curves, compared by seed."""
    needed = np.array(
        [
            [rankings_until(curve, smooth_curve(random)[-1]) for curve in (random, active)]
            for random, active in zip(drawn, chosen, strict=True)
        ]
    )
    saved = np.sort(needed[:, 1] / needed[:, 0])
    middle = {"random": drawn, "active": chosen}
    return {
        "rankings": BUDGET,
        "saved_to": finite(np.median(saved), 3),
        "saved_to_range": [finite(saved[0], 3), finite(saved[-1], 3)],
        "needed": {
            name: finite(np.median(column), 0)
            for name, column in zip(middle, needed.T, strict=True)
        },
        "counts": counts().tolist(),
        **{
            name: [round(float(v), 4) for v in np.median(np.array(curves), axis=0)]
            for name, curves in middle.items()
        },
    }


def rankings_until(points: Sequence[float], target: float) -> float:
    count = rankings_to_reach(points, target)
    return float("inf") if count is None else count


def finite(value: float, digits: int) -> float | None:
    """Return the rounded value, or None for infinity, which JSON cannot represent."""
    return round(float(value), digits) if np.isfinite(value) else None


# --- the plot -------------------------------------------------------------------------------------

WIDE, HIGH, MARGIN, COLUMNS = 260, 170, 34, 4


def svg(cases: Sequence[dict[str, Any]]) -> str:
    """Return a drawing with one panel per world: median accuracy over rankings, by selection."""
    worlds = [[case for case in cases if case["world"] == name] for name in _names(cases)]
    columns = min(len(worlds), COLUMNS)
    high = HIGH * -(-len(worlds) // COLUMNS)
    panels = [
        f'<g transform="translate({WIDE * (n % COLUMNS)} {HIGH * (n // COLUMNS)})">\n{_panel(each)}</g>\n'
        for n, each in enumerate(worlds)
    ]
    first, *others = dict.fromkeys(case["batch"] for case in cases)
    thinner = "".join(f', <tspan fill="#93b4f5">every {batch}</tspan>' for batch in others)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDE * columns} {high + 24}" '
        'font-family="system-ui, sans-serif" font-size="11" fill="#555">\n'
        f'<rect width="100%" height="100%" fill="#fff"/>\n{"".join(panels)}'
        f'<text x="{MARGIN}" y="{high + 16}">rankings · share of pairs ordered as the truth does · '
        f'active, <tspan fill="#2563eb">ordered every {first}</tspan>{thinner} · '
        '<tspan fill="#888">random</tspan> · medians</text>\n'
        "</svg>\n"
    )


def _names(cases: Sequence[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(case["world"] for case in cases))


def _panel(cases: Sequence[dict[str, Any]]) -> str:
    """Return the panel of one world."""
    case, *others = cases
    everything = [value for each in cases for value in (*each["random"], *each["active"])]
    low, high = min(everything), max(everything)

    def line(values: Sequence[float], colour: str, width: float) -> str:
        points = " ".join(
            f"{MARGIN + (WIDE - MARGIN - 14) * n / (len(values) - 1):.1f},"
            f"{HIGH - 22 - (HIGH - 52) * (value - low) / (high - low):.1f}"
            for n, value in enumerate(values)
        )
        return (
            f'<polyline fill="none" stroke="{colour}" stroke-width="{width}" points="{points}"/>\n'
        )

    saved = case["saved_to"]
    title = "not reached" if saved is None else f"{saved:.0%} of the rankings"
    return (
        f'<text x="{MARGIN}" y="14" font-weight="600">{case["world"]}: {title}</text>\n'
        f'<text x="4" y="34">{high:.0%}</text>\n'
        f'<text x="4" y="{HIGH - 20}">{low:.0%}</text>\n'
        f'<text x="{MARGIN}" y="{HIGH - 6}">{case["counts"][0]}</text>\n'
        f'<text x="{WIDE - 34}" y="{HIGH - 6}">{case["counts"][-1]}</text>\n'
        + line(case["random"], "#999", 2)
        + "".join(line(each["active"], "#93b4f5", 1.5) for each in others)
        + line(case["active"], "#2563eb", 2)
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="3 seeds")
    parser.add_argument("--seeds", type=int, help="simulations of each world (default 10)")
    parser.add_argument("--world", action="append", help="only this world; may be repeated")
    parser.add_argument(
        "--batch",
        action="append",
        type=int,
        help=f"rankings per order, a multiple of {STEP}; may be repeated "
        f"(default {' and '.join(map(str, BATCHES))})",
    )
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw the curves")
    options = parser.parse_args(argv)
    batches = options.batch or BATCHES
    if wrong := [batch for batch in batches if batch < STEP or batch % STEP]:
        parser.error(f"--batch {wrong[0]} is not a multiple of {STEP}.")
    measured, seeds = commit(*MEASURED), options.seeds or (3 if options.quick else 10)
    cases = [
        case
        for world in WORLDS
        if not options.world or world.name in options.world
        for case in measure(world, seeds, batches)
    ]
    if options.svg:
        options.svg.write_text(svg(cases))
    hardware = {"cpu": cpu_name(), "threads": 1}
    result = {"name": "active", "commit": measured, "hardware": hardware, "cases": cases}
    print(json.dumps(result, allow_nan=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
