"""Tests of the loss and its gradients against a plain loop over judgments and pairs."""

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from recipes.errors import Stopped
from recipes.layout.collate import Collator, for_model
from recipes.models.chat_format import ChatFormat
from recipes.preferences.groups import Group, Judgment
from recipes.preferences.loss_inputs import bootstrap, loss_inputs
from recipes.preferences.objective import Objective
from recipes.preferences.tokens import prepare
from recipes.stopping import StopSignal
from reward.settings import RewardConfig
from reward.training.models.reward_model import load_tokenizer, make_reward_model
from reward.training.train import train
from tests.reward.world import make_groups, make_run, tiny_llama

torch.set_num_threads(1)

OPTIONS = {
    "today": {},
    "margin": {"strength": "margin", "strength_scale": 0.7},
    "soft": {"strength": "soft", "strength_scale": 0.7},
    "margin, smoothing and ties": {
        "strength": "margin",
        "label_smoothing": 0.1,
        "ties": "rao_kupper",
    },
    "smoothing": {"label_smoothing": 0.1},
    "weights within": {"reviewer_weights": "within"},
    "weights ignored": {"reviewer_weights": "ignore"},
    "davidson": {"ties": "davidson"},
    "rao_kupper": {"ties": "rao_kupper"},
    "line": {"cut_weight": 0.5},
    "heads": {"heads": 3},
    "criteria": {"criteria_weight": 0.7},
    "everything": {
        "heads": 2,
        "criteria_weight": 0.5,
        "strength": "soft",
        "label_smoothing": 0.05,
        "ties": "davidson",
        "cut_weight": 0.3,
    },
}


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return tiny_llama(tmp_path_factory.mktemp("models"))


RATINGS = {
    "ratings": [
        {"0": {"kind": 5, "true": 1}, "1": {"kind": 3}, "3": {"kind": 3, "true": 4}},
        {"0": {"true": 2}, "1": {"true": 2}},
        {},
    ]
}
CRITERIA = ["kind", "true"]


def rich_groups() -> list[Group]:
    """Return groups of 4, 3 and 2 responses with ties, a line, weights, grades and missing responses."""
    prompt = [{"role": "user", "content": "Which?"}]
    everyone = [
        Judgment("a", [[0], [1, 2], [3]], cut=1),
        Judgment("b", [[1], [0]], weight=0.5, strength=2.0),
        Judgment("c", [[2], [0, 1]], cut=2, weight=0.25),
    ]
    few = [Judgment("a", [[2], [0], [1]], cut=0), Judgment("b", [[0], [1]], strength=3.0)]
    doubted = [Judgment("d", [[1], [0]], weight=0.1, strength=1.0)]
    return [
        Group("x", prompt, [0, 1, 2, 3], ["aba", "xx", "yyyyy", "b"], everyone, meta=RATINGS),
        Group("y", prompt, [0, 1, 2], ["x", "aab", "zz"], few),
        Group("z", prompt, [0, 1], ["axxb", "zz"], doubted),
    ]


# --- the loop, with none of the recipe's own arithmetic -------------------------------------------


def loop_losses(groups, config, score, width):
    weights = [1.0 if config.reviewer_weights != "full" else group_weight(g) for g in groups]
    mean = sum(weights) / len(weights)
    return [
        loop_loss(group, config, score(group), width) * weight / mean
        for group, weight in zip(groups, weights, strict=True)
    ]


def group_weight(group):
    weights_and_counts = [(r.weight, len(list(comparisons(r)))) for r in group.rankings]
    return sum(weight * count for weight, count in weights_and_counts) / sum(
        count for _, count in weights_and_counts
    )


def criteria_loss(groups, config, score):
    weights = [group_weight(group) for group in groups]
    total = 0.0
    for group, weight in zip(groups, weights, strict=True):
        for index, name in enumerate(CRITERIA, start=config.heads):
            r = [outputs[index] for outputs in score(group)]
            share = weight / np.mean(weights) / len(CRITERIA) / len(groups)
            total = total + config.criteria_weight * share * criterion_loss(group, name, r)
    return total


def criterion_loss(group, name, r):
    lost = judged = 0.0
    for ranking, values in zip(group.rankings, group.meta.get("ratings", []), strict=False):
        rated = [(int(i), ratings[name]) for i, ratings in values.items() if name in ratings]
        for i, a in rated:
            for j, b in rated:
                won = 1.0 if a > b else 0.5 if a == b and i != j else 0.0
                lost = lost - ranking.weight * won * F.logsigmoid(r[i] - r[j])
                judged += ranking.weight * won
    return lost / judged if judged else 0.0


