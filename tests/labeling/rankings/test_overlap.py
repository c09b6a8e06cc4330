"""Tests of sequential overlap: tasks get more rankings while reviewers disagree."""

import numpy as np
import pytest
from django.core.cache import cache

from labeling.models import Project, Ranking, Slot, Task
from labeling.queue import slots as queue
from labeling.rankings import overlap, recording
from labeling.rankings.content import Content
from labeling.rankings.overlap import (
    is_clear,
    probability_of_best,
    project_reliabilities,
    sides_of_pairs,
)
from labeling.statistics.pairs import Judgment
from labeling.statistics.reliability import Reliabilities, Reliability, fit
from tests.labeling.world import ids, in_threads, key, make_member, make_project, make_task

AB, BA, TIE = [[1], [2]], [[2], [1]], [[1, 2]]


def sequential(**fields) -> Project:
    fields = {"rankings_per_task": 2, "rankings_at_most": 3, **fields}
    return make_project(overlap=Project.Overlap.SEQUENTIAL, **fields)


def rank(task: Task, order: int = 1, **fields) -> Ranking:
    tiers = [[i] for i in ids(task)[::order]]
    return recording.record(
        task=task,
        reviewer=make_member(task.project),
        source="simulation",
        content=Content(tiers, **fields),
    )[0]


def slots(task: Task) -> list[bool]:
    """Return whether each slot is filled."""
    return [slot.ranking_id is not None for slot in task.slots.order_by("number")]


# --- the posterior -------------------------------------------------------------------------------


def test_before_any_ranking_the_probability_of_a_tie_is_the_share_of_ties():
    known = Reliabilities(tied=0.3)
    assert sides_of_pairs([], [1, 2], known)[0] == pytest.approx([0.35, 0.3, 0.35])


def test_the_likelihoods_of_reviewers_are_multiplied():
    """Check by hand: right 0.8, tie 0.15, reversed 0.05; a true tie is 0.4 tied and 0.3 each way."""
    known = Reliabilities(typical=Reliability(0.8, 0.15, 0.4, 0.1), tied=0.2)
    products = np.array([0.4 * 0.8 * 0.8 * 0.05, 0.2 * 0.3**3, 0.4 * 0.05 * 0.05 * 0.8])
    result = sides_of_pairs([AB, AB, BA], [1, 2], known)[0]
    assert result == pytest.approx(products / products.sum())


def test_an_unranked_pair_gives_no_information():
    sides = sides_of_pairs([AB, AB], [1, 2, 3])
    assert sides[0, 0] > 0.9
    assert sides[1:] == pytest.approx(np.tile(sides_of_pairs([], [1, 2])[0], (2, 1)))


@pytest.mark.parametrize(
    ("rankings", "clear"),
    [
        ([AB], False),
        ([AB, AB], True),
        ([AB, TIE], False),
        ([AB, BA], False),
        ([TIE, TIE], False),
        ([TIE] * 4, True),
        ([AB, BA, AB], False),
        ([AB, BA, AB, AB], True),
        ([AB, BA, TIE], False),
    ],
)
def test_two_agreeing_rankings_suffice_and_two_disagreeing_ones_need_a_third(rankings, clear):
    assert is_clear(rankings, [1, 2], certainty=0.9) is clear


def test_a_higher_certainty_asks_for_more_rankings():
    assert is_clear([AB, AB], [1, 2], certainty=0.91)
    assert not is_clear([AB, AB], [1, 2], certainty=0.92)


def test_less_reliable_reviewers_need_more_rankings():
    careful = Reliabilities(typical=Reliability(0.9, 0.05, 0.5, 0.1), tied=0.1)
    careless = Reliabilities(typical=Reliability(0.5, 0.2, 0.5, 0.1), tied=0.1)
    assert is_clear([AB, BA, AB], [1, 2], certainty=0.85, reliabilities=careful)
    assert not is_clear([AB, AB], [1, 2], certainty=0.85, reliabilities=careless)


def test_the_best_responses_are_the_unbeaten_ones():
    assert probability_of_best(sides_of_pairs([[[1], [2], [3]]] * 2, [1, 2, 3]), 3) > 0.9
    assert probability_of_best(sides_of_pairs([[[1, 2], [3]]] * 2, [1, 2, 3]), 3) > 0.9
    doubtful = [[[1], [2], [3]], [[2], [1], [3]]]
    assert probability_of_best(sides_of_pairs(doubtful, [1, 2, 3]), 3) < 0.7


def test_nine_responses_in_the_same_order_twice_are_clear():
    assert is_clear([[[i] for i in range(9)]] * 2, range(9), certainty=0.9)


# --- the slots -----------------------------------------------------------------------------------


@pytest.mark.django_db
def test_a_third_ranking_is_requested_only_after_disagreement():
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
def test_a_task_gets_no_more_rankings_than_the_project_allows():
    task = make_task(sequential(rankings_at_most=4, certainty=0.99))
    for order in (1, -1, 1, -1):
        rank(task, order)
    assert slots(task) == [True] * 4


