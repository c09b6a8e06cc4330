"""Tests of weighting rankings by their reviewers' reliability."""

from io import StringIO
from math import log

import pytest
from django.core.management import call_command

from labeling.models import Adjudication
from labeling.statistics.reliability import Reliabilities, Reliability
from recipes.preferences.groups import read_groups
from reward.preferences.pseudonyms import pseudonyms
from reward.preferences.reviewer_weights import HEAVIEST, Weights
from reward.preferences.snapshots import SnapshotFilter, freeze
from tests.reward.factory import make_project, make_prompt, make_task, make_user, rank, response_ids

WEIGHED = SnapshotFilter(weigh_reviewers=True)


def reliability(quality: float) -> Reliability:
    return Reliability(right=quality, tie=0.0, tie_of_tie=0.5, error=0.1)


def test_a_weight_is_the_log_odds_of_being_right_relative_to_the_typical_reviewer():
    weight = Weights(Reliabilities({1: reliability(0.9), 2: reliability(0.5)}, reliability(0.75)))
    assert weight(1) == pytest.approx(log(9) / log(3), abs=0.005)
    assert weight(2) == 0.0
    assert weight(3) == 1.0  # a reviewer without rankings


def test_weights_are_between_zero_and_the_maximum():
    result = Reliabilities({1: reliability(0.999), 2: reliability(0.1)}, reliability(0.75))
    assert (Weights(result)(1), Weights(result)(2)) == (HEAVIEST, 0.0)


def test_weights_are_equal_if_the_typical_reviewer_is_random():
    result = Reliabilities({1: reliability(0.9)}, reliability(0.4))
    assert Weights(result)(1) == 1.0


@pytest.fixture
def crowd(db):
    """Create three agreeing reviewers on thirty tasks, and one who reverses half of them."""
    project = make_project()
    careful, careless = [make_user() for _ in range(3)], make_user()
    tasks = [make_task(make_prompt(project)) for _ in range(30)]
    for number, task in enumerate(tasks):
        for reviewer in careful:
            rank(task, reviewer)
        rank(task, careless, ((2,), (1,), (0,)) if number % 2 else ((0,), (1,), (2,)))
    return project, careful, careless, tasks


def weights_in(snapshot) -> dict[str, set[float]]:
    results: dict[str, set[float]] = {}
    for group in read_groups(snapshot.file):
        for ranking in group.rankings:
            results.setdefault(ranking.reviewer, set()).add(ranking.weight)
    return results


def test_a_snapshot_weights_rankings_by_agreement(crowd):
    project, careful, careless, _ = crowd
    result = weights_in(freeze(project=project, filter=WEIGHED, by=None))
    name = pseudonyms(project)
    (light,) = result[name(careless.pk)]
    assert light < 0.3
    for item in careful:
        (heavy,) = result[name(item.pk)]
        assert heavy >= 0.9


def test_weights_are_equal_by_default(crowd):
    result = weights_in(freeze(project=crowd[0], filter=SnapshotFilter(), by=None))
    assert set().union(*result.values()) == {1.0}


def test_the_same_rankings_give_the_same_weighted_snapshot(crowd):
    first = freeze(project=crowd[0], filter=WEIGHED, by=None)
    again = freeze(project=crowd[0], filter=WEIGHED, by=None)
    plain = freeze(project=crowd[0], filter=SnapshotFilter(), by=None)
    assert first == again and first.content_hash != plain.content_hash


def test_an_outcome_has_the_weight_of_a_typical_ranking(crowd):
    project, _, careless, tasks = crowd
    Adjudication.objects.create(
        task=tasks[0],
        by=careless,
        tiers=[[response_id] for response_id in response_ids(tasks[0])],
        cause="mistake",
    )
    chosen = SnapshotFilter(weigh_reviewers=True, adjudicated=True)
    snapshot = freeze(project=project, filter=chosen, by=None)
    decided = [g for g in read_groups(snapshot.file) if "adjudication_ids" in g.meta]
    assert [r.weight for r in decided[0].rankings] == [1.0]


def test_filters_without_weights_keep_their_hash():
    assert "weigh_reviewers" not in SnapshotFilter().to_dict()
    assert SnapshotFilter.from_dict(WEIGHED.to_dict()) == WEIGHED


def test_the_command_adds_weights_on_request(crowd):
    out = StringIO()
    call_command("snapshot", crowd[0].slug, "--weigh-reviewers", stdout=out)
    (snapshot,) = crowd[0].snapshots.all()
    assert snapshot.filter["weigh_reviewers"] is True
    assert len(set().union(*weights_in(snapshot).values())) > 1


def test_the_form_offers_weights_and_the_snapshot_shows_them(crowd, client):
    client.force_login(make_user("trainer"))
    address = f"/snapshots/new/?project={crowd[0].slug}"
    assert "Weight by reliability" in client.get(address).text
    chosen = {"sources": ["review"], "test_fraction": "0.2", "seed": "0", "min_active_seconds": "0"}
    answer = client.post(address, {**chosen, "weigh_reviewers": "on", "freeze": "1"}, follow=True)
    assert "by how well each reviewer agrees with others" in answer.text
    assert crowd[0].snapshots.get().filter["weigh_reviewers"] is True
