"""Tests of GRPO and RLOO: their losses, their tokens, and runs that are killed anywhere."""

import json
import signal
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune.methods.grpo import GRPOSettings
from finetune.methods.rloo import RLOOSettings
from finetune.report import SampledReport
from finetune.settings import FinetuneSettings
from finetune.training.models.language_model import load_tokenizer
from finetune.training.policy_gradient import PolicyGradient, policy_gradient
from finetune.training.rewarded_trainer import (
    Rewarded,
    RewardFunction,
    group_figures,
    lent_to_trl,
    steps_of,
)
from finetune.training.samples import RewardScores, read_data
from finetune.training.train import set_up
from recipes.errors import RecipeError, Stopped
from recipes.models.adapter import trained_weights
from recipes.preferences.tokens import TokenGroup
from recipes.settings import ConfigError
from recipes.stopping import StopSignal
from reward.training.score import Scorer
from tests.finetune.training.test_training_frozen_chats import DATED
from tests.finetune.training.training_runs import (
    apart,
    dpo_run,
    groups_that_like_b,
    interrupt_when,
    make_adapter,
    make_letters_model,
    messages,
    progress,
    ranked_group,
    report_of,
    results,
    start,
    weights_of,
)
from tests.reward.scored import make_letter_scorer, make_scorer_folder
from tests.schema import differences

pytestmark = pytest.mark.usefixtures("one_thread")
METHODS = ["grpo", "rloo"]
PROGRAM = "finetune.training.policy_gradient"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_letters_model(tmp_path_factory.mktemp("models") / "letters")


@pytest.fixture(scope="module")
def likes_b(tmp_path_factory):
    """Return the folder of a reward model whose score is the share of b's."""
    return make_letter_scorer(tmp_path_factory.mktemp("reward") / "scorer")


def gradient_run(path, model, reward_model, method="grpo", *, groups=None, **config):
    settings = {
        "reward_model": str(reward_model), "samples_per_prompt": 4, "max_new_tokens": 10,
        "sampling_batch_size": 16, "evaluations": 0, "warmup": 0.0, **config,
    }  # fmt: skip
    return dpo_run(path, model, groups or groups_that_like_b(16), method=method, **settings)