@pytest.mark.django_db
@pytest.mark.parametrize("kind", [Task.Kind.COMPARISON, Task.Kind.RELABEL, Task.Kind.GOLD])
def test_other_kinds_of_tasks_are_unchanged(kind):
    task = make_task(sequential(), kind=kind)
    rank(task)
    rank(task, -1)
    assert slots(task) == [True, True]


@pytest.mark.django_db
def test_fixed_overlap_gives_all_tasks_the_same_number():
    task = make_task(make_project(rankings_per_task=2, rankings_at_most=3))
    rank(task)
    rank(task, -1)
    assert slots(task) == [True, True]


@pytest.mark.django_db
def test_a_submitted_ranking_counts_and_a_third_slot_is_assigned():
    project = sequential()
    task = make_task(project)
    people = [make_member(project) for _ in range(3)]
    for reviewer, order in zip(people[:2], (1, -1), strict=True):
        slot = queue.claim(project=project, reviewer=reviewer)
        tiers = [[i] for i in ids(task)[::order]]
        recording.submit(
            slot_id=slot.pk, reviewer=reviewer, idempotency_key=key(), content=Content(tiers)
        )
    assert queue.claim(project=project, reviewer=people[0]) is None
    assert queue.claim(project=project, reviewer=people[2]).task_id == task.pk


@pytest.mark.django_db
def test_a_revision_that_settles_a_task_withdraws_unstarted_slots():
    project = sequential()
    task = make_task(project)
    rank(task)
    second = rank(task, -1)
    assert slots(task) == [True, True, False]
    recording.revise(
        ranking=second,
        reviewer=second.reviewer,
        idempotency_key=key(),
        content=Content([[i] for i in ids(task)]),
    )
    assert slots(task) == [True, True]
    task.refresh_from_db()
    assert task.rankings_wanted == 2


@pytest.mark.django_db
def test_a_revision_does_not_withdraw_an_open_slot():
    project = sequential()
    task = make_task(project)
    rank(task)
    second = rank(task, -1)
    third = queue.claim(project=project, reviewer=make_member(project))
    recording.revise(
        ranking=second,
        reviewer=second.reviewer,
        idempotency_key=key(),
        content=Content([[i] for i in ids(task)]),
    )
    assert Slot.objects.get(pk=third.pk).reviewer_id == third.reviewer_id


@pytest.mark.django_db
def test_a_revision_that_causes_disagreement_requests_a_third_ranking():
    task = make_task(sequential())
    rank(task)
    second = rank(task)
    recording.revise(
        ranking=second,
        reviewer=second.reviewer,
        idempotency_key=key(),
        content=Content([[i] for i in ids(task)[::-1]]),
    )
    assert slots(task) == [True, True, False]


@pytest.mark.django_db(transaction=True)
def test_two_concurrent_submits_add_one_slot():
    project = sequential()
    for _ in range(5):
        task = make_task(project)
        people = [make_member(project) for _ in range(2)]
        held = [queue.claim(project=project, reviewer=reviewer) for reviewer in people]
        assert {slot.task_id for slot in held} == {task.pk}

        def send(slot: Slot, reviewer, order: int, task: Task = task):
            tiers = [[i] for i in ids(task)[::order]]
            return recording.submit(
                slot_id=slot.pk, reviewer=reviewer, idempotency_key=key(), content=Content(tiers)
            )

        in_threads(
            lambda held=held, people=people: send(held[0], people[0], 1),
            lambda held=held, people=people: send(held[1], people[1], -1),
        )
        assert slots(task) == [True, True, False]
        rank(task)


@pytest.mark.django_db(transaction=True)
def test_concurrent_reviewers_give_each_task_exactly_the_rankings_it_needs():
    project = sequential(rankings_at_most=4)
    tasks = [make_task(project, responses=2) for _ in range(12)]
    people = [make_member(project) for _ in range(6)]

    def work(reviewer, seed: int) -> int:
        rng, sent = np.random.default_rng(seed), 0
        while slot := queue.claim(project=project, reviewer=reviewer):
            order = ids(slot.task)[:: 1 if rng.random() < 0.6 else -1]
            recording.submit(
                slot_id=slot.pk,
                reviewer=reviewer,
                idempotency_key=key(),
                content=Content([[i] for i in order]),
            )
            sent += 1
        return sent

    counts = in_threads(*(lambda r=r, n=n: work(r, n) for n, r in enumerate(people)))
    counts = [count if isinstance(count, int) else pytest.fail(str(count)) for count in counts]
    for reviewer in people:  # slots added after another reviewer found the queue empty
        counts.append(work(reviewer, 99))
    assert sum(counts) == Ranking.objects.count()
    for task in tasks:
        filled = slots(task)
        assert all(filled) and 2 <= len(filled) <= 4
        orders = list(task.rankings.values_list("tiers", flat=True))
        clear = is_clear(orders, ids(task), certainty=0.9)
        assert clear or len(filled) == 4


