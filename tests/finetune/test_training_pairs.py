"""Which pairs DPO learns from."""

from collections import Counter

import numpy as np
import pytest

from finetune.methods.pairs import Pair, draw, select, strict_pairs
from tests.finetune.training_runs import ranked_group


def pairs_of(group):
    left_out = Counter()
    return strict_pairs(group, left_out), left_out


def test_a_pair_has_the_net_evidence_as_weight_and_its_share_as_margin():
    """Three reviewers: two prefer 0, one prefers 1."""
    found, _ = pairs_of(ranked_group("g", ["x", "y"], [[0], [1]], [[0], [1]], [[1], [0]]))
    assert found == [Pair(chosen=0, rejected=1, weight=1.0, margin=pytest.approx(1 / 3))]


def test_a_tie_by_one_reviewer_weakens_a_pair():
    """wins: 1 + ½ against ½."""
    found, _ = pairs_of(ranked_group("g", ["x", "y"], [[1], [0]], [[0, 1]]))
    assert found == [Pair(chosen=1, rejected=0, weight=1.0, margin=0.5)]


def test_ties_are_left_out_and_counted():
    found, left_out = pairs_of(ranked_group("g", ["x", "y", "z"], [[0, 1], [2]]))
    assert {(p.chosen, p.rejected) for p in found} == {(0, 2), (1, 2)}
    assert left_out == {("train", "pairs", "tied"): 1}


def test_reviewers_who_contradict_each_other_evenly_make_a_tie():
    found, left_out = pairs_of(ranked_group("g", ["x", "y"], [[0], [1]], [[1], [0]]))
    assert found == []
    assert left_out == {("train", "pairs", "tied"): 1}


def test_what_nobody_compared_is_no_pair():
    found, left_out = pairs_of(ranked_group("g", ["x", "y", "z"], [[0], [1]], split="test"))
    assert [(p.chosen, p.rejected) for p in found] == [(0, 1)]
    assert left_out == {("test", "pairs", "not compared by any reviewer"): 2}


def test_the_same_text_twice_is_no_pair():
    found, left_out = pairs_of(ranked_group("g", ["x", " x "], [[0], [1]]))
    assert found == []
    assert left_out == {("train", "pairs", "both responses are the same text"): 1}


def test_the_clearest_pairs_come_first():
    """All agree on 0 over 2; two of three on 0 over 1 and on 1 over 2."""
    group = ranked_group("g", ["x", "y", "z"], [[0], [1], [2]], [[0], [2], [1]], [[1], [0], [2]])
    found, _ = pairs_of(group)
    assert [(p.chosen, p.rejected) for p in found] == [(0, 2), (0, 1), (1, 2)]


def test_among_equally_clear_pairs_the_widest_apart_come_first():
    found, _ = pairs_of(ranked_group("g", ["w", "x", "y", "z"], [[2], [0], [3], [1]]))
    assert (found[0].chosen, found[0].rejected) == (2, 1)


def test_selection_keeps_the_clearest_and_counts_the_rest():
    group = ranked_group("g", ["x", "y", "z"], [[0], [1], [2]], [[0], [2], [1]], [[1], [0], [2]])
    left_out = Counter()
    found = strict_pairs(group, left_out)
    kept = select(group, found, left_out, min_margin=0.0, at_most=2)
    assert [(p.chosen, p.rejected) for p in kept] == [(0, 2), (0, 1)]
    assert left_out == {("train", "pairs", "beyond 2 pairs of one prompt"): 1}


def test_selection_leaves_out_pairs_under_the_margin():
    group = ranked_group("g", ["x", "y", "z"], [[0], [1], [2]], [[0], [2], [1]], [[1], [0], [2]])
    left_out = Counter()
    kept = select(group, strict_pairs(group, left_out), left_out, min_margin=0.5, at_most=9)
    assert [(p.chosen, p.rejected) for p in kept] == [(0, 2)]
    assert left_out == {("train", "pairs", "margin under 0.5"): 2}


@pytest.mark.parametrize("weight", [1.0, 1 / 3, 7.0])
def test_equal_weights_draw_each_pair_exactly_once(weight):
    for seed in range(20):
        assert draw(np.full(137, weight), seed).tolist() == list(range(137))


def test_a_pair_is_drawn_in_proportion_to_its_weight():
    weights = np.array([1.0, 2.0, 3.0, 2.0])
    counts = np.array([np.bincount(draw(weights, seed), minlength=4) for seed in range(2000)])
    assert np.abs(counts.mean(axis=0) - weights / 2).max() < 0.05
    assert (counts >= np.floor(weights / 2)).all()
    assert (counts <= np.ceil(weights / 2)).all()


def test_the_same_seed_draws_the_same_pairs():
    weights = np.array([1.0, 2.0, 3.0, 2.5])
    assert draw(weights, 5).tolist() == draw(weights, 5).tolist()
