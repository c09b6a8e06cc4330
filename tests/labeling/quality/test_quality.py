import json
from datetime import timedelta
from io import StringIO

import pytest
from django.core.cache import cache
from django.core.management import CommandError, call_command
from django.urls import reverse
from django.utils import timezone

from accounts.models import Role, User
from labeling.models import Membership, Ranking, Response, Task
from labeling.quality import measures, window
from labeling.rankings import recording
from labeling.rankings.content import Content
from labeling.statistics.bias import Meter
from labeling.statistics.reliability import Reliability
from tests.clients import signed_in
from tests.labeling.pages.test_pages_project import make_lead, rank
from tests.labeling.statistics.simulated import HONEST, SPAMMER, simulate, store
from tests.labeling.world import ids, key, make_member, make_project, make_task, one_each, publish

pytestmark = pytest.mark.django_db

SHOWN = ("agreement", "reviewers", "parts", "models", "consensus")


@pytest.fixture(autouse=True)
def _fresh_cache():
    cache.clear()


def page_of(project, show="agreement", **query):
    url = reverse("project-quality", args=[project.slug])
    return signed_in(make_lead(project)).get(url, {"show": show, **query})


def opposed(project, count=1):
    """Create tasks that two reviewers rank in opposite orders."""
    people = make_member(project), make_member(project)
    tasks = [make_task(project) for _ in range(count)]
    for task in tasks:
        rank(task, people[0])
        rank(task, people[1], one_each(task)[::-1])
    return tasks, people


@pytest.mark.parametrize("show", SHOWN)
def test_only_leads_see_each_part(project, show):
    opposed(project)
    url = reverse("project-quality", args=[project.slug])
    assert page_of(project, show).status_code == 200
    assert signed_in(make_member(project)).get(url, {"show": show}).status_code == 403
    assert signed_in(make_lead(make_project())).get(url, {"show": show}).status_code == 404
    assert page_of(project, "nonsense").status_code == 404


@pytest.mark.parametrize("show", SHOWN)
def test_each_part_of_an_empty_project_explains_missing_data(project, show):
    page = page_of(project, show).content.decode()
    words = {
        "agreement": "No agreement yet",
        "reviewers": "No rankings yet",
        "parts": "No ratings yet",
        "models": "No models to compare yet",
        "consensus": "No consensus yet",
    }
    assert words[show] in page


QUERIES = {"agreement": 13, "reviewers": 10, "parts": 8, "models": 9, "consensus": 10}


@pytest.mark.parametrize("show", SHOWN)
def test_the_number_of_queries_does_not_grow_with_tasks(project, show, django_assert_num_queries):
    client, url = (
        signed_in(make_lead(project)),
        reverse("project-quality", args=[project.slug]),
    )
    for count in (2, 18):
        opposed(project, count)
        with django_assert_num_queries(QUERIES[show]):
            client.get(url, {"show": show})
    with django_assert_num_queries(QUERIES[show] - (4 if show in ("reviewers", "models") else 3)):
        client.get(url, {"show": show})


def test_measures_are_shown_with_their_intervals(project):
    store(simulate(0, kinds=[HONEST] * 4, tasks=30), project)
    result = measures.quality_of(project).measures
    page = page_of(project).content.decode()
    for measure in (result.tau, result.alpha):
        assert f">{measure.value:.2f}<" in page
        assert f"{measure.low:.2f} to {measure.high:.2f}" in page
    assert f">{100 * result.exact.value:.1f}%<" in page


def test_only_the_most_recently_ranked_tasks_are_measured(project):
    tasks, _ = opposed(project, 4)
    result = measures.quality_of(project, tasks_at_most=2)
    assert result.capped and {d.task_id for d in result.disputes} == {t.pk for t in tasks[2:]}
    everything = measures.quality_of(project, tasks_at_most=4)
    assert not everything.capped and everything.tasks == 4
    looked_at = window.load(project, 2)
    assert looked_at.capped and len(looked_at.rows) == 4


def test_gold_and_revised_rankings_are_excluded(project):
    [task], people = opposed(project)
    Task.objects.filter(pk=opposed(project)[0][0].pk).update(kind=Task.Kind.GOLD)
    assert measures.quality_of(project).tasks == 1
    [ranking] = Ranking.objects.filter(task=task, reviewer=people[1])
    recording.revise(
        ranking=ranking, reviewer=people[1], idempotency_key=key(), content=Content(one_each(task))
    )
    assert measures.quality_of(project).agreement.value == 1


