import random
from datetime import timedelta

import pytest
from django.db import IntegrityError
from django.utils import timezone

from finetune.engines.sampled_text import read_prompts
from finetune.evaluation import judges, runs
from finetune.evaluation.comparisons import peoples_verdicts
from finetune.evaluation.judges import UnknownJudge
from finetune.evaluation.reviewers import reviewer_rows
from finetune.evaluation.stopping import stop_decided
from finetune.models import WEIGHTS_FILE, Evaluation, doubts_about_evaluation
from labeling.models import Prompt, Ranking, Slot, Task
from labeling.queue.slots import OFF_QUEUE, fill
from labeling.removal.withdrawing import withdraw
from recipes.preferences.groups import read_groups
from runs.kinds import CannotRun
from runs.models import Artifact
from tests.finetune.factory import (
    laid_out,
    make_adapter,
    make_base,
    make_evaluation,
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


def registered_run_of(candidate, **changes):
    run, run_dir = run_of(candidate, **changes)
    runs.prepare(run, run_dir)
    return run, run_dir


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
    run, run_dir = registered_run_of(candidate)
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
    run, run_dir = registered_run_of(candidate, judge=f"reward_model:{judge.pk}")
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


def test_when_the_judge_can_score_nothing_there_is_no_attempt(candidate, snapshot):
    judge = make_reward_model(snapshot)
    run, run_dir = registered_run_of(candidate, judge=f"reward_model:{judge.pk}")
    publish_answers(
        run_dir, [{"of": make_prompt(candidate.project), "baseline": "b", "candidate": "c"}]
    )
    with pytest.raises(CannotRun, match="None of the answers can be judged"):
        runs.finish(run, run_dir)
    evaluation = Evaluation.objects.get()
    assert (evaluation.attempt, evaluation.report) == (None, {})


def test_people_judge_blindly_and_their_verdicts_are_stored(candidate):
    prompts = [make_prompt(candidate.project) for _ in range(2)]
    run, run_dir = registered_run_of(candidate, comparisons=True)
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
    assert peoples_verdicts(evaluation.blind_verdicts()) is None
    ours = item.candidate_response_id
    (theirs,) = item.task.responses.exclude(pk=ours).values_list("pk", flat=True)
    for tiers in ([[ours], [theirs]], [[ours, theirs]], [[theirs], [ours]], [[ours], [theirs]]):
        Ranking.objects.create(task=item.task, reviewer=make_user(), tiers=tiers)
    Ranking.objects.create(
        task=item.task, reviewer=make_user(), tiers=[[theirs], [ours]], superseded_at=timezone.now()
    )
    people = peoples_verdicts(evaluation.blind_verdicts())
    assert (people["wins"], people["ties"], people["losses"]) == (2, 1, 1)


def test_neither_ids_nor_positions_reveal_the_candidates_answer(candidate):
    rows = [
        {"of": make_prompt(candidate.project), "baseline": f"theirs {n}", "candidate": f"ours {n}"}
        for n in range(40)
    ]
    run, run_dir = registered_run_of(candidate, comparisons=True)
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
    run, run_dir = registered_run_of(candidate)
    publish_answers(run_dir, [{"of": prompt, "baseline": "a", "candidate": "bc"}])
    runs.finish(run, run_dir)
    with pytest.raises(ProtectedError):
        Prompt.objects.get(pk=prompt.pk).delete()


# --- registration --------------------------------------------------------------------------------


def finished(candidate, pairs=(("b", "longer"),), **changes):
    """Return the evaluation of a run with these (baseline, candidate) answers to new prompts."""
    run, run_dir = registered_run_of(candidate, **changes)
    rows = [{"of": make_prompt(candidate.project), "baseline": b, "candidate": c} for b, c in pairs]
    publish_answers(run_dir, rows)
    return Evaluation.objects.get(pk=runs.finish(run, run_dir)["evaluation"])


def test_an_evaluation_is_registered_with_a_random_sample_before_it_starts(candidate, snapshot):
    run, run_dir = registered_run_of(
        candidate, limit=5, alpha=0.02, margin=0.03, verdicts_per_prompt=1
    )
    evaluation = Evaluation.objects.get(run=run)
    held_out = {int(pk) for pk in ids(snapshot, "test")}
    assert len(evaluation.prompts) == 5 and held_out > set(evaluation.prompts)
    assert (evaluation.alpha, evaluation.margin, evaluation.verdicts_per_prompt) == (0.02, 0.03, 1)
    assert (evaluation.attempt, evaluation.report) == (None, {})
    written = [int(p.prompt_id) for p in read_prompts(run_dir.data / "prompts.parquet")]
    assert written == evaluation.prompts
    samples = {
        tuple(runs.register(make_run("evaluate", inputs=run.inputs), runs.parts_of(run.inputs),
                            runs.held_out_prompts(runs.parts_of(run.inputs))[0]).prompts)
        for _ in range(8)
    }  # fmt: skip
    assert len(samples) > 1


def test_the_recorded_seed_gives_the_sample_again(candidate, snapshot):
    run, _ = registered_run_of(candidate, limit=5)
    evaluation = Evaluation.objects.get(run=run)
    held_out = sorted(int(pk) for pk in ids(snapshot, "test"))
    assert random.Random(evaluation.sample_seed).sample(held_out, 5) == evaluation.prompts


def test_a_second_preparation_keeps_the_registration(candidate):
    run, run_dir = registered_run_of(candidate, limit=3)
    before = Evaluation.objects.get(run=run)
    runs.prepare(run, run_dir)
    after = Evaluation.objects.get(run=run)
    assert (after.pk, after.prompts, after.sample_seed) == (
        before.pk, before.prompts, before.sample_seed,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value"),
    [("alpha", 0.01), ("margin", 0.1), ("prompts", []), ("attempt", 2), ("judge", "other"),
     ("verdicts_per_prompt", 3), ("sample_seed", 7), ("asks_people", True), ("most_verdicts", 9),
     ("question", "like them")],
)  # fmt: skip
def test_a_registration_cannot_change_once_there_is_a_verdict(candidate, field, value):
    run, run_dir = registered_run_of(candidate)
    row = Evaluation.objects.filter(run=run)
    if field != "attempt":
        before = row.values_list(field, flat=True).get()
        row.update(**{field: value})
        row.update(**{field: before})
    publish_answers(
        run_dir, [{"of": make_prompt(candidate.project), "baseline": "a", "candidate": "bc"}]
    )
    runs.finish(run, run_dir)
    with pytest.raises(IntegrityError, match="its registration cannot be changed"):
        row.update(**{field: value})


def test_a_stored_verdict_cannot_change(candidate):
    evaluation = finished(candidate)
    evaluation.items.update(candidate_text="erased")
    with pytest.raises(IntegrityError, match="cannot be changed"):
        evaluation.items.update(verdict=0.0)


def test_repeated_evaluations_share_the_error_rate_of_the_first(candidate):
    first, second = finished(candidate, alpha=0.04), finished(candidate, alpha=0.1)
    assert (first.attempt, second.attempt) == (1, 2)
    assert (first.alpha, second.alpha) == (0.04, 0.04)
    assert (first.own_alpha, second.own_alpha) == pytest.approx((0.032, 0.0064))


def give_weights(adapter, content):
    """Record the digest of an adapter's file of weights, as a run does."""
    Artifact.objects.create(
        run=adapter.run, name=WEIGHTS_FILE, path="x", bytes=1, sha256=content * 64
    )


def merged_from(adapter):
    return make_base(adapter.project, parent=adapter, snapshot=adapter.snapshot)


def test_models_with_equal_weights_share_one_error_rate_against_any_baseline(candidate, snapshot):
    again, other = (make_adapter(candidate.parent, snapshot) for _ in range(2))
    for model, content in ((candidate, "a"), (again, "a"), (other, "b")):
        give_weights(model, content)
    merged, of_again = merged_from(candidate), merged_from(again)
    family = {candidate.pk, again.pk, merged.pk, of_again.pk}
    assert candidate.same_weights() == merged.same_weights() == again.same_weights() == family
    assert other.same_weights() == {other.pk}
    assert candidate.parent.same_weights() == {candidate.parent_id}
    attempts = [
        finished(model, baseline=baseline.pk).attempt
        for model, baseline in (
            (candidate, candidate.parent), (merged, candidate.parent), (again, other),
            (of_again, candidate.parent), (other, candidate.parent),
        )
    ]  # fmt: skip
    assert attempts == [1, 2, 3, 4, 1]


def test_adapters_without_a_recorded_file_of_weights_are_different(candidate, snapshot):
    assert make_adapter(candidate.parent, snapshot).pk not in candidate.same_weights()


def test_a_failed_run_spends_no_error_rate(candidate):
    registered_run_of(candidate)
    assert finished(candidate).attempt == 1


def test_an_evaluation_before_registrations_counts_as_an_attempt(candidate):
    make_evaluation(candidate, alpha=None, margin=None, verdicts_per_prompt=None)
    assert finished(candidate).attempt == 2


def test_a_run_without_a_registration_is_refused(candidate):
    run, run_dir = run_of(candidate)
    publish_answers(
        run_dir, [{"of": make_prompt(candidate.project), "baseline": "a", "candidate": "bc"}]
    )
    with pytest.raises(CannotRun, match="was not registered before it started"):
        runs.finish(run, run_dir)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [({"alpha": 0.2}, "error rate must be from"), ({"margin": 0.5}, "margin must be from"),
     ({"verdicts_per_prompt": 0}, "number of verdicts per prompt must be from 1 to 9"),
     ({"most_verdicts": 0}, "must be at least 1"), ({"question": "everybody"}, "The question must be"),
     ({"judge": ""}, "Choose a judge, or ask people"),
     ({"control": True}, "only if there is a judge and people are asked"),
     ({"control": True, "judge": "", "comparisons": True}, "only if there is a judge")],
)  # fmt: skip
def test_a_registration_outside_its_limits_is_refused(candidate, change, sentence):
    with pytest.raises(CannotRun, match=sentence):
        runs.from_inputs(inputs_of(candidate, **change))


