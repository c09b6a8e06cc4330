"""The checks of `python -m benchmarks.gpu_check`, the most important first.

Each check is a function of a World that returns figures, and raises CheckFailed if one is wrong.
The checks call the recipes as the command line does: with run directories, on models in folders.

Legend: P tokens of a prompt, K responses per prompt of R tokens.
"""

import json
import math
import shutil
import time
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from benchmarks import reward_training
from benchmarks.support.accelerator import peak_mb, reset_peak
from benchmarks.support.flops import peak, shared_work, step_flops
from benchmarks.support.reward_training_options import parse
from finetune.engines.sampled_text import Prompt, write_prompts
from finetune.training import generate, merge, policy_gradient, train
from finetune.training.models.language_model import PolicyChat, load_tokenizer
from recipes.machine import checks
from recipes.machine.memory import free_memory, peak_memory_mb
from recipes.models.references import torch_dtype
from recipes.preferences.groups import Group, Judgment, write_groups
from recipes.preferences.loss import bradley_terry
from recipes.preferences.tokens import TokenGroup
from recipes.rundir import RunDir
from recipes.stopping import StopSignal
from reward.training import train as reward_train

SHAPES: dict[str, dict[str, Any]] = {
    "0.5b": {
        "model_type": "qwen2", "vocab_size": 151936, "hidden_size": 896, "num_hidden_layers": 24,
        "num_attention_heads": 14, "num_key_value_heads": 2, "intermediate_size": 4864,
        "tie_word_embeddings": True,
    },
    "1.5b": {
        "model_type": "qwen2", "vocab_size": 151936, "hidden_size": 1536, "num_hidden_layers": 28,
        "num_attention_heads": 12, "num_key_value_heads": 2, "intermediate_size": 8960,
        "tie_word_embeddings": True,
    },
    "8b": {
        "model_type": "llama", "vocab_size": 128256, "hidden_size": 4096, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336,
    },
}  # fmt: skip
"""Qwen2.5 0.5B, Qwen2.5 1.5B and Llama 3.1 8B."""
TINY = {
    "vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 64,
}  # fmt: skip
POSITIONS = 4096
SPARE_ROWS = 16
"""Rows of the embeddings without a token, for those that a family's tokenizer adds."""
LN2_TOLERANCE = 0.01
LEAST_MFU = 0.35
SPECIAL = ("<|pad|>", "<|end|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


class CheckFailed(Exception):  # noqa: N818
    """A figure is wrong. The text says which; `figures` has all."""

    def __init__(self, text: str, figures: dict[str, Any]):
        super().__init__(text)
        self.figures = figures


@dataclass(frozen=True)
class World:
    """The folder of models and runs, and whether models are tiny and on the CPU."""

    folder: Path
    tiny: bool

    @property
    def device(self) -> str:
        return "cpu" if self.tiny else "cuda"

    def model(self, size: str) -> Path:
        """Return the folder of a model with random weights, made at first use."""
        folder = self.folder / f"model-{'tiny-' if self.tiny else ''}{size}"
        if not (folder / "tokenizer.json").exists():
            make_model(folder, {**SHAPES[size], **(TINY if self.tiny else {})}, self.device)
        return folder

    def quantized(self, quantize: str) -> dict[str, str]:
        """Return the setting for frozen weights. Four bits need a GPU, so tiny models have none."""
        return {} if self.tiny or quantize == "none" else {"quantize": quantize}


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


# --- models and data ------------------------------------------------------------------------------


def make_model(folder: Path, shape: dict[str, Any], device: str) -> None:
    """Write a model with random weights and a tokenizer with as many tokens to `folder`."""
    shape = {**shape, "max_position_embeddings": POSITIONS, "pad_token_id": 0, "eos_token_id": 1}
    kind = shape.pop("model_type")
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **shape), dtype=dtype)
    model.save_pretrained(folder)
    make_tokenizer(shape["vocab_size"] - SPARE_ROWS).save_pretrained(folder)
    del model
    free_memory()


