"""The accuracy on slices of the held-out data. Pure numpy.

Among twenty slices, about one has a 95% interval that excludes the overall accuracy by chance. Such an
interval is a reason to look closer, not a conclusion.
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
from reward.evaluation.schema import LengthSlices, Share, Slice, Slices

MAX_SLICES = 20
"""The maximum number of slices of a kind. The slices with the most pairs are kept."""
SAME_LENGTH = 1.1
"""Two lengths in tokens count as equal if their ratio is below this."""


def slices(scored: Sequence[Scored], seed: int = 0) -> Slices:
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
) -> list[Slice]:
    """Return a slice for each value of `key`, with only the judgments that have this value.

    The agreement is that between the reviewers of the slice. With `against_others`, the judgments of
    the slice are compared with all others, because a single reviewer has nobody to agree with.
    """
    names = {key(ranking) for item in scored for ranking in item.group.rankings}
    rows = []
    for name in names:
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
    """Return the agreement of a reviewer with the others. The others are not compared."""
    everyone = agreement_tally(group)
    others = agreement_tally(replace(group, rankings=[r for r in group.rankings if key(r) != name]))
    own = agreement_tally(only(group, key, name))
    return Tally(
        everyone.agreeing - others.agreeing - own.agreeing,
        everyone.evidence - others.evidence - own.evidence,
        everyone.pairs - others.pairs - own.pairs,
    )


def by_rating(scored: Sequence[Scored], seed: int) -> list[Slice]:
    """Return a slice for each criterion, with the pairs whose ratings by this criterion differ."""
    rows = []
    for name in sorted(set().union(*(rated_criteria(item.group) for item in scored))):
        parts = [(by_criterion(item.group, name), item) for item in scored]
        own = [order_tally(group, item.scores) for group, item in parts]
        ceiling = [agreement_tally(group) for group, _ in parts]
        rows.append(_row(name, own, seed, pairwise(ceiling)))
    return largest(rows)


def by_model(scored: Sequence[Scored], seed: int) -> list[Slice]:
    """Return a slice for each model that wrote responses, with the pairs that have such a response.

    A pair of responses by two models is in the slices of both models.
    """
    written = [item.group.meta.get("response_models") or [] for item in scored]
    rows = []
    for name in {model for models in written for model in models}:
        tallies = []
        for item, models in zip(scored, written, strict=True):
            if len(models) == len(item.scores):
                own = np.array([model == name for model in models])
                among = own[:, None] | own[None, :]
                tallies.append(tally(strict_wins(item.group) * among, item.scores))
        rows.append(_row(name, tallies, seed, None))
    return largest(rows)


def _row(name: Any, tallies: Sequence[Tally], seed: int, agreement: Share | None) -> Slice:
    return {"name": name, "accuracy": share(tallies, seed), "reviewer_agreement": agreement}


def largest(rows: Sequence[Slice]) -> list[Slice]:
    """Return the slices with the most pairs, without empty ones."""
    used = [row for row in rows if row["accuracy"]["pairs"]]
    return sorted(used, key=lambda row: (-row["accuracy"]["pairs"], str(row["name"])))[:MAX_SLICES]


# --- length ---------------------------------------------------------------------------------------


def length_slices(scored: Sequence[Scored], seed: int = 0) -> LengthSlices:
    """Return the accuracy on slices of pairs, which depend on the lengths of the two responses.

    Each pair is in one slice: the responses are about equally long, the longer one won, the shorter one
    won, or the pair is `contested`, because reviewers disagreed about it. A model that overrates
    length is right on `longer_won` and wrong on `shorter_won`. In `balanced`, both count equally.
    """
    tallies = [length_tallies(item) for item in scored]

    def of(name: str) -> Share:
        return share([tally[name] for tally in tallies], seed)

    longer_won, shorter_won = of("longer_won"), of("shorter_won")
    longer, shorter = longer_won["value"], shorter_won["value"]
    return {
        "matched": of("matched"),
        "longer_won": longer_won,
        "shorter_won": shorter_won,
        "contested": of("contested"),
        "balanced": None if longer is None or shorter is None else (longer + shorter) / 2,
    }


def length_tallies(item: Scored) -> dict[str, Tally]:
    """Return the evidence of a prompt for each of the slices of `length_slices`."""
    long, short = item.lengths[:, None], item.lengths[None, :]  # of i, of j
    matched = np.maximum(long, short) < SAME_LENGTH * np.minimum(long, short)
    strict = strict_wins(item.group)
    contested = ~matched & (strict > 0) & (strict.T > 0)  # (K, K), evidence in both directions
    clear = ~matched & ~contested
    return {
        "matched": tally(strict * matched, item.scores),
        "longer_won": tally(strict * (clear & (long > short)), item.scores),
        "shorter_won": tally(strict * (clear & (long < short)), item.scores),
        "contested": tally(strict * contested, item.scores),
    }
