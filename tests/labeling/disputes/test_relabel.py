"""Tests of ranking a sample again after a guideline change."""

import io
import json

import pytest
from django.core.management import CommandError, call_command
from django.urls import reverse

from accounts.models import AuditEntry, Role, User
from labeling.disputes.relabeling import CannotRelabel, comparison, consensus, draw
from labeling.models import Membership, Project, Ranking, RelabelledTask, RelabelSample, Task
from labeling.queue import slots
from labeling.rankings import recording
from labeling.rankings.content import Content
from tests.clients import signed_in
from tests.labeling.world import (
    ids,
    make_member,
    make_project,
    make_task,
    make_user,
    one_each,
    publish,
)

pytestmark = pytest.mark.django_db


def make_lead(project: Project) -> User:
    lead = make_user(Role.LEAD)
    Membership.objects.create(project=project, user=lead, role=Membership.Role.LEAD)
    return lead


def rank(task: Task, reviewer: User, order: int = 1) -> Ranking:
    tiers = [[i] for i in ids(task)[::order]]
    return recording.record(
        task=task, reviewer=reviewer, source="simulation", content=Content(tiers)
    )[0]


class World:
    """Create tasks with two opposite rankings under version 1, and publish version 2."""

    def __init__(self, tasks: int = 4):
        self.project = make_project(rankings_per_task=2)
        self.before = self.project.current_version
        self.people = [make_member(self.project) for _ in range(2)]
        self.tasks = [make_task(self.project) for _ in range(tasks)]
        for task in self.tasks:
            rank(task, self.people[0])
            rank(task, self.people[1], -1)
        self.after = publish(self.project, "Be kind, and name a day.")
        for task in [*self.tasks]:
            task.refresh_from_db()

    def draw(self, **fields) -> RelabelSample:
        self.project.refresh_from_db()
        return draw(**{"project": self.project, "size": 2, "by": None, **fields})

    def rank_copies(self, sample: RelabelSample, orders=(1, 1)) -> None:
        for task in sample.tasks.all():
            for reviewer, order in zip(self.people, orders, strict=True):
                rank(task.copy, reviewer, order)


@pytest.fixture
def world() -> World:
    return World()


# --- drawing -------------------------------------------------------------------------------------


def test_a_sample_is_assigned_first_and_to_the_same_people_too(world):
    for _ in range(3):
        make_task(world.project)
    sample = world.draw()
    assert (sample.before, sample.after) == (world.before, world.after)
    for task in sample.tasks.all():
        assert task.original in world.tasks
        assert task.copy.kind == Task.Kind.RELABEL
        assert ids(task.copy) == ids(task.original)
        assert (task.copy.rankings_wanted, task.copy.slots.count()) == (2, 2)
    copies = set(sample.tasks.values_list("copy", flat=True))
    for reviewer in (*world.people, make_member(world.project))[:2]:
        assert slots.claim(project=world.project, reviewer=reviewer).task_id in copies


def test_the_same_seed_draws_the_same_tasks(world):
    drawn = []
    for seed in (7, 7, 8):
        sample = world.draw(seed=seed, size=2)
        drawn.append(list(sample.tasks.values_list("original", flat=True)))
        copies = list(sample.tasks.values_list("copy", flat=True))
        sample.delete()
        Task.objects.filter(pk__in=copies).delete()
    assert drawn[0] == drawn[1]
    assert len({*map(tuple, drawn)}) == 2


def test_a_sample_has_no_duplicates_and_no_tasks_with_one_ranking(world):
    alone = make_task(world.project)
    rank(alone, world.people[0])
    first, second = world.draw(size=3), world.draw(size=3)
    originals = [set(sample.tasks.values_list("original", flat=True)) for sample in (first, second)]
    assert (len(originals[0]), len(originals[1])) == (3, 1)
    assert not originals[0] & originals[1]
    with pytest.raises(CannotRelabel, match="under version 1 has already been ranked again"):
        world.draw()


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"size": 0}, "1 to 2,000 tasks"),
        ({"size": 2001}, "1 to 2,000 tasks"),
        ({"before": 9}, "no published version 9"),
        ({"before": 2}, "no published version 2"),
        ({"after": 1}, "under version 2, the current guideline"),
    ],
)
def test_an_impossible_sample_is_explained_and_nothing_is_written(world, fields, sentence):
    with pytest.raises(CannotRelabel, match=sentence):
        world.draw(**fields)
    assert not RelabelSample.objects.exists()
    assert not Task.objects.filter(kind=Task.Kind.RELABEL).exists()


def test_a_project_without_an_earlier_version_has_nothing_to_compare():
    project = make_project()
    with pytest.raises(CannotRelabel, match="no earlier version"):
        draw(project=project, size=1, by=None)
    with pytest.raises(CannotRelabel, match="no published guideline"):
        draw(project=make_project(published=False), size=1, by=None)


# --- comparing -----------------------------------------------------------------------------------