# --- evidence ------------------------------------------------------------------------------------


def test_the_judges_verdicts_are_units_in_the_registered_order(candidate):
    evaluation = make_evaluation(candidate, verdicts=[1.0] * 11 + [0.0])
    assert evaluation.judged().conclusion == "better"
    assert evaluation.judged().decided_after == 11
    reverse = make_evaluation(candidate, verdicts=[1.0] * 11 + [0.0], baseline=candidate.parent)
    assert reverse.judged().conclusion == "undecided"  # the second attempt has a fifth of the rest


def compared(candidate, prompts, **fields):
    """Return an evaluation with blind comparisons, and a function that adds a verdict on one."""
    changes = {"comparisons": True, **fields}
    pairs = [(f"theirs {n}", f"ours {n}") for n in range(prompts)]
    evaluation = finished(candidate, pairs, **changes)
    items = list(evaluation.items.order_by("id"))

    def add(number, value, reviewer=None, **more):
        item = items[number]
        ours = item.candidate_response_id
        (theirs,) = item.task.responses.exclude(pk=ours).values_list("pk", flat=True)
        tiers = {1.0: [[ours], [theirs]], 0.5: [[ours, theirs]], 0.0: [[theirs], [ours]]}[value]
        return Ranking.objects.create(
            task=item.task, reviewer=reviewer or make_user(), tiers=tiers, **more
        )

    return evaluation, add


