"""Tests of the pages of the learning curve and of likely mistakes."""

import re
from itertools import pairwise

import pytest
from django.urls import reverse

from accounts.models import Role
from labeling.models import Adjudication
from reward.pages.learning_curve import answer, learning, plot
from reward.training.card import _learning_line
from tests.finetune.factory import FIGURE, REPORT, make_reward_model
from tests.reward.factory import join, make_project, make_prompt, make_task, make_user, rank

CURVE = {
    "points": [
        {
            "rankings": n,
            "prompts": n // 2,
            "accuracy": {**FIGURE, "value": value, "interval": [value - 0.05, value + 0.05]},
        }
        for n, value in ((100, 0.6), (200, 0.65), (400, 0.69), (800, 0.72))
    ],
    "band": [
        {"rankings": n, "value": v, "interval": [v - 0.04, v + 0.04]}
        for n, v in ((100, 0.6), (400, 0.69), (800, 0.72), (1600, 0.74), (3200, 0.76))
    ],
    "forecast": [
        {
            "times": 2,
            "rankings": 1600,
            "value": 0.74,
            "interval": [0.69, 0.79],
            "gain": {"value": 0.02, "interval": [0.004, 0.036]},
        }
    ],
    "one_point": {"rankings": 310, "interval": [90, 2400], "chance": 0.98, "reason": None},
    "at_most": 0.9,
    "reason": None,
}


def mistakes_of(rankings, **changes):
    rows = [
        {
            "group_id": "1", "ranking_id": ranking and ranking.pk, "reviewer": "r-secret",
            "probability": 0.91, "tiers": [], "scores": {}, "pairs": 3, "contradicted": 3,
            "other_rankings": 1,
        }
        for ranking in rankings
    ]  # fmt: skip
    result = {
        "checked": "all", "rankings": 500, "share": 0.05, "likely": len(rows), "sure": 0.75,
        "rows": rows, "reason": None,
    }  # fmt: skip
    return {"label_mistakes": {**result, **changes}}


# --- the plot -------------------------------------------------------------------------------------


def test_the_axes_show_rankings_and_accuracy():
    drawn = plot(CURVE, ceiling=0.8)
    marks = [(float(mark.x), float(mark.y)) for mark in drawn.marks]
    assert marks == sorted(marks, key=lambda mark: (mark[0], -mark[1]))
    first, second, third = (x for x, _ in marks[:3])
    assert second - first == pytest.approx(
        third - second, abs=0.2
    )  # each doubling has the same width
    assert float(drawn.ceiling) < min(y for _, y in marks)
    assert float(drawn.marks[0].low) > float(drawn.marks[0].y) > float(drawn.marks[0].high)


def test_measurements_and_forecasts_are_drawn_differently():
    drawn = plot(CURVE)
    assert drawn.fitted.split()[-1] == drawn.extrapolated.split()[0]
    assert drawn.fitted.split()[-1].startswith(drawn.now + ",")
    assert len(drawn.fitted.split()) == 3 and len(drawn.extrapolated.split()) == 3
    assert len(drawn.band.split()) == 10 and drawn.ceiling is None


def test_axis_labels_do_not_overlap():
    many = {**CURVE, "points": [{**CURVE["points"][0], "rankings": n} for n in range(100, 130)]}
    places = [float(label.x) for label in plot(many).axis_labels]
    assert all(b - a >= 34 for a, b in pairwise(places))
    assert plot(many).axis_labels[-1].label == "1,600"


def test_the_answer_has_a_number_with_interval_or_a_reason():
    text = answer(CURVE["one_point"])
    assert "needs about 310 more rankings" in text and "90 and 2,400" in text
    assert "90 or more" in answer({**CURVE["one_point"], "interval": [90, None]})
    flat = {"rankings": None, "interval": [None, None], "reason": "Not expected."}
    assert answer(flat) == "Not expected."
    assert learning({}) is None


def test_the_model_card_shows_the_forecast():
    (line,) = _learning_line({"learning_curve": CURVE})
    assert "69.0% to 79.0%" in line and "about 310 more (90 to 2,400)" in line
    assert _learning_line({"learning_curve": None}) == []


# --- pages ----------------------------------------------------------------------------------------


@pytest.fixture
def lead(project):
    user = make_user(Role.LEAD)
    join(project, user, "lead")
    return user


@pytest.fixture
def rankings(project):
    reviewer = make_user()
    return [rank(make_task(make_prompt(project, f"Why {n} <b>?")), reviewer) for n in range(3)]


@pytest.fixture
def snapshot(project, rankings):
    from reward.preferences.snapshots import SnapshotFilter, freeze

    return freeze(project=project, filter=SnapshotFilter(), by=None)


def make_reported(snapshot, **report):
    return make_reward_model(snapshot, report={**REPORT, **report})


def page_of(client, model):
    return client.get(reverse("reward-model", args=[model.pk])).text


def list_of(project):
    return reverse("project-label-mistakes", args=[project.slug])


@pytest.mark.django_db
def test_the_report_shows_the_rankings_needed_for_a_point(client, lead, snapshot):
    client.force_login(lead)
    text = page_of(client, make_reported(snapshot, learning_curve=CURVE))
    assert "One more point of accuracy needs about 310 more rankings" in text
    assert "Forecast for 2 times as many" in text and "+0.4 to +3.6" in text
    assert re.search(r'<svg class="chart learning".*?</svg>', text, re.S)[0].count("<circle") == 4