def test_measures_are_cached_until_the_next_ranking(project, django_assert_num_queries):
    opposed(project)
    first = measures.quality_of(project)
    with django_assert_num_queries(2):
        assert measures.quality_of(project) == first
    opposed(project)
    assert measures.quality_of(project).tasks == 2


def test_measures_over_many_tasks_are_updated_once_a_minute(project, monkeypatch):
    monkeypatch.setattr("labeling.quality.measures.LARGE", 2)
    opposed(project, 2)
    assert measures.quality_of(project).tasks == 2
    opposed(project)
    assert measures.quality_of(project).tasks == 3, "a small one at the next ranking"
    opposed(project)
    assert measures.quality_of(project).tasks == 3
    later = timezone.now() + timedelta(seconds=measures.REFRESHED_SECONDS + 1)
    monkeypatch.setattr("labeling.quality.measures.timezone.now", lambda: later)
    assert measures.quality_of(project).tasks == 4


def test_measures_of_a_large_project_are_updated_once_a_minute(project, monkeypatch):
    opposed(project, 2)
    before = measures.quality_of(project, tasks_at_most=1)
    [newest], _ = opposed(project)
    assert measures.quality_of(project, tasks_at_most=1) == before
    later = timezone.now() + timedelta(seconds=measures.REFRESHED_SECONDS + 1)
    monkeypatch.setattr("labeling.quality.measures.timezone.now", lambda: later)
    assert measures.quality_of(project, tasks_at_most=1).disputes[0].task_id == newest.pk


# --- reviewers -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_leads_see_which_reviewers_to_check(project):
    simulation = simulate(4, kinds=[HONEST] * 5 + [SPAMMER], tasks=70, overlap=3)
    people = store(simulation, project, active_seconds=60)
    page = page_of(project, "reviewers")
    rows = {row["name"]: row for row in page.context["reviewers"]}
    spammer = rows[people[5].username]
    assert ("bad", "no better than guessing") in spammer["remarks"]
    trust = {name: row["reviewer"].reliability.quality for name, row in rows.items()}
    assert min(trust, key=trust.get) == people[5].username
    html = page.content.decode()
    assert "no better than guessing" in html and "Shown first" in html
    result = spammer["reviewer"].reliability
    assert f"{100 * result.low:.1f}% to {100 * result.high:.1f}%" in html


def test_a_measure_without_a_value_shows_the_reason(project):
    opposed(project)  # recorded without the order shown, all answers equally long, no time
    page = page_of(project, "reviewers").content.decode()
    assert "No ranking has the order in which its responses were shown." in page
    assert "No pair of responses differs in length." in page
    assert "No active time was measured." in page


def test_remarks_depend_on_the_whole_interval():
    from labeling.quality.remarks import remarks
    from tests.labeling.statistics.test_statistics import Compared, Judgment

    def reviewer(**fields):
        nothing = Meter(None, None, None, 0, "Nothing.")
        agreement = Compared([Judgment(1, who, [[1], [2]]) for who in ("ann", "bob")]).everything()
        defaults = {
            "id": 1, "rankings": 9, "agreement": agreement, "reliability": None, "ties": 0.1,
            "position": nothing, "length": nothing, "speed": nothing, "as_shown": nothing,
        }  # fmt: skip
        return measures.Reviewer(**defaults | fields)

    assert remarks(reviewer()) == []
    assert remarks(reviewer(reliability=Reliability(0.8, 0.1, 0.5, 0.02))) == []
    assert remarks(reviewer(reliability=Reliability(0.2, 0.1, 0.5, 0.02))) == [
        ("bad", "reverses the order")
    ]
    assert remarks(reviewer(reliability=Reliability(0.5, 0.0, 0.5, 0.05))) == [
        ("bad", "no better than guessing")
    ]
    for right, error in ((0.6, 0.2), (0.4, 0.12)):
        assert remarks(reviewer(reliability=Reliability(right, 0.0, 0.5, error))) == [
            ("warn", "too few pairs to distinguish from guessing")
        ]
    assert remarks(reviewer(position=Meter(0.05, 0.01, 0.09, 400))) == [
        ("warn", "prefers the first response shown")
    ]
    assert remarks(reviewer(position=Meter(0.05, -0.01, 0.11, 400))) == []
    assert remarks(reviewer(position=Meter(0.4, 0.4, 0.4, 12))) == [], "12 pairs are too few"
    assert remarks(reviewer(length=Meter(-0.05, -0.09, -0.01, 400))) == [
        ("warn", "prefers shorter responses than others")
    ]
    assert remarks(reviewer(speed=Meter(0.2, 0.1, 0.3, 40))) == [
        ("bad", "takes less than half as long as others")
    ]
    assert remarks(reviewer(speed=Meter(0.2, 0.1, 0.6, 40))) == []
    assert remarks(reviewer(as_shown=Meter(0.4, 0.3, 0.5, 8))) == []
    assert remarks(reviewer(as_shown=Meter(0.4, 0.3, 0.5, 40))) == [
        ("bad", "repeats the order shown")
    ]


