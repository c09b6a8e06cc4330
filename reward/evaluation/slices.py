"""Accuracy on parts of the held-out data. Pure numpy; every figure has its interval and its counts.

With twenty slices one differs by chance: an interval that leaves out the overall accuracy is a
question to ask, not an answer.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from recipes.preferences.groups import (
    Group,
    Judgment,
    by_criterion,
    rated_criteria,
    strict_wins,
)
from reward.evaluation.report import (
    Scored,
    Tally,
    agreement_tally,
    order_tally,
    pairwise,
    share,
    tally,
)

MOST = 20
"""Slices of a kind that are shown; those with the most pairs come first."""
SAME_LENGTH = 1.1
"""Lengths in tokens whose ratio stays under this are the same."""


def slices(scored: Sequence[Scored], seed: int = 0) -> dict[str, Any]:
    return {
        "guideline_version": by_judgment(scored, lambda r: r.guideline_version, seed),
        "reviewer": by_judgment(scored, lambda r: r.reviewer, seed, against_others=True),
        "criterion": by_rating(scored, seed),
        "response_model": by_model(scored, seed),
    }


def by_judgment(
    scored: Sequence[Scored],
    key: Callable[[Judgment], Hashable],
    seed: int,
    *,
    against_others: bool = False,
) -> list[dict[str, Any]]:
    """Of the judgments alone that share a key, with the agreement between reviewers beside it.

    `against_others` takes the agreement of the key's judgments with all others, as a single
    reviewer has no one to agree with.
    """
    found = {key(ranking) for item in scored for ranking in item.group.rankings}
    rows = []
    for name in found:
        parts = [(only(item.group, key, name), item) for item in scored]
        own = [order_tally(group, item.scores) for group, item in parts]
        if against_others:
            ceiling = [with_others(item.group, key, name) for item in scored]
        else:
            ceiling = [agreement_tally(group) for group, _ in parts]
        rows.append(_row(name, own, seed, pairwise(ceiling)))
    return largest(rows)


def only(group: Group, key: Callable[[Judgment], Hashable], name: Hashable) -> Group:
    return replace(group, rankings=[r for r in group.rankings if key(r) == name])


def with_others(group: Group, key: Callable[[Judgment], Hashable], name: Hashable) -> Tally:
    """One against each other reviewer: the agreement of all, less that of the others alone."""
    everyone = agreement_tally(group)
    others = agreement_tally(replace(group, rankings=[r for r in group.rankings if key(r) != name]))
    own = agreement_tally(only(group, key, name))
    return Tally(
        everyone.agreeing - others.agreeing - own.agreeing,
        everyone.evidence - others.evidence - own.evidence,
        everyone.pairs - others.pairs - own.pairs,
    )


def by_rating(scored: Sequence[Scored], seed: int) -> list[dict[str, Any]]:
    """Of pairs that a reviewer rated differently by a criterion: whether the score orders them so."""
    rows = []
    for name in sorted(set().union(*(rated_criteria(item.group) for item in scored))):
        parts = [(by_criterion(item.group, name), item) for item in scored]
        own = [order_tally(group, item.scores) for group, item in parts]
        ceiling = [agreement_tally(group) for group, _ in parts]
        rows.append(_row(name, own, seed, pairwise(ceiling)))
    return largest(rows)


def by_model(scored: Sequence[Scored], seed: int) -> list[dict[str, Any]]:
    """Of pairs with a response of the model on one side or both; a pair of two models is in both."""
    written = [item.group.meta.get("response_models") or [] for item in scored]
    rows = []
    for name in {model for models in written for model in models}:
        tallies = []
        for item, models in zip(scored, written, strict=True):
            if len(models) == len(item.scores):
                of_it = np.array([model == name for model in models])
                among = of_it[:, None] | of_it[None, :]
                tallies.append(tally(strict_wins(item.group) * among, item.scores))
        rows.append(_row(name, tallies, seed, None))
    return largest(rows)


def _row(
    name: Hashable, tallies: Sequence[Tally], seed: int, agreement: dict[str, Any] | None
) -> dict[str, Any]:
    return {"name": name, "accuracy": share(tallies, seed), "reviewer_agreement": agreement}


def largest(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those with the most pairs, and no slice without any."""
    used = [row for row in rows if row["accuracy"]["pairs"]]
    return sorted(used, key=lambda row: (-row["accuracy"]["pairs"], str(row["name"])))[:MOST]


# --- length ---------------------------------------------------------------------------------------


def length_slices(scored: Sequence[Scored], seed: int = 0) -> dict[str, Any]:
    """Accuracy where length cannot decide, where the longer response won, and where the shorter did.

    Each pair is in one of them: `contested` has those of which reviewers preferred the longer one
    as well as the shorter one. A model that likes length beyond its worth is right on `longer_won`
    and wrong on `shorter_won`; `balanced` gives both the same weight.
    """
    tallies = [length_tallies(item) for item in scored]
    names = ("matched", "longer_won", "shorter_won", "contested")
    found = {name: share([each[name] for each in tallies], seed) for name in names}
    longer, shorter = found["longer_won"]["value"], found["shorter_won"]["value"]
    balanced = None if longer is None or shorter is None else (longer + shorter) / 2
    return {**found, "balanced": balanced}


def length_tallies(item: Scored) -> dict[str, Tally]:
    """Return the evidence of one prompt by how its pairs relate to length."""
    long, short = item.lengths[:, None], item.lengths[None, :]  # of i, of j
    matched = np.maximum(long, short) < SAME_LENGTH * np.minimum(long, short)
    strict = strict_wins(item.group)
    contested = ~matched & (strict > 0) & (strict.T > 0)  # (K, K), both ways round
    clear = ~matched & ~contested
    return {
        "matched": tally(strict * matched, item.scores),
        "longer_won": tally(strict * (clear & (long > short)), item.scores),
        "shorter_won": tally(strict * (clear & (long < short)), item.scores),
        "contested": tally(strict * contested, item.scores),
    }
