import pytest
from django.utils import timezone

from finetune.engines.sampled_text import read_prompts
from finetune.evaluation import judges, runs
from finetune.evaluation.judges import UnknownJudge
from finetune.models import Evaluation
from labeling.models import Prompt, Ranking, Task
from recipes.preferences.groups import read_groups
from runs.kinds import CannotRun
from tests.finetune.factory import (
    laid_out,
    make_adapter,
    make_base,
    make_reward_model,
    make_run,
    make_snapshot,
    publish_answers,
)
from tests.reward.factory import make_project, make_prompt, make_user

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def rule():
    judges.register("length", "The longer, the better", lambda messages, text: float(len(text)))
    yield
    judges._rules.pop("length")


@pytest.fixture
def snapshot():
    return make_snapshot(make_project(), prompts=30, test_fraction=0.5)


@pytest.fixture
def candidate(snapshot):
    return make_adapter(make_base(snapshot.project), snapshot)


def inputs_of(adapter, **changes):
    return {
        "project": adapter.project_id,
        "candidate": adapter.pk,
        "baseline": adapter.parent_id,
        "snapshot": adapter.snapshot_id,
        "judge": "length",
        **changes,
    }


def run_of(candidate, **changes):
    run = make_run("evaluate", inputs=inputs_of(candidate, **changes), config={"seed": 0})
    return run, laid_out(run)


def ids(snapshot, split):
    return {g.group_id for g in read_groups(snapshot.file) if g.split == split}


def test_only_held_out_prompts_are_answered(candidate, snapshot):
    run, run_dir = run_of(candidate)
    result = runs.prepare(run, run_dir)
    written = {prompt.prompt_id for prompt in read_prompts(run_dir.data / "prompts.parquet")}
    assert written == ids(snapshot, "test")
    assert result["seen_in_training"] == 0


def test_a_prompt_that_a_side_was_trained_on_is_left_out_and_counted(candidate, snapshot):
    from reward.preferences.snapshots import SnapshotFilter, freeze

    other_split = SnapshotFilter(test_fraction=0.5, seed=5)
    other = freeze(project=snapshot.project, filter=other_split, by=None)
    run, run_dir = run_of(candidate, snapshot=other.pk)
    result = runs.prepare(run, run_dir)
    written = {prompt.prompt_id for prompt in read_prompts(run_dir.data / "prompts.parquet")}
    assert written == ids(other, "test") - ids(snapshot, "train")
    assert result["seen_in_training"] == len(ids(other, "test") & ids(snapshot, "train")) > 0


def test_an_evaluation_without_held_out_prompts_is_refused(candidate):
    unsplit = make_snapshot(candidate.project, prompts=1, test_fraction=0.0)
    run, run_dir = run_of(candidate, snapshot=unsplit.pk)
    with pytest.raises(CannotRun, match="has no held-out prompt"):
        runs.prepare(run, run_dir)


def test_verdicts_win_rate_and_lengths_become_rows(candidate):
    prompts = [make_prompt(candidate.project) for _ in range(3)]
    run, run_dir = run_of(candidate)
    pairs = [("short", "much longer"), ("same", "size"), ("longest of all", "x")]
    publish_answers(
        run_dir,
        [
            {"of": p, "baseline": b, "candidate": c}
            for p, (b, c) in zip(prompts, pairs, strict=True)
        ],
    )
    result = runs.finish(run, run_dir)
    evaluation = Evaluation.objects.get(pk=result["evaluation"])
    assert list(evaluation.items.values_list("verdict", flat=True)) == [1.0, 0.5, 0.0]
    rate = evaluation.report["win_rate"]
    assert (rate["value"], rate["wins"], rate["ties"], rate["losses"]) == (0.5, 1, 1, 1)
    assert evaluation.report["tokens"]["value"] == 2.0
    assert evaluation.judge == "length" and evaluation.reward_model is None


def test_a_reward_model_judges_by_the_scores_of_the_recipe(candidate, snapshot):
    judge = make_reward_model(snapshot)
    inputs = inputs_of(candidate, judge=f"reward_model:{judge.pk}")
    assert runs.from_inputs(inputs)["reward_model"] == judge.path
    run, run_dir = run_of(candidate, judge=f"reward_model:{judge.pk}")
    first, second = make_prompt(candidate.project), make_prompt(candidate.project)
    scored = {"baseline": "b", "candidate": "c", "baseline_score": 0.5}
    publish_answers(
        run_dir,
        [
            {"of": first, **scored, "candidate_score": 0.9},
            {"of": second, **scored, "candidate_score": None},
        ],
    )
    result = runs.finish(run, run_dir)
    assert result["unscored"] == 1 and result["win_rate"]["value"] == 1.0
    assert Evaluation.objects.get().reward_model == judge


