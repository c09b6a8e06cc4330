"""Tests of ordering waiting tasks by information, and of the random stream."""

import json

import numpy as np
import pytest
from django.core.management import CommandError, call_command
from django.db import IntegrityError, transaction
from django.urls import reverse

from accounts.models import AuditEntry, Role
from labeling.models import Membership, Slot, Task
from labeling.queue import slots
from labeling.rankings import recording
from labeling.rankings.content import Content
from reward.models import OrderedTask, QueueOrder, RandomStream, ResponseScore
from reward.ordering import queue as queue_order
from reward.ordering.queue import CannotOrder
from reward.preferences.filters import SnapshotFilter
from reward.preferences.snapshots import freeze
from reward.scoring import scores
from runs.kinds import CannotRun
from tests.clients import signed_in
from tests.finetune.factory import laid_out, make_reward_model, make_snapshot
from tests.labeling.world import make_member, make_project, make_task, make_user, one_each
from tests.reward.scoring.test_scores import make_score_run, publish_scores

pytestmark = pytest.mark.django_db


@pytest.fixture
def project():
    return make_project(rankings_per_task=1)


@pytest.fixture
def model(project):
    other = make_reward_model(make_snapshot(make_project(), prompts=1))
    other.project = project
    other.save(update_fields=["project"])
    return other


def score(model, task, apart: float, *, gap: float = 0.0, direction: int = 0):
    """Score a task with features `apart` along one direction, and scores `gap` apart."""
    for index, response in enumerate(task.responses.order_by("places__position")):
        features = np.zeros(4, "<f4")
        features[direction] = apart * index
        ResponseScore.objects.create(
            reward_model=model, response=response, score=gap * index, features=features.tobytes()
        )
    return task


def make_scored(project, model, count, **fields):
    """Create scored tasks, each more informative than the one before."""
    return [score(model, make_task(project, responses=2, **fields), 1.0 + n) for n in range(count)]


def tasks_outside_the_stream(project, model, count):
    """Create tasks until `count` are outside the random stream, which depends on their text."""
    RandomStream.objects.get_or_create(project=project, defaults={"share": 0.2, "seed": 0})
    stream, outside = queue_order.stream_of(project), []
    while len(outside) < count:
        [task] = make_scored(project, model, 1)
        if not queue_order.in_stream(stream, task.prompt.content_hash):
            outside.append(task)
    return outside


def queued(project):
    free = Slot.objects.filter(project=project, reviewer=None)
    return list(free.order_by("-priority", "position").values_list("task_id", flat=True))


def split(project, tasks):
    stream = queue_order.stream_of(project)
    inside = [t for t in tasks if queue_order.in_stream(stream, t.prompt.content_hash)]
    return inside, [t for t in tasks if t not in inside]


def test_the_most_informative_tasks_come_first_and_the_stream_keeps_its_positions(project, model):
    RandomStream.objects.create(project=project, share=0.2, seed=0)
    tasks = make_scored(project, model, 30)
    while not all(split(project, tasks)):  # the stream depends on the texts
        tasks += make_scored(project, model, 10)
    before = queued(project)
    order = queue_order.put_in_order(model=model, by=None)
    inside, outside = split(project, tasks)
    after = queued(project)
    for task in inside:
        assert after.index(task.pk) == before.index(task.pk)
    best_first = [pk for pk in after if pk in {t.pk for t in outside}]
    assert best_first[0] == outside[-1].pk and best_first != [t.pk for t in outside]
    places = order.tasks.order_by("place").values_list("task_id", flat=True)
    assert list(places) == best_first
    assert order.counts == {
        "waiting": len(tasks), "random_stream": len(inside), "unscored": 0, "ordered": len(outside),
    }  # fmt: skip
    assert not OrderedTask.objects.filter(task__in=inside).exists()


def test_reviewers_get_the_tasks_in_that_order(project, model):
    tasks_outside_the_stream(project, model, 6)
    order = queue_order.put_in_order(model=model, by=None)
    reviewer = make_member(project)
    items = []
    for _ in range(Task.objects.filter(project=project).count()):
        slot = slots.claim(project=project, reviewer=reviewer)
        items.append(slot.task_id)
        slots.skip(slot_id=slot.pk, reviewer=reviewer, reason="other")
    ordered = list(order.tasks.order_by("place").values_list("task_id", flat=True))
    assert [pk for pk in items if pk in ordered] == ordered


