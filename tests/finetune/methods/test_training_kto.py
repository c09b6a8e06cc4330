"""Tests of KTO against numbers worked by hand, against TRL, and of its runs."""

import math

import numpy as np
import pytest
import torch

from finetune.methods.kto import KTO, KTOSettings, counts
from finetune.training.fitting.trainer import with_reference
from finetune.training.models.language_model import PolicyChat
from finetune.training.train import train
from recipes.errors import RecipeError
from recipes.layout.collate import Collator, StepCollator, for_model
from recipes.layout.forward import score_all
from recipes.preferences.groups import Group, Judgment
from recipes.preferences.tokens import prepare
from recipes.settings import ConfigError
from recipes.stopping import StopSignal
from tests.finetune.methods.trl_oracle import KTOOracle
from tests.finetune.training.test_training_policy import (
    assert_same_gradients,
    gradients_of,
    moved,
    policy_of,
)
from tests.finetune.training.training_runs import (
    apart,
    dpo_run,
    groups_that_like_b,
    lined_groups,
    messages,
    progress,
    report_of,
    user,
)
from tests.tiny import make_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")


def method_of(**settings):
    return KTO(KTOSettings(model="m", **settings))


def labelled_groups():
    """Return four prompts with one labelled response each, two of them acceptable."""
    texts = ["bbbb", "aacaa", "bb", "cacacac"]
    return [
        Group(f"g{n}", user(f"Question {n}{'?' * n}"), [0], [text], [Judgment("r", [[0]], cut=cut)])
        for n, (text, cut) in enumerate(zip(texts, (1, 0, 1, 0), strict=True))
    ]


def prepared_of(groups, **settings):
    method = method_of(**settings)
    chat = PolicyChat(make_tokenizer())
    prepared = prepare(groups, chat, 500, method.loss_inputs, method.objection)
    method.prepare(prepared)
    return prepared


# --- data -------------------------------------------------------------------------------------------


def test_the_majority_of_lines_labels_a_response():
    """Check that 0 is above both lines, 1 is even, 2 is below by weight, and 3 was not placed."""
    rankings = [
        Judgment("r", [[0], [1], [2]], cut=2, weight=0.5),
        Judgment("s", [[0], [2], [1]], cut=1, weight=0.5),
        Judgment("t", [[2]], cut=0, weight=0.7),
        Judgment("u", [[3], [0]]),
    ]
    group = Group("g", user("?"), [0, 1, 2, 3], ["bbb", "aa", "c", "d"], rankings)
    other = Group("h", user("!"), [0], ["a"], [Judgment("r", [[0]], cut=0)])
    first, second = prepared_of([group, other]).tokens["train"]
    assert first.signals["desirable"].tolist() == [1, 0]
    assert first.signals["undesirable"].tolist() == [0, 1]
    assert [len(r) for r in first.responses] == [4, 2]
    assert (first.signals["items"], second.signals["items"]) == (2, 1)
    assert counts([first, second]) == (1, 2)


def test_a_mismatched_response_follows_another_prompt():
    tokens = prepared_of(labelled_groups()).tokens["train"]
    longest = max(group.longest() for group in tokens)
    for group, other in zip(tokens, [*tokens[1:], tokens[0]], strict=True):
        pair = group.mismatched
        if pair is None:
            continue
        assert pair.prompt.tolist() == group.prompt.tolist() != other.prompt.tolist()
        assert pair.longest() <= longest
    assert tokens[0].mismatched.responses[0].tolist() == tokens[1].responses[0].tolist()
    # The next response is too long for the third prompt, so the one after it is used.
    assert tokens[2].mismatched.responses[0].tolist() != tokens[3].responses[0].tolist() or (
        len(tokens[2].prompt) + len(tokens[3].responses[0]) <= longest
    )
    assert (
        prepared_of(labelled_groups(), reference_point="zero").tokens["train"][0].mismatched is None
    )


def test_pairs_that_are_too_long_are_replaced_by_the_next_prompts():
    groups = labelled_groups()
    groups[1] = Group("long", user("?"), [0], ["a" * 25], [Judgment("r", [[0]], cut=0)])
    tokens = prepared_of(groups).tokens["train"]
    assert len(tokens[0].prompt) + len(tokens[1].responses[0]) > max(g.longest() for g in tokens)
    assert tokens[0].mismatched.responses[0].tolist() == tokens[2].responses[0].tolist()


