"""Tests of the pages of runs, for each role and anonymous visitors."""

import json
import re
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from django.db.models import F
from django.db.models.functions import Now
from django.urls import reverse
from django.utils.html import escape

from accounts.models import Role, User
from formatting.glossary import GLOSSARY
from runs import execution, services
from runs.live import progress as progress_of
from runs.models import Machine, Run, RunEvent, State
from tests.reward.factory import join, make_project
from tests.runs.test_lifecycle import in_state

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("runs_dir")]


@pytest.fixture
def people() -> dict[str, User]:
    return {
        role: User.objects.create_user(role, role=role, all_projects=role == Role.TRAINER)
        for role in Role.values
    }


@pytest.fixture
def trainer(client, people):
    client.force_login(people["trainer"])
    return client


def form(**changes) -> dict:
    data = {
        "word": "hello", "config-total": "5", "config-checkpoint_every": "2",
        "config-delay": "0.0", "config-trouble": "none", "config-at": "3",
        "title": "", "request_id": str(uuid.uuid4()),
    }  # fmt: skip
    return {**data, **changes}


LAUNCH = "/runs/new/counting/"


def test_a_trainer_starts_a_run(trainer, people):
    answer = trainer.post(LAUNCH, form(**{"config-total": "7", "title": "Mine"}))
    run = Run.objects.get()
    assert answer.status_code == 302
    assert answer.url == reverse("run", args=[run.pk])
    assert (run.config["total"], run.config["word"], run.inputs) == (7, "hello", {"word": "hello"})
    assert (run.title, run.created_by) == ("Mine", people["trainer"])
    assert run.config["loud"] is False


def test_a_checked_box_sets_its_setting(trainer):
    trainer.post(LAUNCH, form(**{"config-loud": "on"}))
    assert Run.objects.get().config["loud"] is True


def test_a_double_click_starts_one_run(trainer):
    data = form()
    first, second = trainer.post(LAUNCH, data), trainer.post(LAUNCH, data)
    assert first.url == second.url
    assert Run.objects.count() == 1


def test_resubmitting_a_form_with_other_settings_does_not_show_the_old_run_as_new(trainer):
    data = form()
    trainer.post(LAUNCH, data)
    answer = trainer.post(LAUNCH, {**data, "config-total": "9"})
    assert answer.status_code == 422
    assert "already started run" in answer.content.decode()
    assert Run.objects.count() == 1
    again = answer.context["launch"].about["request_id"].value()
    assert again != data["request_id"]
    assert (
        trainer.post(LAUNCH, {**data, "config-total": "9", "request_id": again}).status_code == 302
    )


def test_errors_are_next_to_the_field_and_input_is_kept(trainer):
    answer = trainer.post(LAUNCH, form(**{"config-total": "lots", "config-delay": "99"}))
    page = answer.content.decode()
    assert answer.status_code == 422
    config = answer.context["launch"].config
    assert config["total"].errors == ["Expected a whole number, got 'lots'."]
    assert config["delay"].errors == []  # limits are checked once all values can be parsed
    assert 'value="lots"' in page
    assert 'value="99"' in page
    assert not Run.objects.exists()


def test_an_error_in_collapsed_settings_expands_them(trainer):
    folded = trainer.get(LAUNCH).content.decode()
    assert '<details class="runs-advanced">' in folded
    answer = trainer.post(LAUNCH, form(**{"config-delay": "99"}))
    assert answer.context["launch"].config["delay"].errors == ["Must be at most 10."]
    assert '<details class="runs-advanced" open>' in answer.content.decode()


def test_contradicting_settings_are_refused_before_the_run_is_queued(trainer):
    answer = trainer.post(LAUNCH, form(**{"config-total": "1"}))
    assert "There would be no checkpoint at all." in answer.content.decode()
    assert not Run.objects.exists()


@pytest.mark.parametrize("word", ["", "refused"])
def test_unusable_inputs_are_reported_together_with_wrong_settings(trainer, word):
    answer = trainer.post(LAUNCH, form(word=word, **{"config-total": "0"}))
    page = answer.content.decode()
    assert answer.status_code == 422
    expected = {"": "This field is required.", "refused": "This word cannot be counted with."}
    assert expected[word] in page
    if not word:
        assert "Must be at least 1." in page
    assert not Run.objects.exists()


