import pytest

from labeling.gold import constraints as gold
from labeling.gold import making
from labeling.gold.making import GoldError
from labeling.models import Gold, Ranking, Slot, Task
from labeling.queue import slots
from tests.labeling.gold.gold_world import answer, make_gold
from tests.labeling.world import ids, make_member, make_project, make_task

LETTERS = {1: "A", 2: "B", 3: "C", 4: "D"}


def above(a, b):
    return {"kind": "above", "a": a, "b": b}


def tie(a, b):
    return {"kind": "tie_allowed", "a": a, "b": b}


def unacceptable(a):
    return {"kind": "unacceptable", "a": a}


def broken(tiers, cut, *constraints):
    ranking = Ranking(tiers=tiers, cut=cut)
    result = gold.check(ranking, Gold(constraints=list(constraints)), LETTERS)
    assert gold.meets(tiers, cut, constraints) is result.right is (not result.broken)
    return result.broken


# --- sentences about constraints --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("constraints", "sentence"),
    [
        ([], "at least one constraint"),
        ("A > B", "at least one constraint"),
        ([1], "an object whose kind is one of above, tie_allowed, unacceptable"),
        ([{"kind": "best", "a": 1}], "an object whose kind"),
        ([{"kind": "above", "a": 1}], "above has exactly kind, a, b; got kind, a"),
        (
            [{"kind": "unacceptable", "a": 1, "b": 2}],
            "unacceptable has exactly kind, a; got kind, a, b",
        ),
        ([above(1, 9)], "Constraint 1: this task has no response 9"),
        ([above(1, True)], "no response True"),
        ([above(1, 2), above(3, "B")], "Constraint 2: this task has no response 'B'"),
        ([above(1, 1)], "two different responses"),
        ([above(1, 2), above(1, 2)], "are the same"),
        ([above(1, 2), tie(3, 4), tie(4, 3)], "are the same"),
        ([tie(1, 2)], "With allowed ties only, every ranking is right"),
        ([above(1, 2), above(2, 3), above(3, 1)], "A above B above C above A"),
        ([above(1, 2), above(2, 1), tie(1, 2)], "A above B above A"),
    ],
)
def test_empty_or_contradicting_constraints_are_refused(constraints, sentence):
    assert sentence in (gold.problem(constraints, LETTERS) or "")


@pytest.mark.parametrize(
    "constraints",
    [
        [above(1, 2)],
        [unacceptable(3)],
        [above(1, 2), above(1, 3), above(2, 4), above(3, 4), tie(2, 3), unacceptable(4)],
    ],
)
def test_satisfiable_constraints_are_accepted(constraints):
    assert gold.problem(constraints, LETTERS) is None


@pytest.mark.parametrize(
    ("tiers", "cut", "constraints", "sentences"),
    [
        ([[1], [2], [3]], None, [above(1, 2)], []),
        ([[2], [1]], None, [above(1, 2)], ["A belongs above B but is below it."]),
        ([[1, 2], [3]], None, [above(1, 2)], ["A belongs above B but shares its rank."]),
        ([[1, 2], [3]], None, [above(1, 2), tie(2, 1)], []),
        ([[2], [1]], None, [above(1, 2), tie(1, 2)], ["A belongs above B but is below it."]),
        ([[1], [3]], None, [above(1, 2)], ["A belongs above B. B was not ranked."]),
        ([[1], [2], [3]], 2, [unacceptable(3)], []),
        ([[1], [2], [3]], 3, [unacceptable(3)], ["C is unacceptable but not below the line."]),
        ([[1], [3]], None, [unacceptable(3)], ["C is unacceptable but not below the line."]),
        ([[3], [1]], 0, [unacceptable(3)], []),
        ([[1], [2]], 1, [unacceptable(3)], ["C is unacceptable. C was not ranked."]),
    ],
)
def test_violated_constraints_of_a_ranking_are_listed(tiers, cut, constraints, sentences):
    assert broken(tiers, cut, *constraints) == sentences


def test_constraints_from_a_ranking_accept_that_ranking():
    tiers, cut = [[1], [2, 3], [4]], 2
    constraints = gold.constraints_from(tiers, cut)
    assert gold.problem(constraints, LETTERS) is None
    assert broken(tiers, cut, *constraints) == []
    assert broken([[1], [3], [2], [4]], 3, *constraints) == []
    assert len(broken([[4], [2, 3], [1]], None, *constraints)) == 5


# --- creation ------------------------------------------------------------------------------------

pytestmark = pytest.mark.django_db


def test_gold_is_a_new_task_next_to_its_source():
    project = make_project()
    task = make_task(project)
    first, second, _third = ids(task)
    item = making.make(task=task, constraints=[above(first, second)], purpose="training")
    assert (item.task.kind, item.project) == (Task.Kind.GOLD, project)
    assert item.task.prompt == task.prompt and ids(item.task) == ids(task)
    assert not item.task.slots.exists()


def test_the_source_task_is_not_assigned_again_and_keeps_late_answers():
    project = make_project(rankings_per_task=2)
    task = make_task(project)
    first, other = make_member(project), make_member(project)
    slot = slots.claim(project=project, reviewer=first)
    making.make(task=task, constraints=[above(*ids(task)[:2])])
    assert slots.claim(project=project, reviewer=other) is None
    Slot.objects.filter(pk=slot.pk).update(leased_until="2020-01-01T00:00Z")
    assert slots.claim(project=project, reviewer=other) is None  # nor when that lease runs out
    assert answer(slot, first).extra is False


def test_gold_of_gold_and_second_gold_are_refused():
    project = make_project()
    task = make_task(project)
    constraints = [above(*ids(task)[:2])]
    item = making.make(task=task, constraints=constraints)
    for again in (task, item.task):
        with pytest.raises(GoldError, match="already"):
            making.make(task=again, constraints=constraints)
    with pytest.raises(GoldError, match="at least one constraint"):
        making.make(task=make_task(project), constraints=[])
    assert Gold.objects.count() == Task.objects.filter(kind="gold").count() == 1


def test_making_retired_gold_again_reactivates_it():
    project = make_project()
    task = make_task(project)
    first, second, third = ids(task)
    item = making.make(task=task, constraints=[above(first, second)])
    assert making.retire(gold=item, by=None)
    assert not making.retire(gold=item, by=None)
    again = making.make(task=task, constraints=[above(third, second)])
    assert again.pk == item.pk and again.retired_at is None
    assert again.constraints == [above(third, second)]


def test_changed_constraints_apply_to_earlier_answers():
    project = make_project(gold_percent=50)
    new_gold = make_gold(project)
    first, second, _third = ids(new_gold.task)
    slot = slots.lease_new_slot(task=new_gold.task, reviewer=make_member(project))
    ranking = answer(slot, slot.reviewer)
    assert gold.check(ranking, new_gold).right
    making.change(
        gold=new_gold, constraints=[above(second, first)], purpose="check", explanation="", by=None
    )
    new_gold.refresh_from_db()
    assert not gold.check(ranking, new_gold).right
    with pytest.raises(GoldError, match="no response 0"):
        making.change(
            gold=new_gold, constraints=[above(0, 1)], purpose="check", explanation="", by=None
        )
