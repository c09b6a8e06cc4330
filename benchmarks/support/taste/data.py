"""The rankings in the form in which an arm uses them: whole, as pairs, or with other ties."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np

from recipes.preferences.groups import Group, Judgment, keep_responses

Data = Callable[[Sequence[Group], np.random.Generator], list[Group]]


def whole(groups: Sequence[Group], rng: np.random.Generator) -> list[Group]:
    return list(groups)


def best_against_worst(groups: Sequence[Group], rng: np.random.Generator) -> list[Group]:
    """Return a pair for each ranking: a random response of the first tier and one of the last."""
    pairs = []
    for group in groups:
        tiers = group.rankings[0].tiers
        if len(tiers) > 1:
            best, worst = (int(rng.choice(tier)) for tier in (tiers[0], tiers[-1]))
            pairs.append(pair_of(group, best, worst))
    return pairs


def all_pairs(groups: Sequence[Group], rng: np.random.Generator) -> list[Group]:
    """Return a pair for each two responses in different tiers of a ranking."""
    return [pair_of(group, better, worse) for group in groups for better, worse in strict(group)]


def without_ties(groups: Sequence[Group], rng: np.random.Generator) -> list[Group]:
    """Return the whole rankings without their ties: a judgment for each strict pair."""
    return [
        Group(
            group.group_id,
            group.prompt,
            group.response_ids,
            group.responses,
            [Judgment("reviewer", [[better], [worse]]) for better, worse in strict(group)],
            meta=group.meta,
        )
        for group in groups
        if len(group.rankings[0].tiers) > 1
    ]


def ties_at_random(groups: Sequence[Group], rng: np.random.Generator) -> list[Group]:
    """Return the whole rankings with the responses of each tier in a random order."""
    return [
        replace(
            group,
            rankings=[
                Judgment(
                    "reviewer",
                    [[int(i)] for tier in group.rankings[0].tiers for i in rng.permutation(tier)],
                )
            ],
        )
        for group in groups
    ]


def strict(group: Group) -> Iterator[tuple[int, int]]:
    """Yield (better, worse) for each two responses in different tiers."""
    for above, below in combinations(group.rankings[0].tiers, 2):
        yield from ((better, worse) for better in above for worse in below)


def pair_of(group: Group, better: int, worse: int) -> Group:
    pair = keep_responses(group, [better, worse])
    return Group(
        f"{group.group_id}-{better}-{worse}",
        pair.prompt,
        pair.response_ids,
        pair.responses,
        [Judgment("reviewer", [[better], [worse]])],
        meta=pair.meta,
    )
