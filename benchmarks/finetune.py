"""The speed and memory of DPO on whole rankings, compared with TRL's DPOTrainer on all pairs.

All contenders take real optimizer steps through their own `train()`, on the same rankings of K
responses, from the same weights, with LoRA on the same frozen model:

    trl            TRL's DPOTrainer on all K(K-1)/2 pairs, given log π_ref of every response
    trl_reference  the same with TRL's own reference: a second pass, with the adapter off, in each step
    pairs          our trainer on all pairs, each response with its own copy of the prompt
    ours           our trainer: the prompt once, each response once, all rankings of a part in one row
    reference      our pass for log π_ref, which a run computes once and caches
    before         the pairwise recipe of an earlier commit (`--before`), in a temporary worktree

Turns alternate, so that other load on the machine affects all of them. Ratios are taken within a turn,
and figures are medians over the turns. No contender forwards more than `--at-once` tokens together.
First, loss and gradients are compared with TRL's, and those of both with float64 (`…_error`).

The arithmetic bound is the speed-up if time were proportional to the operations that both sides
cannot avoid. For each ranking with P tokens of the prompt and R of each response:

                 tokens through the body       tokens through the head
    all pairs    K(K-1)·(P + R)                K(K-1)·R
    ours         P + K·R                       K·R

A frozen weight costs 4 operations per token: 2 in the forward pass, 2 for the gradient of its input.
A LoRA weight costs 6, with its own gradient. With b frozen weights of the body, a LoRA weights and
h = H·V weights of the head, all frozen:

            K(K-1)·(P + R)·(4b + 6a) + K(K-1)·R·4h
    bound = --------------------------------------
               (P + K·R)·(4b + 6a) + K·R·4h

The vocabulary of the small model gives the ratio h / b of Qwen2.5 0.5B, which is 0.38. Then the bound
is about 1.42, 1.27 and 1.15 at K = 2 for P : R of 2:1, 1:1 and 1:2, and 4.4 at K = 4, 1:1. A pass for
the reference costs 2 operations per weight on both sides, which leaves the ratio almost unchanged.

TRL executes more operations. It computes the logits again in the backward pass (6h, not 4h), and on a
CPU it computes them for the prompt too. `executed_ratio` is the ratio of operations with these counted.

The memory part doubles the vocabulary and compares the peak of a step beyond the weights.

    python -m benchmarks.finetune                         nine cases, an hour on two cores
    python -m benchmarks.finetune --quick                 one small case, under a minute
    python -m benchmarks.finetune --clock cpu --threads 1     on a busy machine

On a GPU: bfloat16 and random weights in the shape of Qwen2.5 0.5B (`--size` for others).
Progress on stderr; the last line of stdout is one JSON object.
"""

import argparse
import itertools
import json
import math
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import datasets
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, TrainingArguments
from trl import DPOConfig, DPOTrainer

from benchmarks.reward_training import (
    CLOCKS,
    PAD,
    Contender,
    common_arguments,
    finish,
    fits,
    make_groups,
    ratio_of,
    say,
    take_turns,
    tokenizer,
)
from benchmarks.support.accelerator import commit, hardware, peak_mb, reset_peak
from benchmarks.support.earlier_dpo import EarlierDPO
from benchmarks.support.finetune_options import matching_vocabulary, parse
from benchmarks.support.flops import PolicyWork, peak, policy_flops, policy_work
from benchmarks.support.worktrees import worktree
from finetune.methods.dpo import DPO, DPOSettings
from finetune.training.fitting.trainer import PolicyTrainer, with_reference
from finetune.training.models.policy import PolicyModel
from recipes.layout import attention
from recipes.layout.collate import Collator, StepCollator, for_model
from recipes.layout.forward import score_all
from recipes.models.head import CHUNK_NUMBERS
from recipes.preferences.tokens import TokenGroup
from recipes.rundir import versions
from recipes.runner import quiet_libraries

