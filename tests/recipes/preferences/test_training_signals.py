"""Tests of strength, weights, ties and the line in labels, by hand."""

import math

import numpy as np
import pytest
import torch

from recipes.layout.collate import LAYOUT, for_model
from recipes.layout.collate import loss_tensors as batch_of
from recipes.models.chat_format import ChatFormat
from recipes.preferences import loss
from recipes.preferences.groups import (
    Group,
    Judgment,
    by_criterion,
    line,
    rated_criteria,
    strengths,
)
from recipes.preferences.loss_inputs import loss_inputs, mean_weight, tie_share
from recipes.preferences.objective import Objective
from recipes.preferences.tokens import TokenGroup, prepare
from reward.settings import RewardConfig
from tests.tiny import make_tokenizer

torch.set_num_threads(1)


def group(*rankings: Judgment, k: int = 3) -> Group:
    return Group("g", [], list(range(k)), ["t"] * k, list(rankings))


def config(**settings) -> RewardConfig:
    return RewardConfig.from_dict({"base_model": "none", **settings})


def pair(i_beats_j: float = 0.0, j_beats_i: float = 0.0) -> torch.Tensor:
    return torch.tensor([[[0.0, i_beats_j], [j_beats_i, 0.0]]])


# --- strength -------------------------------------------------------------------------------------


def test_strengths_are_the_weighted_mean_of_the_grades():
    # 0 > 1 graded 3 (weight 1) and 1 (weight 3): (3 + 3) / 4. The full ranking grades nothing.
    result = strengths(
        group(
            Judgment("a", [[0], [1]], strength=3.0),
            Judgment("b", [[0], [1]], strength=1.0, weight=3.0),
            Judgment("c", [[1], [0]], strength=2.0),
            Judgment("d", [[0], [1], [2]]),
        )
    )
    assert result.tolist() == [[0, 1.5, 0], [2.0, 0, 0], [0, 0, 0]]


def test_a_graded_win_has_to_be_won_by_its_margin():
    # 2.5 - 1.0 - 1.0 = 0.5: log(1 + e^-0.5) = 0.4740770. Half of it ungraded: log(1 + e^-1.5) = 0.2014133
    scores, margins = torch.tensor([[2.5, 1.0]]), pair(1.0)
    whole = loss.bradley_terry(scores, pair(1.0), loss.Graded(pair(1.0), margins))
    assert whole.item() == pytest.approx(0.4740770)
    half = loss.bradley_terry(scores, pair(2.0), loss.Graded(pair(1.0), margins))
    assert half.item() == pytest.approx((0.4740770 + 0.2014133) / 2)


def test_margins_are_strength_times_scale_and_the_other_direction_has_none():
    result = loss_inputs(
        group(Judgment("a", [[0], [1]], strength=2.0), k=2),
        config(strength="margin", strength_scale=0.5),
    )
    assert result.signals["margins"].tolist() == [[0, 1], [0, 0]]
    assert result.signals["graded"].tolist() == [[0, 1], [0, 0]]
    assert result.wins.tolist() == [[0, 1], [0, 0]]


def test_the_loss_of_a_soft_target_is_minimal_at_the_gap_of_its_strength():
    result = loss_inputs(
        group(Judgment("a", [[0], [1]], strength=2.0, weight=4.0), k=2),
        config(strength="soft", strength_scale=0.5),
    )
    # σ(0.5 · 2) = 0.7310586, times the weight 4
    np.testing.assert_allclose(result.wins, [[0, 2.9242344], [1.0757656, 0]], rtol=1e-6)
    scores = torch.tensor([[1.0, 0.0]], requires_grad=True)
    loss.bradley_terry(scores, torch.from_numpy(result.wins)[None]).sum().backward()
    assert scores.grad.abs().max() < 1e-6


def test_soft_targets_leave_rankings_without_a_strength_as_they_are():
    result = loss_inputs(group(Judgment("a", [[0], [1, 2]])), config(strength="soft"))
    assert result.wins.tolist() == [[0, 1, 1], [0, 0, 0.5], [0, 0.5, 0]]


# --- smoothing ------------------------------------------------------------------------------------