@contextmanager
def trainer_of(run_dir, *, passes=1):
    """Yield TRL's trainer of a run, in training mode, before its first step."""
    setup = set_up(run_dir)
    run = PolicyGradient(run_dir, setup, *read_data(run_dir), StopSignal())
    run.prepare()
    responses = run.prompts_per_step * run.config.samples_per_prompt
    with lent_to_trl(run.policy):
        reward = RewardFunction(run)
        trainer = run.make_trainer(reward, (responses // passes, passes), lambda last: {})
        trainer.current_gradient_accumulation_steps = passes
        trainer.model.train()
        yield trainer


def sampled(trainer):
    """Return the samples of the first step as TRL trains on them, and their prompts and tokens."""
    each, per_step = trainer.num_generations, trainer.run.prompts_per_step
    names = [row["prompt"] for row in trainer.train_dataset][:per_step]
    names = [name for name in names for _ in range(each)]
    batch = trainer._generate_and_score_completions([{"prompt": name} for name in names])
    tokens = [
        ids[: int(length)].tolist()
        for ids, length in zip(
            batch["completion_ids"], (batch["completion_ids"] != 0).sum(-1), strict=True
        )
    ]
    return batch, names, tokens


# --- the losses -------------------------------------------------------------------------------------


def token_logps(trainer, batch):
    """Return log π of each response's tokens by a loop over responses, from the model's own logits."""
    rows = []
    temperature = trainer.settings.temperature
    for index in range(len(batch["completion_ids"])):
        prompt = batch["prompt_ids"][index][batch["prompt_mask"][index] > 0]
        response = batch["completion_ids"][index]
        response = response[response != 0]
        logits = trainer.model(input_ids=torch.cat([prompt, response])[None]).logits[0]
        logps = (logits[len(prompt) - 1 : -1] / temperature).log_softmax(-1)
        rows.append(logps.gather(1, response[:, None])[:, 0])
    return rows


@torch.no_grad()
def move(weights, scale):
    for weight in weights:
        weight += scale * torch.randn_like(weight)


@torch.no_grad()
def put(weights, values):
    for weight, value in zip(weights, values, strict=True):
        weight.copy_(value)


def clipped(ratio, advantage, epsilon):
    return torch.minimum(ratio * advantage, ratio.clamp(1 - epsilon, 1 + epsilon) * advantage)


def grpo_by_hand(config, rewards, now, old, reference, in_loss):
    """Return the loss of the module's docstring from rewards (groups, K) and rows of log π."""
    unit = {
        "group": rewards.std(dim=1, keepdim=True) + 1e-4,
        "batch": rewards.std() + 1e-4,
        "none": 1.0,
    }[config.scale_rewards]
    advantages = ((rewards - rewards.mean(dim=1, keepdim=True)) / unit).flatten()
    sums, lengths = [], []
    for row, before, original, advantage in zip(now, old, reference, advantages, strict=True):
        ratio = (row - before).exp()
        kl = ratio * ((original - row).exp() - (original - row) - 1)
        sums.append((-clipped(ratio, advantage, config.epsilon) + config.beta * kl).sum())
        lengths.append(len(row))
    sums = [total for total, counts in zip(sums, in_loss, strict=True) if counts]
    lengths_in_loss = [length for length, counts in zip(lengths, in_loss, strict=True) if counts]
    if config.average == "tokens":
        return sum(sums) / sum(lengths_in_loss)
    if config.average == "constant":
        return sum(sums) / (len(in_loss) * config.max_new_tokens)
    return sum(s / n for s, n in zip(sums, lengths_in_loss, strict=True)) / len(in_loss)


def rloo_by_hand(config, rewards, now, old, reference, in_loss):
    kl = torch.stack([(o - r).sum() * k for o, r, k in zip(old, reference, in_loss, strict=True)])
    returns = rewards - config.beta * kl.view_as(rewards)
    each = rewards.shape[1]
    others = (returns.sum(dim=1, keepdim=True) - returns) / (each - 1)
    advantages = (returns - others).flatten()
    if config.normalise_advantages:
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-4)
    losses = []
    for row, before, advantage, counts in zip(now, old, advantages, in_loss, strict=True):
        ratio = ((row - before).sum() * counts).exp()
        losses.append(-clipped(ratio, advantage, config.epsilon))
    return torch.stack(losses).mean()


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("grpo", {}),
        ("grpo", {"scale_rewards": "none", "average": "constant"}),
        ("grpo", {"scale_rewards": "batch"}),
        ("grpo", {"average": "responses"}),
        ("grpo", {"beta": 0.0}),
        ("grpo", {"beta": 2.0}),
        ("grpo", {"epsilon": 0.01}),
        ("grpo", {"temperature": 0.5}),
        ("grpo", {"skip_truncated": True, "max_new_tokens": 4}),
        ("rloo", {}),
        ("rloo", {"beta": 0.0}),
        ("rloo", {"beta": 2.0}),
        ("rloo", {"epsilon": 0.01}),
        ("rloo", {"temperature": 0.5}),
        ("rloo", {"normalise_advantages": True}),
        ("rloo", {"skip_truncated": True, "max_new_tokens": 4}),
    ],
    ids=str,
)
def test_the_loss_is_that_of_the_paper_for_each_setting(tmp_path, model, likes_b, method, settings):
    """Compare with a loop over responses, with a policy that has moved since it sampled."""
    adapter = make_adapter(tmp_path / "adapter", model, scale=0.05)
    run_dir = gradient_run(
        tmp_path / "run", model, likes_b, method, adapter=str(adapter), updates_per_sample=2,
        **settings,
    )  # fmt: skip
    by_hand = {"grpo": grpo_by_hand, "rloo": rloo_by_hand}[method]
    with trainer_of(run_dir) as trainer:
        weights = [w for name, w in trainer.model.named_parameters() if ".default." in name]
        original = [weight.detach().clone() for weight in weights]
        move(weights, 0.1)
        batch, names, tokens = sampled(trainer)
        rewards = torch.tensor(trainer.reward_funcs[0](names, tokens)).view(-1, 4)
        with torch.no_grad():
            old = token_logps(trainer, batch)
            move(weights, 0.04)
            later = [weight.detach().clone() for weight in weights]
            put(weights, original)
            reference = token_logps(trainer, batch)
            put(weights, later)
        now = token_logps(trainer, batch)
        config = trainer.settings
        stops = trainer.run.chat.stop_ids
        in_loss = [not config.skip_truncated or ids[-1] in stops for ids in tokens]
        assert all(in_loss) != config.skip_truncated
        expected = by_hand(config, rewards, now, old, reference, in_loss)
        own = torch.autograd.grad(expected, weights, allow_unused=True)
        loss = trainer.compute_loss(trainer.model, batch)
        theirs = torch.autograd.grad(loss, weights, allow_unused=True)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    largest = max(gradient.abs().max().item() for gradient in own)
    for mine, gradient in zip(own, theirs, strict=True):
        assert (mine - gradient).abs().max().item() < 1e-4 * max(1.0, largest)


