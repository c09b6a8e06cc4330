"""Tests of SFT against numbers worked by hand, against TRL, and of its runs."""

import numpy as np
import pytest
import torch

from finetune.methods.sft import SFT, SFTSettings
from finetune.statistics.likelihood import likelihood
from finetune.training.models.language_model import PolicyChat, load_model
from finetune.training.train import train
from recipes.errors import RecipeError
from recipes.layout.collate import Collator, StepCollator, for_model
from recipes.preferences.best import best_responses
from recipes.preferences.groups import RESPONSES_CUT_OFF, Group, Judgment
from recipes.preferences.tokens import TokenGroup, prepare
from recipes.stopping import StopSignal
from tests.finetune.methods.trl_oracle import sft_oracle
from tests.finetune.training.test_training_policy import (
    assert_same_gradients,
    gradients_of,
    policy_of,
)
from tests.finetune.training.training_runs import (
    apart,
    dpo_run,
    groups_that_like_b,
    messages,
    progress,
    ranked_group,
    report_of,
    results,
    user,
)
from tests.tiny import make_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")


def method_of(**settings):
    return SFT(SFTSettings(model="m", **settings))


def prepared_of(groups, **settings):
    method = method_of(**settings)
    chat = PolicyChat(make_tokenizer())
    prepared = prepare(groups, chat, 500, method.loss_inputs, method.objection)
    method.prepare(prepared)
    return prepared


def chats_of(count, *, every_test=4):
    """Return plain chats: one response of b's to each prompt, and no ranking."""
    return [
        Group(
            f"c{number}",
            user(f"Question {number}?"),
            [number],
            ["b" * (6 + number % 5)],
            [],
            split="test" if number % every_test == 0 else "train",
        )
        for number in range(count)
    ]


# --- data -------------------------------------------------------------------------------------------


def test_only_the_best_acceptable_response_of_a_prompt_is_trained():
    """Check that of two tied responses, the one below the line of both reviewers is left out."""
    groups = [
        ranked_group("plain", ["bb", "aaaa", "c"], [[1], [0], [2]]),
        Group(
            "line", user("?"), [0, 1, 2], ["bb", "aaaa", "c"],
            [Judgment("r", [[1], [0], [2]], cut=1), Judgment("s", [[0], [1], [2]], cut=0)],
        ),
    ]  # fmt: skip
    train = prepared_of(groups).tokens["train"]
    assert [[len(r) for r in group.responses] for group in train] == [[5], [5]]
    assert best_responses(groups[1]).tolist() == [0, 1, 0]


def test_tied_best_responses_share_or_all_count():
    groups = [ranked_group("g", ["bb", "aaaa", "c"], [[0, 1], [2]])]
    [shared] = prepared_of(groups).tokens["train"]
    [everything] = prepared_of(groups, tied_best="all").tokens["train"]
    assert shared.signals["best"].tolist() == [0.5, 0.5]
    assert shared.signals["items"] == (3 + 5) / 2
    assert everything.signals["best"].tolist() == [1, 1]
    assert everything.signals["items"] == 3 + 5


def test_a_smallest_margin_leaves_out_prompts_without_a_clear_best():
    """Check margins of (2 - 0)/2 = 1, (3 - 1)/4 = 0.5 and 0 for a tie."""
    groups = [
        ranked_group("clear", ["a", "b", "c"], [[0], [1], [2]]),
        ranked_group("half", ["a", "b", "c"], [[0], [1], [2]], [[1], [0], [2]], [[0], [1, 2]]),
        ranked_group("tied", ["a", "b"], [[0, 1]]),
    ]
    numbers = [len(prepared_of(groups, min_margin=m).tokens["train"]) for m in (0, 0.4, 0.7, 1)]
    assert numbers == [3, 2, 1, 1]
    why = "the best response wins by a margin under 0.7"
    assert prepared_of(groups, min_margin=0.7).left_out["train", "prompts", why] == 2


def test_plain_chats_need_no_ranking():
    train = prepared_of(chats_of(5)).tokens["train"]
    assert [group.signals["best"].tolist() for group in train] == [[1.0]] * 3
    assert len(prepared_of(chats_of(5)).tokens["test"]) == 2