def test_priorities_are_unchanged_and_come_first(project, model):
    low = score(model, make_task(project, responses=2, priority=2), 50.0)
    tasks_outside_the_stream(project, model, 4)
    priorities = dict(Slot.objects.values_list("pk", "priority"))
    queue_order.put_in_order(model=model, by=None)
    assert dict(Slot.objects.values_list("pk", "priority")) == priorities
    assert queued(project)[-1] == low.pk


def test_ranked_tasks_lower_the_information_of_similar_ones(project, model):
    first, second = tasks_outside_the_stream(project, model, 2)
    ResponseScore.objects.filter(response__in=first.responses.all()).delete()
    ResponseScore.objects.filter(response__in=second.responses.all()).delete()
    score(model, first, 2.0, direction=0), score(model, second, 1.9, direction=1)
    order = queue_order.put_in_order(model=model, by=None)
    assert order.tasks.get(task=first).place < order.tasks.get(task=second).place
    for _ in range(4):
        task = score(model, make_task(project, responses=2), 3.0, direction=0)
        recording.record(
            task=task,
            reviewer=make_member(project),
            source="import",
            content=Content(one_each(task)),
        )
    order = queue_order.put_in_order(model=model, by=None)
    assert order.tasks.get(task=second).place < order.tasks.get(task=first).place


def test_started_and_unscored_tasks_are_not_ordered(project, model):
    begun, unscored, *others = tasks_outside_the_stream(project, model, 5)
    ResponseScore.objects.filter(response=unscored.responses.first()).delete()
    recording.record(
        task=begun, reviewer=make_member(project), source="import", content=Content(one_each(begun))
    )
    position = queued(project).index(unscored.pk)
    order = queue_order.put_in_order(model=model, by=None)
    ordered = set(order.tasks.values_list("task_id", flat=True))
    assert ordered == {task.pk for task in others} and order.counts["unscored"] == 1
    assert queued(project).index(unscored.pk) == position


def test_undoing_an_order_restores_the_queue(project, model):
    make_scored(project, model, 12)
    before = queued(project)
    by = make_user(Role.TRAINER)
    order = queue_order.put_in_order(model=model, by=by)
    assert queued(project) != before
    assert queue_order.undo(project=project, by=by) == order
    assert queued(project) == before
    order.refresh_from_db()
    assert order.undone_at
    assert queue_order.undo(project=project, by=by) is None
    audit_entries = (
        AuditEntry.objects.filter(user=by).order_by("id").values_list("action", flat=True)
    )
    assert list(audit_entries) == ["queue put in order", "queue order undone"]


def test_undoing_two_orders_restores_the_original_queue(project, model):
    make_scored(project, model, 12)
    before = queued(project)
    queue_order.put_in_order(model=model, by=None)
    queue_order.put_in_order(model=model, by=None)
    assert QueueOrder.objects.filter(undone_at=None).count() == 1
    queue_order.undo(project=project, by=None)
    assert queued(project) == before


def test_only_one_order_is_in_force(project, model):
    make_scored(project, model, 6)
    queue_order.put_in_order(model=model, by=None)
    with pytest.raises(IntegrityError), transaction.atomic():
        QueueOrder.objects.create(project=project, reward_model=model)


def test_the_random_stream_is_fixed_the_first_time(project, model):
    make_scored(project, model, 20)
    queue_order.put_in_order(model=model, by=None, share=0.4)
    assert RandomStream.objects.get().share == 0.4
    queue_order.put_in_order(model=model, by=None)
    with pytest.raises(CannotOrder, match=r"has been 40% of its prompts .* cannot change"):
        queue_order.put_in_order(model=model, by=None, share=0.2)
    inputs = {"reward_model": model.pk, "order": True, "random_share": 0.2}
    with pytest.raises(CannotRun, match="cannot change"):
        scores.from_inputs(inputs)


