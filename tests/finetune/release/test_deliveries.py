"""Tests of the delivery of promotions to MLflow."""

from datetime import timedelta

import pytest
from celery import current_app
from django.core.management import CommandError, call_command
from django.db.models.functions import Now
from django.urls import reverse
from kombu.exceptions import OperationalError

from accounts.models import Role
from config import checks
from finetune.models import Certificate, Delivery, Model
from finetune.release import delivering
from finetune.release.delivering import claim, deliver_due
from finetune.removal import deletion
from finetune.tasks import deliver_promotions
from labeling.projects import archiving
from tests.finetune.factory import make_adapter, make_base, make_evaluation, make_run, make_snapshot
from tests.finetune.release.mlflow_server import mlflow_server
from tests.reward.factory import make_project, make_user

pytestmark = pytest.mark.django_db


@pytest.fixture
def registry(settings):
    with mlflow_server() as server:
        settings.MLFLOW_TRACKING_URI = server.uri
        yield server


@pytest.fixture
def snapshot():
    return make_snapshot(make_project(slug="lamps"), prompts=3)


@pytest.fixture
def promoted(snapshot):
    adapter = make_adapter(make_base(snapshot.project), snapshot)
    make_evaluation(adapter, interval=(0.55, 0.7))
    adapter.promote(by=None, reason="A test.")
    return adapter


def tags_of(version):
    return {tag["key"]: tag["value"] for tag in version["tags"]}


def test_a_promotion_becomes_a_version_with_the_alias_champion(registry, promoted):
    [delivery] = deliver_due()
    model = registry.models["tiebreak-lamps"]
    [version] = model["versions"]
    certificate = Certificate.objects.get()
    assert model["aliases"] == {"champion": "1"}
    assert version["source"] == f"tiebreak:/lamps/models/{promoted.pk}"
    tags = tags_of(version)
    assert tags["tiebreak.snapshot"] == promoted.snapshot.content_hash
    assert tags["tiebreak.certificate"] == certificate.sha256
    assert float(tags["tiebreak.win_rate"]) == pytest.approx(0.625)
    assert tags["tiebreak.win_rate_interval"] == "55.0% to 70.0%"
    assert delivery.delivered_at and delivery.text == "Version 1 of tiebreak-lamps."
    assert deliver_due() == [], "it is delivered once"


def test_a_repeated_delivery_after_a_crash_creates_no_second_version(registry, promoted):
    [delivery] = deliver_due()
    Delivery.objects.update(delivered_at=None, leased_until=Now() - timedelta(seconds=1))
    [again] = deliver_due()
    assert again.pk == delivery.pk and again.result["version"] == "1"
    assert len(registry.models["tiebreak-lamps"]["versions"]) == 1


def test_the_next_promotion_moves_the_alias(registry, promoted, snapshot):
    deliver_due()
    base = promoted.parent
    base.promote(by=None)
    deliver_due()
    promoted.refresh_from_db()
    assert [row.text for row in Delivery.of_model(promoted)] == ["Version 1 of tiebreak-lamps."]
    model = registry.models["tiebreak-lamps"]
    assert [tags_of(row)["tiebreak.model"] for row in model["versions"]] == [
        str(promoted.pk),
        str(base.pk),
    ]
    assert model["aliases"] == {"champion": "2"}


def test_only_the_newest_promotion_is_delivered_and_none_overtakes_another(registry, promoted):
    old = Certificate.objects.get()
    delivery = claim(old, "mlflow")
    assert delivery and claim(old, "mlflow") is None, "a worker has the lease"
    promoted.parent.promote(by=None)
    newest = Certificate.objects.order_by("number").last()
    assert claim(newest, "mlflow") is None, "the old promotion is still being delivered"
    delivering.attempt(delivery)
    assert claim(old, "mlflow", at_once=True) is None
    assert claim(newest, "mlflow")


def test_a_pushed_model_has_its_commit_as_source(registry, promoted):
    make_run(
        "push",
        inputs={"model": promoted.pk},
        result={"repo": "lamp-shop/lamps", "commit": "c" * 40},
    )
    deliver_due()
    [version] = registry.models["tiebreak-lamps"]["versions"]
    assert version["source"] == f"hf://lamp-shop/lamps@{'c' * 40}"


