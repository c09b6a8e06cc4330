"""The likelihood of the best held-out responses, before and after training. Pure numpy.

The figure is the mean of -log π per token, in nats, over the best responses. Tied responses share the
weight of one, as in recipes/preferences/best.py. A lower figure is better, and its exponential is the
perplexity. The intervals are computed by resampling prompts, because the tokens of a prompt are not
independent.

Legend: K responses of a prompt.
"""

from collections.abc import Sequence

import numpy as np

from finetune.report import Likelihood
from finetune.statistics.means import mean_figure
from recipes.preferences.best import best_responses
from recipes.preferences.groups import Group

NO_BEST = "No held-out prompt has a best acceptable response."

Rows = Sequence[tuple[Group, np.ndarray, np.ndarray, np.ndarray]]
"""For each prompt, its group and three arrays about its responses, (K,) each.

The arrays are log π before training, log π after training, and the number of tokens.
"""


def likelihood(rows: Rows, seed: int) -> Likelihood:
    """Return the figure before and after training, and the change."""
    sums = np.array([_of_best(*row) for row in rows]).reshape(-1, 4)
    sums = sums[sums[:, 3] > 0]
    before, after, responses, tokens = sums.T  # (prompts,) each
    return {
        "before": mean_figure(before, tokens, seed, missing=NO_BEST),
        "after": mean_figure(after, tokens, seed, missing=NO_BEST),
        "change": mean_figure(after - before, tokens, seed, missing=NO_BEST),
        "prompts": len(sums),
        "responses": int(responses.sum()),
    }


def _of_best(
    group: Group, before: np.ndarray, after: np.ndarray, lengths: np.ndarray
) -> tuple[float, float, int, float]:
    """Return figures of the best responses to a prompt.

    They are Σ -log π before training, Σ -log π after it, and the numbers of responses and tokens.
    """
    best = best_responses(group).astype(float)  # (K,)
    nll_before, nll_after, tokens = (float(best @ v) for v in (-before, -after, lengths))
    return nll_before, nll_after, int(np.count_nonzero(best)), tokens
