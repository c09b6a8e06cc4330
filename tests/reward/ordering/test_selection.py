"""Tests of selecting informative tasks, against the definition and by hand."""

import numpy as np
import pytest

from reward.ordering import selection
from reward.ordering.selection import Tasks


def make_tasks(count: int, k: int = 4, dims: int = 6, seed: int = 0) -> Tasks:
    rng = np.random.default_rng(seed)
    shape = (count, k)
    return Tasks(rng.normal(size=(*shape, dims)), rng.normal(size=shape), np.ones(shape, bool))


def test_information_is_the_weighted_sum_over_all_pairs():
    tasks = make_tasks(3)
    by_hand = np.zeros((6, 6))
    for x, r in zip(tasks.features, tasks.scores, strict=True):
        for i in range(4):
            for j in range(i):
                p = 1 / (1 + np.exp(r[j] - r[i]))
                by_hand += p * (1 - p) * np.outer(x[i] - x[j], x[i] - x[j])
    np.testing.assert_allclose(selection.information(tasks), by_hand, atol=1e-9)
    np.testing.assert_allclose(selection.information(tasks, 2.0), 2 * by_hand, atol=1e-9)


def test_the_gain_of_a_pair_follows_the_matrix_determinant_lemma():
    tasks = Tasks.of([np.array([[1.0, 0.0], [0.0, 0.0]])], [np.zeros(2)])
    gain = selection.gains(tasks.features, tasks.laplacians(), np.eye(2) / 2)
    assert gain == pytest.approx([np.log(1 + 0.25 / 2)])


def test_the_order_equals_a_plain_greedy_search():
    tasks = make_tasks(80)
    known = selection.prior(tasks)
    order = selection.in_order(tasks, known, most=15)
    left, laplacians = set(range(80)), tasks.laplacians()
    for position, gain in zip(order.chosen[:15], order.gains[:15], strict=True):
        worth = {
            n: np.linalg.slogdet(known + x.T @ laplacians[n] @ x)[1]
            for n in left
            for x in [tasks.features[n]]
        }
        best = max(worth, key=worth.__getitem__)
        assert position == best
        assert gain == pytest.approx(worth[best] - np.linalg.slogdet(known)[1])
        known = known + tasks.features[best].T @ laplacians[best] @ tasks.features[best]
        left.remove(best)
    np.testing.assert_allclose(order.precision, known)
    assert sorted(order.chosen.tolist()) == list(range(80))
    assert (np.diff(order.gains[15:]) <= 1e-12).all()


def test_one_of_two_redundant_tasks_comes_late():
    x = [np.array([[2.0, 0.0], [0.0, 0.0]])] * 2 + [np.array([[0.0, 1.8], [0.0, 0.0]])]
    tasks = Tasks.of(x, [np.zeros(2)] * 3)
    assert selection.in_order(tasks, np.eye(2), most=3).chosen.tolist() == [0, 2, 1]


def test_a_pair_with_a_predictable_outcome_has_little_information():
    x = [np.array([[1.0, 0.0], [0.0, 0.0]])] * 2
    tasks = Tasks.of(x, [np.array([9.0, 0.0]), np.array([0.1, 0.0])])
    order = selection.in_order(tasks, np.eye(2), most=2)
    assert order.chosen.tolist() == [1, 0] and order.gains[1] < 0.01


def test_padding_of_smaller_tasks_is_ignored():
    three = [np.arange(6.0).reshape(3, 2) ** 2], [np.array([0.0, 1.0, 2.0])]
    alone = selection.information(Tasks.of(*three))
    both = Tasks.of([*three[0], np.ones((5, 2))], [*three[1], np.zeros(5)])
    np.testing.assert_allclose(selection.information(both), alone)
    assert Tasks.of(*three).spread() == pytest.approx(both.some(np.array([0])).spread())


def test_before_any_ranking_scores_differ_by_the_likely_gap():
    tasks = make_tasks(2000)
    variance = np.linalg.inv(selection.prior(tasks))
    gaps = tasks.features[:, 0] - tasks.features[:, 1]
    spread = np.einsum("nd,de,ne->n", gaps, variance, gaps).mean()
    assert np.sqrt(spread) == pytest.approx(selection.LIKELY_GAP, rel=0.05)
