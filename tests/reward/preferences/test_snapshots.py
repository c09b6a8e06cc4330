from collections import Counter
from datetime import UTC, date, datetime

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accounts.models import AuditEntry
from labeling.models import Ranking, Response, Task
from recipes.preferences.groups import read_groups
from reward.models import Snapshot
from reward.preferences import snapshots
from reward.preferences.snapshots import (
    FilterError,
    SnapshotError,
    SnapshotFilter,
    freeze,
    ranking_ids,
    survey,
)
from tests.reward.factory import (
    make_project,
    make_prompt,
    make_task,
    make_user,
    make_version,
    rank,
    response_ids,
)

pytestmark = pytest.mark.django_db
ALL = SnapshotFilter()


@pytest.fixture(autouse=True)
def snapshots_dir(settings, tmp_path):
    settings.SNAPSHOTS_DIR = tmp_path / "snapshots"
    return settings.SNAPSHOTS_DIR


@pytest.fixture
def ann():
    return make_user()


def rows(snapshot: Snapshot):
    return {group.group_id: group for group in read_groups(snapshot.file)}


def supersede(ranking: Ranking, order) -> Ranking:
    Ranking.objects.filter(pk=ranking.pk).update(superseded_at=timezone.now())
    return rank(ranking.task, ranking.reviewer, order, supersedes=ranking)


def test_freezing_twice_gives_the_same_row_and_the_same_hash(project, ann, snapshots_dir):
    rank(make_task(make_prompt(project)), ann)
    first = freeze(project=project, filter=ALL, by=ann)
    assert freeze(project=project, filter=ALL, by=ann) == first
    assert Snapshot.objects.count() == 1
    assert [path.name for path in snapshots_dir.iterdir()] == [f"{first.content_hash}.parquet"]
    assert AuditEntry.objects.filter(action="snapshot frozen").count() == 1


def test_a_new_ranking_gives_another_hash_and_leaves_the_old_file_alone(project, ann):
    task = make_task(make_prompt(project))
    rank(task, ann)
    old = freeze(project=project, filter=ALL, by=ann)
    before = old.file.read_bytes()
    rank(task, make_user())
    new = freeze(project=project, filter=ALL, by=ann)
    assert new.content_hash != old.content_hash
    assert old.file.read_bytes() == before


def test_another_filter_over_the_same_rankings_is_another_row_of_the_same_content(project, ann):
    rank(make_task(make_prompt(project)), ann)
    first = freeze(project=project, filter=ALL, by=ann)
    second = freeze(
        project=project, filter=SnapshotFilter(min_active_seconds=0, reviewers=[ann.pk]), by=ann
    )
    assert second != first and second.content_hash == first.content_hash


def test_a_superseded_ranking_is_excluded_and_counted(project, ann):
    task = make_task(make_prompt(project))
    revised = supersede(rank(task, ann), ((2,), (1,), (0,)))
    snapshot = freeze(project=project, filter=ALL, by=ann)
    (group,) = rows(snapshot).values()
    assert [ranking.tiers for ranking in group.rankings] == [revised.tiers]
    assert snapshot.counts["left_out"] == {"superseded": 1}
    assert list(ranking_ids(snapshot)) == [revised.pk]


def test_tasks_of_one_prompt_join_into_one_group(project, ann):
    prompt = make_prompt(project)
    first, second = make_task(prompt, ("a", "b")), make_task(prompt, ("c", "d"))
    rank(first, ann, ((0,), (1,)))
    rank(second, ann, ((0, 1),))
    snapshot = freeze(project=project, filter=ALL, by=ann)
    (group,) = rows(snapshot).values()
    assert group.responses == ["a", "b", "c", "d"]
    assert [ranking.tiers for ranking in group.rankings] == [
        [[i] for i in response_ids(first)],
        [response_ids(second)],
    ]
    assert (snapshot.counts["pairs"], snapshot.counts["ties"]) == (1, 1)