@pytest.mark.parametrize(
    ("groups", "why"),
    [
        (groups_that_like_b(8), "6 prompts: no ranking has an unacceptable line"),
        (lined_groups(8, cut=3), "all 18 responses .* are acceptable"),
        (lined_groups(8, cut=0), "all 18 responses .* are unacceptable"),
    ],
    ids=["no line", "all acceptable", "all unacceptable"],
)
def test_data_on_one_side_of_the_line_or_without_one_is_refused(tmp_path, model, groups, why):
    run_dir = dpo_run(tmp_path, model, groups, method="kto")
    with pytest.raises(RecipeError, match=why):
        train(run_dir, StopSignal())
    assert not run_dir.output.exists()


def test_two_weights_of_zero_are_refused():
    with pytest.raises(ConfigError, match="One of the two weights"):
        KTOSettings.from_dict({"model": "m", "desirable_weight": 0, "undesirable_weight": 0})


# --- the loss ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("drift", "z0"), [(2.0, 2.0), (-3.0, 0.0), (None, 0.0)])
def test_the_loss_is_that_of_equation_7(drift, z0):
    """Check log-ratios of 4 (acceptable) and -1 (not) at β = 0.5, weighted 2 and 3."""
    config = {"beta": 0.5, "desirable_weight": 2.0, "undesirable_weight": 3.0}
    batch = {
        "reference": torch.tensor([[-9.0, -4.0]]),
        "desirable": torch.tensor([[1.0, 0.0]]),
        "undesirable": torch.tensor([[0.0, 1.0]]),
    }
    if drift is not None:
        batch["drift"] = torch.tensor(drift)
    losses, rewards = method_of(**config).loss([])({"logps": torch.tensor([[-5.0, -5.0]])}, batch)

    def value(gain):
        return 1 - 1 / (1 + math.exp(-gain))

    wanted = (2 * value(0.5 * (4 - z0)) + 3 * value(0.5 * (z0 + 1))) / 2
    assert losses.tolist() == pytest.approx([wanted])
    assert rewards.tolist() == [[2.0, -0.5]]


@pytest.mark.parametrize("point", ["kl", "zero"])
@pytest.mark.parametrize("layout", ["plain", "packed"])
def test_loss_and_gradients_equal_those_of_trl(tmp_path, layout, point):
    """Check at unequal weights, for a step in parts of one and of two groups."""
    weights = {"beta": 0.3, "desirable_weight": 1.5, "undesirable_weight": 0.5}
    policy = policy_of(tmp_path / "model", new=True)
    prepared = prepared_of(labelled_groups(), reference_point=point, **weights)
    tokens = prepared.tokens["train"]
    kind = {"kl": "kto", "zero": "apo_zero_unpaired"}[point]
    oracle = KTOOracle(
        policy.ordinary, make_tokenizer(), tokens, tmp_path, loss_type=kind, **weights
    )
    layouts = {"plain": ("plain", False), "packed": ("shared", True)}
    collator = Collator(0, *layouts[layout], targets=True)
    others = [group.mismatched for group in tokens if group.mismatched]
    assert len(others) == (4 if point == "kl" else 0)
    reference = [values[:, 0] for values in score_all(policy, [*tokens, *others], collator)]
    tokens = with_reference(tokens, reference)
    moved(policy)
    wanted, gradients = oracle.loss_and_gradients()
    loss = method_of(**weights, reference_point=point).loss([])
    for most in (1, 2):
        total = 0.0
        step = StepCollator(collator, most)(tokens)
        drift = {"drift": drift_of(policy, step["mismatched"])} if point == "kl" else {}
        for part in step["parts"]:
            losses, _ = loss(policy(**for_model(part)), {**part, **drift})
            part_loss = (losses * part["share"]).sum() / len(tokens)
            part_loss.backward()
            total += part_loss.item()
        assert total == pytest.approx(wanted, abs=1e-5)
        assert_same_gradients(gradients_of(policy.ordinary), gradients)


