"""Tests of `python -m benchmarks.taste`: its truth, its reviewers, its arms and its figures."""

import json
from collections import Counter

import numpy as np
import pytest
import torch

from benchmarks.support.taste.data import (
    all_pairs,
    best_against_worst,
    ties_at_random,
    without_ties,
)
from benchmarks.support.taste.divergence import (
    chosen_scores,
    curve_gap,
    equal_divergence_case,
    tuned_row,
)
from benchmarks.support.taste.figures import cases_of, interval, svg, t_quantile
from benchmarks.support.taste.linear import compare_linear
from benchmarks.support.taste.world import (
    ASKERS,
    WORDS,
    Question,
    Taste,
    make_questions,
    make_taste,
    mean_divergence,
    rank,
    ranked,
)
from benchmarks.taste import (
    ALL_ARMS,
    ARMS,
    CHOSEN_WITH,
    COMPARISONS,
    CURVES,
    grid_of,
    learning_rate_of,
    main,
)
from finetune.engines.engine import Sampled
from finetune.methods.method import all_methods
from recipes.preferences.groups import strict_wins, wins
from tests.finetune.training.training_runs import ranked_group

pytestmark = pytest.mark.usefixtures("one_thread")


# --- the world --------------------------------------------------------------------------------------


def test_the_score_adds_word_values_and_topics_and_subtracts_repetitions_and_length():
    values = np.zeros((len(ASKERS), len(WORDS)))
    values[1, 0], values[1, 1], values[0, 0] = 2.0, -0.5, 100.0
    taste, question = Taste(values), Question("q", 1, (WORDS[1], WORDS[5]))
    assert taste.score(question, "") == 0
    assert taste.score(question, WORDS[0]) == pytest.approx(2.0)
    # 2.0 - 0.5 for the words, 1.0 for a topic, 0.5 each for a repeated and an unknown word.
    text = f"{WORDS[0]} {WORDS[1]} {WORDS[0]} nonsense"
    assert taste.score(question, text) == pytest.approx(1.5)
    # Ten words are two too many.
    assert taste.score(question, " ".join(WORDS[6:16])) == pytest.approx(-0.6)


def test_two_responses_tie_and_win_as_in_the_model_of_davidson():
    """With d = 1 and ν = 0.5: e^½, e^-½ and 0.5 over their sum."""
    rng, count = np.random.default_rng(0), Counter()
    for _ in range(4000):
        tiers, _ = rank([1.0, 0.0], 0.0, 0.5, rng)
        count[str(tiers)] += 1
    total = np.exp(0.5) + np.exp(-0.5) + 0.5
    assert count["[[0, 1]]"] / 4000 == pytest.approx(0.5 / total, abs=0.02)
    assert count["[[0], [1]]"] / 4000 == pytest.approx(np.exp(0.5) / total, abs=0.02)


def test_without_a_tie_width_no_response_ties_and_the_line_is_an_item_with_its_own_score():
    rng = np.random.default_rng(0)
    rankings = [rank([0.0, 1.0, 2.0], 1.0, 0.0, rng) for _ in range(2000)]
    assert all(sorted(tiers) == [[0], [1], [2]] for tiers, _ in rankings)
    above = np.mean([2 in [i for tier in tiers[:cut] for i in tier] for tiers, cut in rankings])
    assert above == pytest.approx(1 / (1 + np.exp(-1)), abs=0.03)  # σ(2 - 1)


# --- the data of the arms ---------------------------------------------------------------------------


@pytest.fixture
def group():
    """Return a ranking of four responses: 3, then 0 and 1 tied, then 2."""
    return ranked_group("g", ["a", "b", "c", "d"], [[3], [0, 1], [2]])


def test_the_pairs_of_an_arm_are_those_of_different_tiers(group):
    rng = np.random.default_rng(0)
    [pair] = best_against_worst([group], rng)
    assert pair.problem() is None
    assert pair.responses == ["c", "d"] and pair.rankings[0].tiers == [[3], [2]]
    pairs = [pair.rankings[0].tiers for pair in all_pairs([group], rng)]
    assert pairs == [[[3], [0]], [[3], [1]], [[3], [2]], [[0], [2]], [[1], [2]]]
    tied = ranked_group("t", ["a", "b"], [[0, 1]])
    assert best_against_worst([tied], rng) == all_pairs([tied], rng) == []
    assert without_ties([tied], rng) == []


def test_dropping_ties_leaves_the_strict_evidence(group):
    [dropped] = without_ties([group], np.random.default_rng(0))
    assert dropped.problem() is None and dropped.responses == group.responses
    assert (wins(dropped) == strict_wins(group)).all()
    assert (wins(group) != strict_wins(group)).any()


