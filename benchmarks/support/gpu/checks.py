"""The checks of `python -m benchmarks.gpu_check`, the most important first.

Each check is a function of a World that returns figures, and raises CheckFailed if one is wrong.
The checks call the recipes as the command line does: with run directories, on models in folders.

Legend: P tokens of a prompt, K responses per prompt of R tokens.
"""

import math
import shutil
import time
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks import reward_training
from benchmarks.support.accelerator import peak_mb, reset_peak
from benchmarks.support.flops import peak, shared_work, step_flops
from benchmarks.support.gpu import forecasts
from benchmarks.support.gpu.world import (
    POSITIONS,
    WatchedRun,
    World,
    compilations,
    finished_run,
    groups_of,
    new_run,
    random_groups,
    user,
)
from benchmarks.support.reward_training_options import parse
from finetune.engines.sampled_text import Prompt, write_prompts
from finetune.settings import BATCHED, SEEDED
from finetune.training import generate, merge, policy_gradient, train
from finetune.training.models.language_model import PolicyChat, load_tokenizer
from recipes.machine import checks
from recipes.machine.memory import free_memory, peak_memory_mb
from recipes.models.references import torch_dtype
from recipes.preferences.groups import Group, write_groups
from recipes.preferences.loss import bradley_terry
from recipes.preferences.tokens import TokenGroup
from recipes.stopping import StopSignal
from reward.training import train as reward_train

LN2_TOLERANCE = 0.01
LEAST_MFU = 0.35


class CheckFailed(Exception):  # noqa: N818
    """A figure is wrong. The text says which; `figures` has all."""

    def __init__(self, text: str, figures: dict[str, Any]):
        super().__init__(text)
        self.figures = figures


@dataclass(frozen=True)
class Check:
    """A check, and an estimate of the seconds that it takes on one H200."""

    name: str
    about: str
    seconds: int
    run: Callable[[World], dict[str, Any]]


def demand(condition: bool, text: str, figures: dict[str, Any]) -> None:
    """Raise CheckFailed unless the condition holds."""
    if not condition:
        raise CheckFailed(text, figures)


# --- the checks -----------------------------------------------------------------------------------


def check_machine(world: World) -> dict[str, Any]:
    """Check that a run would start here: a GPU with memory, a driver and a C compiler."""
    facts = checks.examine()
    figures = {
        "device": checks.device_of("auto"),
        "problem": checks.problem_of(facts),
        "warnings": checks.warnings_of(facts),
        "toolkit": facts.toolkit,
        "driver": facts.driver,
        "missing_for_triton": list(facts.lacking),
    }
    demand(figures["problem"] is None, "A run would be refused here.", figures)
    if not world.tiny:
        demand(torch.cuda.is_available(), "torch cannot use the GPU.", figures)
        demand(not facts.lacking, "Triton cannot compile kernels.", figures)
        demand(torch_dtype("auto") == torch.bfloat16, "auto does not choose bfloat16.", figures)
    return figures


def check_layouts(world: World) -> dict[str, Any]:
    """Compare loss and gradients of FlexAttention, a dense mask and the plain layout, in float32."""
    size = ["--hidden", "32", "--layers", "2"] if world.tiny else ["--size", "0.5b"]
    options = parse(["--device", world.device, "--lora", "8", *size])
    length = 24 if world.tiny else 300
    groups = reward_training.make_groups(2, 3, length, length, uneven=True)
    model = reward_training.make_model(options, longest=max(g.longest() for g in groups)).float()
    loss, gradients = in_layout(model, groups, "padded")
    figures: dict[str, Any] = {"loss": loss}
    for way in ("ours", "dense"):
        other, others = in_layout(model, groups, way)
        scale = max(g.abs().max().item() for g in gradients)
        gaps = [(a - b).abs().max().item() for a, b in zip(gradients, others, strict=True)]
        figures[f"loss_diff_{way}"] = abs(loss - other)
        figures[f"grad_diff_{way}"] = max(gaps) / scale
    # Kernels of the GPU multiply float32 numbers as TF32, with 10 bits after the leading one.
    limit = 1e-4 if world.tiny else 2e-2
    for name, value in figures.items():
        demand(name == "loss" or value < limit, f"{name} is {value:.2g}.", figures)
    return figures


