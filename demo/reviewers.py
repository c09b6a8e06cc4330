"""Simulated reviewers: they follow the guideline, each with a stated noise.

What they produce is marked as simulated wherever it is shown. A reviewer perceives the rule's score
plus a normal error of their own, calls two replies equal when they perceive hardly a difference,
and draws the line where their leniency puts it.
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
    tie_below: float  # perceived differences smaller than this are a tie
    leniency: float  # points by which their line lies under the guideline's
    words_per_second: float


CREW = (
    Reviewer("Wren", 1.2, 0.5, 0.0, 4.2),
    Reviewer("Bram", 1.5, 0.4, 0.3, 3.6),
    Reviewer("Odile", 1.8, 0.7, -0.3, 4.8),
    Reviewer("Teodor", 1.6, 0.3, 0.5, 3.9),
)


@dataclass(frozen=True)
class Ranking:
    """Tiers hold indices of the responses, best first; `cut` tiers lie above the line.

    `cut` is None when no line was drawn, which means that all can be sent.
    """

    tiers: list[list[int]]
    cut: int | None
    ratings: list[dict[str, int]]  # for each response, criterion key -> 1..5
    rationale: str
    active_seconds: float


def rank(
    reviewer: Reviewer, messages: rule.Messages, responses: Sequence[str], rng: random.Random
) -> Ranking:
    """One reviewer's ranking; the same state of `rng` gives the same ranking."""
    marks = [rule.explain(messages, response) for response in responses]
    seen = [rule.total(mark) + rng.gauss(0, reviewer.noise) for mark in marks]
    tiers, cut = _tiers(seen, reviewer)
    return Ranking(
        tiers=tiers,
        cut=cut,
        ratings=[_ratings(mark, rng) for mark in marks],
        rationale=_rationale(marks, tiers, rng),
        active_seconds=_seconds(reviewer, responses, rng),
    )


def noise_ceiling(groups: Iterable[Group]) -> float:
    """Share of the reviewers' strict pairs that the rule itself orders as they did.

    No model can do better in the long run: what is missing to 1 is the reviewers' noise. Pairs that
    the rule calls equal count half. Raises ValueError when there is no strict pair.
    """
    tallies = [
        order_tally(group, np.array([rule.score(group.prompt, text) for text in group.responses]))
        for group in groups
    ]
    found = agreeing_share(tallies)
    if found is None:
        raise ValueError("There is no strict pair in these rankings, so they have no ceiling.")
    return found


def _tiers(seen: Sequence[float], reviewer: Reviewer) -> tuple[list[list[int]], int | None]:
    """A tie never crosses the line: what may be sent is not equal to what may not."""
    line = rule.LINE - reviewer.leniency
    order = sorted(range(len(seen)), key=lambda index: -seen[index])
    tiers: list[list[int]] = []
    for index in order:
        top = seen[tiers[-1][0]] if tiers else 0.0
        same_side = (top >= line) == (seen[index] >= line)
        if tiers and top - seen[index] < reviewer.tie_below and same_side:
            tiers[-1].append(index)
        else:
            tiers.append([index])
    cut = sum(seen[tier[0]] >= line for tier in tiers)
    return tiers, cut if cut < len(tiers) else None


def _ratings(marks: dict[str, float], rng: random.Random) -> dict[str, int]:
    width = rule.RATING_HIGH - rule.RATING_LOW
    felt = {key: mark + rng.gauss(0, 0.1) for key, mark in marks.items()}
    return {
        key: min(rule.RATING_HIGH, max(rule.RATING_LOW, round(rule.RATING_LOW + width * mark)))
        for key, mark in felt.items()
    }


GOOD = {
    "hears": "hears the customer",
    "point": "speaks of the right lamp",
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
    """Why the first beat the last; reviewers write it about every other time."""
    if len(tiers) < 2 or rng.random() < 0.5:
        return ""
    best, worst = marks[tiers[0][0]], marks[tiers[-1][-1]]
    praise = [words for key, words in GOOD.items() if best[key] >= 0.8 and worst[key] < best[key]]
    blame = [words for key, words in BAD.items() if worst[key] < 0.5 and worst[key] < best[key]]
    said = []
    if praise:
        said.append(f"The first {' and '.join(praise[:2])}.")
    if blame:
        said.append(f"The last {blame[0]}.")
    return " ".join(said)


def _seconds(reviewer: Reviewer, responses: Sequence[str], rng: random.Random) -> float:
    words = sum(len(response.split()) for response in responses)
    thinking = 3.0 * len(responses)
    return round((words / reviewer.words_per_second + thinking) * rng.lognormvariate(0, 0.25), 1)
