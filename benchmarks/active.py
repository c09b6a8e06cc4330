"""How many rankings active selection saves, on simulated reviewers whose taste is known.

A linear taste of known weights judges tasks of K responses, with the noise of Bradley and Terry; a
linear model of the same features learns from the rankings. After each batch the waiting tasks are
put in order by reward.selection, which is what the product runs, or drawn at random; both start from
the same random rankings. What is measured is the share of pairs that are ordered as the truth orders
them, on prompts that were never waiting: a random stream.

    python -m benchmarks.active            10 seeds of each world, a few minutes
    python -m benchmarks.active --quick    3 seeds

Progress on stderr; the last line of stdout is one JSON object with both curves (medians over the
seeds). `saved_to` is the number of rankings with which active selection reaches what random selection
reaches with all of them, over that number. `--svg FILE` draws the curves.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accelerator import commit, cpu_name
from reward import selection
from reward.selection import Tasks

MEASURED = ("benchmarks/active.py", "reward/selection.py")
FEATURES, K = 32, 4
WAITING, FRESH = 3000, 3000
FIRST, BATCH, BUDGET = 40, 20, 600
SMOOTHED = 3
"""Points of a curve of which one seed's median is taken before curves are compared."""


@dataclass(frozen=True)
class World:
    """spectrum: variance of feature n falls as n^-spectrum. spread: standard deviation of the log of
    how far a prompt's responses lie apart. topics: a prompt's responses differ in the features of
    its topic most, and topics are as unequally common as words (Zipf); 1 for none. gap: the typical
    difference of two true scores, in units of the reviewers' noise. unseen: standard deviation of
    what a score has that the features do not show, in units of that difference.
    """

    name: str
    spectrum: float = 0.0
    spread: float = 0.0
    topics: int = 1
    gap: float = 2.0
    unseen: float = 0.0


WORLDS = [
    World("alike"),
    World("topics", topics=8),
    World("spectrum", spectrum=1.0),
    World("spread", spread=0.5),
    World("lifelike", spectrum=1.0, spread=0.5),
    World("noisy", spectrum=1.0, spread=0.5, gap=1.0),
    World("misfit", spectrum=1.0, spread=0.5, unseen=0.3),
]
"""Of the embeddings of OASST's sibling responses (mean-pooled MiniLM, 90 prompts) the spectrum fell
as n^-0.99 and the log of the spread deviated by 0.50: lifelike is that. Others have one of it each, or
neither; noisy has reviewers twice as noisy, misfit a taste that the features show in part."""


def make_tasks(world: World, count: int, rng: np.random.Generator) -> Tasks:
    """→ features (count, K, D); scores are 0 until a model says something."""
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
    """→ θ (D,), every feature that there is mattering alike"""
    scales = tasks.features.reshape(-1, FEATURES).std(axis=0)
    theta = rng.normal(size=FEATURES) / scales
    truth = tasks.features @ theta
    gaps = np.abs(truth[:, 0] - truth[:, 1])
    return theta * world.gap / np.median(gaps)


