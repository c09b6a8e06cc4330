"""How many rankings active selection saves, on simulated reviewers whose taste is known.

A linear taste of known weights judges tasks of K responses, with the noise of Bradley and Terry; a
linear model of the same features learns from the rankings. The waiting tasks are put in order by
reward.ordering.selection, which is what the product runs, or drawn at random; both start from the same random
rankings. One order serves `--batch` rankings: 200 is what docs/active-learning.md advises, 20 what
training without pause would give. What is measured is the share of pairs that are ordered as the
truth orders them, on prompts that were never waiting: a random stream. A model is fitted to all the
rankings for each point of a curve, whatever the rhythm of the orders.

    python -m benchmarks.active            10 seeds of each world, a few minutes
    python -m benchmarks.active --quick    3 seeds

Progress on stderr; the last line of stdout is one JSON object with both curves (medians over the
seeds). The target is the accuracy that random selection ends with. `saved_to` is the number of
rankings with which active selection first reaches it, over the number with which random selection
first did; `needed` has both numbers. As curves are not smooth, random selection often needed fewer
than all of its rankings. `possible` is the share that a chooser would need who knew the taste, by
theory and without the chance of single runs. Medians over the seeds, and null where it was not
reached. `--svg FILE` draws the curves.
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
from reward.ordering import selection
from reward.ordering.selection import Tasks

MEASURED = ("benchmarks/active.py", "reward/ordering/selection.py")
FEATURES, K = 32, 4
FRESH = 3000
FIRST, STEP, BUDGET = 40, 20, 600
BATCHES = (200, 20)
"""How many rankings one order serves. The first is drawn as the active curve, the others thinner."""
SMOOTHED = 3
"""Points of a curve of which one seed's median is taken before curves are compared."""