def test_smoothing_gives_a_share_of_each_win_to_the_other_side():
    result = loss_inputs(group(Judgment("a", [[0], [1]]), k=2), config(label_smoothing=0.1))
    np.testing.assert_allclose(result.wins, [[0, 0.9], [0.1, 0]], rtol=1e-6)
    # Least at a gap of log 9, so that no gap is ever large enough to be sure of.
    scores = torch.tensor([[math.log(9), 0.0]], requires_grad=True)
    loss.bradley_terry(scores, torch.from_numpy(result.wins)[None]).sum().backward()
    assert scores.grad.abs().max() < 1e-6


# --- weights --------------------------------------------------------------------------------------


def test_the_weight_of_a_group_is_the_mean_over_its_comparisons():
    # Three comparisons of weight 1, one of weight 0.2.
    result = group(Judgment("a", [[0], [1], [2]]), Judgment("b", [[0], [1]], weight=0.2))
    assert mean_weight(result) == pytest.approx(3.2 / 4)
    assert loss_inputs(result, config()).signals["weight"] == pytest.approx(0.8)
    assert "weight" not in loss_inputs(result, config(reviewer_weights="within")).signals


def test_ignored_weights_are_all_one():
    result = loss_inputs(
        group(Judgment("a", [[0], [1]], weight=0.2), k=2), config(reviewer_weights="ignore")
    )
    assert result.wins.tolist() == [[0, 1], [0, 0]]


def test_the_loss_of_a_group_is_multiplied_by_its_weight():
    batch = {"wins": pair(0.2).repeat(2, 1, 1), "weight": torch.tensor([1.0, 0.25])}
    full, quarter = Objective().losses(torch.tensor([[[1.0], [0.0]], [[1.0], [0.0]]]), batch)
    assert full.item() == pytest.approx(math.log(1 + math.exp(-1)))
    assert quarter.item() == pytest.approx(full.item() / 4)


# --- ties -----------------------------------------------------------------------------------------


def test_davidson_gives_the_probabilities_of_the_paper():
    # Worths 4 and 1, ν = 1, √(4·1) = 2: 4/7 a win, 1/7 a loss, 2/7 a tie.
    scores = torch.tensor([[math.log(4), 0.0]])
    none, tie = torch.zeros(1, 2, 2), pair(0.5, 0.5)
    for wins, ties, share in (
        (pair(1), none, 4 / 7),
        (pair(0, 1), none, 1 / 7),
        (none, tie, 2 / 7),
    ):
        result = loss.davidson(scores, wins, ties, 1.0)
        assert result.item() == pytest.approx(-math.log(share), abs=1e-6)


def test_rao_kupper_gives_the_probabilities_of_the_paper():
    # Worths 3 and 1, θ = 2: 3/(3+2) a win, 1/(1+6) a loss, the rest a tie.
    scores = torch.tensor([[math.log(3), 0.0]])
    none, tie = torch.zeros(1, 2, 2), pair(0.5, 0.5)
    outcomes = ((pair(1), none, 3 / 5), (pair(0, 1), none, 1 / 7), (none, tie, 9 / 35))
    for wins, ties, share in outcomes:
        result = loss.rao_kupper(scores, wins, ties, math.log(2))
        assert result.item() == pytest.approx(-math.log(share), abs=1e-6)


@pytest.mark.parametrize("model", [loss.davidson, loss.rao_kupper])
def test_without_ties_both_are_bradley_terry(model):
    scores = torch.tensor([[1.3, 0.2, -0.7]], requires_grad=True)
    wins = torch.ones(1, 3, 3).triu(1)
    result = model(scores, wins, torch.zeros(1, 3, 3), 0.0)
    assert result.item() == pytest.approx(loss.bradley_terry(scores, wins).item(), abs=1e-6)
    result.sum().backward()
    assert torch.isfinite(scores.grad).all()


