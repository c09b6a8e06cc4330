"""Tests of the comparison of runs."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from django.utils.safestring import mark_safe

from accounts.models import Role, User
from runs import kinds
from runs.catalog.metrics import Metric
from runs.comparison import answers, curves, figures, settings
from runs.comparison.views import MOST_RUNS, run_ids
from runs.kinds import Answer
from runs.models import Run, RunEvent, State
from tests.reward.factory import join, make_project
from tests.runs.kinds import COUNTING
from tests.runs.test_lifecycle import in_state

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("runs_dir")]

START = datetime(2026, 11, 30, tzinfo=UTC)


@pytest.fixture
def trainer(client):
    client.force_login(User.objects.create_user("trainer", role=Role.TRAINER, all_projects=True))
    return client


def page_of(client, *runs: Run | int):
    query = "&".join(f"run={getattr(run, 'pk', run)}" for run in runs)
    return client.get(f"/runs/compare/?{query}")


def add_events(run: Run, *rows: dict, first: int = 1) -> None:
    RunEvent.objects.bulk_create(
        RunEvent(
            run=run, number=number, event="progress", at=START + timedelta(seconds=10 * number), data=row
        )
        for number, row in enumerate(rows, first)
    )  # fmt: skip


# --- curves ---------------------------------------------------------------------------------------


def test_the_curves_of_a_resumed_run_have_each_step_once():
    run = in_state(State.FAILED)
    add_events(
        run,
        {"step": 1, "loss": 3.0},
        {"step": 2, "loss": 2.0, "metrics": {"eval_loss": 5.0}},
        {"step": 2, "loss": 1.5},
        {"step": 3, "loss": 1.0},
        {"step": "x", "loss": 9.0},
    )
    columns = curves.curves([run])[run.pk]
    assert columns["steps"] == [1, 2, 3] and columns["seconds"] == [0.0, 20.0, 30.0]
    assert columns["values"] == {"loss": [3.0, 1.5, 1.0], "eval_loss": [None, 5.0, None]}
    assert curves.last_values(columns) == {"loss": 1.0, "eval_loss": 5.0}


def test_long_curves_are_thinned_out_and_keep_both_ends(monkeypatch, django_assert_num_queries):
    monkeypatch.setattr(curves, "MOST_POINTS", 10)
    long, short, empty = (in_state(State.FAILED) for _ in range(3))
    add_events(long, *({"step": step, "loss": 1.0} for step in range(1, 98)))
    add_events(short, *({"step": step, "loss": 1.0} for step in range(1, 6)))
    with django_assert_num_queries(2):
        result = curves.curves([long, short, empty])
    steps = result[long.pk]["steps"]
    assert len(steps) <= 12 and (steps[0], steps[-1]) == (1, 97)
    assert result[short.pk]["steps"] == [1, 2, 3, 4, 5]
    assert result[empty.pk]["steps"] == [] and result[empty.pk]["values"] == {}


# --- settings -------------------------------------------------------------------------------------


def test_only_settings_that_differ_are_listed_as_differing(runs_dir):
    one = in_state(
        State.FAILED, config={"total": 5, "delay": 0.5}, inputs={"snapshot": 1, "project": 1}
    )
    two = in_state(
        State.FAILED, config={"total": 9, "delay": 0.5}, inputs={"snapshot": 1, "project": 2}
    )
    rows = settings.rows([one, two])
    assert [(row.label, row.cells) for row in settings.differing(rows)] == [("Total", ["5", "9"])]
    assert {row.label: row.cells[0] for row in settings.equal(rows)} == {
        "Kind": "Counting",
        "Snapshot": "#1",
        "Delay": "0.5",
    }


def test_a_setting_that_only_some_runs_have_is_listed_apart():
    one, two = in_state(State.FAILED, config={"word": None}), in_state(State.FAILED, config={})
    rows = settings.rows([one, two])
    assert settings.differing(rows) == []
    (row,) = settings.partial(rows)
    assert (row.label, row.cells) == ("Word", ["–", ""])


def test_versions_come_from_the_run_directories(runs_dir):
    runs = [in_state(State.FAILED) for _ in range(4)]
    texts = [
        '{"versions": {"torch": "2.1"}}',
        '{"versions": {"torch": "2.2"}}',
        '{"versions": 3}',
        "{",
    ]
    for run, text in zip(runs, texts, strict=True):
        folder = runs_dir / str(run.pk)
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(text)
    assert [row.cells for row in settings.differing(settings.rows(runs[:2]))] == [["2.1", "2.2"]]
    (row,) = settings.partial(settings.rows(runs))
    assert (row.label, row.cells) == ("torch version", ["2.1", "2.2", "", ""])


# --- metrics --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "metrics", "expected"),
    [
        ("accuracy", [Metric(0.5), Metric(0.7), None], ["", "highest", ""]),
        ("held_out/nll", [Metric(0.5), Metric(0.7)], ["lowest", ""]),
        ("loss", [Metric(0.5), Metric(0.7)], ["", ""]),
        ("accuracy", [Metric(0.7), Metric(0.7)], ["", ""]),
        ("accuracy", [Metric(0.7), Metric(0.7), Metric(0.1)], ["highest", "highest", ""]),
        ("accuracy", [Metric(0.5, (0.4, 0.6)), Metric(0.7, (0.65, 0.8))], ["", "best"]),
        ("accuracy", [Metric(0.5, (0.4, 0.66)), Metric(0.7, (0.65, 0.8))], ["", "highest"]),
        ("nll_per_token", [Metric(0.5, (0.4, 0.66)), Metric(0.7, (0.65, 0.8))], ["lowest", ""]),
    ],
)
def test_a_value_is_marked_as_best_only_if_its_interval_is_separate(name, metrics, expected):
    assert figures.marks_of(name, metrics) == expected


def test_metrics_without_a_value_are_empty_cells(monkeypatch):
    monkeypatch.setattr("runs.live.shares_of", lambda run: frozenset({"accuracy"}))
    one = in_state(State.SUCCEEDED, result={"accuracy": {"value": 0.5, "interval": [0.4, 0.6]}})
    two = in_state(State.SUCCEEDED, result={"accuracy": 0.75})
    three = in_state(State.FAILED)
    (row,) = figures.of_results([one, two, three])
    assert [(c.text, c.interval, c.mark) for c in row.cells] == [
        ("50.0%", "40.0% to 60.0%", ""),
        ("75.0%", "", "highest"),
        ("", "", ""),
    ]


# --- answers --------------------------------------------------------------------------------------


def test_prompts_that_most_runs_answered_come_first(monkeypatch):
    one, two = in_state(State.FAILED), in_state(State.FAILED)
    calls = []

    def read(runs: list[Run]) -> dict[int, list[Answer]]:
        calls.append(len(runs))
        question = [("user", "Why?")]
        return {
            one.pk: [Answer("only", question, "a"), Answer("both", question, "b")],
            two.pk: [Answer("both", question, "c")],
        }

    monkeypatch.setitem(kinds._kinds, "counting", _with_answers(read))
    rows = answers.rows([one, two])
    texts = [[answer and answer.text for answer in row.answers] for row in rows]
    assert texts == [["b", "c"], ["a", None]]
    assert calls == [2]


def test_the_newest_sample_answers_of_runs_are_shown_together():
    one, two, other = (in_state(State.FAILED) for _ in range(3))
    for run, number, step, text in ((one, 1, 0, "old"), (one, 2, 9, "new"), (two, 1, 5, "hi")):
        answers_of_step = [
            {"prompt_id": "p", "prompt": "Why?", "answer": text, "truncated": text == "hi"}
        ]
        data = {"step": step, "total": 9, "answers": answers_of_step}
        RunEvent.objects.create(run=run, number=number, event="samples", at=START, data=data)
    RunEvent.objects.create(run=other, number=1, event="samples", at=START, data={"answers": [3]})
    (row,) = answers.rows([one, two, other])
    assert row.prompt.messages == [("user", "Why?")]
    texts = [answer and (answer.text, answer.note) for answer in row.answers]
    assert texts == [("new", "step 9"), ("hi", "step 5, cut off"), None]


def _with_answers(read):
    return replace(COUNTING, answers=read)


# --- the page -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "expected"),
    [(["3", "1", "3"], [3, 1]), (["#4, 5", "x", "-1", "", "²"], [4, 5]), (["9" * 30], [])],
)
def test_numbers_of_runs_are_read_from_the_address(texts, expected):
    assert run_ids(texts) == expected


def test_the_page_shows_curves_settings_metrics_and_answers(trainer, monkeypatch):
    evil = "<script>alert(1)</script>"

    def read(runs):
        return {
            run.pk: [Answer("p", [("user", evil)], mark_safe("<em>fine</em>"), "evaluation 1")]
            for run in runs
        }

    monkeypatch.setitem(kinds._kinds, "counting", _with_answers(read))
    one = in_state(State.SUCCEEDED, title=evil, config={"total": 5}, result={"accuracy": 0.5})
    two = in_state(State.SUCCEEDED, title="Two", config={"total": 7}, result={"accuracy": 0.7})
    add_events(one, {"step": 1, "loss": 1.0, "metrics": {evil: 1.0}})
    page = page_of(trainer, one, two).text
    assert evil not in page and "<em>fine</em>" in page
    assert "Equal settings" in page and "Sample answers" in page
    data = json.loads(page.split('id="compared" type="application/json">')[1].split("</script>")[0])
    assert [run["letter"] for run in data["runs"]] == ["A", "B"]
    assert data["runs"][0]["values"]["loss"] == [1.0]


def test_each_run_has_its_own_letter_and_combination_of_colour_and_pattern(trainer):
    runs = [in_state(State.FAILED) for _ in range(MOST_RUNS)]
    entries = page_of(trainer, *runs).context["entries"]
    assert len({entry.letter for entry in entries}) == MOST_RUNS
    assert len({(entry.colour, entry.dash) for entry in entries}) == MOST_RUNS


def test_too_many_and_missing_runs_are_named(trainer):
    runs = [in_state(State.FAILED) for _ in range(MOST_RUNS + 1)]
    page = page_of(trainer, *runs).text
    assert f"at most {MOST_RUNS} runs. Left out: {runs[-1].pk}." in page
    assert "Run 4711 does not exist" in page_of(trainer, runs[0], 4711).text


def test_the_page_without_runs_says_what_to_do(trainer):
    assert "Add runs to compare" in trainer.get("/runs/compare/").text
    assert trainer.get("/runs/compare/?run=abc").status_code == 200


def test_a_lead_does_not_see_runs_of_other_projects(client):
    lead, project = User.objects.create_user("lead", role=Role.LEAD), make_project()
    join(project, lead, "lead")
    own = in_state(State.FAILED, project=project, title="Own")
    other = in_state(State.FAILED, project=make_project(), title="Other secret")
    client.force_login(lead)
    page = page_of(client, own, other).text
    assert "Own" in page and "Other secret" not in page and "you may not see it" in page


def test_the_number_of_queries_does_not_grow_with_the_runs(trainer, django_assert_num_queries):
    runs = [in_state(State.FAILED) for _ in range(8)]
    for run in runs:
        add_events(run, {"step": 1, "loss": 1.0}, {"step": 2, "loss": 1.0})
    for compared in (runs[:2], runs):
        # user, runs, spans of events, events, sample answers, suggestions
        with django_assert_num_queries(6):
            page_of(trainer, *compared)


def test_the_list_of_runs_leads_to_the_comparison(trainer):
    in_state(State.FAILED)
    page = trainer.get("/runs/").text
    assert 'action="/runs/compare/"' in page and 'name="run"' in page