def make_tokenizer(size: int) -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer. Its other tokens are words, and words are encoded as bytes."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [f"w{n}" for n in range(size - len(SPECIAL) - len(letters))]
    vocabulary = {token: n for n, token in enumerate([*SPECIAL, *letters, *words])}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token=SPECIAL[0],
        eos_token=SPECIAL[1],
        additional_special_tokens=list(SPECIAL[2:]),
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def random_groups(count: int, *, k: int, prompt: int, response: int) -> list[Group]:
    """Return ranked random texts of about these numbers of tokens. Every fourth is held out."""
    rng = np.random.default_rng(0)

    def text(length: int) -> str:
        return "".join(rng.choice(list("abcdefgh "), length))

    return [
        ranked_group(str(n), text(prompt), [text(response) for _ in range(k)], held_out=n % 4 == 3)
        for n in range(count)
    ]


def ranked_group(name: str, prompt: str, responses: list[str], *, held_out: bool) -> Group:
    """Return a group whose ranking prefers responses with more letters e."""
    ids = list(range(len(responses)))
    order = sorted(ids, key=lambda n: (-responses[n].count("e"), n))
    judgment = Judgment("rule", [[n] for n in order])
    split = "test" if held_out else "train"
    return Group(name, user(prompt), ids, responses, [judgment], split=split)


@dataclass
class WatchedRun(RunDir):
    """A run directory that notes the time and the number of compilations at each logged step."""

    path: Path
    steps: list[tuple[int, float, int]] = field(default_factory=list)
    losses: dict[int, float] = field(default_factory=dict)

    def emit(self, event: str, **fields: Any) -> None:
        super().emit(event, **fields)
        if event == "progress" and "loss" in fields:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.steps.append((fields["step"], time.perf_counter(), compilations()))
            self.losses.setdefault(fields["step"], fields["loss"])

    def report(self) -> dict[str, Any]:
        return json.loads((self.output / "report.json").read_text())


def compilations() -> int:
    """Return the number of graphs that torch.compile has compiled in this process."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


def new_run(world: World, name: str, kind: str, config: dict[str, Any]) -> WatchedRun:
    """Return a new, empty run directory."""
    path = world.folder / "runs" / name
    shutil.rmtree(path, ignore_errors=True)
    RunDir.create(path, {"kind": kind, "config": config})
    return WatchedRun(path)


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


def dpo(size: str, quantize: str) -> Callable[[World], dict[str, Any]]:
    """Return the check that DPO starts at ln 2, in few steps."""

    def check(world: World) -> dict[str, Any]:
        length = 16 if world.tiny else 256
        groups = random_groups(24 if world.tiny else 64, k=4, prompt=length, response=length)
        _, figures = tune(world, size, quantize, groups=groups, batch_size=4, micro_batch_size=2)
        return figures

    return check


def check_mfu(world: World) -> dict[str, Any]:
    """Measure the share of the GPU's peak that DPO with LoRA reaches at 1.5 billion weights."""
    length = 16 if world.tiny else 512
    rank, step = 16, 2 if world.tiny else 8
    groups = random_groups(20 * step, k=4, prompt=length, response=length)
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


def loop(size: str, quantize: str) -> Callable[[World], dict[str, Any]]:
    """Return the check of the whole loop: generation, reward model, DPO and merge."""

    def check(world: World) -> dict[str, Any]:
        model, seconds = str(world.model(size)), {}
        clock = time.monotonic()

        def lap(name: str) -> None:
            nonlocal clock
            free_memory()
            seconds[name] = round(time.monotonic() - clock, 1)
            clock = time.monotonic()

        name = f"{size}-{quantize}"
        sampled = new_run(
            world, f"generate-{name}", "generate",
            {"model": model, "samples_per_prompt": 4, "max_new_tokens": 16},
        )  # fmt: skip
        count = 8 if world.tiny else 16
        prompts = [Prompt(str(n), user(f"Write about the number {n}.")) for n in range(count)]
        write_prompts(sampled.data / "prompts.parquet", prompts)
        generate.generate(sampled, StopSignal())
        lap("generate")
        groups = groups_of(sampled)
        common = {"batch_size": 4, "micro_batch_size": 4, "epochs": 1.0}
        rewarded = new_run(
            world,
            f"reward-{name}",
            "reward",
            {"base_model": model, **common, **world.quantized(quantize)},
        )
        write_groups(rewarded.data / "preferences.parquet", groups)
        reward_train.train(rewarded, StopSignal())
        lap("reward")
        tuned, figures = tune(
            world, size, quantize, groups=groups, learning_rate=1e-3,
            batch_size=4, micro_batch_size=4,
        )  # fmt: skip
        lap("dpo")
        merged = new_run(
            world, f"merge-{name}", "merge", {"model": model, "adapter": str(tuned.output)}
        )
        write_groups(merged.data / "preferences.parquet", groups)
        merge.merge(merged, StopSignal())
        lap("merge")
        share = merged.report()["share"]
        shutil.rmtree(merged.output)  # 32 GB at 8B
        return {
            **figures,
            "seconds": seconds,
            "groups": len(groups),
            "reward_accuracy": rewarded.report()["accuracy"]["value"],
            "merge_share": share,
            "peak_memory_mb": peak_memory_mb(),
        }

    return check


