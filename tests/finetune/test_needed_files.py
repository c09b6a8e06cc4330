"""Tests that a clean-up keeps the files that models need."""

from pathlib import Path

import pytest
from django.utils import timezone

from finetune.models import Model
from reward.models import RewardModel
from reward.promotion import CannotMove
from runs.disk import cleaning
from runs.disk.cleaning import Policy
from runs.disk.needs import needs
from runs.models import Run, State
from runs.supervision import workspace
from tests.finetune.factory import (
    make_adapter,
    make_base,
    make_evaluation,
    make_reward_model,
    make_run,
    make_snapshot,
    output_of,
)
from tests.reward.factory import make_project

pytestmark = pytest.mark.django_db
PUBLISHED = Policy(published=True)


@pytest.fixture
def snapshot(project, folders):
    return make_snapshot(project, prompts=4, test_fraction=0.4)


def merged_from(adapter: Model) -> Model:
    run = make_run("merge")
    return Model.objects.create(
        name=f"merged-{run.pk}", project=adapter.project, base=output_of(run), run=run, parent=adapter,
        snapshot=adapter.snapshot,
    )  # fmt: skip


def archive_everything() -> None:
    """Archive all runs, and put a file into the output of each."""
    for run in Run.objects.all():
        output = workspace.run_dir_of(run).output
        output.mkdir(parents=True, exist_ok=True)
        (output / "model.safetensors").write_bytes(b"x" * 10)
    Run.objects.update(archived_at=timezone.now())


def clean_everything() -> None:
    runs = list(Run.objects.all())
    cleaning.clean(runs, Policy(days=0, published=True), by=None)


def weights(model: Model | RewardModel) -> Path:
    assert model.run is not None
    return workspace.run_dir_of(model.run).output / "model.safetensors"


def archive(*models: Model) -> None:
    Model.objects.filter(pk__in=[model.pk for model in models]).update(state="archived")


def test_a_promoted_model_keeps_its_ancestors_through_merges(project, snapshot):
    first = make_adapter(make_base(project), snapshot)
    merged = merged_from(first)
    second = make_adapter(merged, snapshot, state=Model.State.PROMOTED)
    other = make_adapter(make_base(project), snapshot)
    archive(first, merged, other)
    archive_everything()
    clean_everything()
    assert all(weights(model).exists() for model in (first, merged, second))
    assert not weights(other).exists()
    promoted = f"The model {second} is promoted."
    assert needs()[merged.run_id] == promoted
    assert needs()[first.run_id] == f"The model {second} was made from {first}. {promoted}"


def test_a_copy_in_another_project_keeps_the_files_that_its_path_names(project, snapshot):
    merged = merged_from(make_adapter(make_base(project), snapshot))
    make_base(make_project(), base=merged.base, state=Model.State.PROMOTED)
    archive(merged, merged.parent)
    archive_everything()
    clean_everything()
    assert weights(merged).exists()
    assert not weights(merged.parent).exists()


def test_a_model_with_a_certificate_keeps_its_files_and_evaluations(project, snapshot):
    base = make_base(project)
    certified = make_adapter(base, snapshot)
    evaluation = make_evaluation(certified)
    certified.promote(by=None, reason="A test.")
    base.promote(by=None)
    archive(certified)
    archive_everything()
    clean_everything()
    assert weights(certified).exists()
    assert needs()[evaluation.run_id].endswith("has a certificate.")


def test_candidates_keep_their_files_until_they_are_archived(project, snapshot):
    model = make_adapter(make_base(project), snapshot)
    archive_everything()
    clean_everything()
    assert weights(model).exists()
    model.archive(by=None)
    clean_everything()
    assert not weights(model).exists()


def test_reward_models_and_their_exports_are_kept_until_they_are_archived(project, snapshot):
    model = make_reward_model(snapshot)
    export = make_run("onnx", inputs={"reward_model": model.pk})
    archive_everything()
    assert set(needs()) == {model.run_id, export.pk}
    model.archive(by=None)
    clean_everything()
    assert not weights(model).exists()


def test_a_model_whose_files_were_removed_is_not_restored(project, snapshot):
    model = make_adapter(make_base(project), snapshot)
    model.archive(by=None)
    archive_everything()
    clean_everything()
    with pytest.raises(CannotMove, match="were removed on"):
        model.restore(by=None)
    model.refresh_from_db()
    assert model.state == Model.State.ARCHIVED


def test_a_model_restored_after_the_preview_keeps_its_files(project, snapshot):
    model = make_adapter(make_base(project), snapshot)
    model.archive(by=None)
    archive_everything()
    removals = cleaning.plan(Run.objects.filter(pk=model.run_id), PUBLISHED)
    assert removals[0].published == 10
    model.restore(by=None)
    outcome = cleaning.clean([removals[0].run], PUBLISHED, by=None)
    assert outcome.runs == 0 and "is not archived" in outcome.skipped[0]
    assert weights(model).exists()


def test_the_check_of_the_installation_reports_no_files_that_a_clean_up_removed(project, snapshot):
    from config import doctor

    model = make_adapter(make_base(project), snapshot)
    evaluation = make_evaluation(model)
    model.archive(by=None)
    archive_everything()
    Run.objects.filter(pk__in=[model.run_id, evaluation.run_id]).update(state=State.SUCCEEDED)
    before = {problem.about for problem in [*doctor.models(False), *doctor.outputs(False)]}
    clean_everything()
    after = {problem.about for problem in [*doctor.models(False), *doctor.outputs(False)]}
    assert after <= before