@pytest.mark.parametrize("beta", [0.0, 1.0])
@pytest.mark.parametrize("method", METHODS)
def test_equal_rewards_give_no_gradient(tmp_path, model, likes_b, method, beta):
    """Check that the adapter of an indifferent reward model stays zero, with and without a KL term.

    At the original model the gradient of the divergence is zero too.
    """
    indifferent = make_scorer_folder(tmp_path / "scorer", heads=1)
    weights = load_file(indifferent / "model.safetensors")
    weights["score.weight"].zero_()
    save_file(weights, indifferent / "model.safetensors", metadata={"format": "pt"})
    run_dir = gradient_run(tmp_path / "run", model, indifferent, method, beta=beta, steps=3)
    policy_gradient(run_dir, StopSignal())
    trained = {n: w for n, w in weights_of(run_dir.output).items() if "lora_B" in n}
    assert max(weight.abs().max().item() for weight in trained.values()) < 1e-6
    assert all(e["metrics"]["equal_rewards"] == 1 for e in progress(run_dir))


def test_the_figures_of_a_step_count_different_texts_and_prompts_that_teach_nothing():
    prompts, texts = ["p", "p", "p", "q", "q", "r"], ["a", "a", "b", "a", "b", "a"]
    figures = group_figures(prompts, texts, [0.5, 0.5, 0.1, 0.2, 0.2, None])
    assert figures["unscored"] == 1 / 6
    assert figures["distinct"] == 5 / 6
    assert figures["equal_rewards"] == 2 / 3  # q and r


# --- tokens -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_the_trained_tokens_are_those_that_are_served(tmp_path, model, likes_b, method):
    """Check a template with a date and an option, which TRL's own use of the template would ignore."""
    tokenizer = load_tokenizer(str(model))
    folder = tmp_path / "dated"
    folder.mkdir()
    for file in model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    tokenizer.chat_template = DATED
    tokenizer.save_pretrained(folder)
    run_dir = gradient_run(
        tmp_path / "run", folder, likes_b, method, chat_date="2024-07-26", max_new_tokens=6,
        chat_template_kwargs={"brief": True},
    )  # fmt: skip
    with trainer_of(run_dir) as trainer:
        batch, names, tokens = sampled(trainer)
        chat, reward = trainer.run.chat, trainer.reward_funcs[0]
        ended = []
        for row, name, ids in zip(range(len(names)), names, tokens, strict=True):
            prompt = batch["prompt_ids"][row][batch["prompt_mask"][row] > 0].tolist()
            served = chat.read(
                trainer.run.messages[name], [reward.text(ids)], [ids[-1] != chat.end_id]
            )
            assert prompt == served.prompt.tolist()
            assert tokenizer.decode(prompt).startswith("26 Jul 2024!")
            assert ids == served.responses[0].tolist()
            ended.append(ids[-1] == chat.end_id)
    assert any(ended) and not all(ended)


def test_sampling_takes_the_settings_of_length_temperature_and_group(tmp_path, model, likes_b):
    run_dir = gradient_run(
        tmp_path / "run", model, likes_b, max_new_tokens=3, temperature=0.01, samples_per_prompt=6,
        batch_size=4,
    )  # fmt: skip
    with trainer_of(run_dir) as trainer:
        _, names, tokens = sampled(trainer)
    assert len(tokens) == 4 * 6 and len(set(names)) == 4
    assert max(map(len, tokens)) == 3
    for first in range(0, len(tokens), 6):  # at this temperature, only equally likely tokens differ
        assert len({tuple(ids) for ids in tokens[first : first + 6]}) <= 2


# --- runs -------------------------------------------------------------------------------------------


def test_in_bfloat16_the_log_ratios_of_a_changed_policy_are_not_zero(tmp_path, model, likes_b):
    groups = groups_that_like_b(8)
    run_dir = gradient_run(
        tmp_path / "run", model, likes_b, "grpo", groups=groups, dtype="bfloat16"
    )  # fmt: skip
    run = PolicyGradient(run_dir, set_up(run_dir), *read_data(run_dir), StopSignal())
    text = np.arange(10, 30, dtype=np.int32)
    group = TokenGroup(text[:8], [text[8:14], text[14:]], np.zeros((2, 2), dtype=np.float32))
    assert run.is_reference()
    for weight in filter(lambda weight: weight.requires_grad, run.policy.parameters()):
        weight.data += 0.1
    assert not run.is_reference()
    changed = trained_weights(run.policy)
    now, reference = run.logps(run.part("part", "Part"), [group])
    assert (np.abs(now[0] - reference[0]) > 0.1).all()
    weights = trained_weights(run.policy)
    assert all(torch.equal(weights[name], value) for name, value in changed.items())


