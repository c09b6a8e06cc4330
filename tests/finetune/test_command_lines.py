"""Tests of the command lines that the launch form shows, for runs of all kinds."""

import io
import json
import shlex
import uuid

import pytest
from django.core.management import call_command
from django.http import QueryDict

from finetune.models import Model
from labeling.guidelines.versions import publish
from runs import kinds
from runs.launching.form import Launch
from runs.models import Run
from tests.finetune.factory import make_adapter, make_base, make_reward_model, make_snapshot
from tests.reward.factory import make_prompt, make_user, make_version

pytestmark = pytest.mark.django_db


@pytest.fixture
def world(project, settings, tmp_path) -> dict[str, str]:
    """Return the choices of inputs, by the name of the field."""
    settings.ENDPOINTS = tmp_path / "endpoints.toml"
    settings.ENDPOINTS.write_text('[hosted]\nurl = "https://llm.example/v1"\n')
    snapshot = make_snapshot(project, prompts=6, test_fraction=0.4)
    make_prompt(project)
    publish(version=make_version(project), by=make_user("lead", is_superuser=True))
    project.refresh_from_db()
    base = make_base(project)
    adapter = make_adapter(base, snapshot)
    served = Model.objects.create(project=project, name="served", base="big", endpoint="hosted")
    reward = make_reward_model(snapshot)
    return {
        "project": project.pk, "snapshot": snapshot.pk, "base_model": base.pk,
        "adapter": adapter.pk, "served": served.pk, "reward": reward.pk,
    }  # fmt: skip


CASES = [
    ("reward", {"snapshot": "snapshot"}, {"base_model": "org/base", "heads": "4"}),
    ("reward", {"snapshot": "snapshot", "=preset": "small-gpu"}, {"base_model": "org/base"}),
    ("dpo", {"snapshot": "snapshot", "model": "base_model"}, {}),
    ("dpo", {"snapshot": "snapshot", "model": "adapter", "=preset": "best-quality"}, {}),
    (
        "dpo",
        {"snapshot": "snapshot", "model": "base_model", "=preset": "best-quality"},
        {"chat_template_kwargs": json.dumps({"its": "\"b\" 'c' $HOME", "é": [1]}), "epochs": "0.1",
         "tokens_at_once": "77", "lora_r": "16", "compile": "on", "seed": "3"},
    ),
    ("sft", {"snapshot": "snapshot", "model": "base_model", "=preset": "quick-look"}, {}),
    ("kto", {"snapshot": "snapshot", "model": "base_model"}, {"learning_rate": "0.00001234567891"}),
    *(
        (name, {"snapshot": "snapshot", "model": "base_model", "reward_model": "reward",
                "=preset": "quick-look"}, {"evaluations": "1"})
        for name in ("online", "best_of_n", "grpo", "rloo")
    ),
    ("generate", {"model": "adapter", "=prompts": "new", "=tasks": "on"}, {}),
    (
        "generate",
        {"model": "base_model", "=prompts": "all", "=limit": "3", "=rankings_wanted": "2"},
        {"temperature": "0.5"},
    ),
    ("ask", {"model": "served", "=prompts": "new", "=tasks": "on"}, {"seed": "4"}),
    ("merge", {"model": "adapter"}, {"output_dtype": "bfloat16"}),
    ("push", {"model": "adapter", "=base": "org/base"}, {"repo": "me/it@v2", "private": ""}),
    ("pull", {"project": "project", "base": "base_model"}, {"repo": "me/it"}),
    ("onnx", {"reward_model": "reward"}, {}),
    ("score", {"reward_model": "reward", "=order": "on", "=random_share": "0.25"}, {}),
    ("evaluate", {"candidate": "adapter", "=regression": "on"}, {}),
    (
        "evaluate",
        {"candidate": "adapter", "baseline": "base_model", "snapshot": "snapshot",
         "=comparisons": "on", "=control": "on", "=most_verdicts": "9", "=limit": "20",
         "=judge": "reward_model", "=question": "like them", "=verdicts_per_prompt": "2",
         "=margin_points": "7", "=alpha_percent": "1"},
        {"temperature": "0", "max_new_tokens": "9"},
    ),
    ("measure_judge", {"model": "served", "=limit": "50"}, {"max_new_tokens": "99"}),
]  # fmt: skip


def launch_of(kind: str, choices: dict[str, str], changes: dict[str, str], world) -> Launch:
    """Return a form that was sent with these choices, and otherwise with the values it shows.

    A choice whose name begins with = is a value, and others name an object of the world.
    """
    run_kind = kinds.get(kind)
    chosen = {
        name.removeprefix("="): value if name.startswith("=") else world[value]
        for name, value in choices.items()
    }
    if chosen.get("judge"):
        chosen["judge"] = f"reward_model:{world['reward']}"
    fresh = Launch(run_kind, initial=chosen)
    data = QueryDict(mutable=True)
    for option in fresh.config.options:
        value = fresh.config[option.name].value()
        if value is not False:
            data[f"config-{option.name}"] = "" if value is None else value
    data.update(chosen)
    data.update({f"config-{name}": value for name, value in changes.items()})
    for name in [name for name, value in changes.items() if not value]:
        del data[f"config-{name}"]
    data["applied"] = chosen.get("preset", "")
    data["request_id"] = str(uuid.uuid4())
    return Launch(run_kind, data)


@pytest.mark.parametrize(("kind", "choices", "changes"), CASES)
def test_the_shown_command_line_starts_the_same_run(kind, choices, changes, world):
    review = launch_of(kind, choices, changes, world).review
    assert review.problems == []
    program, manage, *words = shlex.split(review.command)
    assert (program, manage) == ("python", "manage.py")
    plan = io.StringIO()
    call_command(*words, "--dry-run", stdout=plan)
    assert json.loads(plan.getvalue()) == {
        "kind": kind, "config": review.config, "inputs": review.inputs,
    }  # fmt: skip
    assert not Run.objects.filter(state="queued").exists()


def test_the_cases_cover_all_kinds():
    shipped = {k.name for k in kinds.all_kinds() if not k.module.startswith("tests.")}
    assert {kind for kind, _, _ in CASES} == shipped


@pytest.mark.parametrize("title", ["-v", "--dry-run", "a 'b' \"c\" $(d) `e` \\ \n;f", "Ä🙂"])
def test_the_command_line_quotes_a_title_as_it_is(title, world):
    choices = {"snapshot": "snapshot", "model": "base_model", "=title": title}
    launch = launch_of("dpo", choices, {}, world)
    call_command(*shlex.split(launch.review.command)[2:], "--no-wait", stdout=io.StringIO())
    assert Run.objects.latest("pk").title == title


def test_only_settings_that_differ_from_the_preset_are_in_the_command_line(world):
    choices = {"snapshot": "snapshot", "model": "base_model", "=preset": "best-quality"}
    settings = {"epochs": "2.0", "lora_r": "32", "beta": "0.30", "learning_rate": "1e-5"}
    review = launch_of("dpo", choices, settings, world).review
    assert review.command.endswith("--preset best-quality --set beta=0.3")
    assert [(c.option.name, c.before, c.after) for c in review.changes] == [("beta", 0.1, "0.30")]
