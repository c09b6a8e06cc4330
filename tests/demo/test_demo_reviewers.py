import random
from itertools import combinations

import pytest

from demo import reviewers, rule, world
from demo.reviewers import CREW, Reviewer, rank
from recipes.preferences.groups import Group, Judgment

EXACT = Reviewer("Exact", noise=0.0, tie_below=1e-9, leniency=0.0, words_per_second=4.0)


def make_groups(crew: list[Reviewer], count: int = 300, seed: int = 0) -> list[Group]:
    rng = random.Random(seed)
    groups = []
    for number, letter in enumerate(world.prompts(count, seed)):
        replies = [world.write_reply(rng, letter) for _ in range(4)]
        rankings = [rank(person, letter.messages, replies, rng) for person in crew]
        judgments = [
            Judgment(item.name, ranking.tiers, ranking.cut)
            for item, ranking in zip(crew, rankings, strict=True)
        ]
        groups.append(Group(str(number), letter.messages, [0, 1, 2, 3], replies, judgments))
    return groups


def strict_pairs(judgment: Judgment) -> set[tuple[int, int]]:
    return {
        (better, worse)
        for upper, lower in combinations(judgment.tiers, 2)
        for better in upper
        for worse in lower
    }


def test_the_same_random_state_gives_the_same_ranking():
    letter = world.prompts(1, seed=0)[0]
    replies = [world.write_reply(random.Random(n), letter) for n in range(5)]
    first, second = (rank(CREW[0], letter.messages, replies, random.Random(4)) for _ in range(2))
    assert first == second


def test_every_response_is_placed_once_and_rated():
    letter = world.prompts(1, seed=0)[0]
    replies = [world.write_reply(random.Random(n), letter) for n in range(9)]
    for reviewer in CREW:
        ranking = rank(reviewer, letter.messages, replies, random.Random(1))
        assert sorted(index for tier in ranking.tiers for index in tier) == list(range(9))
        assert len(ranking.ratings) == 9
        assert all(set(rating) == {c.key for c in rule.CRITERIA} for rating in ranking.ratings)
        assert all(1 <= value <= 5 for values in ranking.ratings for value in values.values())
        assert ranking.cut is None or 0 <= ranking.cut < len(ranking.tiers)
        assert ranking.active_seconds > 0


def test_without_noise_ranking_and_line_follow_the_rule():
    for letter in world.prompts(60, seed=2):
        replies = [world.write_reply(random.Random(n), letter) for n in range(4)]
        ranking = rank(EXACT, letter.messages, replies, random.Random(0))
        order = [index for tier in ranking.tiers for index in tier]
        scores = [rule.score(letter.messages, replies[index]) for index in order]
        assert scores == sorted(scores, reverse=True)
        above = ranking.tiers if ranking.cut is None else ranking.tiers[: ranking.cut]
        sendable = {n for n in range(4) if rule.acceptable(letter.messages, replies[n])}
        assert {index for tier in above for index in tier} == sendable


def test_an_exact_reviewer_ties_equal_replies():
    letter = world.prompts(1, seed=0)[0]
    ranking = rank(EXACT, letter.messages, ["We are here."] * 3, random.Random(0))
    assert ranking.tiers == [[0, 1, 2]]


def test_simulated_reviewers_agree_as_often_as_people():
    same = total = 0
    for group in make_groups(list(CREW)):
        for first, second in combinations(group.rankings, 2):
            mine, theirs = strict_pairs(first), strict_pairs(second)
            same += len(mine & theirs)
            total += len(mine & theirs) + len({(b, a) for a, b in mine} & theirs)
    assert 0.80 < same / total < 0.88


def test_the_ceiling_is_1_without_noise_and_exceeds_the_agreement_with_noise():
    assert reviewers.noise_ceiling(make_groups([EXACT], count=80)) == 1
    assert 0.84 < reviewers.noise_ceiling(make_groups(list(CREW))) < 0.92


def test_the_ceiling_matches_an_example_by_hand():
    letter = [{"role": "user", "content": "My fox lamp is late. No sign of my fox lamp."}]
    good = "I am so sorry that your fox lamp is late. I will post a second fox lamp tomorrow."
    bad = "Do not write again. We are very busy, and this is your own fault, not our problem."
    judgments = [Judgment("a", [[1], [2], [3]]), Judgment("b", [[2], [1, 3]], weight=3.0)]
    group = Group("g", letter, [1, 2, 3], [good, bad, bad], judgments)
    # a: good>bad right, good>bad right, bad=bad half; b: bad>good wrong, bad=bad half, weight 3
    assert reviewers.noise_ceiling([group]) == pytest.approx((1 + 1 + 0.5 + 0 + 1.5) / (3 + 6))


def test_ties_alone_have_no_ceiling():
    letter = world.prompts(1, seed=0)[0].messages
    group = Group("g", letter, [1, 2], ["Yes.", "No."], [Judgment("a", [[1, 2]])])
    with pytest.raises(ValueError, match="no strict pair"):
        reviewers.noise_ceiling([group])
