"""Tests of detecting wrong rankings, by hand and with simulated flips."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.labels import simulate_mistakes
from recipes.preferences.groups import Group, Judgment
from reward.evaluation.confident_mistakes import worst_mistakes
from reward.evaluation.label_mistakes import (
    MAX_ROWS,
    SURE,
    doubts_of,
    folds_of,
    label_mistakes,
    probabilities,
)
from reward.evaluation.report import Scored


def item(number, rankings, scores) -> Scored:
    ids = list(range(len(scores)))
    judgments = [Judgment(f"r{n}", tiers) for n, tiers in enumerate(rankings)]
    meta = {"ranking_ids": [100 * number + n for n in range(len(rankings))]}
    group = Group(f"g{number}", [], ids, [""] * len(ids), judgments, meta=meta)
    return Scored(group, np.array(scores, float), np.ones(len(ids)))


def test_a_ranking_leads_by_the_mean_of_its_pairs_for_each_response_but_one():
    (doubt,) = doubts_of([item(1, [[[0], [1], [2]]], [1.0, 2.0, 6.0])])
    assert doubt.lead == pytest.approx(2 / 3 * ((1 - 2) + (1 - 6) + (2 - 6)))


def test_a_ranking_of_ties_alone_cannot_be_reversed():
    assert doubts_of([item(1, [[[0, 1]], [[0], [1]]], [0.0, 1.0])])[0].index == 1


def test_the_share_of_mistakes_is_estimated_and_the_largest_contradictions_rank_first():
    rng = np.random.default_rng(0)
    leads = rng.normal(4, 1, 500)
    flipped = rng.random(500) < 0.1
    leads[flipped] *= -1
    chances, share = probabilities(leads)
    assert share == pytest.approx(flipped.mean(), abs=0.03)
    assert chances[flipped].min() > 0.9 and chances[~flipped].max() < 0.1
    assert (np.diff(chances[np.argsort(leads)]) <= 1e-9).all()


def test_uncontradicted_rankings_are_not_listed():
    mistakes = label_mistakes(
        [[item(n, [[[0], [1]]], [3.0, 0.0]) for n in range(100)]], checked="all"
    )
    assert mistakes["likely"] == 0 and mistakes["share"] < 0.05


def test_an_untrained_model_lists_no_mistakes():
    rng = np.random.default_rng(0)
    items = [item(n, [[[0], [1]]], rng.normal(size=2)) for n in range(300)]
    mistakes = label_mistakes([items], checked="all")
    assert not mistakes["rows"]
    assert mistakes["likely"] == 0 or "always preferring the longer" in mistakes["reason"]


def test_a_model_that_only_measures_length_lists_no_mistakes():
    """Check a model that confidently prefers longer responses and is right in three of four."""
    items = [item(n, [[[0], [1]] if n % 4 else [[1], [0]]], [6.0, 0.0]) for n in range(200)]
    assert "always preferring" not in (label_mistakes([items], checked="all")["reason"] or "")
    longer = [replace(each, lengths=np.array([50.0, 10.0])) for each in items]
    mistakes = label_mistakes([longer], checked="all")
    assert mistakes["likely"] is None and "always preferring the longer" in mistakes["reason"]


def test_the_report_names_a_ranking_and_the_evidence_against_it():
    items = [item(n, [[[0], [1], [2]]] * 2, [6.0, 3.0, 0.0]) for n in range(60)]
    items.append(item(77, [[[2], [1], [0]], [[0], [1], [2]]], [6.0, 3.0, 0.0]))
    mistakes = label_mistakes([items], checked="all")
    assert mistakes["likely"] == 1 and mistakes["rankings"] == 122
    (row,) = mistakes["rows"]
    assert (row["ranking_id"], row["group_id"], row["reviewer"]) == (7700, "g77", "r0")
    assert (row["pairs"], row["contradicted"], row["other_rankings"]) == (3, 3, 1)
    assert row["probability"] >= SURE and row["tiers"] == [[2], [1], [0]]
    assert row["scores"] == {"0": 6.0, "1": 3.0, "2": 0.0}


def test_a_few_rankings_are_not_judged():
    mistakes = label_mistakes(
        [[item(n, [[[0], [1]]], [0.0, 9.0]) for n in range(39)]], checked="all"
    )
    assert mistakes["rows"] == [] and "39 rankings are too few" in mistakes["reason"]


def test_the_list_is_bounded_and_shows_the_total():
    good = [item(n, [[[0], [1]]], [9.0, 0.0]) for n in range(3000)]
    bad = [item(5000 + n, [[[1], [0]]], [9.0, 0.0]) for n in range(MAX_ROWS + 50)]
    mistakes = label_mistakes([good + bad], checked="all")
    assert len(mistakes["rows"]) == MAX_ROWS and mistakes["likely"] == MAX_ROWS + 50


def poor_model(reviewers: int) -> list[Scored]:
    """Return scores right on 62 % of pairs, with uninformative confidence; all reviewers agree."""
    rng = np.random.default_rng(3)
    leads = np.abs(rng.standard_t(2, size=400)) * np.where(rng.random(400) < 0.62, 1, -1)
    return [item(n, [[[0], [1]]] * reviewers, [lead, 0.0]) for n, lead in enumerate(leads)]


def test_a_poor_model_lists_no_rankings_on_which_reviewers_agree():
    mistakes = label_mistakes([poor_model(3)], checked="all")
    assert mistakes["likely"] == 0 and mistakes["reason"] is None
    slip = item(900, [[[1], [0]], [[0], [1]], [[0], [1]]], [4.0, 0.0])
    rows = label_mistakes([[*poor_model(3), slip]], checked="all")["rows"]
    assert [(row["group_id"], row["reviewer"]) for row in rows] == [("g900", "r0")]


def test_a_poor_model_of_single_rankings_attributes_mistakes_to_itself():
    mistakes = label_mistakes([poor_model(1)], checked="all")
    assert mistakes["rows"] == [] and mistakes["likely"] is None
    assert "probably mistakes of the model" in mistakes["reason"]


def test_other_rankings_count_as_votes():
    rankings = [[[0], [1], [2]], [[0], [2], [1]], [[2], [1], [0]], [[0, 1, 2]], [[1]]]
    first, second, third = doubts_of([item(1, rankings, [3.0, 2.0, 1.0])])
    assert (first.votes, first.others) == (0, 2)
    assert (second.votes, second.others) == (0, 2)
    assert (third.votes, third.others) == (-2, 2)


def test_votes_count_as_far_as_rankings_agree():
    leads = np.concatenate([np.full(200, 2.0), [-2.0] * 3])
    votes = np.array([1] * 200 + [-2, 0, 2])
    chances, share = probabilities(leads, votes, 0.9)
    against, neither, backed = chances[-3:]
    assert against > SURE > backed and against > neither > backed
    assert share <= (1 - 0.8**0.5) / 2
    assert probabilities(leads, votes, 1.0)[1] == pytest.approx(0.0, abs=1e-9)


def test_scores_of_different_models_are_put_on_one_scale():
    """Check two models with scores of different scale."""
    loud = [item(n, [[[0], [1]]], [90.0, 0.0]) for n in range(60)] + [
        item(900, [[[1], [0]]], [90.0, 0.0])
    ]
    quiet = [item(100 + n, [[[0], [1]]], [0.9, 0.0]) for n in range(60)] + [
        item(901, [[[1], [0]]], [0.9, 0.0])
    ]
    mistakes = label_mistakes([loud, quiet], checked="all")
    assert {row["group_id"] for row in mistakes["rows"]} == {"g900", "g901"}


def test_no_prompt_is_in_two_parts():
    groups = [None] * 23
    fold = folds_of(groups, 5, seed=0)
    assert sorted(np.bincount(fold).tolist()) == [4, 4, 5, 5, 5]


def test_label_mistakes_differ_from_the_worst_mistakes_of_the_model():
    """Check that a pair ordered two to one counts as the model's mistake, not as a ranking's."""
    sure = [item(n, [[[0], [1]]], [0.1, 0.0]) for n in range(60)]
    wrong = item(80, [[[1], [0]], [[1], [0]], [[0], [1]]], [0.05, 0.0])
    assert [m["group_id"] for m in worst_mistakes([*sure, wrong])] == ["g80"]
    assert label_mistakes([[*sure, wrong]], checked="all")["rankings"] == 63


def test_at_least_seven_of_ten_listed_rankings_were_flipped():
    result = [simulate_mistakes(300, 4, 1.0, seed) for seed in range(2)]
    listed = sum(entry["listed"] for entry in result)
    assert listed >= 20
    assert sum(one["flipped_listed"] for one in result) / listed >= 0.7


def test_the_largest_contradiction_is_listed_even_with_a_confident_model():
    items = [item(n, [[[0], [1]]], [1.0 + n / 1500, 0.0]) for n in range(599)]
    items.append(item(599, [[[1], [0]]], [40.0, 0.0]))
    mistakes = label_mistakes([items], checked="all")
    assert [row["group_id"] for row in mistakes["rows"]] == ["g599"]
    assert np.isfinite(mistakes["share"])