def test_a_response_that_was_cut_off_does_not_teach_the_end_token():
    whole, cut_off = (
        Group(name, user("?"), [0], ["bb"], [], meta={RESPONSES_CUT_OFF: [cut]})
        for name, cut in (("whole", False), ("cut", True))
    )
    first, second = prepared_of([whole, cut_off]).tokens["train"]
    end = make_tokenizer().eos_token_id
    assert first.responses[0].tolist() == [*second.responses[0].tolist(), end]
    assert (first.signals["items"], second.signals["items"]) == (3, 2)


@pytest.mark.parametrize(
    ("group", "why"),
    [
        (
            Group("g", user("?"), [0, 1], ["a", "b"], [Judgment("r", [[0], [1]], cut=0)]),
            "all responses are unacceptable",
        ),
        (
            Group("g", user("?"), [0, 1], ["a", "b"], [Judgment("r", [[0]])]),
            "no two responses compared",
        ),
    ],
)
def test_prompts_without_a_best_response_are_left_out_and_refused(tmp_path, model, group, why):
    run_dir = dpo_run(tmp_path, model, [group], method="sft")
    with pytest.raises(RecipeError, match="has a best acceptable response") as error:
        train(run_dir, StopSignal())
    assert f"1 prompts: {why}" in str(error.value)


# --- the loss ---------------------------------------------------------------------------------------


def test_the_loss_is_the_mean_over_the_tokens_of_a_step():
    """Check (2 + 9) nats over 1 + 3 tokens for groups of one response, in any division into parts."""
    groups = [
        TokenGroup(
            np.arange(2), [np.arange(n)], np.zeros((1, 1)),
            {"best": np.ones(1, np.float32), "items": np.asarray(n, np.float32)},
        )
        for n in (1, 3)
    ]  # fmt: skip
    loss = method_of().loss([])
    step = {1: {"logps": -2.0, "counts": 1.0}, 3: {"logps": -9.0, "counts": 3.0}}
    for most in (1, 2):
        total = 0.0
        for part in StepCollator(Collator(0, "plain", targets=True), most)(groups)["parts"]:
            counts = part["attention_mask"].sum(dim=-1) - 2  # (G,)
            outputs = {
                name: torch.tensor([[step[int(n)][name]] for n in counts])
                for name in ("logps", "counts")
            }
            losses, _ = loss(outputs, part)
            total += (losses * part["share"]).sum().item() / len(groups)
        assert total == pytest.approx((2 + 9) / 4)


def test_tied_responses_share_the_tokens_of_their_prompt():
    """Check (2·½ + 8·½) nats over (1·½ + 3·½) tokens."""
    outputs = {"logps": torch.tensor([[-2.0, -8.0]]), "counts": torch.tensor([[1.0, 3.0]])}
    losses, _ = method_of().loss([])(outputs, {"best": torch.tensor([[0.5, 0.5]])})
    assert losses.tolist() == pytest.approx([5 / 2])


@pytest.mark.parametrize("layout", ["plain", "packed"])
def test_loss_and_gradients_equal_those_of_trl(tmp_path, layout):
    groups = [
        *chats_of(3, every_test=99),
        ranked_group("tie", ["abc", "bbbbbb", "c"], [[0, 1], [2]]),
    ]
    tokens = prepared_of(groups, tied_best="all").tokens["train"]
    policy = policy_of(tmp_path / "model")
    wanted, gradients = sft_oracle(policy.ordinary, make_tokenizer(), tokens, tmp_path)
    loss = method_of().loss([])
    layouts = {"plain": ("plain", False), "packed": ("shared", True)}
    collator = Collator(0, *layouts[layout], targets=True)
    total = 0.0
    for part in StepCollator(collator, 2)(tokens)["parts"]:
        losses, _ = loss(policy(**for_model(part)), part)
        part_loss = (losses * part["share"]).sum() / len(tokens)
        part_loss.backward()
        total += part_loss.item()
    assert total == pytest.approx(wanted, abs=1e-5)
    assert_same_gradients(gradients_of(policy.ordinary), gradients)


