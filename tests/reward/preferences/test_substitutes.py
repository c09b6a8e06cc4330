"""Tests of outcomes and second rankings in place of a task's rankings."""

import io
from datetime import date

import pytest
from django.core.management import call_command
from django.test import Client
from django.urls import reverse

from accounts.models import Role
from labeling.models import Adjudication, GuidelineVersion, RelabelledTask, RelabelSample, Task
from recipes.preferences.groups import read_groups
from reward.forms import RewardInputs
from reward.preferences.pseudonyms import pseudonyms
from reward.preferences.snapshots import SnapshotFilter, freeze, ranking_ids, survey
from tests.reward.factory import (
    join,
    make_project,
    make_prompt,
    make_task,
    make_user,
    make_version,
    rank,
    response_ids,
)

pytestmark = pytest.mark.django_db

ADJUDICATED = SnapshotFilter(adjudicated=True)
RELABELLED = SnapshotFilter(relabelled=True)


def decide(task: Task, order=((1,), (0, 2)), **fields) -> Adjudication:
    ids = response_ids(task)
    tiers = [[ids[position] for position in tier] for tier in order]
    fields = {"cause": "close", "by": make_user(Role.LEAD), "cut": 1, **fields}
    return Adjudication.objects.create(task=task, tiers=tiers, **fields)


def disputed(project) -> Task:
    task = make_task(make_prompt(project))
    rank(task, make_user())
    rank(task, make_user(), [[2], [1], [0]])
    return task


def relabel(task: Task) -> Task:
    """Create a copy of the task with the same responses and no ranking."""
    copy = make_task(task.prompt, kind=Task.Kind.RELABEL)
    copy.places.all().delete()
    for task_response in task.places.all():
        copy.places.create(response=task_response.response, position=task_response.position)
    drafts = GuidelineVersion.objects.filter(guideline__project=task.project)
    version = drafts.first() or make_version(task.project)
    sample = RelabelSample.objects.create(project=task.project, before=version, after=version)
    RelabelledTask.objects.create(sample=sample, original=task, copy=copy)
    return copy


def only_group(snapshot):
    [group] = read_groups(snapshot.file)
    return group


# --- outcomes of disputes ------------------------------------------------------------------------


def test_an_outcome_replaces_the_rankings_of_its_task_on_request(project):
    task = disputed(project)
    decided = decide(task)
    assert len(only_group(freeze(project=project, filter=SnapshotFilter(), by=None)).rankings) == 2
    snapshot = freeze(project=project, filter=ADJUDICATED, by=None)
    group = only_group(snapshot)
    [outcome] = group.rankings
    assert outcome.tiers == decided.tiers
    assert (outcome.cut, outcome.weight) == (1, 1.0)
    assert outcome.reviewer == pseudonyms(project)(decided.by_id)
    assert group.meta["adjudication_ids"] == [decided.pk]
    assert snapshot.counts["left_out"] == {"adjudicated": 2}
    assert (snapshot.counts["considered"], snapshot.counts["used"]) == (2, 0)
    assert snapshot.counts["outcomes"] == 1
    assert snapshot.counts["pairs"] == 2
    assert list(ranking_ids(snapshot)) == []


def test_rankings_of_other_tasks_are_unchanged(project):
    decide(disputed(project))
    other = rank(make_task(make_prompt(project)), make_user())
    same_prompt = rank(make_task(Task.objects.first().prompt), make_user())
    snapshot = freeze(project=project, filter=ADJUDICATED, by=None)
    assert set(ranking_ids(snapshot)) == {other.pk, same_prompt.pk}
    assert (snapshot.counts["used"], snapshot.counts["outcomes"]) == (2, 1)


def test_a_snapshot_with_outcomes_has_one_number_of_rankings(project, client):
    decide(disputed(project))
    for _ in range(2):
        rank(make_task(make_prompt(project)), make_user())
    snapshot = freeze(project=project, filter=ADJUDICATED, by=None)
    client.force_login(make_user(Role.TRAINER))
    page = client.get(reverse("snapshot", args=[snapshot.pk]))
    column = [row["cells"][2] for row in page.context["splits"]]
    assert snapshot.rankings == sum(column) == 3
    for lines in ("sources", "versions"):
        assert sum(count for _, count in page.context[lines]) == 3
    counts = snapshot.counts
    assert counts["considered"] - snapshot.left_out + counts["outcomes"] == 3
    assert '<span class="figure-value">3</span>' in page.text
    (choice,) = RewardInputs().fields["snapshot"].choices
    assert "3 rankings" in str(choice[1])
    rankings = client.get(reverse("snapshot-rankings", args=[snapshot.pk])).text
    assert "3 rankings" in rankings and "the other 1 is a dispute decided by leads" in rankings