@pytest.mark.parametrize("model", [loss.davidson, loss.rao_kupper])
def test_the_gradient_is_the_derivative_and_finite_for_large_scores(model):
    torch.manual_seed(0)
    wins, ties = torch.rand(1, 3, 3).triu(1), torch.ones(1, 3, 3) - torch.eye(3)
    scores = torch.randn(1, 3, requires_grad=True)
    model(scores, wins, ties, 0.7).sum().backward()
    step = torch.tensor([[0.0, 1e-2, 0.0]])
    with torch.no_grad():
        up, down = (model(scores + s, wins, ties, 0.7).sum() for s in (step, -step))
    assert scores.grad[0, 1].item() == pytest.approx(((up - down) / 2e-2).item(), abs=2e-3)
    far = torch.tensor([[500.0, -500.0, 0.0]], requires_grad=True)
    model(far, wins, ties, 0.7).sum().backward()
    assert torch.isfinite(far.grad).all()


def test_equal_scores_tie_with_the_share_of_ties_in_the_data():
    ranked = [group(Judgment("a", [[0], [1, 2]])), group(Judgment("a", [[0], [1]], weight=2.0))]
    # 2 strict and 1 tie of weight 1, 1 strict of weight 2: one in five.
    assert tie_share(ranked) == pytest.approx(0.2)
    equal, tie = torch.zeros(1, 2, 1), pair(0.5, 0.5)
    for name in ("davidson", "rao_kupper"):
        objective = Objective.of(config(ties=name), ranked)
        result = objective.losses(equal, {"wins": torch.zeros(1, 2, 2), "ties": tie})
        assert result.item() == pytest.approx(-math.log(0.2), abs=1e-6)


def test_weights_that_are_ignored_do_not_decide_the_width_of_ties():
    ranked = [group(Judgment("a", [[0], [1]], weight=3.0)), group(Judgment("b", [[0, 1]]))]
    width = lambda **said: Objective.of(config(ties="rao_kupper", **said), ranked).tie_width  # noqa: E731
    assert width(reviewer_weights="ignore") == pytest.approx(math.log(1.5 / 0.5))
    assert width() == pytest.approx(math.log(1.25 / 0.75))


def test_explicit_ties_are_not_wins():
    result = loss_inputs(group(Judgment("a", [[0], [1, 2]], weight=2.0)), config(ties="davidson"))
    assert result.wins.tolist() == [[0, 2, 2], [0, 0, 0], [0, 0, 0]]
    assert result.signals["ties"].tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 0]]


def test_a_group_of_ties_alone_is_trained_on_when_ties_are_outcomes():
    messages = [{"role": "user", "content": "Hi"}]
    tied = Group("g", messages, [1, 2], ["a", "b"], [Judgment("r", [[1, 2]])])
    settings = config(ties="rao_kupper")
    result = prepare([tied], ChatFormat(make_tokenizer()), 99, lambda g: loss_inputs(g, settings))
    assert len(result.tokens["train"]) == 1 and not result.account()


# --- the line -------------------------------------------------------------------------------------


def test_the_line_separates_acceptable_responses():
    above, below = line(
        group(
            Judgment("a", [[0], [1], [2]], cut=1),
            Judgment("b", [[1, 0]], cut=1, weight=0.5),
            Judgment("c", [[2], [1]], cut=0),
            Judgment("d", [[2], [0], [1]]),
        )
    )
    assert (above.tolist(), below.tolist()) == ([1.5, 0.5, 0], [0, 2, 2])


def test_acceptance_is_the_mean_logistic_loss_of_the_scores_themselves():
    above, below = torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.0]])
    # 2 · log(1 + e^-1) and log(1 + e^0.5), over 3: (0.6265234 + 0.9740770) / 3; no reviewer judged the third
    result = loss.acceptance(torch.tensor([[1.0, 0.5, 99.0]]), above, below)
    assert result.item() == pytest.approx(0.5335335)
    nobody = torch.zeros(1, 3)
    assert loss.acceptance(torch.tensor([[1.0, 0.5, 99.0]]), nobody, nobody).item() == 0


def test_the_weight_of_the_line_follows_the_setting():
    judged = group(Judgment("a", [[0], [1]], cut=1), k=2)
    result = loss_inputs(judged, config(cut_weight=0.5))
    batch = {n: torch.from_numpy(v)[None] for n, v in result.signals.items()}
    batch["wins"] = torch.from_numpy(result.wins)[None]
    losses = Objective.of(config(cut_weight=0.5), [judged]).losses(torch.zeros(1, 2, 1), batch)
    assert losses.item() == pytest.approx(1.5 * math.log(2))
    assert "above" not in loss_inputs(judged, config()).signals