@pytest.mark.parametrize("method", METHODS)
def test_the_score_rises_and_the_report_says_so(tmp_path, model, likes_b, method):
    run_dir = gradient_run(
        tmp_path / "run", model, likes_b, method, groups=groups_that_like_b(32), steps=20,
        samples_per_prompt=8, learning_rate=2e-2, evaluations=1,
    )  # fmt: skip
    policy_gradient(run_dir, StopSignal())
    report = report_of(run_dir)
    assert differences(report, SampledReport) == []
    assert report["score_change"]["interval"][0] > 0.03
    before, after = report["rounds"][0], report["after"]
    assert before["kl"]["value"] == 0 and abs(after["kl"]["value"]) > 0.01
    stages = [e["text"] for e in run_dir.events() if e["event"] == "stage"]
    compared = [text for text in stages if "Comparing the model with the reference" in text]
    assert compared == ["After training: Comparing the model with the reference"]
    assert report["kind"] == method and report["training"]["steps"] == 20
    assert report["prompts"] == {"train": 24, "test": 8} and report["accuracy"]["value"] is not None
    assert results(run_dir)[-1]["score_change"] == report["score_change"]
    events = [e for e in progress(run_dir) if "reward_score" in e["metrics"]]
    assert [e["step"] for e in events] == list(range(1, 21))
    metrics = events[-1]["metrics"]
    assert metrics["unscored"] == 0
    assert {
        "reward_spread",
        "kl_per_token",
        "mean_tokens",
        "truncated",
        "distinct",
    } <= metrics.keys()
    assert events[-1]["tokens_per_s"] > 0 and events[-1]["epoch"] == pytest.approx(
        20 * 8 / 24, abs=1e-3
    )
    assert metrics["reward_score"] > events[0]["metrics"]["reward_score"]
    card = (run_dir.output / "README.md").read_text()
    assert "8 samples of its own to each of 24 prompts" in card and "20 steps at a" in card
    assert not (run_dir.output / "ref").exists()


INTERRUPTED = {"steps": 6, "checkpoint_steps": 1, "updates_per_sample": 2, "micro_batch_size": 2}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, model, likes_b):
    """Run each method once, in steps that learn twice from the same samples, for several tests."""
    runs = {}
    for method in METHODS:
        path = tmp_path_factory.mktemp(method) / "run"
        runs[method] = gradient_run(path, model, likes_b, method, **INTERRUPTED)
        policy_gradient(runs[method], StopSignal())
    return runs


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_run_resumes_to_the_same_weights(tmp_path, model, likes_b, uninterrupted, method):
    """Check a kill between two updates on the same samples."""
    step = 1
    run_dir = gradient_run(tmp_path / "run", model, likes_b, method, **INTERRUPTED)
    process = start(PROGRAM, run_dir)
    killed = interrupt_when(process, run_dir.checkpoints / f"checkpoint-{step}", signal.SIGKILL)
    assert killed == -signal.SIGKILL and not run_dir.output.exists()
    for later in run_dir.checkpoints.glob("checkpoint-*"):
        if int(later.name.partition("-")[2]) > step:
            later.rename(run_dir.path / later.name)
    policy_gradient(run_dir, StopSignal())
    assert f"Resuming from checkpoint-{step}." in messages(run_dir)
    assert apart(run_dir, uninterrupted[method]) < 1e-5
    ours, theirs = report_of(run_dir), report_of(uninterrupted[method])
    assert ours["rounds"] == theirs["rounds"] and ours["score_change"] == theirs["score_change"]


