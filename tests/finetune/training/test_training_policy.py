"""Tests of K-wise DPO against a loop over responses, against TRL, and between layouts."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

from finetune.methods.dpo import DPO, DPOSettings
from finetune.training.models.policy import check_head, make_policy, prepare_quantized
from recipes.layout import attention
from recipes.layout.collate import Collator, StepCollator, for_model
from recipes.layout.families import check_gradients, check_shared
from recipes.layout.forward import score_all
from recipes.preferences.best import best_responses
from recipes.preferences.groups import Group, Judgment
from recipes.preferences.tokens import Prepared, TokenGroup, prepare
from tests.finetune.methods.trl_oracle import Oracle
from tests.finetune.training.training_runs import ranked_group, user
from tests.tiny import make_model, make_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")

PARTS = {
    "softcapped": ("gemma2", {"head_dim": 8, "final_logit_softcapping": 1.5}),
    "scaled": ("cohere", {"logit_scale": 0.25}),
    "divided": ("granite", {"logits_scaling": 3.0}),
    "biased": ("phi", {}),
    "tied": ("qwen2", {"tie_word_embeddings": True}),
}


def policy_of(path, family="llama", *, settings=None, new=False, **changes):
    """Return a policy, unless `new` with random LoRA matrices, because new ones have no effect."""
    make_model(path, family, **changes)
    config = DPOSettings(model=str(path), lora_r=4, lora_alpha=8, **(settings or {}))
    torch.manual_seed(1)
    policy = make_policy(config)
    return policy if new else moved(policy)


def moved(policy):
    for weight in policy.parameters():
        if weight.requires_grad:
            weight.data += 0.05 * torch.randn_like(weight)
    return policy


def judged(*rankings: Judgment, k: int = 4, seed: int = 0) -> Group:
    letters = np.random.default_rng(seed)
    texts = ["".join(letters.choice(list("abc"), letters.integers(3, 12))) for _ in range(k)]
    return Group(f"g{seed}", user(f"Question {seed}?"), list(range(k)), texts, list(rankings))


GROUPS = [
    judged(Judgment("a", [[2], [0, 1], [3]], cut=2), Judgment("b", [[0], [2], [1, 3]], weight=0.3)),
    judged(Judgment("a", [[1], [0]], strength=2.0), k=2, seed=1),
    judged(Judgment("a", [[0, 1], [2]], cut=1, weight=0.5), k=3, seed=2),
    judged(Judgment("a", [[3], [1], [0], [2], [4], [5], [6]]), k=7, seed=3),
]

OPTIONS = {
    "half": {},
    "davidson": {"ties": "davidson"},
    "rao_kupper": {"ties": "rao_kupper", "reviewer_weights": "ignore"},
    "margin": {"strength": "margin", "strength_scale": 0.5},
    "soft": {"strength": "soft"},
    "line": {"cut_weight": 0.7},
    "conservative": {"label_smoothing": 0.1},
    "robust": {"label_smoothing": 0.1, "smoothing": "robust"},
    "length_normalised": {"length_normalised": True, "beta": 2.0},
    "reference_free": {"reference_free": True},
    "sft": {"sft_weight": 0.4},
}


def tokens_of(method, groups=GROUPS) -> Prepared:
    from finetune.training.models.language_model import PolicyChat

    prepared = prepare(groups, PolicyChat(make_tokenizer()), 500, method.loss_inputs)
    method.prepare(prepared)
    rng = np.random.default_rng(5)
    prepared.tokens["train"] = [
        replace(
            group,
            signals={
                **group.signals,
                "reference": -rng.uniform(10, 30, len(group.responses)).astype(np.float32),
            },
        )
        for group in prepared.tokens["train"]
    ]
    return prepared


def slow_logp(policy, prompt, response) -> torch.Tensor:
    """Return log π of one response from the plain model's logits, one token after the other."""
    ids = torch.tensor([[*prompt.tolist(), *response.tolist()]])
    logits = policy.ordinary(input_ids=ids).logits[0].log_softmax(dim=-1)
    places = range(len(prompt), ids.shape[1])
    return sum(logits[place - 1, ids[0, place]] for place in places)


