"""The weights of reviewers in a snapshot, computed from their agreement with each other."""

from collections.abc import Hashable
from math import log

from labeling.statistics.reliability import Reliabilities, Reliability

HEAVIEST = 3.0
"""The largest weight. Without it, a reviewer with few pairs could get any weight by chance."""


class Weights:
    """The weights of reviewers: the log odds of a correct judgment, divided by those of the typical one.

    A reviewer who guesses has the weight 0. Log odds are the optimal weights of votes by judges of
    unequal quality (Nitzan & Paroush 1982, "Optimal Decision Rules in Uncertain Dichotomous Choice
    Situations").
    """

    def __init__(self, reliabilities: Reliabilities):
        self.reliabilities = reliabilities
        self.typical = log_odds(reliabilities.typical)

    def __call__(self, reviewer: Hashable) -> float:
        """Return the weight of a reviewer. It is rounded, so that equal rankings give equal snapshots."""
        if self.typical <= 0:
            return 1.0
        weight = log_odds(self.reliabilities[reviewer]) / self.typical
        return round(min(max(weight, 0.0), HEAVIEST), 2)


def log_odds(reliability: Reliability) -> float:
    quality = min(max(reliability.quality, 1e-6), 1 - 1e-6)
    return log(quality / (1 - quality))