@pytest.mark.parametrize("method", METHODS)
def test_a_stop_while_sampling_writes_a_checkpoint_first(
    tmp_path, model, likes_b, uninterrupted, method, monkeypatch
):
    run_dir = gradient_run(
        tmp_path / "run", model, likes_b, method, **{**INTERRUPTED, "checkpoint_steps": 100}
    )
    stop, real = StopSignal(), Rewarded._generate_single_turn

    def stopped_while_sampling(self, *arguments):
        stop.requested = self.state.global_step == 4
        return real(self, *arguments)

    monkeypatch.setattr(Rewarded, "_generate_single_turn", stopped_while_sampling)
    with pytest.raises(Stopped):
        policy_gradient(run_dir, stop)
    assert [path.name for path in run_dir.checkpoints.glob("checkpoint-*")] == ["checkpoint-4"]
    monkeypatch.undo()
    policy_gradient(run_dir, StopSignal())
    assert apart(run_dir, uninterrupted[method]) < 1e-5


@pytest.mark.parametrize("method", METHODS)
def test_out_of_memory_halves_the_responses_per_pass_and_keeps_the_result(
    tmp_path, model, likes_b, uninterrupted, method, monkeypatch
):
    """Check that samples of a checkpoint between two updates are divided into the smaller parts."""
    run_dir = gradient_run(tmp_path / "run", model, likes_b, method, **INTERRUPTED)
    sizes = []

    def small_memory(self, of_model, inputs, *arguments, **others):
        sizes.append(len(inputs["completion_ids"]))
        if sizes[-1] > 4 and self.state.global_step == 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super(Rewarded, self).compute_loss(of_model, inputs, *arguments, **others)

    monkeypatch.setattr(Rewarded, "compute_loss", small_memory, raising=False)
    policy_gradient(run_dir, StopSignal())
    assert set(sizes) == {8, 4}
    [text] = messages(run_dir, "warning")
    assert "continuing with 4 at a time" in text
    assert "Resuming from checkpoint-3." in messages(run_dir)
    assert apart(run_dir, uninterrupted[method]) < 1e-4


@pytest.mark.parametrize(
    "settings", [{"micro_batch_size": 8}, {"gradient_checkpointing": "on"}], ids=str
)
@pytest.mark.parametrize("method", METHODS)
def test_settings_of_memory_do_not_change_the_result(
    tmp_path, model, likes_b, uninterrupted, method, settings
):
    changed = {**INTERRUPTED, **settings}
    run_dir = gradient_run(tmp_path / "run", model, likes_b, method, **changed)
    policy_gradient(run_dir, StopSignal())
    assert apart(run_dir, uninterrupted[method]) < 1e-4


def test_a_run_that_does_not_fit_fails_before_it_trains(tmp_path, model, likes_b, monkeypatch):
    def no_memory(self, *arguments):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Rewarded, "_compute_loss", no_memory, raising=False)
    run_dir = gradient_run(tmp_path / "run", model, likes_b, steps=2)
    with pytest.raises(RecipeError, match="even with one example at a time"):
        policy_gradient(run_dir, StopSignal())
    assert progress(run_dir) == []


def test_updates_per_sample_sample_less_often(tmp_path, model, likes_b, monkeypatch):
    real, rounds = Rewarded._generate_single_turn, []

    def counted(self, *arguments):
        rounds.append(self.state.global_step)
        return real(self, *arguments)

    monkeypatch.setattr(Rewarded, "_generate_single_turn", counted)
    run_dir = gradient_run(tmp_path / "run", model, likes_b, steps=5, updates_per_sample=2)
    policy_gradient(run_dir, StopSignal())
    assert rounds == [0, 2, 4]


def test_steps_follow_from_the_epochs_unless_they_are_set():
    settings = {"model": "m", "reward_model": "r"}
    assert steps_of(GRPOSettings(**settings, epochs=2), prompts=20, prompts_per_step=8) == 6
    doubled = GRPOSettings(**settings, epochs=2, updates_per_sample=2)
    assert steps_of(doubled, prompts=20, prompts_per_step=8) == 12
    assert steps_of(GRPOSettings(**settings, steps=5), prompts=20, prompts_per_step=8) == 5


@pytest.mark.parametrize("variant", ["dora", "rslora"])
def test_other_kinds_of_lora_keep_the_reference(tmp_path, model, likes_b, variant):
    """Check that the copy of the adapter that TRL makes as the reference is complete."""
    adapter = make_adapter(tmp_path / "adapter", model, scale=0.05, **{f"use_{variant}": True})
    run_dir = gradient_run(tmp_path / "run", model, likes_b, adapter=str(adapter), steps=2)
    policy_gradient(run_dir, StopSignal())
    assert progress(run_dir)[0]["metrics"]["kl_per_token"] == pytest.approx(0, abs=1e-5)
    config = json.loads((run_dir.output / "adapter_config.json").read_text())
    assert config[f"use_{variant}"]