# --- criteria ---------------------------------------------------------------------------------------

RATED = Group(
    "g",
    [],
    [7, 8, 9],
    ["a", "b", "c"],
    [Judgment("a", [[7], [8], [9]], cut=1), Judgment("b", [[9], [8]], weight=2.0)],
    meta={
        "ratings": [
            {"7": {"kind": 1, "true": 5}, "8": {"kind": 4}, "9": {"kind": 4, "true": 2}},
            {"8": {"kind": 2}, "9": {"kind": 3}},
        ]
    },
)


def test_ratings_rank_by_one_criterion_within_one_reviewer():
    kind = by_criterion(RATED, "kind")
    assert [ranking.tiers for ranking in kind.rankings] == [[[8, 9], [7]], [[9], [8]]]
    assert [ranking.weight for ranking in kind.rankings] == [1.0, 2.0]
    assert {ranking.cut for ranking in kind.rankings} == {None}
    assert [r.tiers for r in by_criterion(RATED, "true").rankings] == [[[7], [9]], []]
    assert rated_criteria(RATED) == {"kind", "true"}


def test_each_criterion_has_separate_wins():
    result = loss_inputs(RATED, config(), ["kind", "true"]).signals["criteria"]
    assert result[0].tolist() == [[0, 0, 0], [1, 0, 0.5], [1, 2.5, 0]]
    assert result[1].tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]
    assert "criteria" not in loss_inputs(RATED, config()).signals


def test_the_weight_of_criteria_follows_the_setting():
    wins = pair(1.0)
    batch = {"wins": wins, "criteria": torch.stack([wins[0].T, torch.zeros(2, 2)])[None]}
    objective = Objective(criteria_weight=0.5)
    outputs = torch.tensor([[[1.0, 2.0, 0.0], [0.0, 0.0, 0.0]]])
    # log(1 + e^-1) of the order; log(1 + e^2) of the first criterion, the second is not rated.
    expected = math.log(1 + math.exp(-1)) + 0.5 * math.log(1 + math.exp(2)) / 2
    assert objective.losses(outputs, batch).item() == pytest.approx(expected)


# --- default options --------------------------------------------------------------------------------


def test_without_options_the_objective_is_exactly_bradley_terry():
    torch.manual_seed(0)
    outputs, wins = torch.randn(3, 5, 1, requires_grad=True), torch.rand(3, 5, 5)
    question = {"wins": wins, "weight": torch.ones(3)}
    ours = Objective.of(config(), [RATED]).losses(outputs, question)
    plain = loss.bradley_terry(outputs[..., 0], wins)
    assert torch.equal(ours, plain)
    (a,), (b,) = (torch.autograd.grad(x.sum(), outputs, retain_graph=True) for x in (ours, plain))
    assert torch.equal(a, b)


# --- batches --------------------------------------------------------------------------------------


def test_signals_are_padded_to_the_largest_group_and_not_passed_to_the_model():
    question = config(ties="davidson", strength="margin", cut_weight=1.0, heads=2)
    rows = []
    for judged in (
        group(Judgment("a", [[0, 1]], cut=1), k=2),
        group(Judgment("a", [[0], [1], [2]])),
    ):
        result = loss_inputs(judged, question, ["kind"])
        tokens = [np.ones(1, np.int32)] * len(judged.responses)
        rows.append(TokenGroup(tokens[0], tokens, result.wins, result.signals))
    batch = batch_of(rows)
    assert batch["ties"].tolist()[0] == [[0, 0.5, 0], [0.5, 0, 0], [0, 0, 0]]
    assert batch["above"].tolist() == [[1, 1, 0], [0, 0, 0]]
    assert batch["weight"].tolist() == [1, 1] and batch["margins"].shape == (2, 3, 3)
    assert set(for_model(batch)) == {"present"} == set(batch) & LAYOUT