def test_ties_at_random_keep_the_order_of_tiers_and_order_each_tier_without_preference(group):
    rng, orders = np.random.default_rng(0), Counter()
    for _ in range(1000):
        [broken] = ties_at_random([group], rng)
        assert broken.problem() is None and broken.responses == group.responses
        orders[str(broken.rankings[0].tiers)] += 1
    assert orders.keys() == {"[[3], [0], [1], [2]]", "[[3], [1], [0], [2]]"}
    assert orders["[[3], [0], [1], [2]]"] == pytest.approx(500, abs=60)


def test_arms_that_are_compared_have_the_same_prompts_settings_and_ties():
    arms = {arm.name: arm for arm in ARMS}
    own = {"ties", "rounds", "prompts_per_round"}
    for _, first, second in COMPARISONS:
        ours, theirs = arms[first], arms[second]
        assert (ours.size, ours.tie_width) == (theirs.size, theirs.tie_width)
        shared = (ours.settings.keys() | theirs.settings.keys()) - own
        assert all(ours.settings[name] == theirs.settings[name] for name in shared)


def test_every_method_has_an_arm_and_every_arm_of_a_comparison_exists():
    names = [arm.name for arm in ARMS]
    assert {arm.method for arm in ARMS} == {method.name for method in all_methods()}
    assert all(first in names and second in names for _, first, second in COMPARISONS)
    arms = {arm.name: arm for arm in ARMS}
    for name in names:
        assert learning_rate_of(name) in grid_of(arms[CHOSEN_WITH.get(name, name)])


# --- figures ----------------------------------------------------------------------------------------


def test_intervals_are_those_of_student():
    assert t_quantile(9) == pytest.approx(2.262, abs=1e-3)
    assert t_quantile(19) == pytest.approx(2.093, abs=1e-3)
    values = [0.4, 0.5, 0.6] * 3 + [0.5]
    half = 2.262 * np.std(values, ddof=1) / np.sqrt(10)
    assert interval(values) == pytest.approx([0.5 - half, 0.5 + half], abs=1e-3)
    assert interval([0.5]) is None


def row(arm, seed, scores):
    figures = {"kl": 1.0, "words": 5, "truncated": 0, "distinct": 1, "steps": 8, "tokens": 10}
    return {
        "arm": arm, "seed": seed, "learning_rate": 1e-3, "scores": scores,
        "base_scores": [0.0, 1.0], "reward_order": None, "train_seconds": 1.0, **figures,
    }  # fmt: skip


def test_arms_are_compared_with_the_base_and_with_each_other_on_the_same_seeds():
    rows = [
        row("dpo", 0, [1.0, 2.0]), row("dpo", 1, [1.0, 1.0]),
        row("best_worst", 0, [1.0, 0.0]), row("best_worst", 1, [0.0, 0.0]),
    ]  # fmt: skip
    dpo, _, compared = cases_of(rows, COMPARISONS)
    assert dpo["win_rates"] == [1.0, 0.75] and dpo["score_gain"] == pytest.approx(0.75)
    assert compared["arms"] == ["dpo", "best_worst"]
    assert compared["win_rate"] == pytest.approx((0.75 + 1.0) / 2)
    assert compared["win_rate_difference"] == pytest.approx((0.5 + 0.5) / 2)
    assert compared["score_difference"] == pytest.approx((1.0 + 1.0) / 2)
    assert svg(cases_of(rows, COMPARISONS)).count("<circle") == 2


# --- equal divergence and the linear model ----------------------------------------------------------


def test_the_divergence_is_the_sum_over_the_tokens_of_an_answer():
    """KL((½, ½) ‖ (¼, ¾)) = ½ ln 2 + ½ ln ⅔ = 0.1438. The last token is not part of an answer."""
    ours = torch.log(torch.tensor([[[0.5, 0.5], [0.5, 0.5], [0.9, 0.1]]]))
    theirs = torch.log(torch.tensor([[[0.25, 0.75], [0.5, 0.5], [0.1, 0.9]]]))
    counted = torch.tensor([[True, True, False]])
    assert mean_divergence(ours, theirs, counted) == pytest.approx(0.1438, abs=1e-4)
    assert mean_divergence(ours, ours, counted) == 0


def test_curves_are_compared_up_to_the_end_of_the_shorter_one():
    """Both curves are lines from 0, with slopes 2 and 1, up to √KL = 1: the mean gap is ½."""
    assert curve_gap([(2.0, 4.0)], [(1.0, 1.0)]) == pytest.approx(0.5)
    # The second curve rises to 2 at ½ and stays there, so its mean is 1.5 instead of 1.
    assert curve_gap([(1.0, 2.0)], [(1.0, 2.0), (0.5, 2.0)]) == pytest.approx(-0.5)