def test_responses_of_a_task_nobody_ranked_are_not_in_the_group(project, ann):
    prompt = make_prompt(project)
    rank(make_task(prompt, ("a", "b")), ann, ((0,), (1,)))
    make_task(prompt, ("c", "d"))
    (group,) = rows(freeze(project=project, filter=ALL, by=ann)).values()
    assert group.responses == ["a", "b"]


def test_each_filter_excludes_its_rankings(project, ann):
    task, version, other = make_task(make_prompt(project)), make_version(project), make_user()
    late = datetime(2026, 3, 2, 12, tzinfo=UTC)
    rank(task, ann, guideline_version=version, active_seconds=30, created_at=late)
    rank(task, other, source="import", created_at=datetime(2026, 2, 27, 12, tzinfo=UTC))
    rank(task, make_user(), active_seconds=2, created_at=late)
    rank(task, make_user(), ((0,),), created_at=late)

    def left_out(**filter):
        return survey(project=project, filter=SnapshotFilter(**filter)).to_dict()["left_out"]

    nothing = {"nothing_compared": 1}
    assert left_out() == nothing
    assert left_out(sources=["review"]) == {"source": 1, **nothing}
    assert left_out(guideline_versions=[version.pk]) == {"guideline_version": 3}
    assert left_out(reviewers=[ann.pk]) == {"reviewer": 3}
    assert left_out(since=date(2026, 3, 2)) == {"date": 1, **nothing}
    assert left_out(until=date(2026, 3, 1)) == {"date": 3}
    assert left_out(min_active_seconds=5) == {"too_fast": 2}


def test_blind_comparisons_are_included_only_on_request(project, ann):
    rank(make_task(make_prompt(project), kind=Task.Kind.COMPARISON), ann)
    with pytest.raises(SnapshotError, match="None of the 1 rankings"):
        freeze(project=project, filter=ALL, by=ann)
    assert freeze(project=project, filter=SnapshotFilter(include_comparisons=True), by=ann)


def test_an_empty_snapshot_is_refused_and_leaves_no_file(project, ann, snapshots_dir):
    make_task(make_prompt(project))
    with pytest.raises(SnapshotError, match="has no rankings yet"):
        freeze(project=project, filter=ALL, by=ann)
    assert list(snapshots_dir.iterdir()) == []
    assert not Snapshot.objects.exists()


def test_rankings_of_other_projects_are_excluded(project, ann):
    rank(make_task(make_prompt(project)), ann)
    rank(make_task(make_prompt(make_project())), ann)
    assert survey(project=project, filter=ALL).considered == 1


def test_the_split_of_a_prompt_is_the_same_in_every_snapshot_of_one_seed(project, ann):
    for _ in range(30):
        rank(make_task(make_prompt(project)), ann)
    before = rows(freeze(project=project, filter=SnapshotFilter(test_fraction=0.3), by=ann))
    for _ in range(20):
        rank(make_task(make_prompt(project)), ann)
    after = rows(freeze(project=project, filter=SnapshotFilter(test_fraction=0.3), by=ann))
    assert {key: after[key].split for key in before} == {k: g.split for k, g in before.items()}
    other = rows(freeze(project=project, filter=SnapshotFilter(test_fraction=0.3, seed=1), by=ann))
    assert {k: g.split for k, g in other.items()} != {k: g.split for k, g in after.items()}


def test_the_split_follows_the_requested_fraction():
    for fraction in (0.0, 0.1, 0.5):
        chosen = SnapshotFilter(test_fraction=fraction)
        splits = Counter(chosen.split_of(str(number)) for number in range(4000))
        assert splits["test"] / 4000 == pytest.approx(fraction, abs=0.03)


def test_reviewers_are_pseudonyms_that_differ_between_projects(project, ann):
    other = make_project()
    names = []
    for owner in (project, other):
        rank(make_task(make_prompt(owner)), ann)
        (group,) = rows(freeze(project=owner, filter=ALL, by=ann)).values()
        names.append(group.rankings[0].reviewer)
    assert names[0] != names[1]
    assert all(ann.username not in name and name.startswith("r-") for name in names)


