"""Tests of trainers of one project, who must not train on, see or change another."""

from uuid import uuid4

import pytest
from django.urls import reverse

from accounts.models import Role, User
from labeling.models import Membership, Project
from labeling.projects import memberships
from reward.models import Snapshot
from runs import services
from runs.models import Run, State
from runs.services import InvalidConfig
from tests.clients import signed_in
from tests.finetune.factory import make_base, make_run, make_snapshot
from tests.reward.factory import join, make_project, make_user

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def folders(settings, tmp_path):
    settings.SNAPSHOTS_DIR, settings.RUNS_DIR = tmp_path / "snapshots", tmp_path / "runs"


@pytest.fixture
def own() -> Project:
    return make_project(name="Harbour")


@pytest.fixture
def other() -> Project:
    return make_project(name="Zeppelin")


@pytest.fixture
def trainer(own, other) -> User:
    """Return a trainer of one project, who is a lead of no other and a reviewer of the second."""
    trainer = make_user(Role.TRAINER, all_projects=False)
    join(own, trainer, Membership.Role.TRAINER)
    join(other, trainer)
    return trainer


@pytest.fixture
def snapshots(own, other) -> tuple[Snapshot, Snapshot]:
    return make_snapshot(own, prompts=3), make_snapshot(other, prompts=3)


def launch(client, snapshot):
    config = client.get("/runs/new/reward/").context["launch"].config
    values = {field.html_name: field.value() for field in config}
    form = {
        name: value for name, value in values.items() if value is not None and value is not False
    }
    form |= {"snapshot": snapshot.pk, "request_id": uuid4(), "config-base_model": "org/tiny"}
    return client.post("/runs/new/reward/", form)


def test_a_form_offers_and_accepts_only_inputs_of_the_trainers_projects(
    trainer, own, other, snapshots
):
    base = make_base(other)
    client = signed_in(trainer)
    for kind in ("reward", "dpo"):
        page = client.get(f"/runs/new/{kind}/?model={base.pk}").content.decode()
        assert "Harbour: snapshot" in page and "Zeppelin" not in page and base.name not in page
    answer = launch(client, snapshots[1])
    assert answer.status_code == 422 and not Run.objects.exists()
    assert "Select a valid choice" in answer.content.decode()
    assert launch(client, snapshots[0]).status_code == 302
    assert Run.objects.get().project == own


@pytest.mark.parametrize("role", ["reviewer", "lead"])
def test_no_other_way_starts_a_run_of_a_project_without_its_trainers_role(
    trainer, own, other, snapshots, role
):
    Membership.objects.filter(project=other, user=trainer).update(role=role)
    inputs = {"snapshot": snapshots[1].pk}
    with pytest.raises(InvalidConfig, match="Only trainers of the project"):
        services.start("reward", {"base_model": "org/tiny"}, trainer, inputs=inputs)
    assert not Run.objects.exists()


def test_settings_are_copied_only_from_visible_runs(trainer, own, other):
    client = signed_in(trainer)
    for project, shown in ((own, True), (other, False)):
        run = make_run("reward", project=project, title=f"Plan of {project}", config={"epochs": 7})
        page = client.get(f"/runs/new/reward/?from={run.pk}").content.decode()
        assert (f"Plan of {project}" in page) is shown


def test_a_trainer_who_only_leads_another_project_sees_its_runs_and_changes_nothing(
    trainer, other, snapshots
):
    Membership.objects.filter(project=other, user=trainer).update(role=Membership.Role.LEAD)
    run = make_run("reward", project=other, state=State.FAILED)
    client = signed_in(trainer)
    page = client.get(f"/runs/{run.pk}/")
    assert page.status_code == 200 and f"/runs/{run.pk}/continue" not in page.content.decode()
    assert client.post(f"/runs/{run.pk}/continue").status_code == 403
    assert client.post(f"/runs/{run.pk}/archive").status_code == 403
    assert client.get(f"/snapshots/{snapshots[1].pk}/file/").status_code == 403
    assert client.get(f"/snapshots/new/?project={other.slug}").status_code == 404
    base = make_base(other)
    assert client.post(f"/models/{base.pk}/move/", {"to": "archive"}).status_code == 403
    form = {"project": other.pk, "base": "org/new"}
    assert "Select a valid choice" in client.post("/models/add/", form).content.decode()
    run.refresh_from_db()
    assert (run.state, run.archived_at) == (State.FAILED, None)


def test_the_admin_neither_lists_nor_changes_models_of_other_projects(trainer, own, other):
    bases = make_base(own, name="ours"), make_base(other, name="theirs")
    client = signed_in(trainer)
    page = client.get(reverse("admin:finetune_model_changelist")).content.decode()
    assert "ours" in page and "theirs" not in page and "Zeppelin" not in page
    url = reverse("admin:finetune_model_change", args=[bases[1].pk])
    assert client.post(url, {"name": "taken"}).status_code == 302
    bases[1].refresh_from_db()
    assert bases[1].name == "theirs"
    client.post(reverse("admin:finetune_model_change", args=[bases[0].pk]), {"name": "renamed"})
    bases[0].refresh_from_db()
    assert bases[0].name == "renamed"


def test_the_role_of_the_account_limits_the_role_in_the_project(trainer, own):
    run = make_run("reward", project=own, state=State.FAILED)
    User.objects.filter(pk=trainer.pk).update(role=Role.LEAD)
    trainer.refresh_from_db()
    assert memberships.rank_in(own, trainer) == memberships.RANKS["lead"]
    assert signed_in(trainer).get(f"/runs/{run.pk}/").status_code == 200
    assert signed_in(trainer).post(f"/runs/{run.pk}/continue").status_code == 403
    User.objects.filter(pk=trainer.pk).update(role=Role.REVIEWER)
    assert signed_in(trainer).get(f"/runs/{run.pk}/").status_code == 403


def test_all_projects_applies_to_projects_created_later(trainer):
    User.objects.filter(pk=trainer.pk).update(all_projects=True)
    run = make_run("reward", project=make_project(), state=State.FAILED)
    assert signed_in(trainer).post(f"/runs/{run.pk}/continue").status_code == 302


def test_a_reviewer_with_all_projects_gets_no_rights(own):
    reviewer = make_user(all_projects=True)
    assert signed_in(reviewer).get(f"/p/{own.slug}/").status_code == 404


def test_the_creator_of_a_project_has_the_role_of_their_account():
    for role in (Role.LEAD, Role.TRAINER):
        creator = make_user(role, all_projects=False)
        signed_in(creator).post("/projects/new/", {
            "name": f"By a {role}", "rankings_per_task": 2, "min_rationale": 0,
        })  # fmt: skip
        assert creator.memberships.get().role == role