MEASURED = ("benchmarks/finetune.py", "benchmarks/support", "finetune", "recipes")
MEMORY_CASE = (4, 128, 128)


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv, __doc__ or "")
    quiet_libraries()
    if options.threads:
        torch.set_num_threads(options.threads)
    measured = commit(*MEASURED)  # first, because files may change during the run
    cases = []
    if "speed" in options.part:
        cases += measure_speed(options)
    if "equality" in options.part:
        cases += [measure_equality(k, p, r, options) for k, p, r in options.cases]
    if "memory" in options.part:
        cases.append(measure_memory(options))
    print(
        json.dumps(
            {
                "name": "finetune",
                "commit": measured,
                "hardware": hardware(options.device),
                "model": model_of(options),
                "clock": options.clock,
                "before": options.before,
                "versions": versions(),
                "cases": cases,
            }
        )
    )
    return 0


# --- one case -------------------------------------------------------------------------------------


def measure_speed(options: argparse.Namespace) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        earlier = None
        if options.before:
            earlier = stack.enter_context(worktree(options.before, Path(folder)))
        cases = []
        for k, p, r in options.cases:
            cases.append(measure(k, p, r, options, earlier))
            say(json.dumps(cases[-1]))  # so that an interrupted run loses only its last case
        return cases


def measure(
    k: int, prompt: int, response: int, options: argparse.Namespace, earlier: Path | None
) -> dict[str, Any]:
    """Return the figures of one case. `earlier` is the checkout of the earlier recipe, or None."""
    say(f"K={k}, prompt {prompt}, response {response} tokens")
    vocabulary = matching_vocabulary(options)
    count = options.groups or step_size(k, options.device)
    groups = make_groups(count, k, prompt, response, vocabulary=vocabulary)
    model = make_model(options, vocabulary, prompt + response)
    groups = compute_reference(model, groups)
    with tempfile.TemporaryDirectory() as folder:
        equality = compare_with_trl(model, groups[:1], options, folder)
        say(f"  {', '.join(f'{name} {value:.1e}' for name, value in equality.items())}")
        makers = {
            "trl": trl_trainer,
            "trl_reference": trl_trainer_with_reference_pass,
            "pairs": pairs_trainer,
            "ours": our_trainer,
        }
        contenders: dict[str, Any] = {
            name: Contender(make, model, groups, options, folder) for name, make in makers.items()
        }
        contenders["reference"] = ReferencePass(model, groups, options)
        if earlier:
            contenders["before"] = earlier_dpo(model, groups, options, folder, earlier)
        take_turns(contenders, options)
        if earlier:
            contenders["before"].close()
    return {
        "part": "speed",
        "k": k,
        "prompt_tokens": prompt,
        "response_tokens": response,
        "groups": count,
        "vocabulary": vocabulary,
        "device": options.device,
        **figures(contenders, model, groups, options),
        **equality,
    }


def step_size(k: int, device: str) -> int:
    """Return the rankings per step. On a CPU, more would take TRL minutes."""
    return 16 if device == "cuda" else {2: 8, 4: 2}.get(k, 1)