def test_speed_is_measured_only_for_rankings_on_the_page(project):
    people = [make_member(project) for _ in range(3)]
    for _task in range(8):
        task = make_task(project)
        for number, person in enumerate(people):
            rank(task, person, active_seconds=[60, 60, 6][number])
    other = make_task(project)
    rank(other, people[2], active_seconds=9000, source=Ranking.Source.IMPORT)
    result = {reviewer.id: reviewer.speed for reviewer in measures.people_of(project).reviewers}
    assert result[people[2].pk].value == pytest.approx(0.1)
    assert result[people[2].pk].count == 8
    assert result[people[0].pk].value == pytest.approx(60 / 33)


def test_reliabilities_are_cached_for_frequent_use(project, django_assert_num_queries):
    people = store(simulate(1, kinds=[HONEST] * 4, tasks=40), project)
    trusted = measures.reliabilities_of(project)
    assert set(trusted.of) == {person.pk for person in people.values()}
    assert trusted["a stranger"] == trusted.typical
    opposed(project)
    with django_assert_num_queries(0):
        assert measures.reliabilities_of(project) == trusted


# --- parts ---------------------------------------------------------------------------------------


def test_agreement_is_measured_within_a_guideline_version_and_by_week(project):
    _tasks, people = opposed(project)
    publish(project, "Be kind and brief.")
    new, mixed = make_task(project), make_task(project)
    for person in people:
        rank(new, person)
    rank(mixed, people[0])
    rank(mixed, make_member(project), source=Ranking.Source.IMPORT)
    result = measures.parts_of(project)
    by_version = {part.label: part for part in result.versions}
    assert by_version[1].agreement.exact.value == 0 and by_version[1].agreement.tasks == 1
    assert by_version[2].agreement.exact.value == 1 and by_version[2].rankings == 3
    assert by_version[0].agreement.exact.value is None
    [week] = result.weeks
    assert week.rankings == 6 and week.agreement.tasks == 3
    page = page_of(project, "parts").content.decode()
    assert "version 2" in page and "none (imported)" in page
    assert "No two reviewers ranked the same responses." in page


def test_a_curve_is_drawn_for_at_least_two_weeks_with_data(project):
    assert page_of(project, "parts").context["trend"] is None
    for days in (0, 7, 14):
        at = timezone.now() - timedelta(days=days)
        simulation = simulate(days, kinds=[HONEST] * 3, tasks=5)
        for judgment in simulation.judgments:  # numbers of their own
            assert judgment.task in simulation.truth
        old = set(Ranking.objects.values_list("pk", flat=True))
        store(simulation, project)
        with_trigger_off(old, at)
    page = page_of(project, "parts")
    trend = page.context["trend"]
    assert len(trend.dots) == 3 and trend.ticks[-1][1] == 1
    assert float(trend.dots[0].high) < float(trend.dots[0].y) < float(trend.dots[0].low)
    assert 'class="chart trend"' in page.content.decode()