@dataclass(frozen=True)
class World:
    """spectrum: variance of feature n falls as n^-spectrum. spread: standard deviation of the log of
    how far a prompt's responses lie apart. topics: a prompt's responses differ in the features of
    its topic most, and topics are as unequally common as words (Zipf); 1 for none. gap: the typical
    difference of two true scores, in units of the reviewers' noise. unseen: standard deviation of
    what a score has that the features do not show, in units of that difference. waiting: tasks to
    choose from.
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
"""Of the embeddings of OASST's sibling responses (mean-pooled MiniLM, 90 prompts) the spectrum fell
as n^-0.99 and the log of the spread deviated by 0.50: lifelike is that. Others have one of it each, or
neither; many is alike with more to choose from, noisy has reviewers twice as noisy, misfit a taste
that the features show in part."""


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


Chooser = Callable[[Tasks, np.ndarray, np.ndarray, int, np.random.Generator], np.ndarray]
"""(tasks with the model's scores, what waits, what was ranked, n, rng) → n of what waits, in order"""


def at_random(
    tasks: Tasks, waits: np.ndarray, ranked: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
    return rng.choice(waits, count, replace=False)


def most_to_learn(
    tasks: Tasks, waits: np.ndarray, ranked: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
    """As reward.ordering.queue does it."""
    waiting = tasks.some(waits)
    known = selection.prior(waiting) + selection.information(tasks.some(ranked))
    return waits[selection.in_order(waiting, known, most=count).chosen[:count]]


def curve(world: World, seed: int, choose: Chooser, batch: int = STEP) -> list[float]:
    """Accuracy after FIRST, FIRST + STEP, … rankings, with a new order after each `batch`.

    A task is always ranked alike.
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


def reached(points: Sequence[float] | np.ndarray, target: float) -> float | None:
    """Rankings after which a smoothed curve reaches the target, between points by a line."""
    smooth = smoothed(points)
    above = np.flatnonzero(smooth >= target)
    if not len(above):
        return None
    first = int(above[0])
    if first == 0:
        return float(counts()[0])
    low, high = smooth[first - 1], smooth[first]
    return float(counts()[first - 1] + STEP * (target - low) / (high - low))


def smoothed(points: Sequence[float] | np.ndarray) -> np.ndarray:
    half = SMOOTHED // 2
    padded = np.pad(np.array(points), half, mode="edge")
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, SMOOTHED), axis=1)


def measure(world: World, seeds: int, batches: Sequence[int]) -> list[dict[str, Any]]:
    """One case for each rhythm; the random curve has none, and is the same in all."""
    drawn = [curve(world, seed, at_random) for seed in range(seeds)]
    known = [share for seed in range(seeds) if (share := possible(world, seed)) is not None]
    best = {"possible": finite(np.median(known), 3) if known else None}
    cases = []
    for batch in batches:
        chosen = [curve(world, seed, most_to_learn, batch) for seed in range(seeds)]
        cases.append(
            {"world": world.name, "batch": batch, "seeds": seeds, **best, **compare(drawn, chosen)}
        )
        found = cases[-1]
        print(f"{world.name}, {batch}: {found['saved_to']}", file=sys.stderr, flush=True)
    return cases


def possible(world: World, seed: int) -> float | None:
    """The share of random rankings with which one who knows the taste leaves as large an error.

    By the theory of large samples: the fit lies off by a variance V = A⁻¹(P + Σ XᵀJX)A⁻¹ with P the
    prior and J the covariance of the wins in one ranking, whose pairs are not independent (Godambe
    1960). Two responses are confused in proportion to how far off their difference is, √(dᵀVd), if
    their true scores lie together. None where the features do not show all of the taste.
    """
    if world.unseen:
        return None
    rng = np.random.default_rng([seed, 1])
    bare, fresh = make_tasks(world, world.waiting, rng), make_tasks(world, FRESH, rng)
    theta = make_taste(world, bare, rng)
    tasks = Tasks(bare.features, bare.features @ theta, bare.present)
    first, rest = np.split(rng.permutation(world.waiting), [FIRST])
    prior = selection.prior(tasks)
    known = prior + selection.information(tasks.some(first))
    best = selection.in_order(tasks.some(rest), known, most=BUDGET - FIRST).chosen
    close = close_pairs(fresh.features, theta)
    drawn, chosen = (
        errors(tasks.some(np.concatenate([first, which])[:BUDGET]), close, prior, rng)
        for which in (rest, rest[best])
    )
    needed = reached(-chosen, -drawn[-1])
    return None if needed is None else needed / BUDGET


def noise_of(truth: np.ndarray, rng: np.random.Generator, draws: int = 300) -> np.ndarray:
    """Covariance of how many the K responses of a task beat in one ranking.  → J (N, K, K)"""
    wins = np.array([rankings(truth, rng).sum(axis=2) for _ in range(draws)])
    wins -= wins.mean(axis=0)
    return np.einsum("snk,snl->nkl", wins, wins) / draws


def close_pairs(x: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """Differences of responses whose true scores lie together.  x (N, K, D) → (pairs, D)"""
    i, j = np.triu_indices(x.shape[1], 1)
    gaps = (x[:, i] - x[:, j]).reshape(-1, x.shape[2])
    return gaps[np.abs(gaps @ theta) < 0.5]


def errors(
    tasks: Tasks, close: np.ndarray, prior: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """After FIRST, FIRST + STEP, … of the tasks in their order, up to a factor.  → (points,)"""
    x, laplacians, noise = tasks.features, tasks.laplacians(), noise_of(tasks.scores, rng)
    found = []
    for count in counts():
        of = x[:count]
        bread = np.linalg.inv(prior + np.tensordot(of, laplacians[:count] @ of, ([0, 1], [0, 1])))
        meat = prior + np.tensordot(of, noise[:count] @ of, ([0, 1], [0, 1]))
        variance = bread @ meat @ bread
        found.append(np.sqrt(((close @ variance) * close).sum(axis=1)).mean())
    return np.array(found)


def compare(drawn: Sequence[list[float]], chosen: Sequence[list[float]]) -> dict[str, Any]:
    """Of random and active curves, seed by seed."""
    needed = np.array(
        [
            [rankings_until(curve, smoothed(random)[-1]) for curve in (random, active)]
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
    found = reached(points, target)
    return float("inf") if found is None else found


def finite(value: float, digits: int) -> float | None:
    """JSON knows no infinity."""
    return round(float(value), digits) if np.isfinite(value) else None


# --- the plot -------------------------------------------------------------------------------------

WIDE, HIGH, MARGIN, COLUMNS = 260, 170, 34, 4


def svg(cases: Sequence[dict[str, Any]]) -> str:
    """One panel a world: median accuracy over rankings, random and active in each rhythm."""
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
    """Of one world."""
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
    parser.add_argument("--world", action="append", help="only this one; may be repeated")
    parser.add_argument(
        "--batch",
        action="append",
        type=int,
        help=f"rankings that one order serves, a multiple of {STEP}; may be repeated "
        f"(default {' and '.join(map(str, BATCHES))})",
    )
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw the curves")
    options = parser.parse_args(argv)
    batches = options.batch or BATCHES
    if wrong := [batch for batch in batches if batch < STEP or batch % STEP]:
        parser.error(f"--batch {wrong[0]} is no multiple of {STEP}.")
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