@pytest.mark.django_db
def test_a_missing_curve_has_a_reason_or_instructions(client, lead, snapshot):
    client.force_login(lead)
    short = {**CURVE, "points": CURVE["points"][-1:], "band": [], "forecast": []}
    short |= {"one_point": None, "reason": "A forecast needs 4 sizes."}
    text = page_of(client, make_reported(snapshot, learning_curve=short))
    assert "A forecast needs 4 sizes." in text and "chart learning" not in text
    text = page_of(client, make_reported(snapshot, learning_curve=None))
    assert "Not measured. Start a run with 3 or more" in text


@pytest.mark.django_db
def test_the_report_links_to_the_list_of_likely_mistakes(client, lead, snapshot, rankings, project):
    client.force_login(lead)
    model = make_reported(snapshot, **mistakes_of(rankings[:2]))
    text = page_of(client, model)
    assert "of 500 rankings are probably mistakes" in text
    assert f"{list_of(project)}?model={model.pk}" in text
    assert "up to one in four" in text and "75%" in text


@pytest.mark.django_db
def test_a_likely_mistake_links_to_the_decision_without_names(
    client, lead, snapshot, rankings, project
):
    model = make_reported(snapshot, **mistakes_of(rankings[:2]))
    client.force_login(lead)
    text = client.get(list_of(project)).text
    for ranking in rankings[:2]:
        assert reverse("project-dispute", args=[project.slug, ranking.task_id]) in text
        assert ranking.reviewer.username not in text
    assert "r-secret" not in text and model.name in text
    assert "91%" in text and "3 of 3" in text and "Why 0 &lt;b&gt;?" in text
    assert (
        client.get(reverse("project-dispute", args=[project.slug, rankings[0].task_id])).status_code
        == 200
    )


@pytest.mark.django_db
def test_likely_mistakes_are_not_presented_as_certain(client, lead, snapshot, rankings, project):
    result = mistakes_of(rankings[:1])
    result["label_mistakes"]["rows"][0]["probability"] = 0.9983
    make_reported(snapshot, **result)
    client.force_login(lead)
    text = client.get(list_of(project)).text
    assert "over 99%" in text and "100%" not in text


@pytest.mark.django_db
def test_the_list_shows_the_current_state_of_a_ranking(client, lead, snapshot, rankings, project):
    make_reported(snapshot, **mistakes_of([*rankings[:2], None]))
    Adjudication.objects.create(
        task=rankings[1].task, by=lead, tiers=rankings[1].tiers, cause="mistake"
    )
    client.force_login(lead)
    text = client.get(list_of(project)).text
    assert ">decided<" in text and "Not a ranking of this database" in text


@pytest.mark.django_db
def test_a_ranking_of_another_project_is_not_shown(client, lead, snapshot, project):
    elsewhere = rank(make_task(make_prompt(make_project(), "Secret?")), make_user())
    make_reported(snapshot, **mistakes_of([elsewhere]))
    client.force_login(lead)
    text = client.get(list_of(project)).text
    assert "Secret?" not in text and "Not a ranking of this database" in text


@pytest.mark.django_db
def test_only_leads_of_the_project_and_trainers_see_likely_mistakes(client, lead, project):
    reviewer, elsewhere, trainer = make_user(), make_user(Role.LEAD), make_user(Role.TRAINER)
    join(project, reviewer)
    expected = {lead: 200, trainer: 200, reviewer: 403, elsewhere: 404}
    for user, status in expected.items():
        client.force_login(user)
        assert client.get(list_of(project)).status_code == status
    client.logout()
    assert client.get(list_of(project)).status_code == 302
    client.force_login(lead)
    assert client.post(list_of(project)).status_code == 405


@pytest.mark.django_db
def test_the_number_of_queries_of_the_list_is_constant(
    client, lead, snapshot, rankings, project, django_assert_num_queries
):
    make_reported(snapshot, **mistakes_of(rankings[:1]))
    client.force_login(lead)
    client.get(list_of(project))
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    with CaptureQueriesContext(connection) as few:
        client.get(list_of(project))
    make_reported(snapshot, **mistakes_of(rankings * 60))
    with django_assert_num_queries(len(few)):
        text = client.get(list_of(project)).text
    assert "Page 1 of 8" in text
    assert len(few) <= 8


@pytest.mark.django_db
def test_the_newest_model_with_a_list_is_shown_by_default(
    client, lead, snapshot, rankings, project
):
    first = make_reported(snapshot, **mistakes_of(rankings[:1]))
    second = make_reported(snapshot, **mistakes_of(rankings[1:2]))
    make_reported(snapshot, **mistakes_of([], reason="39 rankings are too few."))
    client.force_login(lead)
    assert f"#{rankings[1].task_id}<" in client.get(list_of(project)).text
    text = client.get(f"{list_of(project)}?model={first.pk}").text
    assert f"#{rankings[0].task_id}<" in text and f"#{rankings[1].task_id}<" not in text
    for nonsense in ("x", "999999999999999999999", str(second.pk + 1000)):
        assert client.get(list_of(project), {"model": nonsense}).status_code == 200


@pytest.mark.django_db
def test_without_a_reward_model_the_page_explains_what_to_do(client, lead, project):
    client.force_login(lead)
    assert "No rankings checked yet" in client.get(list_of(project)).text
    assert list_of(project) in client.get(reverse("project-disputes", args=[project.slug])).text