def figures(
    contenders: dict[str, Any], model: Any, groups: list[TokenGroup], options: Any
) -> dict[str, Any]:
    """Return the figures of all contenders. Those of the others have their name as a suffix."""
    seconds = {name: contender.seconds for name, contender in contenders.items()}
    ours = seconds["ours"]
    once = [step + extra for step, extra in zip(ours, seconds["reference"], strict=True)]
    speedup = ratio_of(seconds["trl"], ours)
    bound, executed = arithmetic_bound(model, groups), executed_ratio(model, groups, options.device)
    row = {
        "turns": len(ours),
        "speedup_vs_trl": round(speedup, 3),
        "speedup_vs_trl_spread": quartiles(seconds["trl"], ours),
        "arithmetic_bound": round(bound, 3),
        "fraction_of_bound": round(speedup / bound, 3),
        "executed_ratio": round(executed, 3),
        "fraction_of_executed": round(speedup / executed, 3),
        "speedup_vs_trl_reference": round(ratio_of(seconds["trl_reference"], once), 3),
        "speedup_vs_trl_reference_spread": quartiles(seconds["trl_reference"], once),
        "speedup_vs_pairs": round(ratio_of(seconds["pairs"], ours), 3),
        "speedup_vs_pairs_spread": quartiles(seconds["pairs"], ours),
        "fraction_of_bound_pairs": round(ratio_of(seconds["pairs"], ours) / bound, 3),
        "tokens_per_s": rate(ours, policy_work(groups, pairs=False).body),
        "tokens_per_s_trl": rate(seconds["trl"], policy_work(groups, pairs=True).body),
        "peak_mb": contenders["ours"].peak_mb,
        "peak_mb_trl": contenders["trl"].peak_mb,
        "mfu": mfu(ours, model, policy_work(groups, pairs=False), options),
    }
    if "before" in seconds:
        row["speedup_vs_before"] = round(ratio_of(seconds["before"], ours), 3)
        row["speedup_vs_before_spread"] = quartiles(seconds["before"], ours)
    return row | {
        f"seconds_{name}": [round(value, 4) for value in values] for name, values in seconds.items()
    }


def arithmetic_bound(model: Any, groups: Sequence[TokenGroup]) -> float:
    """Return the bound of the module's docstring, which leaves out attention."""
    everything, once = (
        replace(policy_work(groups, pairs=pairs), attended=0) for pairs in (True, False)
    )
    return policy_flops(model, everything) / policy_flops(model, once)


def executed_ratio(model: Any, groups: Sequence[TokenGroup], device: str) -> float:
    """Return the ratio of the operations that TRL and our trainer execute, with attention.

    TRL computes the logits twice, and on a CPU at all positions (see TRL's `add_fused_lm_head`).
    """
    work = policy_work(groups, pairs=True)
    theirs = replace(work, head=work.body) if device == "cpu" else work
    ours = policy_work(groups, pairs=False)
    return policy_flops(model, theirs, head_passes=3) / policy_flops(model, ours)


def quartiles(theirs: Sequence[float], ours: Sequence[float]) -> list[float]:
    """Return the middle half of the turns' speed-ups."""
    ends = np.quantile([a / b for a, b in zip(theirs, ours, strict=True)], [0.25, 0.75])
    return [round(float(end), 3) for end in ends]


def rate(seconds: Sequence[float], tokens: int) -> float:
    return round(tokens / statistics.median(seconds), 1)


def mfu(seconds: Sequence[float], model: Any, work: PolicyWork, options: Any) -> float | None:
    """Return the share of the GPU's peak rate, or None on a CPU, whose peak varies with its load."""
    if options.device == "cpu":
        return None
    highest, _ = peak(options.device)
    return round(policy_flops(model, work) / statistics.median(seconds) / highest, 4)


# --- model and data -------------------------------------------------------------------------------