# --- savings --------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_saved_rankings_are_counted_over_finished_tasks():
    project = sequential()
    for order in (1, 1, 1, -1):
        task = make_task(project)
        rank(task)
        rank(task, order)
    begun = make_task(project)
    rank(begun)
    result = overlap.savings(project)
    assert (result.tasks, result.rankings, result.fixed, result.rankings_saved) == (3, 6, 9, 3)
    rank(task)
    result = overlap.savings(project)
    assert (result.tasks, result.rankings, result.rankings_saved, result.capped) == (4, 9, 3, False)
    assert result.share == pytest.approx(0.25)
    assert overlap.savings(project, limit=2).capped


@pytest.mark.django_db
def test_error_rates_are_estimated_from_the_projects_reviewers(django_assert_num_queries):
    project = sequential(rankings_per_task=2)
    people = [make_member(project) for _ in range(2)]
    for number in range(30):
        task = make_task(project, responses=2)
        for reviewer, order in zip(people, (1, -1 if number % 2 else 1), strict=True):
            tiers = [[i] for i in ids(task)[::order]]
            recording.record(
                task=task, reviewer=reviewer, source="simulation", content=Content(tiers)
            )
    cache.clear()
    assert project_reliabilities(project).typical.right < 0.7
    with django_assert_num_queries(0):
        project_reliabilities(project)
    task = make_task(project, responses=2)
    for reviewer in people:
        tiers = [[i] for i in ids(task)]
        recording.record(task=task, reviewer=reviewer, source="simulation", content=Content(tiers))
    assert slots(task) == [True, True, False]  # two who agree are not enough any more


@pytest.mark.django_db
def test_fixed_overlap_costs_a_submit_no_query(django_assert_num_queries):
    task = Task.objects.select_related("project").get(pk=make_task(make_project()).pk)
    with django_assert_num_queries(0):
        assert overlap.after_ranking(task) is None


@pytest.mark.django_db
def test_savings_are_hidden_until_a_task_is_finished():
    assert overlap.savings(sequential()).share is None


class Crowd:
    """Simulate reviewers who perceive quality with an error and tie similar responses."""

    def __init__(self, seed: int, noise: float, tie_below: float):
        self.rng = np.random.default_rng(seed)
        self.noise, self.tie_below = noise, tie_below

    def rank(self, quality: np.ndarray) -> list[list[int]]:
        impression = quality + self.rng.normal(0, self.noise, len(quality))
        tiers: list[list[int]] = []
        for i in map(int, np.argsort(-impression)):
            if tiers and impression[tiers[-1][0]] - impression[i] < self.tie_below:
                tiers[-1].append(i)
            else:
                tiers.append([i])
        return tiers


def consensus_right(rankings: list[list[list[int]]], quality: np.ndarray) -> float:
    """Return the share of pairs whose majority has the true order; an even split counts half."""
    places = np.array(
        [
            [next(n for n, t in enumerate(tiers) if i in t) for i in range(len(quality))]
            for tiers in rankings
        ]
    )
    a, b = np.triu_indices(len(quality), k=1)
    net = np.sign(np.sign(places[:, b] - places[:, a]).sum(axis=0))
    return float((0.5 + 0.5 * net * np.sign(quality[a] - quality[b])).mean())


def simulate(tasks: int, responses: int, at_most: int, *, noise: float = 0.5):
    """Return rankings per task and quality with sequential overlap, and quality with fixed overlap.

    The reviewers' reliability is estimated from two rankings of each of 400 other tasks.
    """
    crowd = Crowd(0, noise=noise, tie_below=0.1)

    def ask(number: int) -> tuple[np.ndarray, list[list[list[int]]]]:
        truth = crowd.rng.normal(0, 1, responses)
        return truth, [crowd.rank(truth) for _ in range(number)]

    earlier = [ask(2)[1] for _ in range(400)]
    fitted = fit(
        Judgment(task, (task + n) % 8, tiers)
        for task, rankings in enumerate(earlier)
        for n, tiers in enumerate(rankings)
    )
    collected, quality = [], {name: [] for name in ("sequential", "two", "fixed")}
    for _ in range(tasks):
        truth, judgments = ask(at_most)
        count = 2
        while count < at_most and not is_clear(
            judgments[:count], range(responses), certainty=0.9, reliabilities=fitted
        ):
            count += 1
        collected.append(count)
        for name, used in (("sequential", count), ("two", 2), ("fixed", at_most)):
            quality[name].append(consensus_right(judgments[:used], truth))
    return float(np.mean(collected)), {
        name: float(np.mean(result)) for name, result in quality.items()
    }


@pytest.mark.parametrize(
    ("responses", "at_most", "most_asked", "lost"),
    [(2, 3, 2.4, 0.002), (2, 5, 2.9, 0.01), (3, 5, 4.0, 0.01), (4, 5, 4.5, 0.01)],
)
def test_sequential_overlap_saves_rankings_without_losing_quality(
    responses, at_most, most_asked, lost
):
    mean_rankings, quality = simulate(1500, responses, at_most)
    assert mean_rankings < most_asked
    assert quality["sequential"] >= quality["fixed"] - lost
    assert quality["sequential"] > quality["two"] + 0.01