def test_the_form_shows_each_setting_with_its_help_default_and_limits(trainer):
    page = trainer.get(LAUNCH).content.decode()
    assert "Number of steps to count." in page
    assert 'max="100000"' in page
    assert 'value="5"' in page
    assert "Decided by the inputs." not in page


def test_a_choice_with_a_default_is_not_marked_as_optional(trainer):
    page = trainer.get(LAUNCH).content.decode()
    label = page.split('for="id_config-trouble">')[1].split("</label>")[0]
    assert label.strip() == "Trouble"


def test_run_again_fills_the_form_with_the_runs_settings(trainer):
    trainer.post(LAUNCH, form(**{"config-total": "8", "config-trouble": "error", "word": "again"}))
    run = Run.objects.get()
    assert f"/runs/new/counting/?from={run.pk}" in trainer.get(f"/runs/{run.pk}/").content.decode()
    launch = trainer.get(f"{LAUNCH}?from={run.pk}").context["launch"]
    assert launch.config["total"].value() == 8
    assert launch.config["trouble"].value() == "error"
    assert launch.inputs["word"].value() == "again"
    assert str(launch.about["request_id"].value()) != str(run.request_id)


@pytest.mark.parametrize("origin", ["x", "999999", "-1", ""])
def test_an_invalid_origin_gives_an_empty_form(trainer, origin):
    launch = trainer.get(f"{LAUNCH}?from={origin}&word=linked").context["launch"]
    assert launch.config["total"].value() == 5
    assert launch.inputs["word"].value() == "linked"


def test_an_unknown_kind_is_not_found(trainer):
    assert trainer.get("/runs/new/alchemy/").status_code == 404


# --- permissions ----------------------------------------------------------------------------------

LOOK = ["/runs/", "/runs/{}/", "/runs/{}/live", "/runs/{}/log"]
START = ["/runs/new/", LAUNCH]
CHANGE = ["/runs/{}/cancel", "/runs/{}/continue"]


@pytest.mark.parametrize(
    ("who", "look", "start"), [("trainer", 200, 200), ("lead", 200, 403), ("reviewer", 403, 403)]
)
def test_each_role_sees_its_pages(client, people, who, look, start):
    project = make_project()
    join(project, people["lead"], "lead")
    run = in_state(State.QUEUED, project=project)
    client.force_login(people[who])
    assert {client.get(url.format(run.pk)).status_code for url in LOOK} == {look}
    assert {client.get(url).status_code for url in START} == {start}


def test_an_anonymous_visitor_is_asked_to_sign_in(client):
    run = in_state(State.QUEUED)
    for url in LOOK + START:
        answer = client.get(url.format(run.pk))
        assert (answer.status_code, answer.url.startswith("/login/")) == (302, True)
    for url in [*CHANGE, LAUNCH]:
        assert client.post(url.format(run.pk), form()).status_code == 302
    assert list(Run.objects.values_list("state", flat=True)) == [State.QUEUED]


@pytest.mark.parametrize("who", ["lead", "reviewer"])
def test_only_trainers_make_changes(client, people, who):
    waiting, failed = in_state(State.QUEUED), in_state(State.FAILED)
    client.force_login(people[who])
    answers = [
        client.post(f"/runs/{waiting.pk}/cancel"),
        client.post(f"/runs/{failed.pk}/continue"),
        client.post(LAUNCH, form()),
    ]
    assert [answer.status_code for answer in answers] == [403, 403, 403]
    assert set(Run.objects.values_list("state", flat=True)) == {State.QUEUED, State.FAILED}


def test_a_wrong_method_is_refused_and_changes_nothing(trainer):
    run = in_state(State.QUEUED)
    for url in CHANGE:
        assert trainer.get(url.format(run.pk)).status_code == 405
    for url in [*LOOK, "/runs/new/"]:
        assert trainer.post(url.format(run.pk)).status_code == 405
    assert trainer.delete(LAUNCH).status_code == 405
    run.refresh_from_db()
    assert run.state == State.QUEUED


def test_a_trainer_cancels_and_resumes_a_run(trainer, people):
    run = in_state(State.QUEUED)
    assert trainer.post(f"/runs/{run.pk}/cancel").url == f"/runs/{run.pk}/"
    run.refresh_from_db()
    assert (run.state, run.cancelled_by) == (State.CANCELLED, people["trainer"])
    trainer.post(f"/runs/{run.pk}/cancel")
    trainer.post(f"/runs/{run.pk}/continue")
    run.refresh_from_db()
    assert (run.state, run.cancelled_by) == (State.QUEUED, None)


