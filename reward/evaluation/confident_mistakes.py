"""The held-out pairs that the model gets most confidently wrong, to be read by a person."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from recipes.preferences.groups import strict_wins
from reward.evaluation.report import Scored

MOST = 10
LONGEST = 4000
"""Characters of a text that the report keeps; the rest is counted."""


def worst_mistakes(scored: Sequence[Scored], most: int = MOST) -> list[dict[str, Any]]:
    """One pair of a prompt at most, the largest gap in score against the reviewers' majority first."""
    found = [worst for item in scored if (worst := worst_of(item)) is not None]
    found.sort(key=lambda each: (-each[0], each[1].group.group_id))
    return [described(*each) for each in found[:most]]


def worst_of(item: Scored) -> tuple[float, Scored, int, int] | None:
    """(gap, item, the response that reviewers prefer, the one that the model does)"""
    strict = strict_wins(item.group)
    gaps = (item.scores[None, :] - item.scores[:, None]) * (strict > strict.T)  # model likes j more
    i, j = np.unravel_index(int(np.argmax(gaps)), gaps.shape)
    if not gaps[i, j] > 0:
        return None
    return float(gaps[i, j]), item, int(i), int(j)


def described(gap: float, item: Scored, preferred: int, scored_higher: int) -> dict[str, Any]:
    group, strict = item.group, strict_wins(item.group)
    models = group.meta.get("response_models") or [""] * len(group.responses)

    def response(k: int) -> dict[str, Any]:
        return {
            "id": group.response_ids[k],
            "model": models[k],
            "score": float(item.scores[k]),
            "tokens": int(item.lengths[k]),
            **kept(group.responses[k]),
        }

    return {
        "group_id": group.group_id,
        "prompt": [{"role": m["role"], **kept(m["content"])} for m in group.prompt],
        "preferred": response(preferred),
        "scored_higher": response(scored_higher),
        "gap": gap,
        "evidence": [
            float(strict[preferred, scored_higher]),
            float(strict[scored_higher, preferred]),
        ],
        "ranking_ids": group.meta.get("ranking_ids") or [],
    }


def kept(text: str) -> dict[str, Any]:
    return {"text": text[:LONGEST], "left_out": max(0, len(text) - LONGEST)}