def test_when_the_judge_can_score_nothing_no_evaluation_is_made(candidate, snapshot):
    judge = make_reward_model(snapshot)
    run, run_dir = run_of(candidate, judge=f"reward_model:{judge.pk}")
    publish_answers(
        run_dir, [{"of": make_prompt(candidate.project), "baseline": "b", "candidate": "c"}]
    )
    with pytest.raises(CannotRun, match="could score none"):
        runs.finish(run, run_dir)
    assert not Evaluation.objects.exists()


def test_people_judge_blindly_and_their_verdicts_are_stored(candidate):
    prompts = [make_prompt(candidate.project) for _ in range(2)]
    run, run_dir = run_of(candidate, comparisons=True)
    publish_answers(
        run_dir,
        [
            {"of": prompts[0], "baseline": "theirs", "candidate": "ours"},
            {"of": prompts[1], "baseline": "same", "candidate": "same "},
        ],
    )
    result = runs.finish(run, run_dir)
    assert result["comparisons"] == 1
    evaluation = Evaluation.objects.get()
    item = evaluation.items.get(prompt=prompts[0])
    assert item.task.kind == Task.Kind.COMPARISON
    assert runs.peoples_verdicts(evaluation) is None
    ours = item.candidate_response_id
    (theirs,) = item.task.responses.exclude(pk=ours).values_list("pk", flat=True)
    for tiers in ([[ours], [theirs]], [[ours, theirs]], [[theirs], [ours]], [[ours], [theirs]]):
        Ranking.objects.create(task=item.task, reviewer=make_user(), tiers=tiers)
    Ranking.objects.create(
        task=item.task, reviewer=make_user(), tiers=[[theirs], [ours]], superseded_at=timezone.now()
    )
    people = runs.peoples_verdicts(evaluation)
    assert (people["wins"], people["ties"], people["losses"]) == (2, 1, 1)


def test_neither_ids_nor_positions_reveal_the_candidates_answer(candidate):
    rows = [
        {"of": make_prompt(candidate.project), "baseline": f"theirs {n}", "candidate": f"ours {n}"}
        for n in range(40)
    ]
    run, run_dir = run_of(candidate, comparisons=True)
    publish_answers(run_dir, rows)
    runs.finish(run, run_dir)
    stored_first, placed_first = [], []
    for item in Evaluation.objects.get().items.select_related("task"):
        order = list(item.task.places.order_by("position").values_list("response_id", flat=True))
        stored_first.append(item.candidate_response_id == min(order))
        placed_first.append(item.candidate_response_id == order[0])
        assert item.candidate_response.text == item.candidate_text
    assert {*stored_first} == {*placed_first} == {True, False}


def test_models_and_judges_that_do_not_match_are_refused(candidate, snapshot):
    elsewhere = make_base(make_project())
    other_base = make_base(candidate.project)
    other_judge = make_reward_model(make_snapshot(make_project(), prompts=1))
    for changes, sentence in (
        ({"baseline": elsewhere.pk}, "belongs to"),
        ({"baseline": other_base.pk}, "same base"),
        ({"baseline": candidate.pk}, "with itself"),
        (
            {"candidate": candidate.parent_id, "baseline": other_base.pk},
            "is neither an adapter nor a merged model",
        ),
        ({"judge": f"reward_model:{other_judge.pk}"}, "belongs to another project"),
        ({"judge": "nobody"}, "No judge is called 'nobody'"),
        ({"snapshot": 0}, "There is no snapshot 0"),
    ):
        with pytest.raises(CannotRun, match=sentence):
            runs.from_inputs(inputs_of(candidate, **changes))


def test_the_answers_come_from_the_models_of_the_inputs(candidate):
    assert runs.from_inputs(inputs_of(candidate)) == {
        "model": candidate.base,
        "adapter": candidate.adapter,
        "baseline_model": None,
        "baseline_adapter": None,
        "reward_model": None,
    }


def test_a_judge_name_can_be_registered_only_once():
    for name in ("length", "reward_model:3"):
        with pytest.raises(ValueError, match="is already taken"):
            judges.register(name, "x", lambda messages, text: 0.0)
    with pytest.raises(UnknownJudge, match="length, reward_model:ID"):
        judges.get("reward_model:999999")
    assert judges.title_of("gone") == "gone"


def test_prompts_of_evaluation_items_cannot_be_deleted(candidate):
    from django.db.models import ProtectedError

    prompt = make_prompt(candidate.project)
    run, run_dir = run_of(candidate)
    publish_answers(run_dir, [{"of": prompt, "baseline": "a", "candidate": "bc"}])
    runs.finish(run, run_dir)
    with pytest.raises(ProtectedError):
        Prompt.objects.get(pk=prompt.pk).delete()
