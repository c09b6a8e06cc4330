"""A task gets one more ranking while reviewers disagree, and no more than it may have."""

import numpy as np
import pytest

from labeling import overlap, queue, rankings
from labeling.models import Project, Ranking, Slot, Task
from labeling.overlap import ACCURACY, best_is, is_clear, posterior_of_pairs
from tests.labeling.world import ids, in_threads, key, make_member, make_project, make_task

AB, BA, TIE = [[1], [2]], [[2], [1]], [[1, 2]]


def sequential(**fields) -> Project:
    fields = {"rankings_per_task": 2, "rankings_at_most": 3, **fields}
    return make_project(overlap=Project.Overlap.SEQUENTIAL, **fields)


def rank(task: Task, order: int = 1, **fields) -> Ranking:
    tiers = [[i] for i in ids(task)[::order]]
    return rankings.record(
        task=task, reviewer=make_member(task.project), source="simulation", tiers=tiers, **fields
    )[0]


def slots(task: Task) -> list[bool]:
    """Whether each slot is filled."""
    return [slot.ranking_id is not None for slot in task.slots.order_by("number")]


# --- the posterior -------------------------------------------------------------------------------


def test_it_is_one_in_three_each_before_any_ranking():
    assert posterior_of_pairs([], [1, 2]) == pytest.approx(np.full((1, 3), 1 / 3))


def test_it_multiplies_what_each_reviewer_says():
    right, wrong = ACCURACY, (1 - ACCURACY) / 2
    products = np.array([right * right * wrong, wrong**3, wrong * wrong * right])
    assert posterior_of_pairs([AB, AB, BA], [1, 2])[0] == pytest.approx(products / products.sum())


def test_it_weighs_a_reviewer_by_their_accuracy():
    [[better, tied, worse]] = posterior_of_pairs([AB, BA], [1, 2], accuracies=[0.9, 0.6])
    products = np.array([0.9 * 0.2, 0.05 * 0.2, 0.05 * 0.6])
    assert [better, tied, worse] == pytest.approx(list(products / products.sum()))


def test_it_knows_two_sides_where_ties_are_not_allowed():
    assert posterior_of_pairs([AB, TIE], [1, 2], ties=False)[0] == pytest.approx([0.85, 0, 0.15])


def test_it_learns_nothing_of_a_pair_that_was_left_out():
    posterior = posterior_of_pairs([[[1], [2]], [[1], [2]]], [1, 2, 3])
    assert posterior[0, 0] > 0.95
    assert posterior[1:] == pytest.approx(np.full((2, 3), 1 / 3))


@pytest.mark.parametrize(
    ("said", "clear"),
    [
        ([AB], False),
        ([AB, AB], True),
        ([TIE, TIE], True),
        ([AB, TIE], False),
        ([AB, BA], False),
        ([AB, BA, AB], True),
        ([AB, BA, TIE], False),
    ],
)
def test_two_who_agree_are_clear_and_two_who_do_not_need_a_third(said, clear):
    assert is_clear(said, [1, 2], certainty=0.9) is clear


def test_it_is_stricter_with_more_certainty():
    assert is_clear([AB, AB], [1, 2], certainty=0.98)
    assert not is_clear([AB, AB], [1, 2], certainty=0.99)


def test_the_best_are_those_that_nothing_beats():
    assert best_is(posterior_of_pairs([[[1], [2], [3]]] * 2, [1, 2, 3]), 3) > 0.95
    assert best_is(posterior_of_pairs([[[1, 2], [3]]] * 2, [1, 2, 3]), 3) > 0.95
    doubtful = [[[1], [2], [3]], [[2], [1], [3]]]
    assert best_is(posterior_of_pairs(doubtful, [1, 2, 3]), 3) < 0.7


def test_nine_responses_in_the_same_order_twice_are_clear():
    assert is_clear([[[i] for i in range(9)]] * 2, range(9), certainty=0.9)


# --- the slots -----------------------------------------------------------------------------------


