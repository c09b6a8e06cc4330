"""Tests of the project of a run, for each kind and in the migration."""

from importlib import import_module
from typing import Any

import pytest
from django.apps import apps

from labeling.models import Project
from runs import services
from runs.models import Run
from tests.finetune.factory import (
    make_adapter,
    make_base,
    make_evaluation,
    make_reward_model,
    make_run,
    make_snapshot,
)
from tests.reward.factory import make_project, make_prompt

pytestmark = pytest.mark.django_db

fill = import_module("finetune.migrations.0003_project_of_runs").fill


@pytest.fixture
def inputs(project: Project) -> dict[str, dict[str, Any]]:
    """Return the inputs of each kind, as launch forms and commands pass them."""
    snapshot, base = make_snapshot(project, prompts=4, test_fraction=0.4), make_base(project)
    adapter, judge = make_adapter(base, snapshot), make_reward_model(snapshot)
    make_prompt(project)
    parts = {"project": project.pk, "snapshot": snapshot.pk}
    return {
        "reward": {"snapshot": snapshot.pk},
        "dpo": {**parts, "model": base.pk},
        "generate": {"project": project.pk, "model": base.pk, "prompts": "all"},
        "evaluate": {
            **parts,
            "candidate": adapter.pk,
            "baseline": base.pk,
            "judge": f"reward_model:{judge.pk}",
        },
        "score": {"reward_model": judge.pk},
    }


@pytest.mark.parametrize("kind", ["reward", "dpo", "generate", "evaluate", "score"])
def test_a_run_belongs_to_the_project_of_its_inputs(project, inputs, kind):
    config = {"base_model": "org/small"} if kind == "reward" else {}
    run = services.start(kind, config, None, inputs=inputs[kind], send=False)
    assert run.project_id == project.pk


def test_the_project_comes_from_the_rows_not_from_the_number_that_was_sent(project, inputs):
    forged = {**inputs["dpo"], "project": make_project().pk}
    run = services.start("dpo", {}, None, inputs=forged, send=False)
    assert run.project_id == project.pk


@pytest.mark.parametrize("kind", ["reward", "dpo", "generate", "evaluate", "score"])
def test_the_migration_finds_the_project_of_earlier_runs_by_their_inputs(project, inputs, kind):
    run = make_run(kind, inputs=inputs[kind])
    fill(apps, None)
    run.refresh_from_db()
    assert run.project_id == project.pk


def test_the_migration_prefers_the_output_of_a_run_to_its_inputs(project):
    snapshot = make_snapshot(project, prompts=2)
    adapter = make_adapter(make_base(project), snapshot)
    result = [adapter.run, make_reward_model(snapshot).run, make_evaluation(adapter).run]
    Run.objects.update(project=None, inputs={"project": make_project().pk})
    fill(apps, None)
    projects = Run.objects.filter(pk__in=[run.pk for run in result]).values_list(
        "project", flat=True
    )
    assert list(projects) == [project.pk] * 3


@pytest.mark.parametrize("odd", [{}, {"snapshot": 4711}, {"snapshot": "x"}, {"project": None}])
def test_the_migration_leaves_a_run_without_a_project_when_nothing_names_one(odd):
    run = make_run("reward", inputs=odd)
    fill(apps, None)
    run.refresh_from_db()
    assert run.project is None
