"""Tests of the launch form: presets, the review, and a form that is sent several times."""

import threading
import uuid

import pytest
from django.core.cache import caches
from django.db import connection
from django.db.models.functions import Now
from django.http import QueryDict

from accounts.models import Role, User
from runs import kinds, services
from runs.launching import first_batch
from runs.launching.form import Launch
from runs.models import Run, State
from runs.services import InvalidConfig, SameRun
from runs.tasks import read_first_batch
from tests.reward.factory import make_user
from tests.runs.test_pages import LAUNCH, form

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("runs_dir")]

PREVIEW = f"{LAUNCH}preview"


@pytest.fixture
def trainer(client):
    client.force_login(User.objects.create_user("tara", role=Role.TRAINER, all_projects=True))
    return client


def settings_of(answer) -> dict:
    return answer.context["launch"].config.values()


def end(state: State) -> None:
    Run.objects.update(state=state, started_at=Now(), finished_at=Now())


# --- presets -------------------------------------------------------------------------------------


def test_the_address_chooses_a_preset_and_its_settings(trainer):
    launch = trainer.get(f"{LAUNCH}?preset=quick-look").context["launch"]
    assert launch.config["total"].value() == 2
    assert [c.name for c in launch.preset.choices() if c.chosen] == ["quick-look"]
    assert trainer.get(LAUNCH).context["launch"].config["total"].value() == 5
    launch = trainer.get(f"{LAUNCH}?preset=quick-look&total=4").context["launch"]
    assert launch.config["total"].value() == "4"


def test_an_unknown_preset_is_named_and_starts_nothing(trainer):
    for name in ("fast", "QUICK-LOOK", "' OR 1=1"):
        answer = trainer.get(LAUNCH, {"preset": name})
        assert "There is no preset" in answer.content.decode()
        answer = trainer.post(LAUNCH, form(preset=name, applied=name))
        assert answer.status_code == 422
        assert "There is no preset" in answer.content.decode()
    assert not Run.objects.exists()


def test_another_preset_changes_the_settings_and_starts_nothing(trainer):
    """Without JavaScript, somebody can choose a preset and start the run without seeing its settings."""
    answer = trainer.post(LAUNCH, form(preset="quick-look", applied="", **{"config-delay": "0.5"}))
    assert answer.status_code == 200
    assert not Run.objects.exists()
    assert "The settings now follow <strong>Quick look</strong>." in answer.content.decode()
    assert settings_of(answer)["total"] == "2"
    assert settings_of(answer)["delay"] == "0.5"  # changed by the user and not set by the preset
    sent = form(preset="quick-look", applied="quick-look", **{"config-total": "2"})
    assert trainer.post(LAUNCH, sent).status_code == 302


def test_a_preset_replaces_the_settings_of_the_earlier_one(trainer):
    data = form(preset="quick-look", applied="small-gpu", **{"config-checkpoint_every": "1"})
    values = settings_of(trainer.post(PREVIEW, {**data, "config-loud": "on"}))
    assert (values["total"], values["checkpoint_every"], values["loud"]) == ("2", "2", False)
    data = form(preset="small-gpu", applied="", **{"config-checkpoint_every": "lots"})
    values = settings_of(trainer.post(PREVIEW, data))
    assert (values["checkpoint_every"], values["loud"], values["total"]) == ("1", True, "5")


# --- the review ----------------------------------------------------------------------------------


def test_the_review_shows_the_changes_and_the_command_and_starts_nothing(trainer):
    data = form(preset="quick-look", applied="quick-look", title="<b>Mine</b>")
    answer = trainer.post(PREVIEW, {**data, "config-total": "7"})
    review, page = answer.context["launch"].review, answer.content.decode()
    assert answer.status_code == 200
    assert [(c.option.name, c.before, c.after) for c in review.changes] == [("total", 2, "7")]
    assert review.command == (
        "python manage.py count hello --preset quick-look --set total=7 --title '<b>Mine</b>'"
    )
    assert "--title &#x27;&lt;b&gt;Mine&lt;/b&gt;&#x27;" in page and "<b>Mine" not in page
    assert not Run.objects.exists()


