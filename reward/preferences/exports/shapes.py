"""The rows for a group of ranked responses, in each export format.

`pairs`, `pairs-implicit` and `unpaired` are TRL's conversational preference types. Pairs and unpaired
labels combine all rankings of a prompt. Pairs and responses that get no row are counted.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from recipes.preferences.groups import Group, Judgment, group_schema, to_row
from recipes.preferences.pairs import Pair, PairOptions, pairs_of

TIES = {
    "half": "a tie is half a win for each response; without a winner, there is no row",
    "skip": "a tie does not count; without a winner, there is no row",
    "both": "a tie is half a win for each response; without a winner, there is a row in each direction, "
    "with margin 0",
}
"""The ways to treat ties in pairs and labels. K-wise rows and full records keep ties."""

MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_ABOUT = [
    ("margin", pa.float64()), ("strength", pa.float64()), ("chosen_model", pa.string()),
    ("rejected_model", pa.string()), ("group_id", pa.string()), ("split", pa.string()),
    ("prompt_id", pa.string()), ("chosen_id", pa.string()), ("rejected_id", pa.string()),
    ("task_ids", pa.list_(pa.string())),
]  # fmt: skip
PAIRS = pa.schema([("prompt", MESSAGES), ("chosen", MESSAGES), ("rejected", MESSAGES), *_ABOUT])
IMPLICIT = pa.schema([("chosen", MESSAGES), ("rejected", MESSAGES), *_ABOUT])
UNPAIRED = pa.schema(
    [
        ("prompt", MESSAGES), ("completion", MESSAGES), ("label", pa.bool_()),
        ("model", pa.string()), ("group_id", pa.string()), ("split", pa.string()),
        ("prompt_id", pa.string()), ("completion_id", pa.string()),
        ("task_ids", pa.list_(pa.string())),
    ]
)  # fmt: skip

Row = dict[str, Any]
Shape = Callable[[Group, PairOptions, Counter[str]], Iterator[Row]]


def kwise(group: Group, options: PairOptions, counts: Counter[str]) -> Iterator[Row]:
    yield to_row(group)


def pairs(group: Group, options: PairOptions, counts: Counter[str]) -> Iterator[Row]:
    """Yield the pairs of a group, which recipes.preferences.pairs chooses.

    `strength` is the mean graded strength, from 1 to 3, of the rankings that prefer the winner.
    """
    left_out: Counter[str] = Counter()
    chosen = pairs_of(group, options, left_out)
    left_out["given_both_ways"] = sum(not pair.weight for pair in chosen) // 2
    counts.update({f"pairs_{name}": count for name, count in (+left_out).items()})
    for pair in chosen:
        yield _pair(group, pair)


def _pair(group: Group, pair: Pair) -> Row:
    models, ids = _models(group), _ids(group)
    return {
        "prompt": group.prompt,
        "chosen": _answer(group, pair.chosen),
        "rejected": _answer(group, pair.rejected),
        "margin": round(pair.margin, 6),
        "strength": _strength(group, pair.chosen) if pair.margin else None,
        "chosen_model": models[pair.chosen],
        "rejected_model": models[pair.rejected],
        "group_id": group.group_id,
        "split": group.split,
        "prompt_id": _prompt_id(group),
        "chosen_id": ids[pair.chosen],
        "rejected_id": ids[pair.rejected],
        "task_ids": _task_ids(group, pair.chosen, pair.rejected),
    }


def _answer(group: Group, index: int) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": group.responses[index]}]


def _models(group: Group) -> list[str]:
    return group.meta.get("response_models") or [""] * len(group.responses)


def _prompt_id(group: Group) -> str:
    """Return the external id of the prompt, or ""."""
    return str(group.meta.get("prompt_external_id") or "")


def _ids(group: Group) -> list[str]:
    return group.meta.get("response_external_ids") or [""] * len(group.responses)


def _task_ids(group: Group, *responses: int) -> list[str]:
    """Return the external ids of the tasks whose rankings contain all these responses."""
    names = group.meta.get("task_external_ids") or []
    compared = {group.response_ids[index] for index in responses}
    ids = [
        name
        for name, ranking in zip(names, group.rankings, strict=False)
        if name and compared.issubset(pk for tier in ranking.tiers for pk in tier)
    ]
    return list(dict.fromkeys(ids))


def _strength(group: Group, better: int) -> float | None:
    strengths = [
        ranking.strength
        for ranking in group.rankings
        if ranking.strength is not None and group.response_ids[better] in ranking.tiers[0]
    ]
    if not strengths or len(group.responses) != 2:
        return None
    return round(sum(strengths) / len(strengths), 6)


def pairs_implicit(group: Group, options: PairOptions, counts: Counter[str]) -> Iterator[Row]:
    for pair in pairs(group, options, counts):
        prompt = pair.pop("prompt")
        yield {
            **pair,
            "chosen": [*prompt, *pair["chosen"]],
            "rejected": [*prompt, *pair["rejected"]],
        }


def unpaired(group: Group, options: PairOptions, counts: Counter[str]) -> Iterator[Row]:
    """Yield each response with a label, which is true if the sum of its votes is positive.

    Each ranking votes. If it has a line, the vote is 1 above the line and -1 below it. Otherwise, the
    vote is the share of other responses that this one beats, minus the share that beats it.
    """
    models, ids, votes = _models(group), _ids(group), votes_of(group, options.ties)
    for index, vote in enumerate(votes):
        if not vote and options.ties != "both":
            counts["responses_even"] += 1
            continue
        for label in (True, False) if not vote else (vote > 0,):
            yield {
                "prompt": group.prompt,
                "completion": _answer(group, index),
                "label": bool(label),
                "model": models[index],
                "group_id": group.group_id,
                "split": group.split,
                "prompt_id": _prompt_id(group),
                "completion_id": ids[index],
                "task_ids": _task_ids(group, index),
            }


def votes_of(group: Group, ties: str) -> np.ndarray:
    """Return the sum of the votes on each response, (K,) float64.

    It is rounded, so that equal votes for and against give 0.
    """
    indices = {response: index for index, response in enumerate(group.response_ids)}
    total = np.zeros(len(indices))
    for ranking in group.rankings:
        for response, vote in _votes(ranking, ties).items():
            total[indices[response]] += ranking.weight * vote
    return total.round(9)


def _votes(ranking: Judgment, ties: str) -> dict[int, float]:
    """Return the votes of a ranking. A response that is not compared with others gets no vote."""
    sizes = [len(tier) for tier in ranking.tiers]
    votes: dict[int, float] = {}
    for index, tier in enumerate(ranking.tiers):
        below, above = sum(sizes[index + 1 :]), sum(sizes[:index])
        others = below + above + (0 if ties == "skip" else len(tier) - 1)
        for response in tier:
            if ranking.cut is not None:
                votes[response] = 1.0 if index < ranking.cut else -1.0
            elif others:
                votes[response] = (below - above) / others
    return votes


SHAPES: dict[str, tuple[Shape, pa.Schema]] = {
    "kwise": (kwise, group_schema()),
    "pairs": (pairs, PAIRS),
    "pairs-implicit": (pairs_implicit, IMPLICIT),
    "unpaired": (unpaired, UNPAIRED),
}