@pytest.mark.parametrize("share", [0.0, -0.1, 0.95])
def test_a_share_of_zero_or_nearly_one_is_refused(project, model, share):
    make_scored(project, model, 3)
    with pytest.raises(CannotOrder, match="must be more than 0 and at most"):
        queue_order.put_in_order(model=model, by=None, share=share)
    assert not RandomStream.objects.exists()


def test_without_tasks_to_order_nothing_changes(project, model):
    with pytest.raises(CannotOrder, match="has no waiting tasks"):
        queue_order.put_in_order(model=model, by=None)
    tasks_outside_the_stream(project, model, 4)
    order = queue_order.put_in_order(model=model, by=None)
    before = queued(project)
    ResponseScore.objects.all().delete()
    with pytest.raises(CannotOrder, match="has scored none of the"):
        queue_order.put_in_order(model=model, by=None)
    order.refresh_from_db()
    assert order.undone_at is None and queued(project) == before


def test_held_out_prompts_of_a_snapshot_are_in_the_stream(project, model):
    tasks = make_scored(project, model, 30)
    for task in tasks:
        recording.record(
            task=task,
            reviewer=make_member(project),
            source="import",
            content=Content(one_each(task)),
        )
    RandomStream.objects.create(project=project, share=0.3, seed=0)
    stream = queue_order.stream_of(project)
    inside = {t.prompt_id for t in split(project, tasks)[0]}
    small = freeze(project=project, filter=SnapshotFilter(test_fraction=0.2), by=None)
    assert small.counts["splits"]["test"]["prompts"] <= len(inside)
    assert queue_order.has_random_test_set(small, stream)
    for filter in (SnapshotFilter(test_fraction=0.4), SnapshotFilter(test_fraction=0.2, seed=1)):
        other = freeze(project=project, filter=filter, by=None)
        assert not queue_order.has_random_test_set(other, stream)
    hashes = {t.prompt_id: t.prompt.content_hash for t in tasks}
    held = {pk for pk, text in hashes.items() if SnapshotFilter().split_of(text) == "test"}
    assert held <= inside


# --- the run, the command and the page -----------------------------------------------------------


def test_the_run_orders_the_queue_after_scoring(project, model):
    make_scored(project, model, 8)
    run = make_score_run(model, order=True)
    publish_scores(laid_out(run), [])
    assert scores.from_inputs(run.inputs)
    result = scores.finish(run, laid_out(run))
    assert QueueOrder.objects.get().pk == result["order"] and result["ordered"] > 0


def test_a_run_that_cannot_order_the_queue_keeps_its_scores_and_gives_the_reason(project, model):
    task = make_task(project, responses=2)
    run = make_score_run(model, order=True)
    pk = task.responses.first().pk
    row = {"response_id": pk, "score": 1.0, "uncertainty": None, "features": None}
    publish_scores(laid_out(run), [row])
    RandomStream.objects.create(project=project, share=0.01, seed=1)
    result = scores.finish(run, laid_out(run))
    assert "has scored none of the 1 waiting tasks with features" in result["order"]
    assert ResponseScore.objects.count() == 1


def test_the_run_orders_the_queue_only_on_request(project, model):
    make_scored(project, model, 4)
    run = make_score_run(model, order=False)
    publish_scores(laid_out(run), [])
    scores.finish(run, laid_out(run))
    assert not QueueOrder.objects.exists()


def test_the_command_orders_and_restores_the_queue(project, model, capsys):
    make_scored(project, model, 8)
    before = queued(project)
    call_command("queue_order", project.slug, model=model.pk, random_share=0.3, dry_run=True)
    assert queued(project) == before and not QueueOrder.objects.exists()
    call_command("queue_order", project.slug, model=model.pk, random_share=0.3)
    assert f"Ordered by {model}" in capsys.readouterr().out
    assert queued(project) != before
    call_command("queue_order", project.slug, json=True)
    assert json.loads(capsys.readouterr().out)["ordered"] > 0
    call_command("queue_order", project.slug, undo=True)
    assert "are not ordered" in capsys.readouterr().out
    assert queued(project) == before
    with pytest.raises(CommandError, match="nothing to undo"):
        call_command("queue_order", project.slug, undo=True)
    stranger = make_reward_model(make_snapshot(make_project(), prompts=1))
    with pytest.raises(CommandError, match="belongs to"):
        call_command("queue_order", project.slug, model=stranger.pk)