@pytest.mark.parametrize(
    ("state", "sentence"),
    [(State.RUNNING, "is already being cancelled"), (State.SUCCEEDED, "ended (succeeded)")],
)
def test_a_second_cancel_reports_the_progress_of_the_first(trainer, state, sentence):
    run = in_state(state)
    trainer.post(f"/runs/{run.pk}/cancel")
    page = trainer.post(f"/runs/{run.pk}/cancel", follow=True).content.decode()
    assert sentence in page


CONTINUE = "Continue from the last checkpoint"


@pytest.mark.parametrize("state", [State.FAILED, State.CANCELLED])
def test_a_run_that_ended_before_its_first_checkpoint_starts_from_the_beginning(trainer, state):
    run = in_state(state)
    page = trainer.get(f"/runs/{run.pk}/").text
    assert "Start from the beginning" in page and CONTINUE not in page
    trainer.post(f"/runs/{run.pk}/continue")
    run.refresh_from_db()
    assert run.state == State.QUEUED


def test_a_run_with_a_checkpoint_is_resumed(trainer, runs_dir):
    run = in_state(State.FAILED)
    (runs_dir / str(run.pk) / "checkpoints" / "checkpoint-2").mkdir(parents=True)
    assert CONTINUE in trainer.get(f"/runs/{run.pk}/").text
    trainer.post(f"/runs/{run.pk}/continue")
    run.refresh_from_db()
    assert run.state == State.QUEUED


@pytest.mark.parametrize("url", [*LOOK[1:], *CHANGE])
def test_a_missing_run_is_not_found(trainer, url):
    method = trainer.post if url in CHANGE else trainer.get
    assert method(url.format(4711)).status_code == 404


# --- pages ----------------------------------------------------------------------------------------


def progress(run: Run, *steps: int, start: int = 0, each: float = 2.0, total: int = 100) -> None:
    now = datetime.now(UTC)
    RunEvent.objects.bulk_create(
        RunEvent(
            run=run, number=start + n, event="progress",
            at=now - timedelta(seconds=each * (len(steps) - n)),
            data={"step": s, "total": total, "loss": s and 1 / s, "metrics": {"eval_loss": s and 2 / s}},
        )
        for n, s in enumerate(steps, 1)
    )  # fmt: skip
    Run.objects.filter(pk=run.pk).update(step=steps[-1], total_steps=total)


def live(client, run: Run, **query) -> dict:
    return client.get(f"/runs/{run.pk}/live", query).json()


def test_the_poll_endpoint_returns_only_new_points(trainer):
    run = in_state(State.RUNNING)
    progress(run, 10, 20, 30)
    first = live(trainer, run)
    assert [point["step"] for point in first["points"]] == [10, 20, 30]
    assert first["points"][0]["values"] == {"loss": 0.1, "eval_loss": 0.2}
    assert live(trainer, run, after=3)["points"] == []
    assert [point["step"] for point in live(trainer, run, after=2)["points"]] == [30]
    assert live(trainer, run, after="x")["points"] == first["points"]


def test_the_time_left_depends_on_the_speed_of_the_current_attempt(trainer):
    run = in_state(State.RUNNING)
    progress(run, 80, 90, each=500)
    progress(run, 20, 22, 24, 26, 28, 30, start=2, each=2.0)
    answer = live(trainer, run)
    assert answer["seconds_left"] == pytest.approx(70, abs=20)
    assert "About 1 min" in answer["status"]


@pytest.mark.parametrize("hours", [-3, 3])
def test_the_time_left_does_not_depend_on_the_training_machines_clock(trainer, hours):
    run = in_state(State.RUNNING)
    progress(run, *range(1, 31))
    expected = live(trainer, run)["seconds_left"]
    assert expected > 40
    RunEvent.objects.update(at=F("at") + timedelta(hours=hours))
    assert live(trainer, run)["seconds_left"] == pytest.approx(expected, abs=20)


def told(run: Run, number: int, text: str) -> None:
    now = datetime.now(UTC)
    RunEvent.objects.create(run=run, number=number, at=now, event="stage", data={"text": text})