def in_layout(model: Any, groups: list[TokenGroup], way: str) -> tuple[float, list[torch.Tensor]]:
    ours, collator = reward_training.our_model(deepcopy(model).eval(), way)
    batch = {name: values.to(ours.device) for name, values in collator(groups).items()}
    wins, _ = batch.pop("wins"), batch.pop("labels")
    return reward_training.finish(ours, bradley_terry(ours(**batch)["scores"], wins).mean())


def tune(
    world: World, size: str, quantize: str, *, groups: list[Group], **config: Any
) -> tuple[WatchedRun, dict[str, Any]]:
    """Train by DPO, check the loss of the first step, the memory and the compilations."""
    settings = {
        "model": str(world.model(size)),
        "epochs": 1.0,
        "learning_rate": 1e-4,
        "evaluations": 0,
        "max_length": POSITIONS,
        **world.quantized(quantize),
        **config,
    }
    run = new_run(world, f"dpo-{size}-{quantize}", "dpo", settings)
    write_groups(run.data / "preferences.parquet", groups)
    free_memory()
    reset_peak()
    before = peak_mb()
    train.train(run, StopSignal())
    figures = {
        "step_0_loss": run.losses[min(run.losses)],
        "steps": len(run.steps),
        "memory_mb_before": before,
        "memory_mb": peak_mb(),
        "memory_mb_reported": run.report()["training"]["memory_mb"],
        "compilations_by_step_3": max(count for step, _, count in run.steps if step <= 3),
        "compilations": compilations(),
        "device": run.report()["device"],
    }
    gap = abs(figures["step_0_loss"] - math.log(2))
    demand(gap <= LN2_TOLERANCE, f"The loss of the first step is {gap:.3f} from ln 2.", figures)
    demand(all(map(math.isfinite, run.losses.values())), "A loss is not finite.", figures)
    late = max(count for _, _, count in run.steps) > figures["compilations_by_step_3"]
    demand(not late, "A kernel was compiled after step 3.", figures)
    demand(before < figures["memory_mb"], "The peak of memory was not reset.", figures)
    if not world.tiny:
        reported, measured = figures["memory_mb_reported"], figures["memory_mb"]
        demand(
            abs(reported - measured) <= 0.02 * measured,
            f"The report says {reported:,.0f} MB, and {measured:,.0f} MB were allocated.",
            figures,
        )
    return run, figures


def check_mfu(world: World) -> dict[str, Any]:
    """Measure the share of the GPU's peak that DPO with LoRA reaches at 1.5 billion weights."""
    length = 16 if world.tiny else 512
    rank, step = 16, 2 if world.tiny else 8
    groups = random_groups(14 * step, k=4, prompt=length, response=length)
    run, figures = tune(
        world, "1.5b", "none", groups=groups, batch_size=step, micro_batch_size=step, lora_r=rank,
        tokens_at_once=32768, gradient_checkpointing="off",
    )  # fmt: skip
    times = {number: at for number, at, _ in run.steps}
    seconds = median(
        [times[n] - times[n - 1] for n in times if n - 1 in times and n > min(4, len(times) - 1)]
    )
    flops = flops_of(world.model("1.5b"), groups[0], rank) * step
    rate, source = peak(world.device)
    figures |= {
        "seconds_per_step": round(seconds, 4),
        "tokens_per_s": round(sum(shared_work_of(world, groups[:1])[:1]) * step / seconds, 1),
        "peak_tflops": round(rate / 1e12, 3),
        "peak_from": source,
        "mfu": round(flops / seconds / rate, 4),
    }
    if not world.tiny:
        demand(figures["mfu"] >= LEAST_MFU, f"The MFU is below {LEAST_MFU}.", figures)
    return figures