def comparisons(ranking):
    """(better, worse, tied)"""
    placed = [(tier, i) for tier, ids in enumerate(ranking.tiers) for i in ids]
    for index, (tier, i) in enumerate(placed):
        for other, j in placed[index + 1 :]:
            yield i, j, tier == other


def loop_loss(group, config, r, width):
    lost = total = 0.0
    line = on_line = 0.0
    for ranking in group.rankings:
        weight = 1.0 if config.reviewer_weights == "ignore" else ranking.weight
        for i, j, tied in comparisons(ranking):
            judgment = (tied, ranking.strength)
            lost = lost + weight * pair_loss(r[i] - r[j], judgment, config, width)
            total += weight
        for tier, ids in enumerate(ranking.tiers):
            for i in ids if ranking.cut is not None else ():
                line = line - weight * F.logsigmoid(r[i] if tier < ranking.cut else -r[i])
                on_line += weight
    return lost / total + (config.cut_weight * line / on_line if on_line else 0.0)


def pair_loss(d, said, config, width):
    tied, strength = said
    if tied:
        if config.ties == "davidson":
            return -torch.log(width / (torch.exp(d / 2) + torch.exp(-d / 2) + width))
        if config.ties == "rao_kupper":
            return -torch.log(1 - torch.sigmoid(d - width) - torch.sigmoid(-d - width))
        return -(F.logsigmoid(d) + F.logsigmoid(-d)) / 2
    sure = 1.0
    if strength and config.strength == "soft":
        sure = 1 / (1 + np.exp(-config.strength_scale * strength))
    margin = config.strength_scale * strength if strength and config.strength == "margin" else 0.0
    sure = sure * (1 - config.label_smoothing) + (1 - sure) * config.label_smoothing
    return sure * win_loss(d - margin, config, width) + (1 - sure) * win_loss(-d, config, width)


def win_loss(d, config, width):
    if config.ties == "davidson":
        total = torch.exp(d / 2) + torch.exp(-d / 2) + width
        return -torch.log(torch.exp(d / 2) / total)
    return -F.logsigmoid(d - width if config.ties == "rao_kupper" else d)


def alone(model, tokens):
    """Forward each text alone, through the plain model.  → K rows of N scores"""
    texts = [np.concatenate([tokens.prompt, r]).astype(np.int64) for r in tokens.responses]
    return [model.ordinary(input_ids=torch.from_numpy(t)[None]).logits[0] for t in texts]


@pytest.mark.parametrize("layout", ["shared", "plain"])
@pytest.mark.parametrize("name", OPTIONS)
def test_loss_and_gradients_equal_the_loop_over_judgments_and_pairs(llama, name, layout):
    config = RewardConfig.from_dict(
        {"base_model": str(llama), "lora_r": 4, "lora_alpha": 8, "lora_dropout": 0.0}
        | OPTIONS[name]
    )
    tokenizer = load_tokenizer(str(llama))
    groups = rich_groups()
    criteria = CRITERIA if config.criteria_weight else []
    inputs_of = partial(loss_inputs, config=config, criteria=criteria)
    prepared = prepare(groups, ChatFormat(tokenizer), 200, inputs_of)
    prepared.make_weights_relative()
    tokens = prepared.tokens["train"]
    objective = Objective.of(config, groups)
    torch.manual_seed(0)
    model = make_reward_model(config, tokenizer, criteria=len(criteria))

    batch = Collator(tokenizer.pad_token_id, layout)(tokens)
    ours = objective.losses(model(**for_model(batch))["outputs"], batch).mean()
    by_group = dict(zip((g.group_id for g in groups), tokens, strict=True))
    score = lambda group: alone(model, by_group[group.group_id])  # noqa: E731
    by_head = [
        loop_losses(groups, config, lambda g, n=n: [r[n] for r in score(g)], objective.tie_width)
        for n in range(config.heads)
    ]
    draws = [bootstrap(group.group_id, config.heads, config.seed) for group in groups]
    if config.heads > 1:
        by_head = [
            [draw[n] * lost for draw, lost in zip(draws, losses, strict=True)]
            for n, losses in enumerate(by_head)
        ]
    naive = torch.stack([torch.stack(losses).mean() for losses in by_head]).mean()
    if criteria:
        naive = naive + criteria_loss(groups, config, score)

    assert ours.item() == pytest.approx(naive.item(), abs=2e-6)
    for gradient, expected in zip(gradients(model, ours), gradients(model, naive), strict=True):
        torch.testing.assert_close(gradient, expected, atol=1e-5, rtol=1e-4)


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return [p.grad.clone() for p in model.parameters() if p.requires_grad]