def test_a_running_run_always_shows_its_current_activity(trainer):
    run = in_state(State.RUNNING)
    assert "Preparing the data." in live(trainer, run)["status"]
    told(run, 1, "Loading the model")
    assert "Loading the model." in live(trainer, run)["status"]
    progress(run, 0, start=1)
    status = live(trainer, run)["status"]
    assert "Step 0 of 100" in status and "Loading the model" not in status
    told(run, 3, "Scoring <held-out> prompts")
    assert "Scoring &lt;held-out&gt; prompts." in live(trainer, run)["status"]
    Run.objects.filter(pk=run.pk).update(
        state=State.CANCELLED, finished_at=run.created_at, lease_expires_at=None
    )
    assert "Scoring" not in live(trainer, run)["status"]


def test_all_shares_of_a_run_are_shown_as_percentages(trainer, monkeypatch):
    """Check that result, latest values, list and curves format a number the same way."""
    monkeypatch.setattr("runs.live.shares_of", lambda run: frozenset({"accuracy"}))
    accuracy = {"value": 0.6825, "interval": [0.6, 0.75]}
    run = in_state(State.SUCCEEDED, result={"accuracy": accuracy, "pairs": 40, "loss": 0.6825})
    RunEvent.objects.create(
        run=run, number=1, at=run.created_at, event="progress",
        data={"step": 2, "total": 2, "loss": 0.6825, "metrics": {"accuracy": 0.6825}},
    )  # fmt: skip
    page = trainer.get(f"/runs/{run.pk}/").text
    assert page.count("68.2%") == 2 and "60.0% to 75.0%" in page
    assert page.count(">0.6825<") == 2  # the losses
    assert 'data-shares="accuracy"' in page


def test_the_latest_values_come_from_the_last_step_of_any_event(trainer):
    run = in_state(State.RUNNING)
    for number, metrics in enumerate([{"a": 1.0, "b": 1.0}, {"a": 2.0}, {"held_out": 3.0}], 1):
        RunEvent.objects.create(
            run=run, number=number, at=run.created_at, event="progress",
            data={"step": min(number, 2), "total": 9, "metrics": metrics},
        )  # fmt: skip
    assert progress_of(run).more == [("a", "2", ""), ("held_out", "3", "")]


def test_the_figures_that_matter_first_come_first_and_the_others_are_folded(trainer):
    run = in_state(State.RUNNING)
    device = {"kind": "cuda", "name": "NVIDIA H200", "count": 2, "dtype": "bfloat16"}
    metrics = {"grad_norm": 0.5, "held_out/accuracy": 0.75, "strange": 7}
    for number, (event, data) in enumerate(
        [
            ("device", device),
            ("data", {"pairwise_agreement": 0.8}),
            ("progress", {"step": 1, "total": 2, "loss": 0.6, "metrics": metrics}),
        ],
        1,
    ):
        RunEvent.objects.create(run=run, number=number, at=run.created_at, event=event, data=data)
    progress = progress_of(run)
    assert progress.main == [
        ("loss", "0.6", ""), ("held_out/accuracy", "0.75", ""),
        ("pairwise_agreement", "80.0%", ""), ("device", "2 × NVIDIA H200, bfloat16", ""),
    ]  # fmt: skip
    assert progress.more == [("grad_norm", "0.5", ""), ("strange", "7", "")]
    figures = live(trainer, run)["figures"]
    main, folded = figures.split("<details")
    assert "held-out accuracy" in main and "gradient norm" in folded
    explanation = re.search(
        r'aria-describedby="(term-now-loss)".*?id="\1">([^<]*)<', main, re.DOTALL
    )
    assert explanation and explanation[2] == escape(GLOSSARY["loss"].explanation)


def test_the_newest_held_out_accuracy_stays_visible_with_its_step(trainer):
    run = in_state(State.RUNNING)
    for number, accuracy in enumerate([0.5, 0.7], 1):
        RunEvent.objects.create(
            run=run, number=number, at=run.created_at, event="progress",
            data={"step": 10 * number, "total": 90, "metrics": {"held_out/accuracy": accuracy}},
        )  # fmt: skip
    progress(run, *range(21, 70), start=2)
    assert ("held_out/accuracy", "0.7", "step 20") in progress_of(run).main


@pytest.mark.parametrize("data", [{"device": "x"}, {"count": "9", "name": 3}, {}])
def test_strange_events_about_the_device_and_the_data_are_harmless(trainer, data):
    run = in_state(State.RUNNING)
    for number, event in enumerate(("device", "data"), 1):
        RunEvent.objects.create(
            run=run,
            number=number,
            at=run.created_at,
            event=event,
            data={**data, "pairwise_agreement": "<b>"},
        )
    assert "<b>" not in live(trainer, run)["figures"]


