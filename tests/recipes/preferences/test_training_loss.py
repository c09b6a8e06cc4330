import math

import pytest
import torch

from recipes.preferences.loss import agreement, bradley_terry

torch.set_num_threads(1)


def minus_log_sigmoid(x: float) -> float:
    return math.log(1 + math.exp(-x))


def test_the_loss_of_one_pair_is_the_logistic_loss_of_the_difference():
    wins = torch.tensor([[[0.0, 1.0], [0.0, 0.0]]])
    # 2.5 - 1.0 = 1.5; log(1 + e^-1.5) = 0.2014133
    assert bradley_terry(torch.tensor([[2.5, 1.0]]), wins).item() == pytest.approx(0.2014133)


def test_a_ranking_of_three_is_the_mean_of_its_three_pairs():
    wins = torch.tensor([[[0.0, 1.0, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]])
    # Differences 1, 3 and 2: (0.3132617 + 0.0485874 + 0.1269280) / 3
    assert bradley_terry(torch.tensor([[3.0, 2.0, 0.0]]), wins).item() == pytest.approx(0.1629257)


def test_a_tie_costs_least_when_the_scores_are_equal():
    tie = torch.tensor([[[0.0, 0.5], [0.5, 0.0]]])
    equal = bradley_terry(torch.tensor([[0.3, 0.3]]), tie).item()
    apart = bradley_terry(torch.tensor([[0.3, 0.9]]), tie).item()
    assert equal == pytest.approx(math.log(2))
    assert apart == pytest.approx((minus_log_sigmoid(0.6) + minus_log_sigmoid(-0.6)) / 2)


def test_weights_are_relative_within_a_group():
    scores = torch.tensor([[1.0, 0.0, -2.0]])
    wins = torch.tensor([[[0.0, 3.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])
    expected = (3 * minus_log_sigmoid(1.0) + minus_log_sigmoid(-1.0)) / 4
    assert bradley_terry(scores, wins).item() == pytest.approx(expected)
    assert bradley_terry(scores, wins * 10).item() == pytest.approx(expected)


def test_a_group_of_nine_weighs_as_much_as_a_group_of_two():
    nine, two = torch.zeros(1, 9), torch.zeros(1, 2)
    loss_nine = bradley_terry(nine, torch.ones(9, 9).triu(1)[None])
    loss_two = bradley_terry(two, torch.ones(2, 2).triu(1)[None])
    assert loss_nine.item() == pytest.approx(loss_two.item())


def test_padding_and_groups_without_evidence_add_nothing():
    wins = torch.zeros(2, 3, 3)
    wins[0, 0, 1] = 1.0
    scores = torch.tensor([[1.0, 0.0, 99.0], [5.0, -5.0, 0.0]], requires_grad=True)
    losses = bradley_terry(scores, wins)
    losses.sum().backward()
    assert losses.tolist() == pytest.approx([minus_log_sigmoid(1.0), 0.0])
    assert scores.grad[0, 2] == 0 and scores.grad[1].abs().sum() == 0


def test_the_gradient_is_the_derivative():
    torch.manual_seed(0)
    wins = torch.rand(2, 4, 4) * (1 - torch.eye(4))
    scores = torch.randn(2, 4, requires_grad=True)
    bradley_terry(scores, wins).sum().backward()
    for index in ((0, 1), (1, 3)):
        step = torch.zeros(2, 4)
        step[index] = 1e-2
        with torch.no_grad():
            up, down = (bradley_terry(scores + s, wins).sum() for s in (step, -step))
        assert scores.grad[index].item() == pytest.approx(((up - down) / 2e-2).item(), abs=2e-3)


def test_the_loss_is_finite_where_the_naive_formula_overflows():
    wins = torch.tensor([[[0.0, 1.0], [0.0, 0.0]]])
    assert bradley_terry(torch.tensor([[-500.0, 500.0]]), wins).item() == pytest.approx(1000.0)


def test_agreement_counts_the_evidence_that_the_scores_agree_with():
    wins = torch.tensor([[[0.0, 2.0, 0.0], [1.0, 0.0, 0.5], [0.0, 0.5, 0.0]]])
    right, evidence = agreement(torch.tensor([[1.0, 0.0, 0.0]]), wins)
    # 2 of 3 for the first pair; the tie is half right by equal scores: 2 + 0.5 of 4.
    assert (right.item(), evidence.item()) == (2.5, 4.0)


def test_agreement_does_not_count_the_negative_evidence_of_robust_smoothing():
    """Check ε = 0.1: a win counts 1.125 for its side and -0.125 for the other."""
    wins = torch.tensor([[[0.0, 1.125], [-0.125, 0.0]]])
    for scores, expected in (([[1.0, 0.0]], 1.0), ([[0.0, 1.0]], 0.0)):
        right, evidence = agreement(torch.tensor(scores), wins)
        assert (right / evidence).item() == expected
