"""Simulated reviewers, who follow the guideline with a known noise.

A reviewer perceives each reply's score under the rule with a normally distributed error. Two replies
with a small perceived difference are tied. The line below which replies are unacceptable depends on the
reviewer's leniency. Every page marks these rankings as simulated.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from demo import rule
from recipes.preferences.groups import Group
from reward.evaluation.report import agreeing_share, order_tally


@dataclass(frozen=True)
class Reviewer:
    name: str
    noise: float  # standard deviation of the error, in points of the rule's score
    tie_below: float  # smaller perceived differences are a tie
    leniency: float  # how many points the reviewer's line is below the guideline's
    words_per_second: float


CREW = (
    Reviewer("Wren", 1.2, 0.5, 0.0, 4.2),
    Reviewer("Bram", 1.5, 0.4, 0.3, 3.6),
    Reviewer("Odile", 1.8, 0.7, -0.3, 4.8),
    Reviewer("Teodor", 1.6, 0.3, 0.5, 3.9),
)


@dataclass(frozen=True)
class Ranking:
    """A ranking. `tiers` contain response indexes, best first, and `cut` tiers are above the line.

    `cut` is None if there is no line because all replies are acceptable.
    """

    tiers: list[list[int]]
    cut: int | None
    ratings: list[dict[str, int]]  # for each response, criterion key -> 1..5
    rationale: str
    active_seconds: float


def rank(
    reviewer: Reviewer, messages: rule.Messages, responses: Sequence[str], rng: random.Random
) -> Ranking:
    """Return a reviewer's ranking. It depends only on the arguments and the state of `rng`."""
    marks = [rule.explain(messages, response) for response in responses]
    perceived = [rule.total(mark) + rng.gauss(0, reviewer.noise) for mark in marks]
    tiers, cut = _tiers(perceived, reviewer)
    return Ranking(
        tiers=tiers,
        cut=cut,
        ratings=[_ratings(mark, rng) for mark in marks],
        rationale=_rationale(marks, tiers, rng),
        active_seconds=_seconds(reviewer, responses, rng),
    )


def noise_ceiling(groups: Iterable[Group]) -> float:
    """Return the share of the reviewers' pairs without ties that the rule orders in the same way.

    No model can expect a higher accuracy, because the rest is the reviewers' noise. Pairs that the rule
    ties count half. Raises ValueError if every pair is tied.
    """
    tallies = [
        order_tally(group, np.array([rule.score(group.prompt, text) for text in group.responses]))
        for group in groups
    ]
    share = agreeing_share(tallies)
    if share is None:
        raise ValueError("There is no strict pair in these rankings, so they have no ceiling.")
    return share


def _tiers(scores: Sequence[float], reviewer: Reviewer) -> tuple[list[list[int]], int | None]:
    """Return the tiers and the cut for perceived scores. A tie never crosses the line."""
    line = rule.LINE - reviewer.leniency
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    tiers: list[list[int]] = []
    for index in order:
        top = scores[tiers[-1][0]] if tiers else 0.0
        same_side = (top >= line) == (scores[index] >= line)
        if tiers and top - scores[index] < reviewer.tie_below and same_side:
            tiers[-1].append(index)
        else:
            tiers.append([index])
    cut = sum(scores[tier[0]] >= line for tier in tiers)
    return tiers, cut if cut < len(tiers) else None


def _ratings(marks: dict[str, float], rng: random.Random) -> dict[str, int]:
    width = rule.RATING_HIGH - rule.RATING_LOW
    perceived = {key: mark + rng.gauss(0, 0.1) for key, mark in marks.items()}
    return {
        key: min(rule.RATING_HIGH, max(rule.RATING_LOW, round(rule.RATING_LOW + width * mark)))
        for key, mark in perceived.items()
    }


GOOD = {
    "hears": "hears the customer",
    "point": "names the right lamp",
    "step": "says what happens and when",
    "ends": "ends like a letter",
}
BAD = {
    "honesty": "promises what nobody can keep",
    "tone": "scolds the customer",
    "reads": "is hard to read",
    "step": "leaves open what happens next",
    "hears": "does not hear the customer",
    "point": "could be about anything",
    "ends": "just stops",
}


def _rationale(
    marks: Sequence[dict[str, float]], tiers: Sequence[Sequence[int]], rng: random.Random
) -> str:
    """Return a reason why the first reply is better than the last, or "" in half of the cases."""
    if len(tiers) < 2 or rng.random() < 0.5:
        return ""
    best, worst = marks[tiers[0][0]], marks[tiers[-1][-1]]
    praise = [words for key, words in GOOD.items() if best[key] >= 0.8 and worst[key] < best[key]]
    blame = [words for key, words in BAD.items() if worst[key] < 0.5 and worst[key] < best[key]]
    sentences = []
    if praise:
        sentences.append(f"The first {' and '.join(praise[:2])}.")
    if blame:
        sentences.append(f"The last {blame[0]}.")
    return " ".join(sentences)


def _seconds(reviewer: Reviewer, responses: Sequence[str], rng: random.Random) -> float:
    words = sum(len(response.split()) for response in responses)
    thinking = 3.0 * len(responses)
    return round((words / reviewer.words_per_second + thinking) * rng.lognormvariate(0, 0.25), 1)
