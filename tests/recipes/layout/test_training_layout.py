import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from recipes.layout.collate import Collator, StepCollator, block_mask, cut, describe
from recipes.layout.forward import score_all
from recipes.models.chat_format import ChatFormat
from recipes.preferences.groups import Group, Judgment
from recipes.preferences.loss import bradley_terry
from recipes.preferences.tokens import TokenGroup, prepare
from reward.settings import RewardConfig
from reward.training.models.reward_model import (
    load_tokenizer,
    make_reward_model,
    readable_tokens,
    score_groups,
)
from tests.tiny import SPECIAL, make_model, make_tokenizer

torch.set_num_threads(1)


def token_group(seed: int, prompt: int, responses: list[int]) -> TokenGroup:
    rng = np.random.default_rng(seed)
    wins = np.triu(np.ones((len(responses),) * 2, dtype=np.float32), 1)
    draw = lambda count: rng.integers(6, 260, count).astype(np.int32)  # noqa: E731
    return TokenGroup(draw(prompt), [draw(length) for length in responses], wins)


UNEVEN = [
    token_group(1, 9, [4, 7, 1]),
    token_group(2, 20, [3, 11]),
    token_group(3, 5, [12, 2, 8, 4]),
]


def reward_model(folder, family="llama", **config):
    path = make_model(folder / family, family)
    settings = RewardConfig(
        base_model=str(path), lora_r=4, lora_alpha=8, lora_dropout=0.0, **config
    )
    torch.manual_seed(0)
    return make_reward_model(settings, load_tokenizer(str(path)))


def test_positions_restart_after_the_prompt_and_ends_point_at_last_tokens():
    group = TokenGroup(
        np.array([7, 8, 9]), [np.array([1, 2]), np.array([3, 4, 5])], np.zeros((2, 2), np.float32)
    )
    batch = Collator(0, "shared")([group])
    assert batch["input_ids"].tolist() == [[7, 8, 9, 1, 2, 3, 4, 5]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 3, 4, 5]]
    assert batch["segment_ids"].tolist() == [[0, 0, 0, 1, 1, 2, 2, 2]]
    assert batch["ends"].tolist() == [[4, 7]]
    assert batch["lengths"].tolist() == [[3, 2, 3]]


def test_responses_attend_to_the_prompt_and_themselves_but_not_to_each_other():
    segments, groups = torch.tensor([[0, 0, 1, 1, 2, -1]]), torch.tensor([[0, 0, 0, 0, 0, -1]])
    mask = block_mask(segments, groups, torch.float32)[0, 0] == 0
    assert mask.int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 1],  # padding attends to itself only, and no token attends to it
    ]


def test_groups_in_one_row_do_not_attend_to_each_other():
    segments, groups = torch.tensor([[0, 1, 2, 0, 1]]), torch.tensor([[0, 0, 0, 1, 1]])
    mask = block_mask(segments, groups, torch.float32)[0, 0] == 0
    assert mask.int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 0, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 1, 1],
    ]


def test_packed_groups_follow_each_other_and_each_starts_at_zero():
    first = TokenGroup(np.array([7, 8]), [np.array([1]), np.array([3, 4])], np.zeros((2, 2)))
    second = TokenGroup(np.array([9]), [np.array([5, 6])], np.zeros((1, 1)))
    batch = Collator(0, "shared", packed=True)([first, second])
    assert batch["input_ids"].tolist() == [[7, 8, 1, 3, 4, 9, 5, 6]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 2, 3, 0, 1, 2]]
    assert batch["segment_ids"].tolist() == [[0, 0, 1, 2, 2, 0, 1, 1]]
    assert batch["group_ids"].tolist() == [[0, 0, 0, 0, 0, 1, 1, 1]]
    assert batch["placed"].tolist() == [0, 0]
    assert batch["ends"].tolist() == [[2, 4], [7, 0]]
    apart = Collator(0, "shared")([first, second])
    assert apart["placed"].tolist() == [0, 1] and apart["ends"].tolist() == [[2, 4], [2, 0]]
    assert apart["input_ids"].shape == (2, 5)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("attends", ["the best", "dense"])
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_both_layouts_give_the_same_scores_loss_and_gradients(tmp_path, family, attends, packed):
    model = reward_model(tmp_path, family)
    if attends == "dense":
        model.attends = attends
    results = {}
    for layout in ("plain", "shared"):
        batch = Collator(0, layout, packed)(UNEVEN)
        wins, _ = batch.pop("wins"), batch.pop("labels")
        model.zero_grad()
        scores = model(**batch)["scores"]
        loss = bradley_terry(scores, wins).mean()
        loss.backward()
        gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}
        results[layout] = (scores.detach(), loss.item(), gradients)
    torch.testing.assert_close(results["plain"][0], results["shared"][0], atol=1e-5, rtol=1e-5)
    assert results["plain"][1] == pytest.approx(results["shared"][1], abs=1e-6)
    for name, gradient in results["plain"][2].items():
        torch.testing.assert_close(gradient, results["shared"][2][name], atol=1e-5, rtol=1e-4)