def with_trigger_off(old, at):
    """Backdate rankings, bypassing the trigger that makes them immutable."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SET session_replication_role = replica")
        Ranking.objects.exclude(pk__in=old).update(created_at=at)
        cursor.execute("SET session_replication_role = DEFAULT")


def test_each_criterion_has_its_alpha(project):
    ratings = [(5, 5), (4, 4), (1, 2)]
    task, people = make_task(project), [make_member(project) for _ in range(2)]
    for number, person in enumerate(people):
        rated = {r: {"honesty": ratings[n][number]} for n, r in enumerate(ids(task))}
        rank(task, person, ratings=rated)
    [(name, result)] = measures.parts_of(project).criteria
    # Values 5 5, 4 4, 1 2; n = 6; mid-ranks of 1, 2, 4, 5: 0.5, 1.5, 3, 5.
    # Observed: 2·(1)² = 2. Expected, over ordered pairs, n_c n_k δ²: 2·(1·1·1 + 1·2·6.25 +
    # 1·2·20.25 + 1·2·2.25 + 1·2·12.25 + 2·2·4) = 198. alpha = 1 − 5·2/198.
    assert name == "honesty" and result.value == pytest.approx(1 - 10 / 198)
    assert "honesty" in page_of(project, "parts").content.decode()


# --- models and consensus ------------------------------------------------------------------------


def test_the_models_of_the_responses_are_ranked(project):
    for n in range(12):
        task = make_task(project)  # of model-0, model-1, model-2
        rank(task, make_member(project), one_each(task) if n % 4 else one_each(task)[::-1])
    page = page_of(project, "models")
    rows = page.context["rows"]
    assert [row["standing"].name for row in rows] == ["model-0", "model-1", "model-2"]
    assert rows[0]["standing"].score == 0.75 and rows[0]["standing"].comparisons == 24
    assert rows[0]["cells"][1]["met"] == 12
    html = page.content.decode()
    assert "model-0" in html and "Pairwise win rates" in html


def test_models_that_were_never_compared_are_reported(project):
    for n in range(2):
        task = make_task(project, 2)
        Response.objects.filter(places__task=task, model_name="model-0").update(model_name=f"x{n}")
        Response.objects.filter(places__task=task, model_name="model-1").update(model_name=f"y{n}")
        rank(task, make_member(project))
    page = page_of(project, "models").content.decode()
    assert "2 groups without a task in common" in page and "Group 2" in page


def test_the_least_certain_consensus_comes_first(project):
    [disputed], _ = opposed(project)
    people = [make_member(project) for _ in range(2)]
    agreed = [make_task(project) for _ in range(10)]
    for task in agreed:
        for person in people:
            rank(task, person)
    page = page_of(project, "consensus")
    verdicts = [row["verdict"] for row in page.context["rows"]]
    assert verdicts[0].task_id == disputed.pk
    assert verdicts[0].probability < 0.3 < verdicts[-1].probability
    assert [list(tier) for tier in verdicts[-1].tiers] == one_each(
        Task.objects.get(pk=verdicts[-1].task_id)
    )
    assert page.context["rows"][-1]["order"] == [["A"], ["B"], ["C"]]


def test_names_of_models_are_escaped(project):
    bad = "<script>alert(1)</script>"
    task = make_task(project)
    Response.objects.filter(places__task=task).update(model_name=bad)
    other = Response.objects.filter(places__task=task).first()
    Response.objects.filter(pk=other.pk).update(model_name="b" + bad)
    person = make_member(project)
    User.objects.filter(pk=person.pk).update(username=bad)
    rank(task, person)
    rank(task, make_member(project), one_each(task)[::-1])
    for show in SHOWN:
        page = page_of(project, show).content.decode()
        assert bad not in page, show


# --- the command ---------------------------------------------------------------------------------


def said(*args: str) -> str:
    out = StringIO()
    call_command("agreement", *args, stdout=out)
    return out.getvalue()


def test_the_command_and_the_page_report_the_same_figures(project):
    people = store(simulate(2, kinds=[HONEST] * 4, tasks=25), project)
    payload = json.loads(said("--project", project.slug, "--json"))
    shown = measures.quality_of(project)
    assert payload["agreement"]["alpha"]["value"] == shown.measures.alpha.value
    assert payload["agreement"]["tau"]["interval"] == [
        shown.measures.tau.low,
        shown.measures.tau.high,
    ]
    assert payload["tasks"] == 25 and payload["disputed"] == len(shown.disputes)
    assert {item["reviewer"] for item in payload["reviewers"]} == {
        person.username for person in people.values()
    }
    assert len(payload["models"]["models"]) == 4
    assert len(payload["consensus"]["orders"]) == 25
    assert len(payload["won_by_place"]) == 4
    text = said("--project", project.slug)
    assert f"{shown.measures.tau.value:.4f}" in text and "Consensus: of 25 tasks" in text


def test_the_command_limits_the_number_of_tasks(project):
    opposed(project, 3)
    payload = json.loads(said("--project", project.slug, "--tasks", "2", "--json"))
    assert payload["tasks"] == 2 and payload["capped"]
    assert "the newest 2 tasks" in said("--project", project.slug, "--tasks", "2")
    with pytest.raises(CommandError, match="1 or more"):
        said("--project", project.slug, "--tasks", "0")


def test_the_command_explains_missing_data(project):
    with pytest.raises(CommandError, match="no project 'nowhere'"):
        said("--project", "nowhere")
    assert "No two reviewers" in said("--project", project.slug)
    json.loads(said("--project", project.slug, "--json"))


def test_a_lead_by_membership_and_a_trainer_see_the_same(project):
    opposed(project)
    url = reverse("project-quality", args=[project.slug])
    trainer = User.objects.create(username="trainer-of-all", role=Role.TRAINER, all_projects=True)
    assert not Membership.objects.filter(user=trainer).exists()
    assert signed_in(trainer).get(url, {"show": "models"}).status_code == 200
