"""Tests that pages, commands, exports and reports show the same pairwise agreement."""

import json
from dataclasses import replace
from io import StringIO

import pytest
from django.core.cache import cache
from django.core.management import call_command
from django.urls import reverse

from accounts.models import Role
from formatting.numbers import percent, percent_range
from labeling.models import Ranking
from labeling.statistics.agreement import pairwise_agreement
from recipes.preferences.groups import Group, Judgment, read_groups
from reward.evaluation.figures import SHARES, main_figures
from reward.evaluation.report import reviewer_agreement
from reward.preferences.snapshots import SnapshotFilter, freeze
from tests.finetune.factory import REPORT, make_reward_model
from tests.labeling.statistics.simulated import HONEST, SPAMMER, simulate, store
from tests.labeling.world import make_project, make_user

pytestmark = pytest.mark.django_db


@pytest.fixture
def project():
    cache.clear()
    project = make_project(rankings_per_task=3)
    kinds = [HONEST, HONEST, SPAMMER, HONEST]
    store(simulate(3, kinds=kinds, tasks=24, overlap=3, responses=3), project)
    return project


@pytest.fixture
def expected(project):
    """Compute the figure from its definition, over all rankings of the project."""
    results: dict[int, list] = {}
    for task, tiers in Ranking.objects.filter(task__project=project).values_list("task", "tiers"):
        results.setdefault(task, []).append(tiers)
    return pairwise_agreement(results.values())


@pytest.fixture
def trainer():
    return make_user(Role.TRAINER, is_superuser=True)


def texts(expected):
    """Return the figure as text: value, interval and number of pairs."""
    return percent(expected.value), percent_range([expected.low, expected.high])


def printed(*command):
    out = StringIO()
    call_command(*command, stdout=out)
    return out.getvalue()


def test_every_page_shows_the_same_pairwise_agreement(client, project, trainer, expected):
    snapshot = freeze(project=project, filter=SnapshotFilter(), by=trainer)
    client.force_login(trainer)
    addresses = [
        reverse("home"),
        reverse("project", args=[project.slug]),
        reverse("project-quality", args=[project.slug]),
        reverse("project-quality", args=[project.slug]) + "?show=parts",
        reverse("snapshot", args=[snapshot.pk]),
    ]
    value, interval = texts(expected)
    for address in addresses:
        text = client.get(address).text
        assert "airwise agreement" in text, address
        assert value in text and interval in text, address
        if "show=parts" not in address:
            assert f"{interval}, {expected.pairs} pairs" in text, address
        if "snapshot" not in address and "show=" not in address:
            assert f"{expected.pairs} pairs, 24 tasks" in text, address


def test_commands_and_exports_print_the_same_figure(client, project, trainer, expected, tmp_path):
    value, interval = texts(expected)
    sentence = f"{value} ({interval}), {expected.pairs} pairs."
    assert f"Pairwise agreement of the whole snapshot: {sentence}" in printed(
        "snapshot", project.slug
    )
    printed("export", str(tmp_path / "all.jsonl"), f"--project={project.slug}")
    card = (tmp_path / "all.about.md").read_text()
    assert f"Pairwise agreement of 24 tasks with two rankings or more: {sentence}" in card
    in_card = json.loads(card.split("```json")[1].split("```")[0])["pairwise_agreement"]
    payload = json.loads(printed("agreement", "--json", f"--project={project.slug}"))
    assert payload["agreement"]["pairwise"]["value"] == in_card["value"] == expected.value
    assert in_card["interval"] == [expected.low, expected.high]
    assert f"{expected.value:.4f} ({expected.low:.4f} to {expected.high:.4f})" in printed(
        "agreement", f"--project={project.slug}"
    )
    client.force_login(trainer)
    query = {"form": "kwise", "suffix": ".jsonl", "ties": "half"}
    about = client.get(reverse("project-export-about", args=[project.slug]), query).text
    assert sentence in about


def test_a_report_has_the_same_figure_for_the_same_sample(client, project, trainer, expected):
    snapshot = freeze(project=project, filter=SnapshotFilter(test_fraction=0.4), by=trainer)
    groups = list(read_groups(snapshot.file))
    whole = reviewer_agreement(groups)
    assert (whole["value"], whole["interval"]) == (
        expected.value,
        [expected.low, expected.high],
    )
    held_out = reviewer_agreement([group for group in groups if group.split == "test"])
    assert held_out["name"] == "Pairwise agreement" and held_out["sample"] == "held-out prompts"
    model = make_reward_model(snapshot, report={**REPORT, "reviewer_agreement": held_out})
    client.force_login(trainer)
    text = client.get(reverse("reward-model", args=[model.pk])).text
    value, interval = texts(expected)
    assert "Pairwise agreement of reviewers" in text and "on held-out prompts" in text
    assert percent(held_out["value"]) in text
    assert f"Whole snapshot: {value} ({interval})" in text


def test_two_rankings_of_one_reviewer_are_not_compared():
    twice = [Judgment("r1", [[1], [2]]), Judgment("r1", [[2], [1]])]
    group = Group("g", [], [1, 2], ["a", "b"], twice)
    assert reviewer_agreement([group])["value"] is None
    other = Judgment("r2", [[1], [2]])
    figure = reviewer_agreement([replace(group, rankings=[*twice, other])])
    assert (figure["value"], figure["pairs"]) == (0.5, 2)


def test_the_result_of_a_run_has_the_figure_under_its_name():
    result = main_figures(REPORT)
    assert set(result) == {"accuracy", "pairwise_agreement", "longer_is_better"}
    assert result["pairwise_agreement"]["value"] == REPORT["reviewer_agreement"]["value"]
    assert set(result) <= SHARES