def make_model(options: argparse.Namespace, vocabulary: int, longest: int) -> Any:
    """Return a language model with random frozen weights, a tied head and a new LoRA adapter."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=options.hidden,
        intermediate_size=options.inner,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        num_key_value_heads=options.kv_heads,
        max_position_embeddings=longest,
        pad_token_id=PAD,
        tie_word_embeddings=True,
    )
    model = AutoModelForCausalLM.from_config(config)
    if options.device == "cuda":
        model = model.bfloat16()
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=options.lora,
        lora_alpha=2 * options.lora,
        target_modules="all-linear",
    )
    return get_peft_model(model, lora).to(options.device)


def compute_reference(model: Any, groups: list[TokenGroup]) -> list[TokenGroup]:
    """Return the groups with log π_ref, computed by the untrained model."""
    policy, collator = policy_of(deepcopy(model))
    logps = score_all(policy, groups, collator)
    return with_reference(groups, [row[:, 0] for row in logps])


def policy_of(model: Any) -> tuple[PolicyModel, Collator]:
    """Return our model with the attention that a run would use."""
    attention.set_attention(model.get_base_model(), model.device.type)
    return PolicyModel(model), Collator(PAD, "shared", packed=True, targets=True)


def as_pairs(groups: Sequence[TokenGroup]) -> list[TokenGroup]:
    """Return a group of two responses for each pair of each ranking, the better one first."""
    return [
        group.only([i, j], reference=group.signals["reference"][[i, j]])
        for group in groups
        for i, j in itertools.combinations(range(len(group.responses)), 2)
    ]


# --- contenders -----------------------------------------------------------------------------------


class PretokenizedTrainer(DPOTrainer):
    """A DPOTrainer for rows of token ids."""

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset


def trl_trainer(
    model: Any, groups: list[TokenGroup], options: Any, folder: str
) -> PretokenizedTrainer:
    """Return TRL's trainer, with log π_ref in its rows, as after its `precompute_ref_log_probs`."""
    trainer = trl_trainer_with_reference_pass(model, groups, options, folder)
    trainer.precompute_ref_logps = True  # an option would compute them here, and cache them on disk
    return trainer


def trl_trainer_with_reference_pass(
    model: Any, groups: list[TokenGroup], options: Any, folder: str
) -> PretokenizedTrainer:
    rows = [trl_row(pair) for pair in as_pairs(groups)]
    at_once = pairs_at_once(groups, options)
    args = DPOConfig(
        **common_arguments(options, folder),
        per_device_train_batch_size=at_once,
        gradient_accumulation_steps=len(rows) // at_once,
        max_length=None,
        gradient_checkpointing=False,
    )
    return PretokenizedTrainer(
        model=model,
        args=args,
        train_dataset=datasets.Dataset.from_list(rows * 2),
        processing_class=tokenizer(),
    )


def pairs_at_once(groups: list[TokenGroup], options: Any) -> int:
    """Return the pairs per forward pass: as many as divide a step and stay within `--at-once`."""
    pairs = as_pairs(groups)
    longest = 2 * max(pair.longest() for pair in pairs)  # tokens of a pair
    counts = range(1, len(pairs) + 1)
    return max(n for n in counts if n == 1 or fits(n, pairs, longest, options))


def earlier_dpo(
    model: Any, groups: list[TokenGroup], options: Any, folder: str, checkout: Path
) -> EarlierDPO:
    """Return the earlier recipe on the same rows as TRL's, with the length by which it sorts them."""
    rows = [{**trl_row(pair), "length": pair.longest()} for pair in as_pairs(groups)]
    at_once = pairs_at_once(groups, options)
    return EarlierDPO(checkout, model, rows, at_once, options, Path(folder) / "before")


def trl_row(pair: TokenGroup) -> dict[str, Any]:
    better, worse = pair.responses
    chosen, rejected = pair.signals["reference"].tolist()
    return {
        "prompt_ids": pair.prompt.tolist(),
        "chosen_ids": better.tolist(),
        "rejected_ids": worse.tolist(),
        "ref_chosen_logps": chosen,
        "ref_rejected_logps": rejected,
    }


def our_trainer(model: Any, groups: list[TokenGroup], options: Any, folder: str) -> PolicyTrainer:
    policy, collator = policy_of(model)
    return policy_trainer(policy, collator, groups, options, folder)


def pairs_trainer(model: Any, groups: list[TokenGroup], options: Any, folder: str) -> PolicyTrainer:
    collator = Collator(PAD, "plain", targets=True)
    return policy_trainer(PolicyModel(model), collator, as_pairs(groups), options, folder)