@pytest.mark.django_db
def test_it_asks_a_third_only_where_two_disagree():
    project = sequential()
    agreed, disputed = make_task(project), make_task(project)
    for task, order in ((agreed, 1), (disputed, -1)):
        rank(task)
        assert slots(task) == [True, False]
        rank(task, order)
    assert slots(agreed) == [True, True]
    assert slots(disputed) == [True, True, False]
    rank(disputed)
    assert slots(disputed) == [True, True, True]


@pytest.mark.django_db
def test_it_never_asks_for_more_than_the_project_allows():
    task = make_task(sequential(rankings_at_most=4, certainty=0.99))
    for order in (1, -1, 1, -1):
        rank(task, order)
    assert slots(task) == [True] * 4


@pytest.mark.django_db
@pytest.mark.parametrize("kind", [Task.Kind.COMPARISON, Task.Kind.RELABEL, Task.Kind.GOLD])
def test_it_leaves_other_kinds_of_tasks_alone(kind):
    task = make_task(sequential(), kind=kind)
    rank(task)
    rank(task, -1)
    assert slots(task) == [True, True]


@pytest.mark.django_db
def test_it_asks_everyone_the_same_with_fixed_overlap():
    task = make_task(make_project(rankings_per_task=2, rankings_at_most=3))
    rank(task)
    rank(task, -1)
    assert slots(task) == [True, True]


@pytest.mark.django_db
def test_a_submitted_ranking_counts_and_the_third_is_given_out():
    project = sequential()
    task = make_task(project)
    people = [make_member(project) for _ in range(3)]
    for reviewer, order in zip(people[:2], (1, -1), strict=True):
        slot = queue.claim(project=project, reviewer=reviewer)
        tiers = [[i] for i in ids(task)[::order]]
        rankings.submit(slot_id=slot.pk, reviewer=reviewer, idempotency_key=key(), tiers=tiers)
    assert queue.claim(project=project, reviewer=people[0]) is None
    assert queue.claim(project=project, reviewer=people[2]).task_id == task.pk


@pytest.mark.django_db
def test_a_revision_that_settles_it_withdraws_what_nobody_has_begun():
    project = sequential()
    task = make_task(project)
    rank(task)
    second = rank(task, -1)
    assert slots(task) == [True, True, False]
    rankings.revise(
        ranking=second,
        reviewer=second.reviewer,
        idempotency_key=key(),
        tiers=[[i] for i in ids(task)],
    )
    assert slots(task) == [True, True]
    task.refresh_from_db()
    assert task.rankings_wanted == 2


@pytest.mark.django_db
def test_a_revision_does_not_take_a_task_from_the_one_who_has_it_open():
    project = sequential()
    task = make_task(project)
    rank(task)
    second = rank(task, -1)
    third = queue.claim(project=project, reviewer=make_member(project))
    rankings.revise(
        ranking=second,
        reviewer=second.reviewer,
        idempotency_key=key(),
        tiers=[[i] for i in ids(task)],
    )
    assert Slot.objects.get(pk=third.pk).reviewer_id == third.reviewer_id


@pytest.mark.django_db
def test_a_revision_that_disturbs_it_asks_a_third():
    task = make_task(sequential())
    rank(task)
    second = rank(task)
    rankings.revise(
        ranking=second,
        reviewer=second.reviewer,
        idempotency_key=key(),
        tiers=[[i] for i in ids(task)[::-1]],
    )
    assert slots(task) == [True, True, False]


@pytest.mark.django_db(transaction=True)
def test_two_who_submit_at_the_same_time_add_one_slot():
    project = sequential()
    for _ in range(5):
        task = make_task(project)
        people = [make_member(project) for _ in range(2)]
        held = [queue.claim(project=project, reviewer=reviewer) for reviewer in people]
        assert {slot.task_id for slot in held} == {task.pk}

        def send(slot: Slot, reviewer, order: int, task: Task = task):
            tiers = [[i] for i in ids(task)[::order]]
            return rankings.submit(
                slot_id=slot.pk, reviewer=reviewer, idempotency_key=key(), tiers=tiers
            )

        in_threads(
            lambda held=held, people=people: send(held[0], people[0], 1),
            lambda held=held, people=people: send(held[1], people[1], -1),
        )
        assert slots(task) == [True, True, False]
        rank(task)