# --- refusals ---------------------------------------------------------------------------------------


def test_a_score_that_is_not_a_number_ends_the_run(tmp_path, model):
    broken = make_scorer_folder(tmp_path / "scorer", heads=1)
    weights = load_file(broken / "model.safetensors")
    weights["score.weight"] *= float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RecipeError, match="the score nan, which is not a finite number"):
        policy_gradient(gradient_run(tmp_path / "run", model, broken), StopSignal())


def test_samples_that_are_too_long_for_the_reward_model_end_the_run(tmp_path, model):
    short = make_scorer_folder(tmp_path / "scorer", heads=1, limit=4)
    with pytest.raises(RecipeError, match="None of the 32 samples of a step has a score"):
        policy_gradient(gradient_run(tmp_path / "run", model, short), StopSignal())


def test_a_reward_model_that_fails_is_named(tmp_path, model, likes_b):
    run_dir = gradient_run(tmp_path / "run", model, likes_b, steps=2)
    with trainer_of(run_dir) as trainer:
        scorer = trainer.reward_funcs[0].scores.scorer
        scorer.model.inner.get_input_embeddings().weight.data = torch.zeros(
            3, 32
        )  # tokens without one
        with pytest.raises(RecipeError, match="The reward model failed while it scored samples"):
            sampled(trainer)


def test_the_reward_model_scores_fewer_tokens_at_a_time_when_memory_runs_out(likes_b, monkeypatch):
    """Check equal scores in smaller passes, and an error if even those do not fit."""
    texts = [(f"g{n}", ["ab", "bbb", "aaaaaa"]) for n in range(8)]
    chats = {name: [{"role": "user", "content": f"Question {name}?"}] for name, _ in texts}
    expected = RewardScores(str(likes_b), chats).of(texts)
    real, fitting = Scorer._forward, 60

    def small_memory(self, groups):
        if sum(map(self.collator.tokens, groups)) > fitting:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, groups)

    monkeypatch.setattr(Scorer, "_forward", small_memory)
    scores = RewardScores(str(likes_b), chats)
    assert scores.of(texts) == pytest.approx(expected, abs=1e-5)
    assert scores.scorer.max_tokens < 128
    fitting = 0
    with pytest.raises(RecipeError, match="Out of memory while the reward model scored samples"):
        scores.of(texts)


def test_a_family_whose_logits_trl_computes_differently_is_refused(tmp_path, model, likes_b):
    """Check a scale that TRL reads from the configuration and the model does not apply."""
    run_dir = gradient_run(tmp_path / "run", model, likes_b)
    setup = set_up(run_dir)
    setup.policy.config.logit_scale = 2.0
    run = PolicyGradient(run_dir, setup, *read_data(run_dir), StopSignal())
    prepared = run.prepare()
    _, samples = run.measure("before", "Before training")
    with pytest.raises(RecipeError, match="that TRL computes for this model differ by"):
        run.train(prepared, samples)


def test_several_processes_are_refused(tmp_path, model, likes_b, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RecipeError, match="in one process"):
        policy_gradient(gradient_run(tmp_path / "run", model, likes_b), StopSignal())


def test_prompts_that_leave_no_room_for_a_response_are_left_out_and_counted(
    tmp_path, model, likes_b
):
    long = ranked_group(
        "long", ["a", "b"], [[0], [1]], prompt=[{"role": "user", "content": "?" * 60}]
    )
    run_dir = gradient_run(
        tmp_path / "run",
        model,
        likes_b,
        groups=[*groups_that_like_b(8), long],
        max_length=64,
        steps=1,
    )
    policy_gradient(run_dir, StopSignal())
    report = report_of(run_dir)
    assert report["prompts"]["train"] == 6
    [row] = report["left_out"]
    assert (row["split"], row["what"], row["count"]) == ("train", "prompts", 1)
    assert row["why"] == "longer than 54 tokens"


@pytest.mark.parametrize("settings", [GRPOSettings, RLOOSettings])
def test_settings_without_an_effect_are_neither_offered_nor_accepted(settings):
    names = {item.name for item in settings.options()}
    for name in ("layout", "packing", "tokens_at_once", "compile"):
        assert name not in names
        assert name in {item.name for item in FinetuneSettings.options()}
        with pytest.raises(ConfigError, match="no such setting"):
            settings.from_dict({"model": "m", "reward_model": "r", name: "x"})
    config = settings(model="m", reward_model="r")
    assert settings.from_dict(json.loads(json.dumps(config.to_dict()))) == config