def policy_trainer(
    policy: PolicyModel, collator: Collator, groups: list[TokenGroup], options: Any, folder: str
) -> PolicyTrainer:
    args = TrainingArguments(
        **common_arguments(options, folder),
        per_device_train_batch_size=len(groups),
        remove_unused_columns=False,
        label_names=["labels"],
    )
    return PolicyTrainer(
        loss=our_loss(),
        policy=policy,
        args=args,
        train_dataset=groups * 2,
        data_collator=StepCollator(collator, len(groups), options.at_once),
    )


def our_loss() -> Any:
    return DPO(DPOSettings(model="benchmark")).loss([])  # no groups, because there are no ties


class ReferencePass:
    """Our pass for log π_ref of all groups of a step, as a contender."""

    def __init__(self, model: Any, groups: list[TokenGroup], options: Any):
        self.policy, self.collator = policy_of(deepcopy(model))
        self.groups = groups
        self.clock = CLOCKS[options.clock]
        self.seconds: list[float] = []
        self.last = 0.0

    def take_turn(self, *, warm_up: bool) -> None:
        began = self.clock()
        score_all(self.policy, self.groups, self.collator)
        self.last = self.clock() - began
        if not warm_up:
            self.seconds.append(self.last)


# --- equality -------------------------------------------------------------------------------------


def measure_equality(k: int, prompt: int, response: int, options: Any) -> dict[str, Any]:
    """Return the figures of `compare_with_trl` for one ranking, without any timing."""
    vocabulary = matching_vocabulary(options)
    model = make_model(options, vocabulary, prompt + response)
    groups = make_groups(1, k, prompt, response, vocabulary=vocabulary)
    groups = compute_reference(model, groups)
    with tempfile.TemporaryDirectory() as folder:
        equality = compare_with_trl(model, groups, options, folder)
    case = {"part": "equality", "k": k, "prompt_tokens": prompt, "response_tokens": response}
    say(json.dumps(case | equality))
    return case | equality


def compare_with_trl(
    model: Any, groups: list[TokenGroup], options: Any, folder: str
) -> dict[str, float]:
    """Return the differences of our loss and gradients from TRL's on all pairs, in float32.

    The errors are the differences of both from a loop over responses in float64. The adapter is moved
    first, because a new one has no effect. Gradients are relative to the largest.
    """
    moved = deepcopy(model).float()
    torch.manual_seed(1)
    for weight in moved.parameters():
        if weight.requires_grad:
            weight.data += 0.02 * torch.randn_like(weight)
    double = deepcopy(moved).double()
    exact = finish(double, loss_in_float64(double, groups))
    trainer = trl_trainer(deepcopy(moved), groups, options, folder)
    rows = trainer.data_collator([trl_row(pair) for pair in as_pairs(groups)])
    rows = {name: values.to(moved.device) for name, values in rows.items()}
    theirs = finish(trainer.model, trainer.compute_loss(trainer.model, rows))
    policy, collator = policy_of(moved)
    batch = {name: values.to(moved.device) for name, values in collator(groups).items()}
    losses, _ = our_loss()(policy(**for_model(batch)), batch)
    ours = finish(policy, losses.mean())
    loss_diff, grad_diff = distance(ours, theirs)
    loss_error, grad_error = distance(ours, exact)
    loss_error_trl, grad_error_trl = distance(theirs, exact)
    return {
        "loss_diff": loss_diff,
        "grad_diff": grad_diff,
        "loss_error": loss_error,
        "grad_error": grad_error,
        "loss_error_trl": loss_error_trl,
        "grad_error_trl": grad_error_trl,
    }


def distance(
    a: tuple[float, list[torch.Tensor]], b: tuple[float, list[torch.Tensor]]
) -> tuple[float, float]:
    """Return the differences of two losses and of their gradients, relative to the largest of b."""
    largest = max(gradient.abs().max().item() for gradient in b[1])
    gaps = [(x - y).abs().max().item() for x, y in zip(a[1], b[1], strict=True)]
    return abs(a[0] - b[0]), max(gaps) / largest


