"""Tests of disputes on simulated reviewers: no dispute from noise, and planted ones are found."""

import numpy as np
import pytest

from labeling.statistics.disputes import (
    USUAL,
    _of_other_tasks,
    gain_of_reversing,
    rejected_hypotheses,
    simulate_statistics,
    verdicts,
)
from labeling.statistics.pairs import Judgment, expand
from labeling.statistics.reviewer_pairs import mean_distance, reviewer_pairs

TASKS, PLANTED = 300, 15


def reviewed(
    seed, *, noise, overlap, responses=4, planted=0, scale=0.0, spammers=0, tie=0.1, tasks=TASKS
):
    """Simulate Thurstone reviewers with different noise.

    In the first `planted` tasks, every other reviewer has the opposite preference. `scale` is the
    spread of the responses.
    """
    rng = np.random.default_rng(seed)
    own = rng.uniform(*noise, 10)
    own[:spammers] = 50.0
    judgments = []
    for task in range(tasks):
        worth = rng.normal(size=responses) * np.exp(scale * rng.normal())
        people = rng.choice(10, rng.integers(*overlap, endpoint=True), replace=False)
        for turn, person in enumerate(people):
            camp = -1 if task < planted and turn % 2 else 1
            impression = camp * worth + own[person] * rng.normal(size=responses)
            judgments.append(Judgment(task, int(person), tiers_of(impression, task, tie)))
    return judgments


def tiers_of(seen, task, tie):
    tiers: list[list[int]] = []
    top = np.inf
    for index in np.argsort(-seen):
        if top - seen[index] >= tie:
            tiers.append([])
            top = seen[index]
        tiers[-1].append(10 * task + int(index))
    return tiers


def judged(judgments):
    pairs = expand(judgments)
    result = verdicts(pairs.tasks, reviewer_pairs(pairs))
    return result, {
        task for task, disputed in zip(result.tasks, result.disputed, strict=True) if disputed
    }


@pytest.mark.parametrize(
    "options",
    [
        {"noise": (0.1, 0.4), "overlap": (4, 4)},
        {"noise": (0.2, 1.5), "overlap": (4, 4)},
        {"noise": (1.0, 3.0), "overlap": (3, 3)},
        {"noise": (0.2, 1.5), "overlap": (2, 2), "responses": 2},
        {"noise": (0.2, 1.5), "overlap": (2, 7)},
        {"noise": (0.2, 0.8), "overlap": (4, 4), "spammers": 2},
        {"noise": (0.2, 0.8), "overlap": (4, 4), "scale": 0.7},
        {"noise": (0.2, 0.8), "overlap": (5, 5), "responses": 3, "tie": 0.6},
    ],
    ids=["sure", "mixed", "noisy", "two", "uneven", "spammers", "close and far", "ties"],
)
def test_at_most_one_task_in_twenty_is_disputed_without_planted_disputes(options):
    for seed in range(5):
        result, disputed = judged(reviewed(seed, **options))
        assert len(disputed) <= 0.05 * len(result), seed


@pytest.mark.parametrize(
    ("options", "power"),
    [
        ({"noise": (0.1, 0.5), "overlap": (4, 4)}, 0.6),
        ({"noise": (0.2, 0.8), "overlap": (8, 8)}, 0.65),
        ({"noise": (0.2, 0.8), "overlap": (6, 6), "responses": 6}, 0.85),
        ({"noise": (0.3, 1.5), "overlap": (8, 8), "responses": 8}, 0.85),
    ],
)
def test_tasks_on_which_reviewers_split_into_two_camps_are_found(options, power):
    hits, false, named = 0, 0, 0
    for seed in range(4):
        _, disputed = judged(reviewed(seed, planted=PLANTED, **options))
        hits += len([task for task in disputed if task < PLANTED])
        false += len([task for task in disputed if task >= PLANTED])
        named += len(disputed)
    assert hits >= power * 4 * PLANTED
    assert false <= 0.15 * named


