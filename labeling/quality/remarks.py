"""What a lead should look at about a reviewer, in words. A remark needs its whole interval."""

from labeling.quality.measures import Reviewer
from labeling.statistics.bias import Meter
from labeling.statistics.reliability import Reliability

CHANCE = 0.5
NEAR_CHANCE = 0.7
WELL_MEASURED = 0.35
TOO_QUICK = 0.5
MOSTLY_TIES = 0.75
ENOUGH_PAIRS = 30
ENOUGH_RANKINGS = 20

Remark = tuple[str, str]  # how bad, as in the badges; the words


def remarks(found: Reviewer) -> list[Remark]:
    """The worst first."""
    said = [
        _trust(found.reliability),
        _as_shown(found.as_shown),
        _quick(found.speed),
        _ties(found),
        _sway(found.position, "prefers what is shown first", "prefers what is shown last"),
        _sway(found.length, "prefers longer than others do", "prefers shorter than others do"),
    ]
    return [remark for remark in said if remark]


def _trust(found: Reliability | None) -> Remark | None:
    if found is None or found.low > CHANCE:
        return None
    if found.high < CHANCE:
        return "bad", "the wrong way round"
    if found.high <= NEAR_CHANCE and found.high - found.low <= WELL_MEASURED:
        return "bad", "no better than guessing"
    return "warn", "too few pairs to tell from guessing"


def _as_shown(meter: Meter) -> Remark | None:
    if meter.low is not None and meter.low > 0 and meter.count >= ENOUGH_RANKINGS:
        return "bad", "gives back the order shown"
    return None


def _quick(meter: Meter) -> Remark | None:
    if meter.high is not None and meter.high < TOO_QUICK:
        return "bad", "less than half the time of others"
    return None


def _ties(found: Reviewer) -> Remark | None:
    many = found.agreement.exact.pairs >= ENOUGH_PAIRS
    if many and found.ties is not None and found.ties > MOSTLY_TIES:
        return "warn", "ties nearly everything"
    return None


def _sway(meter: Meter, above: str, below: str) -> Remark | None:
    if not meter.excludes_zero:
        return None
    return "warn", above if meter.value and meter.value > 0 else below