def test_an_outcome_replaces_only_rankings_that_the_filter_selects(project):
    task = disputed(project)
    decide(task)
    filter = SnapshotFilter(adjudicated=True, sources=["import"])
    account = survey(project=project, filter=filter)
    assert (account.used, account.outcomes) == (0, 0)
    assert account.left_out == {"source": 2}


def test_an_outcome_outside_the_filter_replaces_nothing(project):
    version = make_version(project)
    task = make_task(make_prompt(project))
    rank(task, make_user(), guideline_version=version)
    decide(task)  # under no version
    for filter in (
        SnapshotFilter(adjudicated=True, guideline_versions=[version.pk]),
        SnapshotFilter(adjudicated=True, until=date(2020, 1, 1)),
    ):
        assert survey(project=project, filter=filter).outcomes == 0
    assert survey(project=project, filter=ADJUDICATED).outcomes == 1


def test_outcomes_of_other_projects_are_excluded(project):
    decide(disputed(make_project()))
    rank(make_task(make_prompt(project)), make_user())
    assert survey(project=project, filter=ADJUDICATED).outcomes == 0


# --- tasks ranked again ---------------------------------------------------------------------------


def test_second_rankings_are_excluded_so_that_no_task_counts_twice(project):
    task = disputed(project)
    rank(relabel(task), make_user())
    account = survey(project=project, filter=SnapshotFilter())
    assert (account.used, account.left_out) == (2, {"relabelled": 1})


def test_second_rankings_replace_the_first_on_request(project):
    task = disputed(project)
    anew = rank(relabel(task), make_user())
    untouched = disputed(project)
    relabel(untouched)  # nobody has ranked this copy
    snapshot = freeze(project=project, filter=RELABELLED, by=None)
    first = set(untouched.rankings.values_list("pk", flat=True))
    assert set(ranking_ids(snapshot)) == {anew.pk} | first
    assert snapshot.counts["left_out"] == {"ranked_anew": 2}


def test_an_outcome_of_the_copy_replaces_both(project):
    task = disputed(project)
    copy = relabel(task)
    rank(copy, make_user())
    decided = decide(copy)
    snapshot = freeze(
        project=project, filter=SnapshotFilter(relabelled=True, adjudicated=True), by=None
    )
    [outcome] = only_group(snapshot).rankings
    assert outcome.tiers == decided.tiers
    assert snapshot.counts["left_out"] == {"adjudicated": 1, "ranked_anew": 2}


# --- the filter, the form, the command -----------------------------------------------------------


def test_a_filter_without_replacements_keeps_its_form():
    assert "adjudicated" not in SnapshotFilter().to_dict()
    assert "relabelled" not in SnapshotFilter().to_dict()
    both = SnapshotFilter(adjudicated=True, relabelled=True)
    assert SnapshotFilter.from_dict(both.to_dict()) == both


def test_the_command_has_options_for_decisions_and_second_rankings(project):
    decide(disputed(project))
    rank(relabel(disputed(project)), make_user())
    out = io.StringIO()
    call_command("snapshot", project.slug, "--adjudicated", "--relabelled", "--dry-run", stdout=out)
    assert "+ 1  decisions of disputes, replacing rankings" in out.getvalue()
    assert "- 2  Replaced by later rankings of its task" in out.getvalue()


def test_the_form_offers_both_and_the_pages_show_replacements(project):
    trainer = make_user(Role.TRAINER)
    join(project, make_user())
    decide(disputed(project))
    client = Client()
    client.force_login(trainer)
    address = f"{reverse('new-snapshot')}?project={project.slug}"
    form = {
        "sources": ["review", "import", "simulation"], "min_active_seconds": "0",
        "test_fraction": "0.2", "seed": "0", "adjudicated": "on", "relabelled": "on",
    }  # fmt: skip
    page = client.post(address, {**form, "preview": "1"}).content.decode()
    assert "Leads’ decisions, used instead of rankings" in page
    assert "No rankings match these options" not in page
    page = client.post(address, {**form, "freeze": "1"}, follow=True).content.decode()
    assert "1 decision by leads" in page
    assert client.get(reverse("snapshots")).status_code == 200