def test_more_rankings_find_more_disputes():
    result = [
        len(judged(reviewed(1, noise=(0.2, 0.8), overlap=(n, n), planted=PLANTED))[1])
        for n in (2, 4, 8)
    ]
    assert result == sorted(result) and result[2] > 2 * result[0]


def test_the_usual_rate_is_estimated_from_the_other_tasks():
    calm, _ = judged(reviewed(0, noise=(0.2, 0.8), overlap=(6, 6)))
    some, _ = judged(reviewed(0, noise=(0.2, 0.8), overlap=(6, 6), planted=PLANTED))
    assert calm.learned and some.usual == pytest.approx(calm.usual, abs=0.01)


def test_a_small_project_uses_the_default_rate():
    calm = reviewed(0, noise=(0.1, 0.2), overlap=(2, 2), tasks=3)
    reverse = [Judgment(9, 0, [[1], [2], [3], [4]]), Judgment(9, 1, [[4], [3], [2], [1]])]
    result, disputed = judged([*calm, *reverse])
    assert (result.usual, result.learned) == (USUAL, False)
    assert disputed == {9}


def test_two_opposite_rankings_of_two_responses_prove_nothing():
    result, disputed = judged([Judgment(1, 0, [[1], [2]]), Judgment(1, 1, [[2], [1]])])
    assert disputed == set()
    assert result.p_value[0] == pytest.approx(USUAL, abs=0.02)


def test_the_gain_of_reversing_a_camp_matches_an_example_by_hand():
    # 1 and 2 agree, 3 is the reverse of both: τ = 1, −1, −1, mean −⅓. With 3 reversed it is 1.
    taus = np.zeros((2, 3, 3))
    taus[0, 0, 1], taus[0, 0, 2], taus[0, 1, 2] = 1, -1, -1
    taus[1] = 1
    assert gain_of_reversing(taus) == pytest.approx([4 / 3, 0])


def test_the_simulated_rate_of_disagreement_matches_the_correlation():
    distances, gains = simulate_statistics(4, 3, 10)  # ρ = 0.5: arccos(0.5)/π = ⅓
    assert distances.mean() == pytest.approx(1 / 3, abs=0.005)
    assert (np.diff(distances) >= 0).all() and gains.min() == pytest.approx(0, abs=1e-5)


def test_benjamini_hochberg_rejects_up_to_the_last_passing_value():
    # At 10 % of four: 0.025, 0.05, 0.075, 0.1. The second fails its own, the third passes.
    assert rejected_hypotheses(np.array([0.9, 0.02, 0.06, 0.07])).tolist() == [
        False,
        True,
        True,
        True,
    ]
    assert rejected_hypotheses(np.array([0.04, 0.2])).tolist() == [True, False]
    assert rejected_hypotheses(np.array([])).tolist() == []


def test_tasks_with_one_ranking_are_not_tested():
    result, disputed = judged([Judgment(1, 0, [[1], [2]]), Judgment(2, 1, [[3], [4]])])
    assert len(result) == 0 and disputed == set()


def test_a_reviewers_noise_comes_from_their_other_tasks():
    # Reviewer 0 has 1 and 2 on task 0, and 4 on task 1; reviewer 1 has 8 on task 1.
    result = _of_other_tasks(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1]), np.array([1, 2, 4, 8]))
    assert result.tolist() == [4, 4, 3, 0]


def test_the_distance_of_one_task_equals_the_distance_in_the_statistics():
    rankings = [[[1], [2], [3]], [[2, 3], [1]], [[3], [1]]]
    judgments = [Judgment("t", f"r{i}", tiers) for i, tiers in enumerate(rankings)]
    assert judged(judgments)[0].distance == pytest.approx([mean_distance(rankings)])
    assert mean_distance(rankings) == pytest.approx((2.5 + 1 + 0) / 5)