def make_truth(
    world: World, tasks: Tasks, theta: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """→ (N, K)"""
    seen = tasks.features @ theta
    return seen + rng.normal(size=seen.shape) * world.unseen * world.gap


def rankings(truth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Who beats whom, in one ranking a task: Gumbel noise makes it a draw from Plackett-Luce.

    truth (n, K) → (n, K, K)
    """
    seen = truth + rng.gumbel(size=truth.shape)
    return (seen[:, :, None] > seen[:, None, :]).astype(float)


def fit(x: np.ndarray, wins: np.ndarray, precision: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """Most probable θ of the Bradley-Terry loss with a Gaussian prior, by Newton.  x (n, K, D)"""
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
    said = fresh.features @ theta
    i, j = np.triu_indices(K, 1)
    return float((((said[:, i] - said[:, j]) > 0) == ((truth[:, i] - truth[:, j]) > 0)).mean())


Chooser = Callable[[Tasks, np.ndarray, np.ndarray, np.random.Generator], np.ndarray]
"""(tasks with the model's scores, what waits, what was ranked, rng) → BATCH of what waits"""


def at_random(
    tasks: Tasks, waits: np.ndarray, ranked: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    return rng.choice(waits, BATCH, replace=False)


def most_to_learn(
    tasks: Tasks, waits: np.ndarray, ranked: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """As reward.queue_order does it."""
    waiting = tasks.some(waits)
    known = selection.prior(waiting) + selection.information(tasks.some(ranked))
    return waits[selection.in_order(waiting, known, most=BATCH).chosen[:BATCH]]


CHOOSERS: dict[str, Chooser] = {"random": at_random, "active": most_to_learn}


def curve(world: World, seed: int, choose: Chooser) -> list[float]:
    """Accuracy after FIRST, FIRST + BATCH, … rankings. A task is always ranked alike."""
    rng = np.random.default_rng([seed, 1])
    tasks, fresh = make_tasks(world, WAITING, rng), make_tasks(world, FRESH, rng)
    theta = make_taste(world, tasks, rng)
    truth, fresh_truth = (make_truth(world, each, theta, rng) for each in (tasks, fresh))
    wins = rankings(truth, rng)
    ranked = rng.permutation(WAITING)[:FIRST]
    drawn = np.random.default_rng([seed, 2])
    precision, learned, points = selection.prior(tasks), np.zeros(FEATURES), []
    while True:
        learned = fit(tasks.features[ranked], wins[ranked], precision, learned)
        points.append(accuracy(learned, fresh, fresh_truth))
        if len(ranked) >= BUDGET:
            return points
        scored = Tasks(tasks.features, tasks.features @ learned, tasks.present)
        waits = np.setdiff1d(np.arange(WAITING), ranked)
        ranked = np.concatenate([ranked, choose(scored, waits, ranked, drawn)])


def counts() -> np.ndarray:
    return np.arange(FIRST, BUDGET + 1, BATCH)


def reached(points: Sequence[float], target: float) -> float | None:
    """Rankings after which a smoothed curve reaches the target, between points by a line."""
    smooth = smoothed(points)
    above = np.flatnonzero(smooth >= target)
    if not len(above):
        return None
    first = int(above[0])
    if first == 0:
        return float(counts()[0])
    low, high = smooth[first - 1], smooth[first]
    return float(counts()[first - 1] + BATCH * (target - low) / (high - low))


def smoothed(points: Sequence[float]) -> np.ndarray:
    half = SMOOTHED // 2
    padded = np.pad(np.array(points), half, mode="edge")
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, SMOOTHED), axis=1)


def measure(world: World, seeds: int) -> dict[str, Any]:
    curves: dict[str, list[list[float]]] = {name: [] for name in CHOOSERS}
    shares: list[float] = []
    for seed in range(seeds):
        for name, choose in CHOOSERS.items():
            curves[name].append(curve(world, seed, choose))
        target = smoothed(curves["random"][-1])[-1]
        needed = reached(curves["active"][-1], target)
        all_of_them = reached(curves["random"][-1], target) or float(BUDGET)
        shares.append(float("inf") if needed is None else needed / all_of_them)
        print(f"{world.name} {seed}: {shares[-1]:.2f}", file=sys.stderr, flush=True)
    found = sorted(shares)
    return {
        "world": world.name,
        "seeds": seeds,
        "rankings": BUDGET,
        "saved_to": round(float(np.median(found)), 3),
        "saved_to_range": [None if np.isinf(s) else round(s, 3) for s in (found[0], found[-1])],
        "counts": counts().tolist(),
        **{
            name: [round(float(v), 4) for v in np.median(np.array(all_seeds), axis=0)]
            for name, all_seeds in curves.items()
        },
    }


# --- the plot -------------------------------------------------------------------------------------

WIDE, HIGH, MARGIN, COLUMNS = 260, 170, 34, 4


def svg(cases: Sequence[dict[str, Any]]) -> str:
    """One panel a world: median accuracy over rankings, random and active."""
    columns = min(len(cases), COLUMNS)
    high = HIGH * -(-len(cases) // COLUMNS)
    panels = [
        f'<g transform="translate({WIDE * (n % COLUMNS)} {HIGH * (n // COLUMNS)})">\n{_panel(case)}</g>\n'
        for n, case in enumerate(cases)
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDE * columns} {high + 24}" '
        'font-family="system-ui, sans-serif" font-size="11" fill="#555">\n'
        f'<rect width="100%" height="100%" fill="#fff"/>\n{"".join(panels)}'
        f'<text x="{MARGIN}" y="{high + 16}">rankings · share of pairs ordered as the truth does · '
        '<tspan fill="#2563eb">active</tspan> · <tspan fill="#888">random</tspan> · medians</text>\n'
        "</svg>\n"
    )


def _panel(case: dict[str, Any]) -> str:
    low = min(case["random"] + case["active"])
    high = max(case["random"] + case["active"])

    def line(name: str, colour: str) -> str:
        points = " ".join(
            f"{MARGIN + (WIDE - MARGIN - 14) * n / (len(case[name]) - 1):.1f},"
            f"{HIGH - 22 - (HIGH - 52) * (value - low) / (high - low):.1f}"
            for n, value in enumerate(case[name])
        )
        return f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{points}"/>\n'

    return (
        f'<text x="{MARGIN}" y="14" font-weight="600">{case["world"]}: '
        f"{case['saved_to']:.0%} of the rankings</text>\n"
        f'<text x="4" y="34">{high:.0%}</text>\n'
        f'<text x="4" y="{HIGH - 20}">{low:.0%}</text>\n'
        f'<text x="{MARGIN}" y="{HIGH - 6}">{case["counts"][0]}</text>\n'
        f'<text x="{WIDE - 34}" y="{HIGH - 6}">{case["counts"][-1]}</text>\n'
        + line("random", "#999")
        + line("active", "#2563eb")
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="3 seeds")
    parser.add_argument("--seeds", type=int, help="simulations of each world (default 10)")
    parser.add_argument("--world", action="append", help="only this one; may be repeated")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw the curves")
    options = parser.parse_args(argv)
    measured, seeds = commit(*MEASURED), options.seeds or (3 if options.quick else 10)
    cases = [
        measure(world, seeds)
        for world in WORLDS
        if not options.world or world.name in options.world
    ]
    if options.svg:
        options.svg.write_text(svg(cases))
    hardware = {"cpu": cpu_name(), "threads": 1}
    print(json.dumps({"name": "active", "commit": measured, "hardware": hardware, "cases": cases}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