def lead_of(project):
    lead = make_user(Role.LEAD)
    Membership.objects.create(project=project, user=lead, role="lead")
    return lead


def test_the_page_shows_the_next_tasks_and_a_lead_undoes_the_order(project, model):
    make_scored(project, model, 10)
    before = queued(project)
    client, address = signed_in(lead_of(project)), reverse("queue-order", args=[project.slug])
    assert "Tasks are assigned in the order they were added" in client.get(address).content.decode()
    order = queue_order.put_in_order(model=model, by=None)
    page = client.get(address).content.decode()
    first = order.tasks.order_by("place").first()
    assert f"#{first.task_id}" in page and f"{first.gain:.2f}" in page
    assert "20% of the prompts" in page and "Score and order again" not in page
    back = reverse("queue-order-undo", args=[project.slug])
    assert client.get(back).status_code == 405
    assert client.post(back).status_code == 302
    assert queued(project) == before
    trainer = signed_in(make_user(Role.TRAINER))
    assert reverse("run-launch", args=["score"]) in trainer.get(address).content.decode()


def test_an_assigned_task_is_no_longer_next(project, model):
    tasks_outside_the_stream(project, model, 3)
    order = queue_order.put_in_order(model=model, by=None)
    first, second, _ = order.tasks.order_by("place")
    Slot.objects.filter(task=first.task).update(
        reviewer=make_member(project), leased_until="2100-01-01T00:00Z"
    )
    page = signed_in(lead_of(project)).get(reverse("queue-order", args=[project.slug]))
    html = page.content.decode()
    assert f"#{second.task_id}" in html and f"#{first.task_id}<" not in html


def test_reviewers_and_strangers_cannot_see_or_change_the_order(project, model):
    make_scored(project, model, 6)
    queue_order.put_in_order(model=model, by=None)
    ordered = queued(project)
    for person, status in ((make_member(project), 403), (make_user(Role.LEAD), 404)):
        client = signed_in(person)
        assert client.get(reverse("queue-order", args=[project.slug])).status_code == status
        back = reverse("queue-order-undo", args=[project.slug])
        assert client.post(back).status_code == status
    assert queued(project) == ordered and QueueOrder.objects.get().undone_at is None


def test_pages_mark_figures_from_the_stream(project):
    model = make_reward_model(make_snapshot(project, prompts=6))
    client = signed_in(make_user(Role.TRAINER))
    snapshot_page = reverse("snapshot", args=[model.snapshot_id])
    assert "random stream" not in client.get(snapshot_page).content.decode()
    seed = model.snapshot.filter["seed"]
    stream = RandomStream.objects.create(project=project, share=0.2, seed=seed)
    assert "all in the random stream" in client.get(snapshot_page).content.decode()
    order_page = reverse("queue-order", args=[project.slug])
    assert "80.0%" in client.get(order_page).content.decode()
    RandomStream.objects.filter(pk=stream.pk).update(share=0.1)
    assert "more than the random stream" in client.get(snapshot_page).content.decode()
    assert (
        "No reward model has been evaluated on the random stream yet"
        in client.get(order_page).content.decode()
    )


# --- one order after another ----------------------------------------------------------------------


def test_tasks_that_only_the_first_order_could_move_return(project, model):
    make_scored(project, model, 12)
    before = queued(project)
    order = queue_order.put_in_order(model=model, by=None)
    moved = order.tasks.order_by("place").first().task
    assert queued(project).index(moved.pk) < before.index(moved.pk)
    ResponseScore.objects.filter(response__in=moved.responses.all()).delete()
    queue_order.put_in_order(model=model, by=None)
    assert queued(project).index(moved.pk) == before.index(moved.pk)


def test_tasks_added_between_two_orders_return_to_their_position(project, model):
    make_scored(project, model, 6)
    queue_order.put_in_order(model=model, by=None)
    make_scored(project, model, 6)
    added = list(Task.objects.filter(project=project).order_by("pk").values_list("pk", flat=True))
    queue_order.put_in_order(model=model, by=None)
    queue_order.undo(project=project, by=None)
    assert queued(project) == added