def test_the_log_probability_of_a_long_response_is_not_rounded_to_float32(tmp_path):
    """Compare about -2,200 nats with float64. Next to them, float32 has steps of 2.4e-4."""
    policy = policy_of(tmp_path / "model")
    rng = np.random.default_rng(0)
    prompt, response = (rng.integers(6, 262, n, dtype=np.int32) for n in (20, 400))
    group = TokenGroup(prompt, [response], np.zeros((1, 1), dtype=np.float32))
    with torch.no_grad():
        batch = Collator(0, "plain", targets=True)([group])
        logp = policy(**for_model(batch))["logps"].item()
        exact = slow_logp(policy.double(), prompt, response).item()
    assert exact < -2000 and logp == pytest.approx(exact, abs=5e-5)


def slow_loss(config, policy, groups, tokens, ties) -> torch.Tensor:
    """Return the mean loss by loops over groups, rankings and pairs, as loss.py describes it."""
    weights, losses = [], []
    for group, token_group in zip(groups, tokens, strict=True):
        logps = [slow_logp(policy, token_group.prompt, r) for r in token_group.responses]
        counts = [len(r) for r in token_group.responses]
        scores = []
        for k, logp in enumerate(logps):
            change = logp if config.reference_free else logp - token_group.signals["reference"][k]
            scores.append(
                config.beta * (change / counts[k] if config.length_normalised else change)
            )
        losses.append(slow_group_loss(config, group, scores, ties))
        if config.sft_weight:
            best = best_responses(group)
            losses[-1] -= config.sft_weight * sum(
                best[k] * logps[k] / counts[k] for k in range(len(logps))
            )
        pairs = [(r.weight, sum(map(len, r.tiers))) for r in group.rankings]
        compared = [math.comb(n, 2) for _, n in pairs]
        mean = sum(w * c for (w, _), c in zip(pairs, compared, strict=True)) / sum(compared)
        weights.append(mean if config.reviewer_weights == "full" else 1.0)
    scale = sum(weights) / len(weights)
    return sum(w / scale * lost for w, lost in zip(weights, losses, strict=True)) / len(losses)


def slow_group_loss(config, group, scores, ties) -> torch.Tensor:
    lost, evidence = 0.0, 0.0
    above = below = 0.0
    line = 0.0
    epsilon = config.label_smoothing
    scale = 1 - 2 * epsilon if config.smoothing == "robust" else 1.0
    other = (-epsilon if config.smoothing == "robust" else epsilon) / scale

    def log_win(gap):
        if config.ties == "half":
            return F.logsigmoid(gap)
        if config.ties == "davidson":
            return gap / 2 - torch.log(torch.exp(gap / 2) + torch.exp(-gap / 2) + ties)
        return F.logsigmoid(gap - ties)

    def log_tie(gap):
        if config.ties == "davidson":
            return math.log(ties) - torch.log(torch.exp(gap / 2) + torch.exp(-gap / 2) + ties)
        return math.log(math.expm1(2 * ties)) + log_win(gap) + log_win(-gap)

    for ranking in group.rankings:
        weight = 1.0 if config.reviewer_weights == "ignore" else ranking.weight
        for number, tier in enumerate(ranking.tiers):
            for i in tier:
                if ranking.cut is not None:
                    sign = 1 if number < ranking.cut else -1
                    line -= weight * F.logsigmoid(sign * scores[i])
                    above, below = above + weight, below
                for j in tier:
                    if i < j and config.ties == "half":
                        lost -= weight * (log_win(scores[i] - scores[j]) / 2)
                        lost -= weight * (log_win(scores[j] - scores[i]) / 2)
                        evidence += weight
                    elif i < j:
                        lost -= weight * log_tie(scores[i] - scores[j])
                        evidence += weight
                for worse in ranking.tiers[number + 1 :]:
                    for j in worse:
                        gap = scores[i] - scores[j]
                        own, opposite = (1 - epsilon) / scale, other
                        margin = 0.0
                        if config.strength == "soft" and ranking.strength:
                            sure = 1 / (1 + math.exp(-config.strength_scale * ranking.strength))
                            own, opposite = sure, 1 - sure
                        if config.strength == "margin" and ranking.strength:
                            margin = config.strength_scale * ranking.strength
                        lost -= weight * (own * log_win(gap - margin) + opposite * log_win(-gap))
                        evidence += weight
    if config.cut_weight and above + below:
        return lost / evidence + config.cut_weight * line / (above + below)
    return lost / evidence