def rewards(size: str, quantize: str, method: str) -> Callable[[World], dict[str, Any]]:
    """Return the check that a policy gradient of TRL trains towards a reward model.

    At the first step policy and reference are equal, so the divergence is zero up to rounding.
    """

    def check(world: World) -> dict[str, Any]:
        model, name = str(world.model(size)), f"{size}-{quantize}"
        length = 16 if world.tiny else 64
        groups = random_groups(16, k=4, prompt=length, response=length)
        rewarded = new_run(
            world, f"reward-{method}-{name}", "reward",
            {"base_model": model, "batch_size": 4, "micro_batch_size": 4, "epochs": 1.0},
        )  # fmt: skip
        write_groups(rewarded.data / "preferences.parquet", groups)
        reward_train.train(rewarded, StopSignal())
        free_memory()
        run = new_run(
            world, f"{method}-{name}", method,
            {
                "model": model, "reward_model": str(rewarded.output), "steps": 4, "batch_size": 4,
                "micro_batch_size": 2, "samples_per_prompt": 4, "max_new_tokens": length,
                "learning_rate": 1e-4, "evaluations": 0, "max_length": POSITIONS,
                **world.quantized(quantize),
            },
        )  # fmt: skip
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


def groups_of(sampled: RunDir) -> list[Group]:
    """Return the sampled responses, ranked by a rule, of prompts with at least two different ones."""
    answers: dict[str, list[str]] = {}
    texts: dict[str, str] = {}
    for row in pq.read_table(sampled.output / "responses.parquet").to_pylist():
        texts[row["prompt_id"]] = row["prompt"][0]["content"]
        if row["response"] and row["response"] not in answers.setdefault(row["prompt_id"], []):
            answers[row["prompt_id"]].append(row["response"])
    usable = [(name, responses) for name, responses in answers.items() if len(responses) > 1]
    return [
        ranked_group(name, texts[name], responses, held_out=number % 4 == 3)
        for number, (name, responses) in enumerate(usable)
    ]


CHECKS = (
    Check("machine", "driver, toolkit, compiler, memory, number format", 5, check_machine),
    Check("layouts", "FlexAttention = dense mask = plain layout", 40, check_layouts),
    Check("dpo-0.5b", "DPO with LoRA: loss, memory, compilations", 45, dpo("0.5b", "none")),
    Check("loop-0.5b", "generation, reward, DPO, merge", 70, loop("0.5b", "none")),
    Check("mfu", "speed of DPO with LoRA at 1.5B", 60, check_mfu),
    Check("grpo-0.5b", "GRPO with a reward model", 60, rewards("0.5b", "none", "grpo")),
    Check("loop-0.5b-qlora", "the loop with four-bit weights", 70, loop("0.5b", "nf4")),
    Check("dpo-8b", "DPO with LoRA at 8B", 70, dpo("8b", "none")),
    Check("dpo-8b-qlora", "DPO with four-bit weights at 8B", 60, dpo("8b", "nf4")),
    Check("rloo-0.5b-qlora", "RLOO with four-bit weights", 60, rewards("0.5b", "nf4", "rloo")),
    Check("loop-8b", "the loop at 8B", 240, loop("8b", "none")),
    Check("loop-8b-qlora", "the loop with four-bit weights at 8B", 240, loop("8b", "nf4")),
)