# --- trajectories ---------------------------------------------------------------------------------


def labelled_groups(train: int, test: int) -> list[Group]:
    """Return groups whose judgments have every kind of label."""
    groups = make_groups(train, test)
    return [richer(group, number) for number, group in enumerate(groups)]


def richer(group, number):
    first, second = group.rankings
    best = Judgment("c", [[first.tiers[0][0]], [first.tiers[-1][0]]], strength=1.0 + number % 3)
    lined = Judgment(first.reviewer, first.tiers, cut=1, weight=1.0)
    doubted = Judgment(second.reviewer, second.tiers, weight=0.25 + number % 2)
    graded = [best] if len(first.tiers) > 1 else []
    rated = {str(i): {"kind": 5 - n} for n, tier in enumerate(first.tiers) for i in tier}
    meta = {"ratings": [rated, {}, *[{} for _ in graded]]}
    return Group(**{**vars(group), "rankings": [lined, doubted, *graded], "meta": meta})


def trained(folder, llama, **settings):
    run_dir = make_run(folder, llama, labelled_groups(20, 4), lora_dropout=0.0, **settings)
    train(run_dir, StopSignal())
    return load_file(run_dir.output / "adapter_model.safetensors")


def assert_same(one, other, atol=1e-5):
    assert one.keys() == other.keys()
    for name, weight in one.items():
        torch.testing.assert_close(weight, other[name], atol=atol, rtol=0)


EVERYTHING = OPTIONS["everything"]


def test_with_every_signal_the_micro_batch_does_not_change_the_weights(tmp_path, llama):
    both = [
        trained(tmp_path / str(micro), llama, batch_size=8, micro_batch_size=micro, **EVERYTHING)
        for micro in (8, 1)
    ]
    assert_same(*both)


def test_with_every_signal_both_layouts_give_the_same_weights(tmp_path, llama):
    both = [
        trained(tmp_path / layout, llama, layout=layout, epochs=1, **EVERYTHING)
        for layout in ("auto", "plain")
    ]
    assert_same(*both)


@pytest.mark.parametrize("layout", ["auto", "plain"])
@pytest.mark.parametrize(
    "settings",
    [{"packing": "never"}, {"packing": "always"}, {"tokens_at_once": 60}, {"tokens_at_once": 1}],
    ids=str,
)
def test_packing_and_splitting_a_step_do_not_change_the_weights(
    tmp_path, llama, uncut, layout, settings
):
    result = trained(tmp_path, llama, epochs=0.5, batch_size=8, layout=layout, **settings)
    # Adam takes a step of its usual size, 3e-3, even along a gradient of rounding errors.
    assert_same(uncut, result, atol=5e-5)


@pytest.fixture(scope="module")
def uncut(tmp_path_factory, llama):
    """Run half an epoch in the plain layout, with whole steps in one forward pass."""
    settings = {"epochs": 0.5, "batch_size": 8, "micro_batch_size": 8, "layout": "plain"}
    return trained(tmp_path_factory.mktemp("uncut"), llama, **settings)


class StopAt:
    """A stop signal that is set after a number of checks."""

    def __init__(self, answers: int):
        self.left = answers

    @property
    def requested(self) -> bool:
        self.left -= 1
        return self.left < 0

    def check(self) -> None:
        if self.requested:
            raise Stopped


def test_with_every_signal_a_resumed_run_gives_the_same_weights(tmp_path, llama):
    whole = trained(tmp_path / "whole", llama, **EVERYTHING)
    groups = labelled_groups(20, 4)
    run_dir = make_run(tmp_path / "parts", llama, groups, lora_dropout=0.0, **EVERYTHING)
    with pytest.raises(Stopped):
        train(run_dir, StopAt(3))
    assert not run_dir.output.exists()
    train(run_dir, StopSignal())
    assert_same(whole, load_file(run_dir.output / "adapter_model.safetensors"))


@pytest.mark.parametrize("name", [name for name in OPTIONS if name not in ("today", "everything")])
def test_each_signal_reaches_the_weights(tmp_path, llama, name):
    plain = trained(tmp_path / "plain", llama, epochs=0.5)
    other = trained(tmp_path / "other", llama, epochs=0.5, **OPTIONS[name])
    assert any(not torch.equal(weight, other[key]) for key, weight in plain.items())