def gradients_of(policy) -> dict[str, torch.Tensor]:
    gradients = {n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None}
    policy.zero_grad()
    return gradients


def assert_same_gradients(ours, theirs):
    assert ours.keys() == theirs.keys() and len(ours) > 10
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layout", ["plain", "shared", "packed"])
@pytest.mark.parametrize("name", OPTIONS)
def test_the_loss_over_whole_rankings_is_that_of_a_loop_over_responses(tmp_path, name, layout):
    config = DPOSettings(model="m", **OPTIONS[name])
    method, policy = DPO(config), policy_of(tmp_path)
    prepared = tokens_of(method)
    groups, tokens = prepared.groups["train"], prepared.tokens["train"]
    loss = method.loss(groups)
    width = loss.__closure__ and method_width(config, groups)
    slow = slow_loss(config, policy, groups, tokens, width)
    slow.backward()
    wanted = gradients_of(policy)
    collator = Collator(
        0, "plain" if layout == "plain" else "shared", packed=layout == "packed", targets=True
    )
    batch = collator(tokens)
    losses, _ = loss(policy(**for_model(batch)), batch)
    losses.mean().backward()
    assert losses.mean().item() == pytest.approx(slow.item(), abs=1e-6, rel=1e-6)
    assert_same_gradients(gradients_of(policy), wanted)


def method_width(config, groups) -> float:
    from recipes.preferences.objective import Objective

    return Objective.of(config, groups).tie_width


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({}, {}),
        (
            {"label_smoothing": 0.1, "smoothing": "robust"},
            {"label_smoothing": 0.1, "loss_type": ["robust"]},
        ),
    ],
)
def test_two_responses_without_ties_give_the_loss_and_gradients_of_trl(tmp_path, settings, options):
    """Check at β = 0.3 that three prompts of two responses are TRL's batch of three pairs."""
    policy = policy_of(tmp_path / "model", new=True)
    groups = [judged(Judgment("a", [[0], [1]]), k=2, seed=seed) for seed in range(3)]
    method = DPO(DPOSettings(model="m", beta=0.3, **settings))
    tokens = tokens_of(method, groups).tokens["train"]
    oracle = Oracle(policy.ordinary, make_tokenizer(), tokens, tmp_path, beta=0.3, **options)
    collator = Collator(0, "shared", packed=True, targets=True)
    [*reference] = score_all(policy, tokens, collator)
    for group, values in zip(tokens, reference, strict=True):
        group.signals["reference"][:] = values[:, 0]
    moved(policy)
    batch = collator(tokens)
    losses, _ = method.loss(groups)(policy(**for_model(batch)), batch)
    losses.mean().backward()
    ours = gradients_of(policy.ordinary)
    loss, gradients = oracle.loss_and_gradients()
    assert losses.mean().item() == pytest.approx(loss, abs=1e-5)
    assert abs(loss - math.log(2)) > 1e-3
    assert_same_gradients(ours, gradients)


@pytest.mark.parametrize("name", PARTS)
def test_the_head_of_a_family_gives_the_log_probabilities_of_its_logits(tmp_path, name):
    family, changes = PARTS[name]
    policy = policy_of(tmp_path, family, **changes)
    tokens = tokens_of(DPO(DPOSettings(model="m"))).tokens["train"]
    assert check_head(policy, tokens, 0) is None
    assert policy.head is not None and policy.head.is_frozen
    shared = check_shared(policy, tokens, 0, longest=60)
    assert shared is None, shared
    assert check_gradients(policy, tokens, 0, torch.float32) is None
    batch = Collator(0, "shared", packed=policy.attends != attention.DENSE, targets=True)(tokens)
    logps = policy(**for_model(batch))["logps"]
    for g, group in enumerate(tokens):
        for k, response in enumerate(group.responses):
            wanted = slow_logp(policy, group.prompt, response).item()
            assert logps[g, k].item() == pytest.approx(wanted, abs=1e-4)