# --- what it saves -------------------------------------------------------------------------------


@pytest.mark.django_db
def test_it_counts_the_rankings_saved_over_finished_tasks():
    project = sequential()
    for order in (1, 1, 1, -1):
        task = make_task(project)
        rank(task)
        rank(task, order)
    begun = make_task(project)
    rank(begun)
    found = overlap.saved(project)
    assert (found.tasks, found.rankings, found.fixed, found.saved) == (3, 6, 9, 3)
    rank(task)
    found = overlap.saved(project)
    assert (found.tasks, found.rankings, found.saved, found.capped) == (4, 9, 3, False)
    assert found.share == pytest.approx(0.25)
    assert overlap.saved(project, limit=2).capped


@pytest.mark.django_db
def test_it_says_nothing_of_savings_before_a_task_is_finished():
    assert overlap.saved(sequential()).share is None


class Crowd:
    """Reviewers who perceive each response's quality with an error, and tie what looks alike."""

    def __init__(self, seed: int, noise: float, tie_below: float):
        self.rng = np.random.default_rng(seed)
        self.noise, self.tie_below = noise, tie_below

    def rank(self, quality: np.ndarray) -> list[list[int]]:
        seen = quality + self.rng.normal(0, self.noise, len(quality))
        tiers: list[list[int]] = []
        for i in map(int, np.argsort(-seen)):
            if tiers and seen[tiers[-1][0]] - seen[i] < self.tie_below:
                tiers[-1].append(i)
            else:
                tiers.append([i])
        return tiers


def consensus_right(said: list[list[list[int]]], quality: np.ndarray) -> float:
    """Share of pairs whose majority has the true order; an undecided majority counts half."""
    places = np.array(
        [
            [next(n for n, t in enumerate(tiers) if i in t) for i in range(len(quality))]
            for tiers in said
        ]
    )
    a, b = np.triu_indices(len(quality), k=1)
    net = np.sign(np.sign(places[:, b] - places[:, a]).sum(axis=0))
    return float((0.5 + 0.5 * net * np.sign(quality[a] - quality[b])).mean())


def simulate(tasks: int, responses: int, at_most: int, *, certainty: float = 0.9, seed: int = 0):
    """→ rankings a task and quality with sequential overlap, then quality with the fixed ones"""
    crowd = Crowd(seed, noise=0.5, tie_below=0.1)
    asked, quality = [], {name: [] for name in ("sequential", "two", "fixed")}
    for _ in range(tasks):
        truth = crowd.rng.normal(0, 1, responses)
        said = [crowd.rank(truth) for _ in range(at_most)]
        count = 2
        while count < at_most and not is_clear(said[:count], range(responses), certainty=certainty):
            count += 1
        asked.append(count)
        for name, used in (("sequential", count), ("two", 2), ("fixed", at_most)):
            quality[name].append(consensus_right(said[:used], truth))
    return float(np.mean(asked)), {name: float(np.mean(found)) for name, found in quality.items()}


def test_simulated_reviewers_save_rankings_and_lose_no_quality():
    """Two responses: the third ranking is asked where it can change the outcome, and only there."""
    asked, quality = simulate(4000, responses=2, at_most=3)
    assert asked < 2.4  # of 3: a fifth is saved
    assert quality["sequential"] >= quality["fixed"] - 0.002
    assert quality["sequential"] > quality["two"] + 0.01


def test_simulated_reviewers_of_four_responses_save_a_quarter_of_five():
    asked, quality = simulate(1500, responses=4, at_most=5)
    assert asked < 3.75
    assert quality["sequential"] > quality["two"] + 0.03
    assert quality["sequential"] >= quality["fixed"] - 0.015
