import json

import pytest

from finetune.engines import generation
from finetune.engines.generation import share_out
from finetune.engines.sampled_text import read_prompts
from labeling.models import Response, Slot, Task
from runs.kinds import CannotRun
from tests.finetune.factory import laid_out, make_base, make_run, publish_responses
from tests.reward.factory import make_project, make_prompt, make_task

pytestmark = pytest.mark.django_db


@pytest.fixture
def model():
    return make_base(make_project())


def run_of(model, **inputs):
    config = {"temperature": 0.7, "top_p": 1.0, "max_new_tokens": 5, "seed": 0}
    fields = {"project": model.project_id, "model": model.pk, **inputs}
    run = make_run("generate", inputs=fields, config=config)
    return run, laid_out(run)


def finished(model, sampled, **inputs):
    run, run_dir = run_of(model, **inputs)
    publish_responses(run_dir, sampled)
    return generation.finish(run, run_dir), run, run_dir


def test_each_prompt_gets_a_task_with_its_distinct_responses(model):
    first, second = make_prompt(model.project), make_prompt(model.project)
    result, run, _ = finished(model, {first: ["a", "b", "c"], second: ["x", "y"]})
    assert result["tasks"] == 2 and result["responses"] == 5
    assert sorted(t.responses.count() for t in Task.objects.all()) == [2, 3]
    response = Response.objects.get(text="a")
    assert (response.model_name, response.seed) == (model.name, 0)
    assert response.sampling["run"] == run.pk and response.sampling["temperature"] == 0.7


def test_identical_and_empty_responses_are_counted_and_too_few_give_no_task(model):
    first, second = make_prompt(model.project), make_prompt(model.project)
    result, *_ = finished(model, {first: ["a", "a ", "b"], second: ["same", "same", "  "]})
    assert (result["responses"], result["identical"], result["empty"]) == (3, 2, 1)
    assert (result["tasks"], result["prompts_without_task"]) == (1, 1)


def test_responses_record_the_distribution_that_was_followed(model):
    """With `sampling: published`, the settings of the form had no effect."""
    run, run_dir = run_of(model)
    prompt = make_prompt(model.project)
    publish_responses(run_dir, {prompt: ["a", "b"]})
    file = run_dir.output / "report.json"
    followed = {"temperature": 0.0, "top_p": 0.9, "top_k": 20}
    file.write_text(json.dumps({**json.loads(file.read_text()), "distribution": followed}))
    generation.finish(run, run_dir)
    sampling = Response.objects.get(text="a").sampling
    settings = {"run": run.pk, "max_new_tokens": 5, "seed": 0, **followed}
    assert sampling == {**settings, "tokens": 3, "truncated": False}


def test_finishing_again_adds_nothing(model):
    prompt = make_prompt(model.project)
    _, run, run_dir = finished(model, {prompt: ["a", "b"]})
    again = generation.finish(run, run_dir)
    assert again["tasks"] == 0
    assert (Response.objects.count(), Task.objects.count()) == (2, 1)


def test_without_tasks_the_responses_are_only_stored(model):
    result, *_ = finished(model, {make_prompt(model.project): ["a", "b"]}, tasks=False)
    assert Response.objects.count() == 2 and not Task.objects.exists()
    assert "tasks" not in result


def test_the_rankings_wanted_become_slots(model):
    finished(model, {make_prompt(model.project): ["a", "b"]}, rankings_wanted=4)
    assert Slot.objects.count() == 4


def test_the_task_of_a_response_that_names_its_model_is_held(model):
    prompts = [make_prompt(model.project) for _ in range(2)]
    sampled = {prompts[0]: ["I am ChatGPT, a language model.", "b"], prompts[1]: ["c", "d"]}
    result, *_ = finished(model, sampled)
    assert (result["tasks"], result["tasks_held"]) == (2, 1)
    assert Task.objects.get(held=True).prompt == prompts[0]
    assert set(Slot.objects.values_list("task__prompt", flat=True)) == {prompts[1].pk}


def test_characters_that_the_database_cannot_store_are_removed(model):
    finished(model, {make_prompt(model.project): ["a\x00b", "c"]})
    assert sorted(Response.objects.values_list("text", flat=True)) == ["a\ufffdb", "c"]


@pytest.mark.parametrize(
    ("count", "sizes"), [(1, []), (2, [2]), (9, [9]), (10, [5, 5]), (19, [7, 6, 6])]
)
def test_many_responses_are_divided_among_tasks_of_two_to_nine(count, sizes):
    shared = share_out(list(range(count)))
    assert [len(part) for part in shared] == sizes
    assert sorted(item for part in shared for item in part) == (
        list(range(count)) if count > 1 else []
    )


def test_new_prompts_are_those_without_a_task(model):
    fresh, old = make_prompt(model.project), make_prompt(model.project)
    make_task(old)
    run, run_dir = run_of(model)
    generation.prepare(run, run_dir)
    written = read_prompts(run_dir.data / "prompts.parquet")
    assert [prompt.prompt_id for prompt in written] == [str(fresh.pk)]
    run, run_dir = run_of(model, prompts="all", limit=1)
    assert generation.prepare(run, run_dir) == {"prompts_written": 1}


def test_a_run_without_a_prompt_is_refused(model):
    with pytest.raises(CannotRun, match="has no prompt to answer"):
        generation.from_inputs({"project": model.project_id, "model": model.pk})


def test_a_model_of_another_project_is_refused(model):
    other = make_project()
    make_prompt(other)
    with pytest.raises(CannotRun, match="belongs to"):
        generation.from_inputs({"project": other.pk, "model": model.pk})


@pytest.mark.parametrize("inputs", [{}, {"project": "x"}, {"project": 0, "model": None}])
def test_inputs_that_name_missing_rows_are_refused(inputs):
    with pytest.raises(CannotRun, match="There is no"):
        generation.from_inputs(inputs)