def shared_work_of(world: World, groups: Iterable[Group]) -> tuple[int, int]:
    chat = PolicyChat(load_tokenizer(str(world.model("1.5b"))))
    tokens, attended = zip(*(shared_work(encoded(chat, group)) for group in groups), strict=True)
    return sum(tokens), sum(attended)


def encoded(chat: PolicyChat, group: Group) -> TokenGroup:
    prompt, responses = chat.encode(group.prompt, group.responses)
    return TokenGroup(prompt, responses, np.zeros((len(responses), len(responses)), np.float32))


def flops_of(folder: Path, group: Group, rank: int) -> float:
    """Return the operations of one group in a training step, without gradient checkpointing.

    The head counts only where it predicts a token of a response.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
        lora = LoraConfig(task_type="CAUSAL_LM", r=rank, target_modules="all-linear")
        model = get_peft_model(model, lora)
    tokens = encoded(PolicyChat(load_tokenizer(str(folder))), group)
    head: nn.Linear = model.get_output_embeddings()
    total = step_flops(model, [shared_work(tokens)])
    trained_as_linear = 6 if head.weight.requires_grad else 4
    return total - trained_as_linear * head.weight.numel() * len(tokens.prompt)


def loop(size: str, quantize: str, *, merged: bool = True) -> Callable[[World], dict[str, Any]]:
    """Return the check of the whole loop: generation, reward model, DPO and merge.

    Frozen weights of four bits change neither generation nor merge. With them, the check uses the
    responses of the loop without them, and merges only if `merged`.
    """

    def check(world: World) -> dict[str, Any]:
        seconds: dict[str, float] = {}
        clock = time.monotonic()

        def lap(name: str) -> None:
            nonlocal clock
            free_memory()
            seconds[name] = round(time.monotonic() - clock, 1)
            clock = time.monotonic()

        world.model(size)
        lap("model")
        sampled = generated(world, size) if quantize == "none" else responses(world, size)
        lap("generate")
        groups = groups_of(sampled)
        rewarded = train_reward_model(world, size, quantize, groups)
        lap("reward")
        tuned, figures = tune(
            world, size, quantize, groups=groups, learning_rate=1e-3,
            batch_size=2, micro_batch_size=2,
        )  # fmt: skip
        lap("dpo")
        if merged:
            figures["merge_share"] = merge_share(world, size, quantize, tuned, groups)
            lap("merge")
        return {
            **figures,
            "seconds": seconds,
            "groups": len(groups),
            "reward_accuracy": rewarded.report()["accuracy"]["value"],
            "peak_memory_mb": peak_memory_mb(),
        }

    return check


def generated(world: World, size: str) -> WatchedRun:
    """Return a run that has sampled four responses to each of a few prompts."""
    config = {
        "model": str(world.model(size)),
        "samples_per_prompt": 4,
        "max_new_tokens": 16 if world.tiny else 64,
    }
    sampled = new_run(world, f"generate-{size}", "generate", config)
    count = 8 if world.tiny else 16
    prompts = [Prompt(str(n), user(f"Write about the number {n}.")) for n in range(count)]
    write_prompts(sampled.data / "prompts.parquet", prompts)
    generate.generate(sampled, StopSignal())
    return sampled


def responses(world: World, size: str) -> WatchedRun:
    """Return the responses that an earlier check sampled, or sample them."""
    return finished_run(world, f"generate-{size}") or generated(world, size)


def train_reward_model(world: World, size: str, quantize: str, groups: list[Group]) -> WatchedRun:
    config = {
        "base_model": str(world.model(size)),
        "batch_size": 4,
        "micro_batch_size": 4,
        "epochs": 1.0,
        **world.quantized(quantize),
    }
    rewarded = new_run(world, f"reward-{size}-{quantize}", "reward", config)
    write_groups(rewarded.data / "preferences.parquet", groups)
    reward_train.train(rewarded, StopSignal())
    return rewarded


def reward_model(world: World, size: str, quantize: str) -> WatchedRun:
    """Return the reward model that an earlier check trained, or train one."""
    stored = finished_run(world, f"reward-{size}-{quantize}")
    return stored or train_reward_model(world, size, quantize, groups_of(responses(world, size)))


def merge_share(
    world: World, size: str, quantize: str, tuned: WatchedRun, groups: list[Group]
) -> float:
    """Merge an adapter, and return the share of its effect that was lost."""
    config = {"model": str(world.model(size)), "adapter": str(tuned.output)}
    merged = new_run(world, f"merge-{size}-{quantize}", "merge", config)
    write_groups(merged.data / "preferences.parquet", groups)
    merge.merge(merged, StopSignal())
    share = merged.report()["share"]
    shutil.rmtree(merged.output)  # 32 GB at 8B
    return share


def rewards(
    size: str, quantize: str, method: str, engine: str = SEEDED
) -> Callable[[World], dict[str, Any]]:
    """Return the check that a policy gradient of TRL trains towards a reward model.

    At the first step policy and reference are equal, so the divergence is zero up to rounding.
    """

    def check(world: World) -> dict[str, Any]:
        length = 16 if world.tiny else 64
        rewarded = reward_model(world, size, quantize)
        free_memory()
        run = new_run(
            world, f"{method}-{size}-{quantize}", method,
            {
                "model": str(world.model(size)), "reward_model": str(rewarded.output),
                "steps": 4, "batch_size": 4, "micro_batch_size": 2, "samples_per_prompt": 4,
                "max_new_tokens": length, "learning_rate": 1e-4, "evaluations": 0,
                "max_length": POSITIONS, "engine": engine, **world.quantized(quantize),
            },
        )  # fmt: skip
        groups = random_groups(16, k=4, prompt=length, response=length)
        write_groups(run.data / "preferences.parquet", groups)
        policy_gradient.policy_gradient(run, StopSignal())
        first = next(e["metrics"] for e in run.events() if "kl_per_token" in e.get("metrics", {}))
        report = run.report()
        figures = {
            "steps": len(run.steps),
            "first_kl_per_token": first["kl_per_token"],
            "losses": run.losses,
            "score_change": report["score_change"]["value"],
            "memory_mb": report["training"]["memory_mb"],
            "device": report["device"],
        }
        demand(all(map(math.isfinite, run.losses.values())), "A loss is not finite.", figures)
        gap = abs(first["kl_per_token"])
        demand(gap <= LN2_TOLERANCE, f"The divergence of the first step is {gap:.3f}.", figures)
        return figures

    return check


def check_forecasts(world: World) -> dict[str, Any]:
    """Check that forecasts of memory and time are within 10% and 25% of the runs."""
    figures = forecasts.compared(world)
    demand(not figures["problem"], figures["problem"], figures)
    return figures


START_SECONDS = 15
"""Seconds that the program takes before the first check, mostly to import torch."""
CHECKS = (
    Check("machine", "driver, toolkit, compiler, memory, number format", 5, check_machine),
    Check("layouts", "FlexAttention = dense mask = plain layout", 25, check_layouts),
    Check("loop-0.5b", "generation, reward, DPO, merge", 60, loop("0.5b", "none")),
    Check("mfu", "speed of DPO with LoRA at 1.5B", 50, check_mfu),
    Check("loop-8b", "the loop at 8B", 130, loop("8b", "none")),
    Check("loop-0.5b-qlora", "the loop with four-bit weights", 50, loop("0.5b", "nf4")),
    Check(
        "loop-8b-qlora",
        "the loop with four-bit weights at 8B, without a merge",
        60,
        loop("8b", "nf4", merged=False),
    ),
    Check(
        "grpo-0.5b",
        "GRPO with a reward model and continuous batching",
        40,
        rewards("0.5b", "none", "grpo", BATCHED),
    ),
    Check("rloo-0.5b-qlora", "RLOO with four-bit weights", 40, rewards("0.5b", "nf4", "rloo")),
    Check("forecasts", "forecasts of memory and time, compared with the runs", 60, check_forecasts),
)