def test_a_single_step_gives_no_time_left(trainer):
    run = in_state(State.RUNNING)
    progress(run, 1)
    assert live(trainer, run)["seconds_left"] is None


def test_very_many_points_are_thinned_except_for_the_last(trainer, monkeypatch):
    monkeypatch.setattr("runs.live.MAX_POINTS", 10)
    run = in_state(State.RUNNING)
    progress(run, *range(1, 98))
    points = live(trainer, run)["points"]
    assert len(points) <= 11
    assert points[-1]["step"] == 97


def test_a_queued_run_shows_its_position(trainer):
    in_state(State.RUNNING)
    in_state(State.QUEUED)
    run = in_state(State.QUEUED)
    assert "Waiting for 2 other runs." in live(trainer, run)["status"]


def test_a_run_without_a_broker_shows_that_it_waits_for_one(trainer):
    run = in_state(State.QUEUED)
    assert "No worker is running." in live(trainer, run)["status"]
    Machine.objects.create(host="big", slots=1, reported_at=Now())
    assert "broker is not reachable" in live(trainer, run)["status"]


def test_hostile_messages_metrics_and_logs_are_shown_as_text(trainer, runs_dir):
    run = in_state(State.RUNNING)
    evil = "<script>alert(1)</script>"
    RunEvent.objects.create(
        run=run, number=1, at=run.created_at, event="message", data={"text": evil, "level": evil}
    )
    RunEvent.objects.create(
        run=run, number=2, at=run.created_at, event="progress",
        data={"step": 1, "total": 2, "metrics": {evil: 1.0}},
    )  # fmt: skip
    (runs_dir / str(run.pk)).mkdir(parents=True)
    (runs_dir / str(run.pk) / "log.txt").write_text(evil)
    answer = live(trainer, run)
    assert evil not in answer["messages"] + answer["status"] + answer["figures"]
    assert evil not in trainer.get(f"/runs/{run.pk}/").content.decode()
    log = trainer.get(f"/runs/{run.pk}/log")
    assert log["Content-Type"].startswith("text/plain")
    assert b"".join(log.streaming_content).decode() == evil


def sampled(run: Run, number: int, step: int, *answers: str, **fields) -> None:
    rows = [
        {"prompt_id": str(n), "prompt": f"Question {n}?", "answer": text, "truncated": False}
        for n, text in enumerate(answers)
    ]
    RunEvent.objects.create(
        run=run, number=number, at=run.created_at, event="samples",
        data={"step": step, "total": 9, "answers": rows, **fields},
    )  # fmt: skip


def test_sample_answers_are_shown_newest_first_and_sent_only_when_they_are_new(trainer):
    run = in_state(State.RUNNING)
    assert live(trainer, run)["samples"] is None
    sampled(run, 1, 0, "before", "early")
    sampled(run, 2, 6, "lost attempt", "late")
    sampled(run, 3, 3, "between", "middle")
    sampled(run, 4, 6, "after 6", "late")
    answer = live(trainer, run, samples=3)["samples"]
    assert answer["number"] == 4
    texts = re.findall(r">(before|between|after 6|lost attempt|Before training)<", answer["html"])
    assert texts == ["after 6", "between", "Before training", "before", "Before training"]
    assert live(trainer, run, samples=4)["samples"] is None
    assert "Question 1?" in trainer.get(f"/runs/{run.pk}/").text


@pytest.mark.parametrize(
    "data",
    [{}, {"step": 1}, {"step": "x", "answers": []}, {"step": 1, "answers": ["x", None, {}]},
     {"step": 1, "answers": {"prompt_id": 1}}],
)  # fmt: skip
def test_invalid_sample_events_are_harmless(trainer, data):
    run = in_state(State.RUNNING)
    RunEvent.objects.create(run=run, number=1, at=run.created_at, event="samples", data=data)
    assert live(trainer, run, samples="²")["samples"]["number"] == 1
    assert trainer.get(f"/runs/{run.pk}/").status_code == 200


def test_hostile_sample_answers_are_shown_as_text(trainer):
    run = in_state(State.RUNNING)
    sampled(run, 1, 1, "<img src=x onerror=alert(1)>\u202e", "<b>")
    html = live(trainer, run)["samples"]["html"]
    assert "<img" not in html and "<b>" not in html and "\u202e" not in html
    assert "&lt;img src=x onerror=alert(1)&gt;" in html


