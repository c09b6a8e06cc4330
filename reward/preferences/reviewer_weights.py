"""Weights of reviewers' rankings in a snapshot, from the reviewers' agreement with each other."""

from collections.abc import Hashable
from math import log

from labeling.statistics.reliability import Reliabilities, Reliability

HEAVIEST = 3.0
"""Largest weight, since a few pairs can make any reviewer look perfect."""


class Weights:
    """The log odds of a correct judgment, relative to the typical reviewer. Guessing has weight 0.

    Log odds are the optimal weights of votes by judges of unequal quality (Nitzan & Paroush 1982,
    "Optimal Decision Rules in Uncertain Dichotomous Choice Situations").
    """

    def __init__(self, reliabilities: Reliabilities):
        self.reliabilities = reliabilities
        self.typical = log_odds(reliabilities.typical)

    def __call__(self, reviewer: Hashable) -> float:
        """Return the weight of a reviewer, rounded so that equal rankings give equal snapshots."""
        if self.typical <= 0:
            return 1.0
        weight = log_odds(self.reliabilities[reviewer]) / self.typical
        return round(min(max(weight, 0.0), HEAVIEST), 2)


def log_odds(reliability: Reliability) -> float:
    quality = min(max(reliability.quality, 1e-6), 1 - 1e-6)
    return log(quality / (1 - quality))