def test_the_page_compares_agreement_and_consensus_before_and_after(world):
    sample = world.draw()
    nothing = comparison(sample)
    assert (nothing.tasks, nothing.finished, nothing.completed, nothing.requested) == (2, 0, 0, 4)
    assert nothing.consensus_shift.value is None
    world.rank_copies(sample)
    compared = comparison(sample)
    assert (compared.finished, compared.completed) == (2, 4)
    assert (compared.before.value, compared.after.value) == (0, 1)
    assert compared.gain.value == 1
    assert compared.distance_before.value == 1  # both before were the reverse of each other
    assert compared.consensus_shift.value == 0.5  # from no majority to an order
    assert compared.self_consistency.value == 0.5  # one said the same again, one turned round
    assert (
        compared.consensus_shift.low
        <= compared.consensus_shift.value
        <= compared.consensus_shift.high
    )


def test_only_tasks_with_two_rankings_on_both_sides_are_compared(world):
    sample = world.draw()
    item = sample.tasks.first()
    rank(item.copy, world.people[0])
    assert comparison(sample).finished == 0
    rank(item.copy, make_member(world.project))
    compared = comparison(sample)
    assert (compared.finished, compared.before.pairs, compared.after.pairs) == (1, 3, 3)
    assert (compared.consensus_shift.low, compared.consensus_shift.tasks) == (None, 1)


def test_rankings_under_other_versions_are_excluded(world):
    sample = world.draw()
    publish(world.project, "Version three.")
    for item in sample.tasks.select_related("copy__project"):
        for reviewer in world.people:
            rank(item.copy, reviewer)
    assert comparison(sample).completed == 0


@pytest.mark.slow
def test_the_interval_narrows_with_more_tasks():
    wide, narrow = World(4), World(30)
    widths = []
    for world in (wide, narrow):
        sample = world.draw(size=30)
        for number, item in enumerate(sample.tasks.all()):
            for reviewer, order in zip(world.people, (1, (-1) ** (number % 2)), strict=True):
                rank(item.copy, reviewer, order)
        gain = comparison(sample).gain
        widths.append(gain.high - gain.low)
    assert widths[1] < widths[0] / 2


def test_the_consensus_is_the_majority_for_each_pair():
    rankings = [[[1], [2], [3]], [[2], [1], [3]], [[1, 2], [3]]]
    assert consensus(rankings) == {(1, 2): 0, (1, 3): 1, (2, 3): 1}


# --- the page and the command --------------------------------------------------------------------


def test_a_lead_draws_a_sample_and_sees_its_results(world):
    lead = make_lead(world.project)
    url = reverse("project-relabel", args=[world.project.slug])
    answer = signed_in(lead).post(url, {"size": 2, "before": 1, "seed": 0}, follow=True)
    assert "2 tasks will be ranked again" in answer.content.decode()
    sample = RelabelSample.objects.get()
    assert sample.created_by == lead
    assert AuditEntry.objects.get(action="sample relabelled").details["tasks"] == 2
    world.rank_copies(sample)
    page = signed_in(lead).get(url).content.decode()
    assert "change of the consensus" in page
    assert "+100.0%" in page


def test_only_leads_can_draw_a_sample(world):
    url = reverse("project-relabel", args=[world.project.slug])
    for face, status in ((world.people[0], 403), (make_member(make_project()), 404)):
        assert signed_in(face).post(url, {"size": 1, "before": 1, "seed": 0}).status_code == status
    assert not RelabelSample.objects.exists()


def test_an_impossible_form_has_an_error(world):
    url = reverse("project-relabel", args=[world.project.slug])
    client = signed_in(make_lead(world.project))
    for form in ({"size": 0, "before": 1, "seed": 0}, {"size": 1, "before": 7, "seed": 0}):
        assert client.post(url, form).status_code == 422
    world.draw(size=4)
    answer = client.post(url, {"size": 1, "before": 1, "seed": 0})
    assert "nothing to compare" in answer.content.decode()


def command(world: World, *options: str) -> str:
    out = io.StringIO()
    call_command("relabel", "--project", world.project.slug, *options, stdout=out)
    return out.getvalue()


def test_the_command_draws_a_sample_and_prints_results(world):
    with pytest.raises(CommandError, match="no sample yet"):
        command(world)
    assert "2 tasks ranked under version 1 would be" in command(world, "--size", "2", "--dry-run")
    assert not RelabelledTask.objects.exists()
    drawn = json.loads(
        command(world, "--size", "3", "--before", "1", "--after", "2", "--seed", "5", "--json")
    )
    assert (drawn["tasks"], drawn["rankings"], drawn["before"], drawn["after"]) == (3, 6, 1, 2)
    assert RelabelSample.objects.get().seed == 5
    assert "agreement after: not available yet" in command(world)
    world.rank_copies(RelabelSample.objects.get())
    assert "agreement after: 1.000 (0.439 to 1.000)" in command(world)
    assert json.loads(command(world, "--json"))["how far the consensus moved"][0] == 0.5


def test_the_command_explains_errors(world):
    with pytest.raises(CommandError, match="version 9"):
        command(world, "--size", "2", "--before", "9")
    with pytest.raises(CommandError, match="no project 'nowhere'"):
        call_command("relabel", "--project", "nowhere", "--size", "1")


def test_a_copy_is_ranked_independently(world):
    sample = world.draw()
    copy = sample.tasks.first().copy
    first = rank(copy, world.people[0])
    assert first.guideline_version == world.after
    assert one_each(copy) == first.tiers
