"""Remarks about a reviewer for leads. A remark is made only if the whole interval supports it."""

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

Remark = tuple[str, str]  # (level of the badge, text)


def remarks(reviewer: Reviewer) -> list[Remark]:
    """Return the remarks about a reviewer, most serious first."""
    candidates = [
        _trust(reviewer.reliability),
        _as_shown(reviewer.as_shown),
        _quick(reviewer.speed),
        _ties(reviewer),
        _bias(
            reviewer.position, "prefers the first response shown", "prefers the last response shown"
        ),
        _bias(
            reviewer.length,
            "prefers longer responses than others",
            "prefers shorter responses than others",
        ),
    ]
    return [remark for remark in candidates if remark]


def _trust(reliability: Reliability | None) -> Remark | None:
    if reliability is None or reliability.low > CHANCE:
        return None
    low, high = reliability.low, reliability.high
    if high < CHANCE:
        return "bad", "reverses the order"
    if high <= NEAR_CHANCE and high - low <= WELL_MEASURED:
        return "bad", "no better than guessing"
    return "warn", "too few pairs to distinguish from guessing"


def _as_shown(meter: Meter) -> Remark | None:
    if meter.low is not None and meter.low > 0 and meter.count >= ENOUGH_RANKINGS:
        return "bad", "repeats the order shown"
    return None


def _quick(meter: Meter) -> Remark | None:
    if meter.high is not None and meter.high < TOO_QUICK:
        return "bad", "takes less than half as long as others"
    return None


def _ties(reviewer: Reviewer) -> Remark | None:
    many = reviewer.agreement.exact.pairs >= ENOUGH_PAIRS
    if many and reviewer.ties is not None and reviewer.ties > MOSTLY_TIES:
        return "warn", "ties nearly everything"
    return None


def _bias(meter: Meter, above: str, below: str) -> Remark | None:
    if not meter.excludes_zero or meter.count < ENOUGH_PAIRS:
        return None
    return "warn", above if meter.value and meter.value > 0 else below