def test_simulated_rankings_are_counted_and_marked(project, ann):
    task = make_task(make_prompt(project))
    rank(task, ann)
    rank(task, make_user(simulated=True), source="simulation")
    snapshot = freeze(project=project, filter=ALL, by=ann)
    (group,) = rows(snapshot).values()
    assert snapshot.simulated == 1
    assert group.meta["simulated"] == [False, True]


def test_responses_cut_off_by_a_limit_are_marked(project, ann):
    """Rows without such a response have the hash that they always had."""
    task = make_task(make_prompt(project), ("a", "b", "c"))
    rank(task, ann, ((0,), (1,), (2,)))
    [group] = rows(freeze(project=project, filter=ALL, by=ann)).values()
    assert "responses_cut_off" not in group.meta
    first, second, _ = response_ids(task)
    Response.objects.filter(pk=first).update(sampling={"truncated": True})
    Response.objects.filter(pk=second).update(sampling={"finish_reason": "stop"})
    [group] = rows(freeze(project=project, filter=ALL, by=ann)).values()
    assert group.meta["responses_cut_off"] == [True, False, False]


def test_prompts_are_read_in_batches(project, ann, monkeypatch):
    monkeypatch.setattr(snapshots, "PROMPT_BATCH_SIZE", 4)
    for _ in range(8):
        rank(make_task(make_prompt(project)), ann)
    with CaptureQueriesContext(
        connection,
    ) as queries:
        account = survey(project=project, filter=ALL)
    assert account.used == 8
    # Withdrawn data, rankings, and the prompts and responses of two batches.
    assert len(queries) == 1 + 1 + 2 * 2


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"sources": ["hearsay"]}, "sources"),
        ({"sources": []}, "sources"),
        ({"reviewers": []}, "reviewers"),
        ({"test_fraction": 0.95}, "test_fraction"),
        ({"since": "2026-02-30"}, "since"),
        ({"since": "2026-02-02", "until": "2026-02-01"}, "until"),
        ({"min_active_seconds": float("nan")}, "min_active_seconds"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_an_impossible_filter_is_refused_by_field(values, field):
    with pytest.raises(FilterError) as caught:
        SnapshotFilter.from_dict(values)
    assert list(caught.value.errors) == [field]


def test_a_filter_survives_json():
    chosen = SnapshotFilter(reviewers=[3, 1], since=date(2026, 1, 1), sources=["import"])
    assert SnapshotFilter.from_dict(chosen.to_dict()) == chosen


FACTS = st.fixed_dictionaries(
    {
        "source": st.sampled_from(Ranking.Source.values),
        "active_seconds": st.sampled_from([0.0, 3.0, 60.0]),
        "superseded": st.booleans(),
        "order": st.sampled_from([((0,), (1,), (2,)), ((0, 1, 2),), ((2,), (0,)), ((1,),), ()]),
        "prompt": st.integers(0, 3),
    }
)


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    facts=st.lists(FACTS, min_size=1, max_size=8),
    sources=st.sets(st.sampled_from(Ranking.Source.values), min_size=1),
    fastest=st.sampled_from([0, 5]),
)
def test_every_ranking_is_used_or_excluded_for_one_reason(facts, sources, fastest):
    project = make_project()
    tasks = [make_task(make_prompt(project)) for _ in range(4)]
    for fact in facts:
        rank(
            tasks[fact["prompt"]],
            make_user(),
            fact["order"],
            source=fact["source"],
            active_seconds=fact["active_seconds"],
            superseded_at=timezone.now() if fact["superseded"] else None,
        )
    filter = SnapshotFilter(sources=sources, min_active_seconds=fastest)
    counts = survey(project=project, filter=filter).to_dict()
    assert counts["considered"] == len(facts)
    assert counts["considered"] == counts["used"] + sum(counts["left_out"].values())
    assert sum(split.get("rankings", 0) for split in counts["splits"].values()) == counts["used"]
    if counts["used"]:
        snapshot = freeze(project=project, filter=filter, by=None)
        groups = rows(snapshot).values()
        assert snapshot.counts == counts
        assert sum(len(group.rankings) for group in groups) == counts["used"]
        assert len(groups) == counts["prompts"]
        assert len(set(ranking_ids(snapshot))) == counts["used"]