def test_the_best_beta_on_one_half_of_the_prompts_is_measured_on_the_other():
    base = [0.0, 0.0]
    good_first = {"arm": "a", "scores": [1.0, -1.0], "base_scores": base, "kl": 1.0}
    good_last = {"arm": "b", "scores": [-2.0, 2.0], "base_scores": base, "kl": 1.0}
    assert chosen_scores([good_first, good_last]) == [-2.0, -1.0]
    case = equal_divergence_case("x", {0: [good_last]}, {0: [good_first], 1: [good_first]})
    assert case["seeds"] == 1 and case["up_to_kl"] == 1
    assert case["score_gap"] == case["win_rate_gap"] == 0


def test_the_best_beta_on_the_other_seeds_is_tuned():
    """On seed 0, arm a is better, but arm b is better on the other seeds."""
    base = [0.0, 0.0]
    good = {"scores": [1.0, 1.0], "base_scores": base, "kl": 1.0}
    bad = {"scores": [-1.0, -1.0], "base_scores": base, "kl": 1.0}
    first_wins = [{"arm": "a", **good}, {"arm": "b", **bad}]
    last_wins = [{"arm": "a", **bad}, {"arm": "b", **good}]
    rows = {0: first_wins, 1: last_wins, 2: last_wins}
    assert [tuned_row(rows, seed, [0, 1, 2])["arm"] for seed in (0, 1, 2)] == ["b", "a", "a"]


def test_arms_at_equal_divergence_differ_in_beta_only():
    rest = {"sizes": set(), "widths": set(), "rates": set(), "betas": set()}
    for arms in CURVES.values():
        rest["sizes"] |= {arm.size for arm in arms}
        rest["widths"] |= {arm.tie_width for arm in arms}
        rest["rates"] |= {learning_rate_of(arm.name) for arm in arms}
        rest["betas"].add(tuple(arm.settings["beta"] for arm in arms))
    assert all(len(values) == 1 for values in rest.values())
    assert len({arm.name for arm in ALL_ARMS}) == len(ALL_ARMS)


def test_a_linear_model_with_the_true_features_learns_the_taste_and_uses_ties():
    """With few ties, all losses learn about the same."""
    rng = np.random.default_rng(0)
    taste, questions = make_taste(rng), make_questions(rng, 96, "q")
    answers = {
        question.name: [
            Sampled(question.name, number, 0, " ".join(rng.choice(WORDS, size=5)), 5, 5, False)
            for number in range(4)
        ]
        for question in questions
    }
    held_out, pairs = questions[:32], {q.name: answers[q.name][:2] for q in questions[:32]}
    results = []
    for width in (0.1, 3.0):
        groups = ranked(answers, questions, taste, width, rng)
        about_ties, *cases = compare_linear([(taste, groups, questions, held_out, pairs)])
        results.append((about_ties, {case["loss"]: case["correlation"] for case in cases}))
    (few, few_fits), (many, many_fits) = results
    assert few["tie_share"] < 0.1 and few["strict_pairs_in_true_order"] > 0.7
    assert few_fits["dropped"] == pytest.approx(few_fits["half"], abs=0.03)
    assert many["tie_share"] > 0.4 and many["true_gap_of_ties"] < many["true_gap_of_strict_pairs"]
    assert min(many_fits.values()) > 0.5
    assert len(set(many_fits.values())) == len(many_fits) == 5


@pytest.mark.slow
def test_the_benchmark_ends_with_one_line_of_json_and_reuses_stored_results(tmp_path, capfd):
    arguments = ["--quick", "--folder", str(tmp_path), "--svg", str(tmp_path / "rates.svg")]
    assert main(arguments) == 0
    first = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert first["name"] == "taste" and {"commit", "hardware", "cases"} <= first.keys()
    dpo, best_worst, compared = first["cases"]
    assert dpo["steps"] == best_worst["steps"] == 8 and dpo["kl"] > 0
    assert dpo["tokens"] == pytest.approx(best_worst["tokens"], rel=0.1)
    assert compared["seeds"] == 2
    lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    # One result is lost. The others are not measured again, and it is measured to equal figures.
    (tmp_path / "rows.jsonl").write_text("\n".join(lines[1:]) + "\n")
    assert main([*arguments, "--stored"]) == 0
    stored = json.loads(capfd.readouterr().out.splitlines()[-1])["cases"]
    assert [case["seeds"] for case in stored] == [1, 2, 1]
    assert main(arguments) == 0
    second = json.loads(capfd.readouterr().out.splitlines()[-1])
    measured = {"train_seconds": 0}
    assert [{**case, **measured} for case in second["cases"][:2]] == [
        {**case, **measured} for case in first["cases"][:2]
    ]
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == len(lines)
