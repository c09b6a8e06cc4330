"""Tests of Wilson intervals of shares, with and without clusters."""

import numpy as np
import pytest

from labeling.statistics.intervals import ShareSums, wilson


def test_wilson_needs_trials_and_stays_within_zero_and_one():
    assert wilson(0.0, 0) == (0.0, 1.0)
    assert wilson(0.0, 10) == pytest.approx((0, 0.2775), abs=1e-4)
    assert wilson(1.0, 10) == pytest.approx((0.7225, 1), abs=1e-4)


def test_independent_clusters_of_one_give_wilsons_interval():
    rows = [(1.0, 1.0)] * 30 + [(0.0, 1.0)] * 10
    assert ShareSums.of(rows).interval == pytest.approx(wilson(0.75, 39), abs=1e-9)


def test_order_and_empty_clusters_have_no_effect():
    rows = [(float(n % 4), 4.0) for n in range(50)]
    assert ShareSums.of(rows[::-1]).interval == ShareSums.of([*rows, (0.0, 0.0)]).interval


def test_one_cluster_gives_no_information_and_few_count_one_trial_each():
    assert ShareSums.of([(3.0, 3.0)]).interval == (0.0, 1.0)
    assert ShareSums.of([]).share is None
    assert ShareSums.of([(3.0, 3.0)] * 4).interval == wilson(1.0, 4)


@pytest.mark.parametrize("share", [0.6, 0.8, 0.95])
def test_intervals_of_varying_clusters_have_their_nominal_coverage(share):
    """Check that 95% of 400 samples of 40 prompts contain the true share."""
    rng = np.random.default_rng(7)
    held = 0
    for _ in range(400):
        own = rng.beta(4 * share, 4 * (1 - share), size=40)
        agreeing = rng.binomial(6, own)
        low, high = ShareSums.of((float(n), 6.0) for n in agreeing).interval
        held += low <= share <= high
    assert 0.92 < held / 400 <= 0.98