@pytest.mark.parametrize(
    ("changes", "label", "text"),
    [
        ({"config-total": "0"}, "Total", "Must be at least 1."),
        ({"config-total": "<i>"}, "Total", "Expected a whole number, got '<i>'."),
        ({"config-total": ""}, "Total", "This setting may not be empty."),
        ({"config-at": "4"}, "At", "It has no effect without trouble."),
        ({"config-trouble": "none\x00"}, "Trouble", "The text contains a null character"),
        ({"word": ""}, "Word", "This field is required."),
        ({"word": "refused"}, "", "This word cannot be counted with."),
        ({"title": "a" * 201}, "Name", "at most 200 characters"),
        ({"preset": "fast", "applied": ""}, "Preset", "There is no preset 'fast'"),
    ],
)
def test_the_review_names_what_is_wrong_and_has_no_command(trainer, changes, label, text):
    answer = trainer.post(PREVIEW, form(**changes))
    review = answer.context["launch"].review
    assert answer.status_code == 200
    assert [name for name, sentence in review.problems if text in sentence] == [label]
    assert review.command == ""
    assert "<i>" not in answer.content.decode()
    assert trainer.post(LAUNCH, form(**changes)).status_code == 422
    assert not Run.objects.exists()


def test_a_form_without_any_field_is_refused(trainer):
    assert trainer.post(PREVIEW, {}).status_code == 200
    assert trainer.post(LAUNCH, {}).status_code == 422
    assert not Run.objects.exists()


@pytest.mark.parametrize("role", [Role.REVIEWER, Role.LEAD])
def test_only_trainers_see_the_review(client, role):
    client.force_login(make_user(role))
    assert client.post(PREVIEW, form()).status_code == 403


# --- one run -------------------------------------------------------------------------------------


def test_two_tabs_start_one_run_unless_the_second_is_confirmed(trainer):
    trainer.post(LAUNCH, form())
    answer = trainer.post(LAUNCH, form())
    assert answer.status_code == 422
    run = Run.objects.get()
    assert f'<a href="/runs/{run.pk}/">Run #{run.pk}</a> has the same settings' in answer.text
    assert 'name="again"' in answer.text
    assert trainer.post(LAUNCH, form(again="on")).status_code == 302
    assert Run.objects.count() == 2


def test_the_same_run_can_be_repeated_after_its_end(trainer):
    trainer.post(LAUNCH, form())
    end(State.FAILED)
    assert trainer.post(LAUNCH, form()).status_code == 302
    assert trainer.post(LAUNCH, form(**{"config-total": "6"})).status_code == 302
    assert Run.objects.count() == 3


def test_going_back_after_the_start_leads_to_the_same_run(trainer):
    """The browser shows the form again as it was sent."""
    data = form(again="on")
    first = trainer.post(LAUNCH, data)
    end(State.SUCCEEDED)
    assert trainer.post(LAUNCH, data).url == first.url
    assert trainer.post(PREVIEW, data).status_code == 200
    assert Run.objects.count() == 1


@pytest.mark.parametrize("request_id", ["", "x", "123", "\x00", None])
def test_a_form_with_an_invalid_request_id_gets_a_new_one(trainer, request_id):
    data = form()
    if request_id is None:
        del data["request_id"]
    else:
        data["request_id"] = request_id
    answer = trainer.post(LAUNCH, data)
    assert answer.status_code == 422
    assert "The form was sent incompletely. Send it again." in answer.text
    again = answer.context["launch"].about["request_id"].value()
    assert trainer.post(LAUNCH, {**data, "request_id": again}).status_code == 302
    assert Run.objects.count() == 1


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("same_request", [True, False])
def test_forms_sent_at_the_same_time_start_one_run(same_request):
    barrier, outcomes = threading.Barrier(4), []
    request_id = uuid.uuid4() if same_request else None

    def start() -> None:
        barrier.wait(30)
        try:
            run = services.start(
                "counting", {}, None, inputs={"word": "a"}, request_id=request_id, again=False
            )
            outcomes.append(run.pk)
        except SameRun as error:
            outcomes.append(error.run.pk)
        finally:
            connection.close()

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert outcomes == [Run.objects.get().pk] * 4


