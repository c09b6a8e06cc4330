"""The held-out pairs that the model orders incorrectly with the largest gaps, for people to read."""

from collections.abc import Sequence

import numpy as np

from recipes.preferences.groups import strict_wins
from reward.evaluation.report import Scored
from reward.evaluation.schema import Excerpt, Mistake, MistakenResponse

MAX_MISTAKES = 10
MAX_CHARACTERS = 4000
"""The maximum number of characters of a text in the report.

The report gives the number of characters that are cut off.
"""


def worst_mistakes(scored: Sequence[Scored], most: int = MAX_MISTAKES) -> list[Mistake]:
    """Return the worst pair of each prompt, with the largest gap first.

    In these pairs, the model prefers another response than the majority of the reviewers.
    """
    mistakes = [mistake for item in scored if (mistake := worst_of(item)) is not None]
    mistakes.sort(key=lambda mistake: (-mistake[0], mistake[1].group.group_id))
    return [_mistake(*mistake) for mistake in mistakes[:most]]


def worst_of(item: Scored) -> tuple[float, Scored, int, int] | None:
    """Return the pair with the largest gap that the model orders incorrectly, or None.

    The result is (gap, item, index of the reviewers' choice, index of the model's choice).
    """
    strict = strict_wins(item.group)
    gaps = (item.scores[None, :] - item.scores[:, None]) * (strict > strict.T)  # model likes j more
    i, j = np.unravel_index(int(np.argmax(gaps)), gaps.shape)
    if not gaps[i, j] > 0:
        return None
    return float(gaps[i, j]), item, int(i), int(j)


def _mistake(gap: float, item: Scored, preferred: int, scored_higher: int) -> Mistake:
    group, strict = item.group, strict_wins(item.group)
    models = group.meta.get("response_models") or [""] * len(group.responses)

    def response(k: int) -> MistakenResponse:
        return {
            "id": group.response_ids[k],
            "model": models[k],
            "score": float(item.scores[k]),
            "tokens": int(item.lengths[k]),
            **excerpt(group.responses[k]),
        }

    return {
        "group_id": group.group_id,
        "prompt": [{"role": m["role"], **excerpt(m["content"])} for m in group.prompt],
        "preferred": response(preferred),
        "scored_higher": response(scored_higher),
        "gap": gap,
        "evidence": [
            float(strict[preferred, scored_higher]),
            float(strict[scored_higher, preferred]),
        ],
        "ranking_ids": group.meta.get("ranking_ids") or [],
    }


def excerpt(text: str) -> Excerpt:
    return {"text": text[:MAX_CHARACTERS], "left_out": max(0, len(text) - MAX_CHARACTERS)}