def test_the_likelihood_is_a_mean_over_tokens_with_an_interval():
    """Check 12 prompts of one and two tokens, at 3 nats before and 1 nat per token after."""
    rows = []
    for number in range(12):
        group = ranked_group(f"g{number}", ["a", "b"], [[1], [0]])
        lengths = np.array([5.0, 1.0 + number % 2])
        rows.append((group, -3 * lengths, -lengths, lengths))
    figures = likelihood(rows, seed=0)
    assert figures["before"]["value"] == pytest.approx(3.0)
    assert figures["after"]["value"] == pytest.approx(1.0)
    assert figures["change"]["value"] == pytest.approx(-2.0)
    assert figures["change"]["interval"] == pytest.approx([-2.0, -2.0])
    assert figures["prompts"] == figures["responses"] == 12
    rows[0] = (rows[0][0], rows[0][1], -9 * rows[0][3], rows[0][3])
    low, high = likelihood(rows, seed=0)["change"]["interval"]
    assert low < likelihood(rows, seed=0)["change"]["value"] < high
    nothing = likelihood([], seed=0)
    assert nothing["after"]["value"] is None and "No held-out prompt" in nothing["after"]["reason"]


# --- runs -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory, model):
    """Run SFT once for several tests."""
    path = tmp_path_factory.mktemp("sft") / "run"  # with its own cache of the reference
    run_dir = dpo_run(path, model, groups_that_like_b(40), method="sft", epochs=4)
    train(run_dir, StopSignal())
    return run_dir


def test_a_run_makes_the_best_responses_likelier(finished):
    report = report_of(finished)
    figures = report["likelihood"]
    assert figures["change"]["value"] < -0.2 and figures["change"]["interval"][1] < 0
    change = figures["after"]["value"] - figures["before"]["value"]
    assert figures["change"]["value"] == pytest.approx(change)
    assert figures["prompts"] == 10
    curve = report["training"]["curve"]
    assert curve[-1][1] < curve[0][1]
    watched = [e["metrics"] for e in progress(finished) if "held_out/nll" in e["metrics"]]
    assert watched[-1]["held_out/nll"] == pytest.approx(figures["after"]["value"])
    assert results(finished)[-1]["likelihood"] == figures


def test_no_reference_of_training_responses_is_computed(finished):
    assert (
        report_of(finished)["training"]["reference_computed"] == 3 * 10
    )  # only held-out responses


def test_the_loss_of_a_step_is_the_mean_over_its_tokens(tmp_path, model):
    """Check one step on responses of 2 to 30 tokens, against the plain model's log-probabilities."""
    texts = ["b", "ab" * 14, "cc"]
    groups = [Group(f"c{n}", user(f"{n}?"), [n], [text], []) for n, text in enumerate(texts)]
    run_dir = dpo_run(tmp_path / "run", model, groups, method="sft", micro_batch_size=2)
    train(run_dir, StopSignal())
    untrained, chat = load_model(str(model), "float32"), PolicyChat(make_tokenizer())
    nll = tokens = 0.0
    for group in groups:
        read = chat.read(group.prompt, group.responses)
        prompt, [response] = read.prompt, read.responses
        ids = torch.tensor([[*prompt.tolist(), *response.tolist()]])
        with torch.no_grad():
            logps = untrained(ids).logits[0, :-1].log_softmax(dim=-1)
        nll -= logps.gather(1, ids[0, 1:, None])[len(prompt) - 1 :].sum().item()
        tokens += len(response)
    [(step, loss)] = report_of(run_dir)["training"]["curve"]
    assert step == 1 and loss == pytest.approx(nll / tokens, abs=1e-5)


def test_the_card_describes_the_training_data(finished):
    card = (finished.output / "README.md").read_text()
    assert "fine-tuned on 30 best or only responses to 30 prompts, by supervised" in card
    assert "nats of negative log-likelihood per token" in card
    assert "30 responses with" in " ".join(messages(finished))


def test_a_run_on_plain_chats_has_a_likelihood_and_no_accuracy(tmp_path, model):
    run_dir = dpo_run(tmp_path, model, chats_of(16), method="sft", epochs=3)
    train(run_dir, StopSignal())
    report = report_of(run_dir)
    assert report["accuracy"]["value"] is None and report["accuracy"]["reason"]
    assert report["likelihood"]["change"]["value"] < 0
    assert "best or only responses to 12 prompts" in (run_dir.output / "README.md").read_text()


def test_the_micro_batch_changes_memory_and_not_the_result(tmp_path, model, finished):
    for micro in (1, 8):
        run_dir = dpo_run(
            tmp_path / str(micro), model, groups_that_like_b(40), method="sft", epochs=4,
            micro_batch_size=micro, evaluations=0,
        )  # fmt: skip
        train(run_dir, StopSignal())
        assert apart(run_dir, finished) < 1e-3