# --- settings without effect ---------------------------------------------------------------------


def test_a_setting_without_effect_is_refused_unless_it_is_the_default():
    def start(**config):
        return services.start("counting", config, None, inputs={"word": "a"})

    with pytest.raises(InvalidConfig) as raised:
        start(at=4)
    assert raised.value.errors == {"at": "It has no effect without trouble."}
    assert start(at=3).config["at"] == 3
    assert start(at=4, trouble="error").config["at"] == 4


# --- the first batch -----------------------------------------------------------------------------

BATCH = f"{LAUNCH}first-batch"


@pytest.fixture
def sent(monkeypatch) -> list[str]:
    """The keys that were sent to a worker, whose broker is not running in these tests."""
    keys: list[str] = []
    monkeypatch.setattr(
        first_batch.current_app, "send_task", lambda name, args, **options: keys.extend(args)
    )
    return keys


def batch_of(trainer, sent, **fields):
    """Ask for a first batch, let a worker compute it, and return the page that shows it."""
    waiting = trainer.post(BATCH, {**form(**fields), "repeat": "1"})
    assert waiting.context["batch"] is None
    while sent:
        read_first_batch(sent.pop())
    return trainer.post(BATCH, {**form(**fields), "waiting": "1"})


@pytest.mark.processes
def test_the_first_batch_is_shown_as_text_and_starts_nothing(trainer, settings, sent):
    answer = batch_of(trainer, sent, word="<script>")
    assert answer.status_code == 200
    assert "<mark>&lt;script&gt;</mark>" in answer.text
    assert "<span>a⏎\nb</span>" in answer.text
    assert "⟨U+202E⟩" in answer.text and "\u202e" not in answer.text
    assert "… 7 more tokens" in answer.text
    assert not Run.objects.exists()
    assert list(settings.RUNS_DIR.iterdir()) == []
    assert trainer.post(BATCH, {**form(word="<script>"), "repeat": "1"}).context["batch"]
    assert sent == []  # the stored batch is shown again


@pytest.mark.processes
@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("problem", "The tokenizer of the snapshot is &lt;b&gt;."),
        ("crash", "The program ended with status 7."),
        ("endless", "The program printed more than 4 MB."),
        ("nonsense", "The program printed something that is not a batch."),
        ("packages", "does not have the packages of the extra"),
        ("unpreparable", "The snapshot&#x27;s file is gone."),
    ],
)
def test_a_first_batch_that_cannot_be_shown_has_a_reason(trainer, settings, sent, word, reason):
    answer = batch_of(trainer, sent, word=word)
    assert answer.status_code == 200
    assert reason in answer.text
    assert not list(settings.RUNS_DIR.glob("*"))


def test_no_worker_is_asked_for_the_first_batch_of_a_wrong_form(trainer, sent):
    assert "Correct the form first." in trainer.post(BATCH, form(word="")).text
    assert sent == []


def test_the_page_asks_for_the_first_batch_until_a_worker_has_read_it(trainer, sent):
    assert "every 1s" in trainer.post(BATCH, form(word="b")).text
    assert trainer.post(BATCH, {**form(word="b"), "waiting": "1"}).status_code == 204
    assert len(sent) == 1  # the request is not sent twice
    read_first_batch("first-batch-of-nobody")  # an expired request does nothing
    key = sent[0]
    caches["shared"].delete_many([key, f"{key}-worker"])


def test_a_first_batch_without_a_broker_is_refused_and_can_be_asked_for_again(trainer, monkeypatch):
    def fail(*args, **options):
        raise OSError("connection refused")

    monkeypatch.setattr(first_batch.current_app, "send_task", fail)
    for _ in range(2):
        assert "No worker can be reached." in trainer.post(BATCH, form(word="c")).text


def test_a_kind_that_does_not_train_has_no_batch(trainer):
    assert "do not train" in Launch(kinds.get("merge"), QueryDict("")).first_batch()[1]
