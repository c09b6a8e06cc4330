"""The choice of the best responses of a group, which a model may imitate. Pure numpy.

Legend: K responses.
"""

import numpy as np

from recipes.preferences.groups import Group, line, wins


def best_responses(group: Group, *, min_margin: float = 0.0, share: bool = True) -> np.ndarray:
    """Return how much each response counts as the best of its group, (K,) float32.

    The best responses have the most net wins. Responses that nobody compared, and responses that most
    reviewers put below their line, are never among the best. Tied responses share a sum of 1; with
    `share=False`, each of them counts 1. The sum is 0 if there is no best response, or if its margin
    is less than `min_margin` (see `margins`).

    A group that nobody ranked is a plain chat. Its responses are examples to imitate and count equally.
    """
    best = _best(group, min_margin) if group.rankings else np.ones(len(group.responses), bool)
    return (best / (max(best.sum(), 1) if share else 1)).astype(np.float32)


def _best(group: Group, min_margin: float) -> np.ndarray:  # → (K,) bool
    compared = wins(group)  # (K, K)
    net = compared.sum(axis=1) - compared.sum(axis=0)  # (K,)
    above, below = line(group)
    net = np.where((compared + compared.T).any(axis=1) & (below <= above), net, -np.inf)
    best = (net == net.max(initial=-np.inf)) & np.isfinite(net)
    return best & (margins(group) >= min_margin) if min_margin else best


def margins(group: Group) -> np.ndarray:
    """Return the net wins of each response, divided by its comparisons, (K,) from -1 to 1.

    The margin is 1 for a response that won all its comparisons. It is 0 for a response that won as
    many as it lost, or has no comparisons.
    """
    compared = wins(group)  # (K, K)
    won, lost = compared.sum(axis=1), compared.sum(axis=0)  # (K,)
    total = won + lost
    return np.divide(won - lost, total, out=np.zeros_like(total), where=total > 0)