def loss_in_float64(model: Any, groups: Sequence[TokenGroup]) -> torch.Tensor:
    """Return the mean of -log σ(β·(r_better - r_worse)) over all pairs, r = log π - log π_ref.

    Each text is forwarded alone, through the model's own logits.
    """
    beta, losses = DPOSettings(model="benchmark").beta, []
    for group in groups:
        scores = []
        for response, before in zip(group.responses, group.signals["reference"], strict=True):
            ids = np.concatenate([group.prompt, response]).astype(np.int64)
            tokens = torch.from_numpy(ids)[None].to(model.device)
            logps = model(input_ids=tokens).logits[0, :-1].log_softmax(dim=-1)  # (T - 1, V)
            of_tokens = logps.gather(1, tokens[0, 1:, None])[-len(response) :]
            scores.append(beta * (of_tokens.sum() - float(before)))
        pairs = itertools.combinations(scores, 2)
        losses.append(torch.stack([-F.logsigmoid(a - b) for a, b in pairs]).mean())
    return torch.stack(losses).mean()


# --- memory ---------------------------------------------------------------------------------------


def measure_memory(options: argparse.Namespace) -> dict[str, Any]:
    """Return the peak of a step beyond the weights, for a vocabulary and one twice as large.

    Also measures TRL's, except with `--quick`, because it takes gigabytes.
    """
    k, prompt, response = options.cases[0] if options.quick else MEMORY_CASE
    sizes = [options.vocabulary, 2 * options.vocabulary]
    # Enough tokens for one full chunk of logits: below that, memory would grow with any head.
    least = math.ceil(CHUNK_NUMBERS[options.device] / options.vocabulary / (k * response))
    count = max(options.groups or 2, least)
    row: dict[str, Any] = {
        "part": "memory",
        "k": k,
        "prompt_tokens": prompt,
        "response_tokens": response,
        "groups": count,
        "vocabulary": sizes,
    }
    makers = {"ours": our_trainer} if options.quick else {"ours": our_trainer, "trl": trl_trainer}
    for name, make in makers.items():
        case = (count, k, prompt, response)
        peaks = [beyond_weights(make, size, case, options) for size in sizes]
        say(f"memory of {name}: {peaks} MB beyond the weights, with {sizes} words")
        end = "" if name == "ours" else f"_{name}"
        row[f"beyond_weights_mb{end}"] = peaks
        row[f"growth{end}"] = round(peaks[1] / peaks[0] - 1, 4) if peaks[0] else None
    return row


def beyond_weights(make: Any, vocabulary: int, case: tuple[int, ...], options: Any) -> float:
    """Return the peak of a second `train()` minus the memory before it, in MB.

    The first call also allocates the memory that is allocated only once.
    """
    count, k, prompt, response = case
    groups = make_groups(count, k, prompt, response, vocabulary=vocabulary)
    model = make_model(options, vocabulary, prompt + response)
    zeros = [np.zeros(len(group.responses), dtype=np.float32) for group in groups]
    with tempfile.TemporaryDirectory() as folder:
        contender = Contender(make, model, with_reference(groups, zeros), options, folder)
        del model
        contender.take_turn(warm_up=True)
        reset_peak()
        before = peak_mb()
        contender.take_turn(warm_up=False)
    return round(contender.last_peak_mb - before, 1)


# --- output ---------------------------------------------------------------------------------------


def model_of(options: argparse.Namespace) -> dict[str, Any]:
    names = ("hidden", "layers", "heads", "kv_heads", "inner", "lora", "at_once", "turns")
    dtype = "bfloat16" if options.device == "cuda" else "float32"
    return {"family": "llama", "dtype": dtype} | {name: vars(options)[name] for name in names}


if __name__ == "__main__":
    sys.exit(main())
