import time

import numpy as np
import pytest

from labeling.statistics.agreement import exact_agreement, pair_outcomes, pairwise_agreement


def test_each_pair_is_better_tied_or_worse_in_both_rankings():
    a = [[1], [2, 3]]  # 1>2, 1>3, 2=3
    b = [[3], [1], [2]]  # 1>2, 3>1, 3>2
    assert pair_outcomes(a, b).tolist() == [[1, 1], [1, -1], [0, -1]]


def test_only_responses_placed_by_both_are_compared():
    assert pair_outcomes([[1], [2]], [[2], [3]]).shape == (0, 2)
    assert pair_outcomes([[1], [2], [4]], [[4], [2], [3]]).tolist() == [[1, -1]]


def test_the_share_matches_an_example_by_hand():
    # Task 1: the two say the same of 1>2, differ on 1/3 and 2/3.   1 of 3
    # Task 2: three reviewers of one pair: >, >, =.                 1 of 3
    # Task 3: one reviewer alone compares nothing.
    groups = [
        [[[1], [2, 3]], [[3], [1], [2]]],
        [[[4], [5]], [[4], [5]], [[4, 5]]],
        [[[6], [7]]],
    ]
    agreement = exact_agreement(groups)
    assert (agreement.value, agreement.pairs) == (2 / 6, 6)


def test_the_strict_share_ignores_ties():
    # Task 1: strict for both are 1/2 (same) and 1/3 (opposite). Task 2: only one pair of reviewers.
    groups = [[[[1], [2, 3]], [[3], [1], [2]]], [[[4], [5]], [[4], [5]], [[4, 5]]]]
    agreement = pairwise_agreement(groups)
    assert (agreement.value, agreement.pairs) == (2 / 3, 3)


def test_an_undefined_share_has_a_reason():
    alone = exact_agreement([[[[1], [2]]]])
    tied = pairwise_agreement([[[[1, 2]], [[1, 2]]]])
    assert alone.value is None and "No two reviewers" in alone.reason
    assert tied.value is None and "without a tie" in tied.reason
    assert exact_agreement([]).value is None


def test_the_interval_contains_the_value_and_depends_only_on_the_seed():
    rng = np.random.default_rng(1)
    groups = [[[[1], [2]], [[1], [2]] if rng.random() < 0.8 else [[2], [1]]] for _ in range(400)]
    first, again = exact_agreement(groups), exact_agreement(groups)
    assert first == again
    assert first.low < first.value < first.high
    # The normal approximation of a share of 400 independent pairs is ±1.96·√(p(1−p)/400).
    width = 2 * 1.96 * (first.value * (1 - first.value) / 400) ** 0.5
    assert first.high - first.low == pytest.approx(width, rel=0.15)


def test_the_interval_is_wider_for_dependent_tasks():
    groups = [[[[1], [2]], [[1], [2]] if (n // 20) % 3 else [[2], [1]]] for n in range(400)]
    loose = exact_agreement(groups)
    joined = exact_agreement(groups, clusters=[n // 20 for n in range(400)])
    assert joined.value == loose.value and joined.pairs == loose.pairs
    assert joined.high - joined.low > 2 * (loose.high - loose.low)


def test_one_task_gives_an_interval_from_zero_to_one():
    agreement = exact_agreement([[[[1], [2]], [[1], [2]]]])
    assert (agreement.value, agreement.low, agreement.high) == (1, 0, 1)


def test_each_group_needs_a_cluster_key():
    with pytest.raises(ValueError):
        exact_agreement([[[[1], [2]], [[1], [2]]]], clusters=[])


def test_thousands_of_tasks_are_computed_quickly():
    groups = [[[[1], [2], [3], [4]], [[2], [1, 3], [4]]] for _ in range(5000)]
    began = time.process_time()
    exact_agreement(groups)
    assert time.process_time() - began < 3