def test_the_dense_mask_and_the_pieces_agree(tmp_path):
    model = reward_model(tmp_path)
    assert model.attends == "pieces"
    pieces = score_groups(model, UNEVEN, Collator(0, "shared"))
    model.attends = "dense"
    dense = score_groups(model, UNEVEN, Collator(0, "shared"))
    torch.testing.assert_close(pieces, dense, atol=1e-5, rtol=1e-5)


def test_the_loss_equals_a_loop_over_all_pairs(tmp_path):
    model = reward_model(tmp_path)
    group = token_group(5, 10, [6, 6, 6, 6])

    def alone(response):
        ids = np.concatenate([group.prompt, response]).astype(np.int64)
        return model.ordinary(input_ids=torch.from_numpy(ids)[None]).logits[0, 0]

    losses = [
        -torch.nn.functional.logsigmoid(alone(group.responses[i]) - alone(group.responses[j]))
        for i in range(4)
        for j in range(i + 1, 4)
    ]
    batch = Collator(0, "shared")([group])
    wins, _ = batch.pop("wins"), batch.pop("labels")
    ours = bradley_terry(model(**batch)["scores"], wins)[0]
    assert ours.item() == pytest.approx(torch.stack(losses).mean().item(), abs=1e-6)


def test_a_group_has_the_same_scores_alone_and_in_a_batch(tmp_path):
    model = reward_model(tmp_path)
    for layout, packed in (("shared", True), ("shared", False), ("plain", False)):
        together = score_groups(model, UNEVEN, Collator(0, layout, packed))
        for row, group in enumerate(UNEVEN):
            alone = score_groups(model, [group], Collator(0, layout))[0]
            torch.testing.assert_close(together[row, : len(alone)], alone, atol=1e-5, rtol=1e-5)


def test_a_score_does_not_depend_on_the_other_responses(tmp_path):
    model = reward_model(tmp_path)
    group = UNEVEN[2]
    turned = TokenGroup(group.prompt, group.responses[::-1], group.wins)
    scores = score_groups(model, [group], Collator(0, "shared"))[0]
    again = score_groups(model, [turned], Collator(0, "shared"))[0]
    torch.testing.assert_close(scores, again.flip(0), atol=1e-5, rtol=1e-5)


def test_an_ordinary_classifier_reads_the_same_score_with_either_padding(tmp_path):
    model = reward_model(tmp_path)
    expected = score_groups(model, UNEVEN[:1], Collator(0, "shared"))[0]
    texts = [np.concatenate([UNEVEN[0].prompt, r]).tolist() for r in UNEVEN[0].responses]
    for side in ("left", "right"):
        tokenizer = make_tokenizer()
        tokenizer.padding_side = side
        batch = tokenizer.pad({"input_ids": texts}, return_tensors="pt")
        positions = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
        model.eval()
        logits = model.ordinary(**batch, position_ids=positions).logits[:, 0].detach()
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


def test_batches_stay_within_the_token_budget_and_keep_the_order():
    assert list(cut([20] * 5 + [200], max_tokens=60)) == [[0, 1, 2], [3, 4], [5]]
    assert list(cut([20] * 5, most=2)) == [[0, 1], [2, 3], [4]]
    assert list(cut([30, 10, 10], max_tokens=60)) == [[0, 1], [2]]  # padded to the largest


def test_a_step_is_cut_into_parts_of_like_length_that_hold_every_group_once():
    groups = [token_group(n, 4, [n + 1, 2]) for n in (3, 40, 5, 30, 1)]
    steps = StepCollator(Collator(0, "shared"), most=2)
    assert steps.cut(groups) == [[1, 3], [2, 0], [4]]
    step = steps(groups)
    assert [part["input_ids"].shape for part in step["parts"]] == [(2, 47), (2, 12), (1, 8)]
    assert step["labels"].tolist() == [1] * 5
    steps.max_tokens = 40
    assert steps.cut(groups) == [[1], [3], [2, 0], [4]]
    steps.collator.layout = "plain"  # forwards a prompt once for each response
    assert steps.collator.tokens(groups[0]) == 16


def test_an_empty_prompt_is_not_a_response(tmp_path):
    model = reward_model(tmp_path)
    groups = [token_group(1, 0, [4, 7, 2]), token_group(2, 6, [3, 5])]
    plain = score_groups(model, groups, Collator(0, "plain"))
    for packed in (False, True):
        shared = score_groups(model, groups, Collator(0, "shared", packed))
        torch.testing.assert_close(shared, plain, atol=1e-5, rtol=1e-5)


