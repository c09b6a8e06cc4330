"""How much each reviewer's rankings weigh in a snapshot, from how they agree with the others."""

from collections.abc import Hashable
from math import log

from labeling.statistics.reliability import Reliabilities, Reliability

HEAVIEST = 3.0
"""A few pairs can make anyone look perfect."""


class Weights:
    """The log odds of being right, by those of the typical reviewer: 1 is typical, 0 knows nothing.

    Log odds are the weights under which votes of unequal judges are best combined (Nitzan & Paroush
    1982, "Optimal Decision Rules in Uncertain Dichotomous Choice Situations").
    """

    def __init__(self, found: Reliabilities):
        self.found = found
        self.typical = log_odds(found.typical)

    def __call__(self, reviewer: Hashable) -> float:
        """Rounded, so that the last digits of an estimate do not make another snapshot."""
        if self.typical <= 0:
            return 1.0
        weight = log_odds(self.found[reviewer]) / self.typical
        return round(min(max(weight, 0.0), HEAVIEST), 2)


def log_odds(reliability: Reliability) -> float:
    quality = min(max(reliability.quality, 1e-6), 1 - 1e-6)
    return log(quality / (1 - quality))
