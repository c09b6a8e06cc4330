import pytest
from django.db import IntegrityError, transaction

from recipes.preferences.groups import read_groups
from reward import kinds
from reward.models import RewardModel
from runs.kinds import CannotRun
from tests.finetune.factory import REPORT, laid_out, make_run, make_snapshot, publish
from tests.reward.factory import make_project

pytestmark = pytest.mark.django_db


@pytest.fixture
def snapshot():
    return make_snapshot(make_project(), prompts=3)


@pytest.fixture
def run(snapshot):
    return make_run("reward", inputs={"snapshot": snapshot.pk}, config={"base_model": "org/base"})


def test_the_recipe_reads_the_frozen_data(run, snapshot):
    run_dir = laid_out(run)
    assert kinds.prepare(run, run_dir) == {"snapshot_hash": snapshot.content_hash}
    assert len(list(read_groups(run_dir.data / "preferences.parquet"))) == 3


def test_a_changed_file_is_not_trained_on(run, snapshot):
    other = make_snapshot(make_project(), prompts=1)
    snapshot.file.write_bytes(other.file.read_bytes())
    with pytest.raises(CannotRun, match="has changed since it was frozen"):
        kinds.prepare(run, laid_out(run))
    snapshot.file.unlink()
    with pytest.raises(CannotRun, match="is unusable"):
        kinds.prepare(run, laid_out(run))


def test_a_run_creates_one_reward_model_and_no_second(run, snapshot):
    run_dir = laid_out(run)
    publish(run_dir, REPORT)
    result = kinds.finish(run, run_dir)
    with pytest.raises(IntegrityError), transaction.atomic():
        kinds.finish(run, run_dir)
    model = RewardModel.objects.get()
    assert result["reward_model"] == model.pk
    assert (model.run, model.snapshot, model.base) == (run, snapshot, "org/base")
    assert model.report["accuracy"]["value"] == 0.8


def test_without_a_report_there_is_no_reward_model(run):
    run_dir = laid_out(run)
    with pytest.raises(CannotRun, match=r"report\.json cannot be read"):
        kinds.finish(run, run_dir)
    assert not RewardModel.objects.exists()


def test_the_list_of_runs_shows_the_accuracy():
    assert kinds.figure({"accuracy": {"value": 0.8123}}) == "81.2% held-out accuracy"
    assert kinds.figure({"accuracy": {"value": None}}) == kinds.figure({}) == ""