class Small(torch.nn.Module):
    """A model that scores a response by its number of tokens and has limited memory."""

    def __init__(self, holds: int):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.holds, self.device, self.seen = holds, torch.device("cpu"), []

    def forward(self, input_ids, present, attention_mask, rows):
        self.seen.append(input_ids.numel())
        if input_ids.numel() > self.holds:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return {"outputs": attention_mask.sum(dim=1)[rows][..., None] * present[..., None]}


def test_scoring_counts_every_copy_of_a_prompt(monkeypatch):
    monkeypatch.setattr("recipes.layout.forward.default_tokens_at_once", lambda: 200)
    model, groups = Small(200), [token_group(n, 20, [5] * 4) for n in range(6)]
    scores = score_all(model, groups, Collator(0, "plain"))
    assert [row[:, 0].tolist() for row in scores] == [[25.0] * 4] * 6
    assert model.seen == [200] * 3


@pytest.mark.parametrize("gpu, passes", [(False, [500, 500, 200]), (True, [1200])])
def test_scoring_forwards_few_tokens_at_a_time_without_a_gpu(monkeypatch, gpu, passes):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    model, groups = Small(1200), [token_group(n, 20, [5] * 4) for n in range(12)]
    score_all(model, groups, Collator(0, "plain"))
    assert model.seen == passes


def test_scoring_continues_with_smaller_batches_when_memory_runs_out(monkeypatch):
    monkeypatch.setattr("recipes.layout.forward.default_tokens_at_once", lambda: 600)
    model, groups = Small(110), [token_group(n, 20, [5] * 4) for n in range(6)]
    scores = score_all(model, groups, Collator(0, "plain"))
    assert [len(row) for row in scores] == [4] * 6
    assert model.seen == [600, 300, 100, 100, 100, 100, 100, 100]
    with pytest.raises(torch.OutOfMemoryError):
        score_all(Small(90), groups, Collator(0, "plain"))


def test_packed_groups_need_no_padding():
    batch = Collator(0, "shared", packed=True)(UNEVEN)
    assert batch["input_ids"].shape == (1, sum(group.size() for group in UNEVEN))
    apart = Collator(0, "shared")(UNEVEN)
    assert apart["input_ids"].numel() > batch["input_ids"].numel()


def test_the_first_batch_is_described_as_text():
    tokenizer = make_tokenizer()
    prompt, responses = ChatFormat(tokenizer).encode(
        [{"role": "user", "content": "Hi"}], ["Yes", "No"]
    )
    wins = np.array([[0, 1], [0, 0]], dtype=np.float32)
    text = describe([TokenGroup(prompt, responses, wins)], tokenizer, shared=True)
    assert "[prompt · positions 0–4]\n<|user|>Hi<|end|><|assistant|>" in text
    assert "[response 1 · positions 5–8 · wins 1, losses 0]\nYes<|end|>" in text


# --- text to tokens -------------------------------------------------------------------------------

PROMPT = [{"role": "user", "content": "Héllo"}]


@pytest.mark.parametrize("chat", [True, False])
def test_the_tokens_of_the_prompt_do_not_depend_on_the_response(chat):
    tokenizer = make_tokenizer(chat)
    chat_format = ChatFormat(tokenizer)
    prompt, responses = chat_format.encode(PROMPT, ["a", " a", "\nä", ""])
    alone, _ = chat_format.encode(PROMPT, ["z"])
    assert prompt.tolist() == alone.tolist()
    shared, tails = chat_format.split(PROMPT, ["a", " a", "\nä", ""])
    for tail, ids in zip(tails, responses, strict=True):
        assert tokenizer.decode([*prompt, *ids]) == shared + tail


def test_without_a_chat_template_the_text_is_plain():
    shared, tails = ChatFormat(make_tokenizer(chat=False)).split(
        [{"role": "system", "content": "Be kind."}, *PROMPT], ["Hi!"]
    )
    assert shared == "System: Be kind.\n\nUser: Héllo\n\nAssistant:"
    assert tails == [" Hi!<|end|>"]