def test_a_prompt_counts_once_it_has_the_registered_number_of_verdicts(candidate):
    evaluation, add = compared(candidate, 3, verdicts_per_prompt=2)
    assert {item.task.rankings_wanted for item in evaluation.items.all()} == {2}
    add(0, 1.0)
    assert evaluation.people() is None
    add(1, 1.0)
    add(1, 0.5)
    assert evaluation.people().units.tolist() == [0.75]
    add(0, 0.0)
    add(0, 0.0)  # a third verdict does not count
    assert evaluation.people().units.tolist() == [0.75, 0.5]


def test_a_revised_verdict_counts_at_the_place_of_the_first(candidate):
    evaluation, add = compared(candidate, 2, verdicts_per_prompt=1)
    reviewer = make_user()
    first = add(0, 1.0, reviewer)
    add(1, 0.5)
    Ranking.objects.filter(pk=first.pk).update(superseded_at=timezone.now())
    add(0, 0.0, reviewer, supersedes=first)
    assert evaluation.people().units.tolist() == [0.0, 0.5]


def test_verdicts_of_programs_count_only_in_a_simulated_project(candidate):
    evaluation, add = compared(candidate, 2, verdicts_per_prompt=1)
    add(0, 1.0, source=Ranking.Source.SIMULATION)
    assert evaluation.people() is None
    assert peoples_verdicts(evaluation.blind_verdicts())["simulated"] == 1
    evaluation.project.simulated = True
    assert evaluation.people().units.tolist() == [1.0]