@pytest.mark.parametrize("state", State)
def test_every_state_has_a_page_that_works_without_javascript(trainer, state, runs_dir):
    run = in_state(state, error="It broke." if state == State.FAILED else "")
    (runs_dir / str(run.pk) / "checkpoints" / "checkpoint-2").mkdir(parents=True)
    page = trainer.get(f"/runs/{run.pk}/").content.decode()
    ended = state not in (State.QUEUED, State.RUNNING)
    assert ('http-equiv="refresh"' in page) is not ended
    assert ("Cancel run" in page) is not ended
    assert ("Continue from the last checkpoint" in page) is (state in ("failed", "cancelled"))
    assert ("It broke." in page) is (state == State.FAILED)


def test_a_finished_run_shows_its_result_and_outputs(trainer):
    run = execution.run_now(services.start("counting", {}, None, inputs={"word": "hi"}).pk)
    page = trainer.get(f"/runs/{run.pk}/").content.decode()
    assert run.result["digest"] in page
    assert "count.json" in page
    assert "75%" in trainer.get("/runs/").content.decode()
    assert live(trainer, run)["ended"] is True


def test_the_inputs_are_shown_with_labels_and_numbers_of_rows(trainer):
    inputs = {"snapshot": 7, "word": "hi", "project": 3}
    run = Run.objects.create(kind="counting", inputs=inputs)
    page = trainer.get(f"/runs/{run.pk}/").content.decode()
    shown = page.partition('id="inputs"')[2].partition("</section>")[0]
    assert sorted(re.findall(r"<dt>(.*?)</dt>", shown)) == ["Snapshot", "Word"]
    assert "#7" in shown and "hi" in shown


def test_a_run_of_an_uninstalled_kind_has_a_page(trainer):
    run = Run.objects.create(kind="alchemy", config={"gold": True})
    assert "alchemy" in trainer.get(f"/runs/{run.pk}/").content.decode()
    assert "alchemy" in trainer.get("/runs/").content.decode()


def test_the_list_filters_by_kind_and_state(trainer):
    mine, other = in_state(State.FAILED, title="Mine"), in_state(State.QUEUED, title="Other")
    assert mine.title in trainer.get("/runs/?state=failed").content.decode()
    assert other.title not in trainer.get("/runs/?state=failed").content.decode()
    assert other.title in trainer.get("/runs/?kind=counting&state=queued").content.decode()
    assert other.title in trainer.get("/runs/?state=nonsense&page=99").content.decode()
    assert "No matching runs" in trainer.get("/runs/?state=succeeded").content.decode()


def test_an_empty_list_shows_the_next_step(trainer):
    assert "No runs yet" in trainer.get("/runs/").content.decode()


def test_the_number_of_queries_does_not_grow_with_the_number_of_runs(
    trainer, django_assert_num_queries, people
):
    for number in range(30):
        in_state(State.SUCCEEDED, created_by=people["lead"], title=str(number))
    # session, user, count, runs, and for the filters projects, metrics, tags and three kinds of rows
    with django_assert_num_queries(10):
        assert "Page 1 of 2" in trainer.get("/runs/").content.decode()


def test_the_number_of_queries_of_a_run_does_not_grow_with_its_events(
    trainer, django_assert_num_queries
):
    run = in_state(State.RUNNING)
    progress(run, *range(1, 50))
    with django_assert_num_queries(10):
        live(trainer, run)
    with django_assert_num_queries(11):
        trainer.get(f"/runs/{run.pk}/")


def test_the_points_in_the_page_are_json_that_cannot_end_the_script(trainer):
    run = in_state(State.RUNNING)
    progress(run, 1, 2)
    page = trainer.get(f"/runs/{run.pk}/").content.decode()
    text = page.split('id="points" type="application/json">')[1].split("</script>")[0]
    assert [point["step"] for point in json.loads(text)] == [1, 2]


@pytest.mark.parametrize("value", ["²", "-1", "9" * 4301, "9" * 25, "x"])
def test_an_invalid_number_is_ignored(client, begin, value):
    client.force_login(User.objects.create(username="number", role=Role.TRAINER, all_projects=True))
    run = begin(send=False)
    assert client.get(reverse("run-live", args=[run.pk]), {"after": value}).status_code == 200
    address = reverse("run-launch", args=[run.kind])
    assert client.get(address, {"from": value}).status_code == 200