def test_a_failure_is_shown_logged_and_repeated_later(registry, promoted, client, caplog):
    registry.failures = [503, 503]
    [delivery] = deliver_due()
    assert delivery.delivered_at is None and delivery.attempts == 1
    assert "answered with status 503: The store is down." in delivery.error
    assert "failed (attempt 1)" in caplog.text
    client.force_login(make_user(Role.TRAINER))
    page = client.get(reverse("model", args=[promoted.pk])).text
    assert "MLflow: Not delivered yet. Attempt 1 failed: MLflow at 127.0.0.1" in page
    assert "The next attempt is" in page
    assert deliver_due() == [], "the next attempt is not due"
    with pytest.raises(CommandError, match="A delivery failed"):
        call_command("deliver_promotions")
    Delivery.objects.update(next_attempt_at=Now())
    [delivery] = deliver_due()
    assert delivery.delivered_at and delivery.error == "" and delivery.attempts == 3
    page = client.get(reverse("model", args=[promoted.pk])).text
    assert f'href="{registry.uri}/#/models/tiebreak-lamps/versions/1"' in page
    assert "The next attempt is" not in page


def test_a_server_that_is_down_or_is_not_mlflow_gives_a_sentence(settings, promoted):
    settings.MLFLOW_TRACKING_URI = "http://127.0.0.1:9"
    [delivery] = deliver_due()
    assert delivery.error.startswith("MLflow at 127.0.0.1:9 cannot be reached")
    settings.MLFLOW_TRACKING_URI = "sqlite:///mlflow.db"
    [delivery] = deliver_due(at_once=True)
    assert delivery.error.startswith("MLFLOW_TRACKING_URI must be the http or https address")


@pytest.mark.parametrize(
    ("secrets", "expected"),
    [
        ({"MLFLOW_TRACKING_TOKEN": "secret-1"}, "Bearer secret-1"),
        (
            {"MLFLOW_TRACKING_USERNAME": "user", "MLFLOW_TRACKING_PASSWORD": "pass"},
            "Basic dXNlcjpwYXNz",
        ),
    ],
)
def test_the_secrets_of_the_environment_are_sent_and_never_stored(
    settings, registry, promoted, secrets, expected
):
    registry.authorization = expected
    [delivery] = deliver_due()
    assert "status 401" in delivery.error
    for name, value in secrets.items():
        setattr(settings, name, value)
    [delivery] = deliver_due(at_once=True)
    assert delivery.delivered_at and "secret" not in str(delivery.result)


def test_deliveries_are_deleted_with_their_project(registry, promoted, snapshot):
    deliver_due()
    archiving.archive(project=snapshot.project, by=None)
    deletion.delete(project=snapshot.project, by=None, allow_promoted=True)
    assert not Delivery.objects.exists()


def test_nothing_is_delivered_without_a_configured_service(promoted):
    assert deliver_due() == [] and not Delivery.objects.exists()
    with pytest.raises(CommandError, match="No service is configured"):
        call_command("deliver_promotions")


def test_the_command_has_a_dry_run_and_delivers(registry, promoted, capsys):
    call_command("deliver_promotions", "--dry-run")
    assert f"{promoted} to MLflow: waiting." in capsys.readouterr().out
    assert registry.requests == []
    call_command("deliver_promotions")
    assert "Version 1 of tiebreak-lamps." in capsys.readouterr().out
    call_command("deliver_promotions")
    assert "Everything is delivered." in capsys.readouterr().out


def test_a_promotion_wakes_a_worker_and_succeeds_without_a_broker(
    snapshot, django_capture_on_commit_callbacks, monkeypatch, caplog
):
    messages = []

    def unavailable(name, **options):
        messages.append(name)
        raise OperationalError("no connection")

    monkeypatch.setattr(current_app, "send_task", unavailable)
    with django_capture_on_commit_callbacks(execute=True):
        make_base(snapshot.project).promote(by=None)
    assert messages == [deliver_promotions.name]
    assert "A promotion is delivered later" in caplog.text
    assert Model.objects.get().state == Model.State.PROMOTED


def test_the_check_refuses_a_store_without_an_api_and_warns_of_an_open_token(settings):
    assert checks.mlflow_valid(None) == []
    settings.MLFLOW_TRACKING_URI = "file:///mlruns"
    assert [row.id for row in checks.mlflow_valid(None)] == ["tiebreak.E004"]
    settings.MLFLOW_TRACKING_URI, settings.MLFLOW_TRACKING_TOKEN = "http://mlflow:5000", "t"
    assert [row.id for row in checks.mlflow_valid(None)] == ["tiebreak.W004"]
    settings.MLFLOW_TRACKING_URI = "https://mlflow.example.org"
    assert checks.mlflow_valid(None) == []