def test_an_unsupported_head_is_replaced_by_the_models_own_logits(tmp_path):
    policy = policy_of(tmp_path, "granite", logits_scaling=3.0)
    policy.head = replace(policy.head, scale=1.0)
    tokens = tokens_of(DPO(DPOSettings(model="m"))).tokens["train"]
    assert "differ by" in check_head(policy, tokens, 0)
    assert policy.head is None
    batch = Collator(0, "shared", packed=True, targets=True)(tokens)
    logps = policy(**for_model(batch))["logps"]
    wanted = slow_logp(policy, tokens[0].prompt, tokens[0].responses[1]).item()
    assert logps[0, 1].item() == pytest.approx(wanted, abs=1e-4)


def test_an_adapter_on_the_head_is_trained_in_parts(tmp_path):
    settings = {"lora_targets": "q_proj,lm_head"}
    policy = policy_of(tmp_path, settings=settings, tie_word_embeddings=False)
    tokens = tokens_of(DPO(DPOSettings(model="m"))).tokens["train"]
    assert check_head(policy, tokens, 0) is None and not policy.head.is_frozen
    found = {}
    for head in (policy.head, None):
        policy.head = head
        batch = Collator(0, "plain", targets=True)(tokens)
        policy(**for_model(batch))["logps"].sum().backward()
        found[head is None] = gradients_of(policy)
    assert any("lm_head" in name for name in found[True])
    for name, gradient in found[True].items():
        torch.testing.assert_close(gradient, found[False][name], atol=1e-4, rtol=1e-4)


def test_eight_parts_of_one_prompt_add_up_to_one_part_of_eight(tmp_path):
    policy, method = policy_of(tmp_path), DPO(DPOSettings(model="m"))
    groups = [judged(Judgment("a", [[0], [1], [2, 3]]), seed=seed) for seed in range(8)]
    tokens = tokens_of(method, groups).tokens["train"]
    loss = method.loss(groups)
    found = []
    for most in (8, 1):
        steps = StepCollator(Collator(0, "shared", packed=True, targets=True), most)
        for part in steps(tokens)["parts"]:
            losses, _ = loss(policy(**for_model(part)), part)
            (losses.sum() / 8).backward()
        found.append(gradients_of(policy))
    assert_same_gradients(*found)


def test_only_positions_that_predict_a_response_reach_the_head():
    """Check two responses of 2 and 1 tokens after 3 prompt tokens, after another group in a row."""
    groups = [
        TokenGroup(np.arange(2), [np.array([9])], np.zeros((1, 1))),
        TokenGroup(np.arange(3), [np.array([5, 6]), np.array([7])], np.zeros((2, 2))),
    ]
    packed = Collator(0, "shared", packed=True, targets=True)(groups)
    assert packed["target_positions"].tolist() == [1, 5, 6, 5]
    assert packed["target_ids"].tolist() == [9, 5, 6, 7]
    assert packed["target_responses"].tolist() == [0, 2, 2, 3]
    plain = Collator(0, "plain", targets=True)(groups)
    assert plain["target_rows"].tolist() == [0, 1, 1, 2]
    assert plain["target_positions"].tolist() == [1, 2, 3, 2]
    with pytest.raises(ValueError, match="without tokens"):
        Collator(0, "plain", targets=True)([replace(groups[0], prompt=np.arange(0))])


def test_the_best_responses_share_equally_and_are_acceptable():
    assert best_responses(ranked_group("g", ["a", "b", "c"], [[0, 2], [1]])).tolist() == [
        0.5,
        0,
        0.5,
    ]
    rejected = Group(
        "g", user("?"), [0, 1, 2], ["a", "b", "c"], [Judgment("r", [[0], [1], [2]], cut=0)]
    )
    assert best_responses(rejected).tolist() == [0, 0, 0]
    unranked = Group("g", user("?"), [0, 1, 2], ["a", "b", "c"], [Judgment("r", [[1], [0]])])
    assert best_responses(unranked).tolist() == [0, 1, 0]


def test_the_head_of_a_quantized_model_keeps_its_number_format(tmp_path):
    """Check on weights that are not quantized, which PEFT prepares alike, and without a GPU."""
    path = make_model(tmp_path, tie_word_embeddings=False)
    base = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16)
    prepare_quantized(base, torch.bfloat16, recompute=True)
    assert base.get_output_embeddings().weight.dtype == torch.bfloat16
    assert base.get_input_embeddings().weight.dtype == torch.float32