def test_equal_answers_are_ties_and_prove_nothing_about_a_better_model(candidate):
    evaluation = finished(candidate, [("same", "same")] * 30, comparisons=True)
    assert not evaluation.items.exclude(task=None).exists()
    assert evaluation.people() is None
    assert evaluation.judged().conclusion == "undecided"
    assert set(evaluation.judged().units) == {0.5}


def test_a_prompt_that_is_withdrawn_after_its_verdict_still_counts(candidate):
    evaluation, add = compared(candidate, 2, verdicts_per_prompt=1)
    add(0, 0.0)
    add(1, 1.0)
    withdraw(content=evaluation.items.order_by("id")[0].prompt, by=None)
    assert evaluation.people().units.tolist() == [0.0, 1.0]


# --- people alone --------------------------------------------------------------------------------


def test_people_can_judge_without_a_judge(candidate):
    evaluation, add = compared(candidate, 3, judge="", verdicts_per_prompt=1)
    assert (evaluation.judge, evaluation.attempt, evaluation.asks_people) == ("", 1, True)
    assert "win_rate" not in evaluation.report and evaluation.report["comparisons"] == 3
    assert evaluation.judged() is None and evaluation.conclusions() == "–"
    add(2, 1.0)
    assert evaluation.people().units.tolist() == [1.0]
    assert evaluation.conclusions() == "people: undecided"


def test_people_get_no_more_comparisons_than_the_most_verdicts_allow(candidate):
    pairs = [(f"theirs {n}", f"ours {n}") for n in range(9)]
    evaluation = finished(candidate, pairs, judge="", comparisons=True, most_verdicts=7,
                          verdicts_per_prompt=2)  # fmt: skip
    assert evaluation.items.exclude(task=None).count() == 3
    assert evaluation.items.count() == 9


def test_the_most_verdicts_must_be_enough_for_one_prompt(candidate):
    with pytest.raises(CannotRun, match="One prompt needs 3 verdicts, but at most 2"):
        registered_run_of(candidate, comparisons=True, most_verdicts=2, verdicts_per_prompt=3)


def free_slots(evaluation):
    tasks = evaluation.items.exclude(task=None).values("task")
    return Slot.objects.filter(task__in=tasks, ranking=None, priority__lt=OFF_QUEUE)


def test_comparisons_stop_when_the_answer_is_clear_and_a_claimed_one_still_counts(candidate):
    evaluation, add = compared(candidate, 14, judge="", verdicts_per_prompt=1)

    def submit(number, value):
        ranking = add(number, value)
        fill(ranking.task.slots.get(), ranking)

    for number in range(10):
        submit(number, 1.0)
    claimed = list(evaluation.items.order_by("id"))[11].task.slots.get()
    Slot.objects.filter(pk=claimed.pk).update(
        reviewer=make_user(), leased_until=timezone.now() + timedelta(hours=1)
    )
    assert stop_decided() == [] and free_slots(evaluation).count() == 4
    submit(10, 1.0)
    assert stop_decided() == [evaluation.pk] and not free_slots(evaluation).exists()
    evaluation.refresh_from_db()
    assert evaluation.stopped_at is not None
    assert stop_decided() == []
    claimed.refresh_from_db()
    assert claimed.reviewer_id is not None and claimed.leased_until is not None
    add(11, 0.0)  # the claimed comparison
    assert len(evaluation.people().units) == 12 and evaluation.people().conclusion == "better"


def test_undecided_comparisons_stay_on_the_queue(candidate):
    evaluation, add = compared(candidate, 30, judge="", verdicts_per_prompt=1)
    for number in range(20):
        add(number, (0.0, 0.5, 1.0)[number % 3])
    assert stop_decided() == [] and free_slots(evaluation).count() == 30


# --- a judge as control variate ------------------------------------------------------------------


def controlled(candidate, prompts, **changes):
    fields = {"control": True, "verdicts_per_prompt": 1, **changes}
    return compared(candidate, prompts, **fields)