def merging(pre_tokenizer, merges=(), ends_texts=False):
    """Return a tokenizer that merges characters, as real ones do."""
    letters = sorted({*":= <|>/", *"▁Ġ", *map(chr, range(65, 123)), "Ċ", "."})
    pieces = [*SPECIAL, *letters, *(a + b for a, b in merges)]
    inner = Tokenizer(models.BPE({piece: n for n, piece in enumerate(pieces)}, list(merges)))
    inner.pre_tokenizer = pre_tokenizer
    if ends_texts:
        inner.post_processor = processors.TemplateProcessing("$A <|end|>", None, [("<|end|>", 2)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<|pad|>", eos_token="<|end|>")


SPACED = pre_tokenizers.ByteLevel(add_prefix_space=False)
PREFIXED = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)


@pytest.mark.parametrize(
    "tokenizer",
    [
        merging(SPACED, [("Ġ", "F"), (":", "Ġ")]),
        merging(PREFIXED, [("▁", "F"), ("▁", "▁")]),
        merging(SPACED, [("Ġ", "F")], ends_texts=True),
    ],
    ids=["a space joined to its word", "a space put before every text", "ends texts itself"],
)
def test_training_uses_the_tokens_of_the_whole_text(tokenizer):
    """Tokenize a chat as the model card's code does."""
    chat = ChatFormat(tokenizer)
    prompt, [fine, again] = chat.encode([{"role": "user", "content": "Hi"}], ["Fine.", "F"])
    for response, text in ((fine, "Fine."), (again, "F")):
        whole = tokenizer(f"User: Hi\n\nAssistant: {text}{chat.ending}")["input_ids"]
        assert [*prompt, *response] == whole and whole[-1] == tokenizer.eos_token_id
        assert whole.count(tokenizer.eos_token_id) == 1


def test_a_token_that_would_span_prompt_and_response_is_not_made():
    tokenizer = merging(SPACED, [(":", "=")])
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content }}{% if m.role == 'user' %}:{% endif %}{% endfor %}"
    )
    prompt, responses = ChatFormat(tokenizer).encode(
        [{"role": "user", "content": "Hi"}], ["=F", "F"]
    )
    assert tokenizer.convert_ids_to_tokens(prompt) == ["H", "i", ":"]
    assert [tokenizer.convert_ids_to_tokens(r) for r in responses] == [["=", "F"], ["F"]]


def test_a_template_with_an_odd_generation_prompt_is_cut_where_responses_begin():
    tokenizer = make_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]<think>{% endif %}"
    )
    assert ChatFormat(tokenizer).split(PROMPT, ["A", "B"]) == ("[user]Héllo[assistant]", ["A", "B"])


def test_a_template_that_refuses_the_conversation_leaves_the_prompt_out():
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    group = Group("g", PROMPT, [1, 2], ["a", "b"], [Judgment("r", [[1], [2]])])
    [row] = prepare([group], ChatFormat(tokenizer), 100).account()
    assert "roles must alternate" in row["why"] and row["count"] == 1


def test_too_long_texts_are_excluded_and_counted():
    ranked = [Judgment("r", [[1], [2], [3]])]
    fits = Group("a", PROMPT, [1, 2, 3], ["ok", "x" * 50, "fine"], ranked)
    alone = Group("b", PROMPT, [1, 2], ["ok", "x" * 50], [Judgment("r", [[1], [2]])], split="test")
    unranked = Group("c", PROMPT, [1, 2], ["ok", "fine"], [])
    doubted = Group("d", PROMPT, [1, 2], ["ok", "no"], [Judgment("r", [[1], [2]], weight=0.0)])
    prepared = prepare([fits, alone, unranked, doubted], ChatFormat(make_tokenizer()), limit=30)
    assert [group.response_ids for group in prepared.groups["train"]] == [[1, 3]]
    assert prepared.tokens["train"][0].wins.tolist() == [[0, 1], [0, 0]]
    assert prepared.account() == [
        {
            "split": "test",
            "what": "prompts",
            "why": "fewer than two readable responses",
            "count": 1,
        },
        {
            "split": "test",
            "what": "responses",
            "why": "longer than 30 tokens with its prompt",
            "count": 1,
        },
        {"split": "train", "what": "prompts", "why": "all its rankings weigh nothing", "count": 1},
        {"split": "train", "what": "prompts", "why": "no two responses compared", "count": 1},
        {
            "split": "train",
            "what": "responses",
            "why": "longer than 30 tokens with its prompt",
            "count": 1,
        },
    ]


def test_the_maximum_length_is_the_smallest_of_model_tokenizer_and_setting(tmp_path):
    path = str(make_model(tmp_path / "m"))
    tokenizer = load_tokenizer(path)
    assert readable_tokens(path, tokenizer, None) == 512
    assert readable_tokens(path, tokenizer, 100) == 100
    tokenizer.model_max_length = 64
    assert readable_tokens(path, tokenizer, 100) == 64


def test_padding_uses_the_end_token_only_without_another(tmp_path):
    path = make_model(tmp_path / "m")
    tokenizer = make_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(path)
    assert load_tokenizer(str(path)).pad_token == "<|bos|>"