def drift_of(policy, parts):
    """Return the mean of log π - log π_ref over mismatched responses, by a loop."""
    changes = []
    with torch.no_grad():
        for part in parts:
            logps = policy(**for_model(part))["logps"]
            changes += (logps - part["reference"])[part["present"]].tolist()
    assert abs(np.mean(changes)) > 1e-3
    return torch.tensor(np.mean(changes), dtype=torch.float32)


# --- runs -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory, model):
    """Run KTO once for several tests."""
    path = tmp_path_factory.mktemp("kto") / "run"  # with its own cache of the reference
    run_dir = dpo_run(path, model, lined_groups(40), method="kto", epochs=6, desirable_weight=2)
    train(run_dir, StopSignal())
    return run_dir


def test_a_run_learns_the_order_from_the_line(finished):
    report = report_of(finished)
    assert report["accuracy"]["value"] > 0.7 and report["accuracy"]["interval"][0] > 0.5
    assert report["held_out"]["margins"] > 0


def test_the_first_loss_is_half_the_mean_weight(finished):
    """Check that with π = π_ref, each loss is λ(1 - σ(0)): (30·2 + 60·1)/90/2 = 2/3 on average."""
    curve = report_of(finished)["training"]["curve"]
    assert curve[0][1] == pytest.approx(2 / 3, abs=0.01)
    assert curve[-1][1] < curve[0][1]


def test_the_drift_is_estimated_at_each_step_and_starts_at_zero(finished):
    drift = [e["metrics"]["drift"] for e in progress(finished) if "drift" in e["metrics"]]
    assert drift[0] == pytest.approx(0.0, abs=1e-4) and len(drift) > 10
    assert max(map(abs, drift)) > 0.01


def test_the_run_reports_the_ratio_of_the_weights(finished, tmp_path, model):
    assert any(
        "30 acceptable and 60 unacceptable responses to train on. Weighted, the acceptable ones are "
        "1.00 times the others, as recommended." in text
        for text in messages(finished)
    )
    [note] = method_of().notes(prepared_of(lined_groups(40)))
    assert note.endswith("which is a desirable_weight of 2 to 2.67.")
    card = (finished.output / "README.md").read_text()
    assert "fine-tuned on 30 acceptable and 60 unacceptable responses to 30 prompts, by KTO" in card
    assert "arXiv:2402.01306) with β = 0.1" in card


def test_the_micro_batch_changes_memory_and_not_the_result(tmp_path, model, finished):
    """Check that the estimate of the drift does not depend on the forward passes."""
    for micro in (1, 8):
        run_dir = dpo_run(
            tmp_path / str(micro), model, lined_groups(40), method="kto", epochs=6,
            desirable_weight=2, micro_batch_size=micro, evaluations=0,
        )  # fmt: skip
        train(run_dir, StopSignal())
        assert apart(run_dir, finished) < 1e-3


def test_without_a_reference_point_nothing_else_is_forwarded(tmp_path, model):
    run_dir = dpo_run(
        tmp_path / "run",
        model,
        lined_groups(16),
        method="kto",
        reference_point="zero",
        evaluations=0,
    )
    train(run_dir, StopSignal())
    assert report_of(run_dir)["training"]["reference_computed"] == 12 * 3 + 4 * 3
    assert not [e for e in progress(run_dir) if "drift" in e["metrics"]]


def test_the_drift_is_subtracted_while_it_is_positive(tmp_path, model):
    """Check that runs with and without z0 differ only if other responses become likelier too."""
    apart_by_cut = {}
    for cut in (1, 2):
        runs = []
        for point in ("kl", "zero"):
            settings = {"desirable_weight": 0.1 if cut == 1 else 10, "epochs": 3, "beta": 1}
            run_dir = dpo_run(
                tmp_path / f"{cut}{point}", model, lined_groups(24, cut=cut), method="kto",
                reference_point=point, evaluations=0, **settings,
            )  # fmt: skip
            train(run_dir, StopSignal())
            runs.append(run_dir)
        drift = [e["metrics"]["drift"] for e in progress(runs[0]) if "drift" in e["metrics"]]
        assert (max(drift) > 0.5) if cut == 2 else (max(drift) < 0.01)
        apart_by_cut[cut] = apart(*runs)
    assert apart_by_cut[1] < 1e-6 < 1e-4 < apart_by_cut[2]