def test_people_judge_one_prompt_of_each_block(candidate):
    evaluation, _ = controlled(candidate, 12)
    blocks = [(item.block, item.task_id is not None) for item in evaluation.items.all()]
    assert sorted({block for block, _ in blocks}) == [0, 1, 2]
    assert sorted(block for block, asked in blocks if asked) == [0, 1, 2]
    assert evaluation.report["comparisons"] == 3
    more = finished(candidate, [(f"b{n}", f"c{n}") for n in range(12)], comparisons=True,
                    control=True, most_verdicts=40, verdicts_per_prompt=1)  # fmt: skip
    assert more.report["comparisons"] == 6  # each block has another prompt


def test_the_block_of_a_stored_verdict_cannot_change(candidate):
    evaluation, _ = controlled(candidate, 4)
    with pytest.raises(IntegrityError, match="cannot be changed"):
        evaluation.items.update(block=None)


def test_the_judges_excess_corrects_the_verdicts_of_people(candidate):
    run, run_dir = registered_run_of(
        candidate, comparisons=True, control=True, verdicts_per_prompt=1
    )
    prompts = [make_prompt(candidate.project) for _ in range(8)]
    pairs = [("b", "cc"), ("bb", "c")] * 4  # the judge prefers the longer answer
    publish_answers(
        run_dir,
        [
            {"of": p, "baseline": b, "candidate": c}
            for p, (b, c) in zip(prompts, pairs, strict=True)
        ],
    )
    evaluation = Evaluation.objects.get(pk=runs.finish(run, run_dir)["evaluation"])
    items = {item.prompt_id: item for item in evaluation.items.all()}
    excess = evaluation.excess_by_prompt
    assert len(excess) == 2
    for prompt, value in excess.items():
        block = [i for i in items.values() if i.block == items[prompt].block]
        others = [item.verdict for item in block if item.prompt_id != prompt]
        assert len(others) == 3 and value == pytest.approx(items[prompt].verdict - sum(others) / 3)
    asked = list(excess)[1]
    item = items[asked]
    (theirs,) = item.task.responses.exclude(pk=item.candidate_response_id)
    Ranking.objects.create(
        task=item.task, reviewer=make_user(), tiers=[[item.candidate_response_id], [theirs.pk]]
    )
    evidence = evaluation.people()
    assert evidence.excess.tolist() == [pytest.approx(excess[asked])]
    assert evidence.mean == pytest.approx(1.0 - 0.5 * excess[asked])  # the first slope is ½


# --- a judge that orders the prompts --------------------------------------------------------------


def ordered(candidate, order, prompts=12):
    """Return an evaluation whose judge is certain of the even prompts, and a function that judges one."""
    run, run_dir = registered_run_of(
        candidate, comparisons=True, order=order, verdicts_per_prompt=1
    )
    rows = [make_prompt(candidate.project) for _ in range(prompts)]
    answers = [("b", "longer") if n % 2 == 0 else ("b", "c") for n in range(prompts)]
    publish_answers(
        run_dir,
        [{"of": p, "baseline": b, "candidate": c} for p, (b, c) in zip(rows, answers, strict=True)],
    )
    evaluation = Evaluation.objects.get(pk=runs.finish(run, run_dir)["evaluation"])

    def judge(number, value=1.0):
        item = evaluation.items.get(prompt=rows[number])
        (theirs,) = item.task.responses.exclude(pk=item.candidate_response_id)
        own = item.candidate_response_id
        tiers = [[own], [theirs.pk]] if value else [[theirs.pk], [own]]
        Ranking.objects.create(task=item.task, reviewer=make_user(), tiers=tiers)

    return evaluation, judge


@pytest.mark.parametrize(("order", "first"), [("uncertain", 0.5), ("certain", 1.0)])
def test_people_first_get_the_prompts_of_a_block_that_the_judge_puts_first(candidate, order, first):
    evaluation, _ = ordered(candidate, order)
    items = list(evaluation.items.order_by("task__slots__position"))
    assert [item.block for item in items] == [0] * 10 + [1] * 2
    verdicts = [item.verdict for item in items[:10]]
    assert verdicts == sorted(verdicts, reverse=order == "certain") and verdicts[0] == first
    other = "certain" if order == "uncertain" else "uncertain"
    with pytest.raises(IntegrityError, match="its registration cannot be changed"):
        Evaluation.objects.update(judge_order=other)


