"""Tests of the pairs for exports and held-out figures."""

from collections import Counter

import pytest

from recipes.preferences.pairs import Pair, PairOptions, pairs_of
from tests.finetune.training.training_runs import ranked_group


def made(group, **options):
    """Return the pairs, and the counts of those left out."""
    left_out = Counter()
    return pairs_of(group, PairOptions(**options), left_out), +left_out


def test_a_pair_has_the_net_evidence_as_weight_and_its_share_as_margin():
    """Check three reviewers, of whom two prefer 0 and one prefers 1."""
    pairs, _ = made(ranked_group("g", ["x", "y"], [[0], [1]], [[0], [1]], [[1], [0]]))
    assert pairs == [Pair(chosen=0, rejected=1, weight=1.0, margin=pytest.approx(1 / 3))]


def test_a_tie_by_one_reviewer_weakens_a_pair():
    """Check wins of 1 + ½ against ½."""
    pairs, _ = made(ranked_group("g", ["x", "y"], [[1], [0]], [[0, 1]]))
    assert pairs == [Pair(chosen=1, rejected=0, weight=1.0, margin=0.5)]


def test_ties_are_left_out_and_counted():
    pairs, left_out = made(ranked_group("g", ["x", "y", "z"], [[0, 1], [2]]))
    assert {(p.chosen, p.rejected) for p in pairs} == {(0, 2), (1, 2)}
    assert left_out == {"tied": 1}


def test_reviewers_who_contradict_each_other_evenly_make_a_tie():
    pairs, left_out = made(ranked_group("g", ["x", "y"], [[0], [1]], [[1], [0]]))
    assert pairs == []
    assert left_out == {"tied": 1}


def test_responses_that_nobody_compared_are_not_a_pair():
    pairs, left_out = made(ranked_group("g", ["x", "y", "z"], [[0], [1]], split="test"))
    assert [(p.chosen, p.rejected) for p in pairs] == [(0, 1)]
    assert left_out == {"never_compared": 2}


def test_identical_texts_are_not_a_pair():
    pairs, left_out = made(ranked_group("g", ["x", " x "], [[0], [1]]))
    assert pairs == []
    assert left_out == {"identical": 1}


def test_the_clearest_pairs_come_first():
    """Check rankings that agree on 0 over 2, and two to one on 0 over 1 and on 1 over 2."""
    group = ranked_group("g", ["x", "y", "z"], [[0], [1], [2]], [[0], [2], [1]], [[1], [0], [2]])
    pairs, _ = made(group)
    assert [(p.chosen, p.rejected) for p in pairs] == [(0, 2), (0, 1), (1, 2)]


def test_among_equally_clear_pairs_the_widest_apart_come_first():
    pairs, _ = made(ranked_group("g", ["w", "x", "y", "z"], [[2], [0], [3], [1]]))
    assert (pairs[0].chosen, pairs[0].rejected) == (2, 1)


def test_selection_keeps_the_clearest_and_counts_the_rest():
    group = ranked_group("g", ["x", "y", "z"], [[0], [1], [2]], [[0], [2], [1]], [[1], [0], [2]])
    pairs, left_out = made(group, max_per_prompt=2)
    assert [(p.chosen, p.rejected) for p in pairs] == [(0, 2), (0, 1)]
    assert left_out == {"over_maximum": 1}


def test_selection_leaves_out_pairs_under_the_margin():
    group = ranked_group("g", ["x", "y", "z"], [[0], [1], [2]], [[0], [2], [1]], [[1], [0], [2]])
    pairs, left_out = made(group, min_margin=0.5)
    assert [(p.chosen, p.rejected) for p in pairs] == [(0, 2)]
    assert left_out == {"under_margin": 2}


def test_the_limits_do_not_apply_to_held_out_pairs():
    tiers = [[0], [1], [2]], [[0], [2], [1]], [[1], [0], [2]]
    group = ranked_group("g", ["x", "y", "z"], *tiers, split="test")
    pairs, left_out = made(group, min_margin=0.5, max_per_prompt=1)
    assert len(pairs) == 3 and not left_out


def test_an_even_pair_is_given_in_both_directions_on_request():
    group = ranked_group("g", ["x", "y", "z"], [[0, 1], [2]])
    pairs, _ = made(group, ties="both", max_per_prompt=3)
    assert [(p.chosen, p.rejected, p.margin) for p in pairs[2:]] == [(0, 1, 0.0), (1, 0, 0.0)]
    assert len(made(group, ties="both", max_per_prompt=2)[0]) == 2


def test_without_ties_the_strict_judgments_alone_decide():
    group = ranked_group("g", ["x", "y"], [[0], [1]], [[0, 1]], [[0, 1]])
    [pair], _ = made(group, ties="skip")
    assert pair.margin == 1.0
    assert made(ranked_group("g", ["x", "y"], [[0, 1]]), ties="skip")[1] == {"tied": 1}


def test_identical_texts_are_kept_on_request():
    pairs, _ = made(ranked_group("g", ["x", " x "], [[0], [1]]), keep_identical=True)
    assert len(pairs) == 1