def test_verdicts_in_the_order_of_the_judge_count_once_their_block_is_complete(candidate):
    evaluation, judge = ordered(candidate, "certain")
    for number in range(9):
        judge(number)
    assert evaluation.people() is None
    judge(9, 0.0)
    evidence = evaluation.people()
    assert len(evidence.units) == 10 and evidence.mean == 0.9
    judge(10)
    assert len(evaluation.people().units) == 10
    withdraw(content=Prompt.objects.latest("id"), by=None)
    assert len(evaluation.people().units) == 11


def test_an_order_by_the_judge_needs_a_judge_and_people_and_no_control(candidate):
    for changes, sentence in (
        ({"order": "certain"}, "only if there is a judge and people are asked"),
        ({"order": "certain", "judge": "", "comparisons": True}, "only if there is a judge"),
        ({"order": "certain", "comparisons": True, "control": True}, "Choose one of the two"),
        (
            {"order": "worst", "comparisons": True},
            "must be uncertain, certain or empty; it is worst",
        ),
    ):
        with pytest.raises(CannotRun, match=sentence):
            runs.from_inputs(inputs_of(candidate, **changes))


# --- reviewers -----------------------------------------------------------------------------------


def test_each_reviewer_is_left_out_in_turn(candidate):
    evaluation, add = compared(candidate, 16, judge="", verdicts_per_prompt=1)
    ann, bob = make_user(), make_user()
    for number in range(16):
        add(number, 1.0 if number < 12 else 0.5, ann if number < 11 else bob)
    verdicts = evaluation.blind_verdicts()
    assert evaluation.people(verdicts).conclusion == "better"
    of_ann, of_bob = reviewer_rows(evaluation, verdicts)
    assert (of_ann.reviewer, of_ann.verdicts, of_ann.rate) == (ann.pk, 11, "100.0%")
    assert (of_ann.conclusion_without, of_ann.changes) == ("undecided", True)
    assert (of_bob.conclusion_without, of_bob.changes) == ("better", False)
    assert (of_bob.rate, of_bob.rate_without) == ("60.0%", "100.0%")


def test_a_single_reviewer_is_left_out_too(candidate):
    evaluation, add = compared(candidate, 2, judge="", verdicts_per_prompt=1)
    add(0, 1.0)
    [row] = reviewer_rows(evaluation, evaluation.blind_verdicts())
    assert (row.rate_without, row.conclusion_without) == ("–", "undecided")


def test_a_win_for_reviewers_in_general_needs_several_who_agree(candidate):
    evaluation, add = compared(candidate, 30, judge="", verdicts_per_prompt=1, question="like them")
    reviewers = [make_user() for _ in range(3)]
    for number in range(14):
        add(number, 1.0, reviewers[0])
    [doubt] = candidate.doubts()
    assert "has verdicts of only one reviewer" in doubt
    for number in range(14, 22):
        add(number, (1.0, 0.0)[number % 2], reviewers[1])
    [doubt] = candidate.doubts()
    assert "With 2 reviewers, their win rate is between 0.0% and 100.0%" in doubt
    evaluation.question = Evaluation.Question.THESE
    assert doubts_about_evaluation(evaluation, evaluation.sources()) == []


# --- equal models --------------------------------------------------------------------------------


def test_two_equal_models_stay_undecided_by_people_and_by_the_judge(candidate):
    """The same model against itself: equal texts are ties, and different ones win in turn."""
    pairs = [("same", "same")] * 10 + [("a", "b"), ("b", "a")] * 10
    evaluation = finished(candidate, pairs, comparisons=True, verdicts_per_prompt=1)
    assert evaluation.items.filter(task=None).count() == 10
    for number, item in enumerate(evaluation.items.exclude(task=None)):
        ours = item.candidate_response_id
        (theirs,) = item.task.responses.exclude(pk=ours).values_list("pk", flat=True)
        tiers = [[ours], [theirs]] if number % 2 else [[theirs], [ours]]
        Ranking.objects.create(task=item.task, reviewer=make_user(), tiers=tiers)
    assert evaluation.conclusions() == "people: undecided; judge: undecided"
