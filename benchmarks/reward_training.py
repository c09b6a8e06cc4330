"""The speed-up of reward-model training when each text is forwarded only once.

Three contenders take the same steps on the same rankings, from the same weights, on the same machine:

    trl      TRL's RewardTrainer on all K(K-1)/2 pairs of each ranking
    padded   our trainer, each response forwarded once with its own copy of the prompt
    ours     our trainer, the prompt forwarded once for all its responses, several prompts per row

Each takes real optimizer steps through its own `train()`. Turns alternate (trl, padded, ours, trl, …),
so that other load on the machine affects all three. Ratios are taken within a turn, and figures are
medians over the turns. No contender forwards more than `--at-once` tokens together, which is faster
for each of them than forwarding a whole step. First, the loss and gradients of our layout are compared
with a loop over all pairs that forwards one text at a time.

    python -m benchmarks.reward_training                  twelve cases, most of an hour on two cores
    python -m benchmarks.reward_training --quick          one small case, under a minute
    python -m benchmarks.reward_training --device cuda    longer cases, and a model of --size 1b

On a GPU: bfloat16, LoRA, random weights in the shape of a well-known model (--size 0.5b, 1b, 1.5b).
Progress on stderr; the last line of stdout is one JSON object.
"""

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import datasets
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, models
from transformers import (
    AutoModelForSequenceClassification,
    LlamaConfig,
    PreTrainedTokenizerFast,
    PrinterCallback,
    TrainerCallback,
    TrainingArguments,
)
from trl import RewardConfig as TRLConfig
from trl import RewardTrainer as TRLTrainer

from benchmarks.support.accelerator import commit, hardware, peak_mb, reset_peak
from benchmarks.support.flops import pairs_work, peak, plain_work, shared_work, step_flops
from benchmarks.support.reward_training_options import WAYS, parse
from recipes.layout import attention
from recipes.layout.collate import Collator, StepCollator
from recipes.layout.compiling import compile_layers
from recipes.preferences.loss import bradley_terry
from recipes.preferences.tokens import TokenGroup
from recipes.rundir import versions
from recipes.runner import quiet_libraries
from recipes.training.trainer import GroupTrainer
from reward.training.models.reward_model import RewardModel

VOCABULARY = 2048
PAD = 0
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
LONG_ENOUGH = 60.0
"""Seconds after which a case takes no more than `--turns` turns."""


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv, __doc__ or "")
    quiet_libraries()
    if options.threads:
        torch.set_num_threads(options.threads)
    measured = commit()  # first, because files may change during the run
    options.peak, options.peak_from = peak(options.device, CLOCKS[options.clock])
    say(f"peak {options.peak / 1e12:.2f} TFLOP/s, {options.peak_from}")
    cases = [measure(k, p, r, options) for k, p, r in options.cases]
    print(
        json.dumps(
            {
                "name": "reward_training",
                "commit": measured,
                "hardware": hardware(options.device),
                "peak": {"tflops": round(options.peak / 1e12, 3), "from": options.peak_from},
                "model": vars_of(options),
                "versions": versions(),
                "cases": cases,
            }
        )
    )
    return 0


# --- one case -------------------------------------------------------------------------------------


def measure(k: int, prompt: int, response: int, options: argparse.Namespace) -> dict[str, Any]:
    say(f"K={k}, prompt {prompt}, response {response} tokens")
    groups = make_groups(
        options.groups or step_size(k, options.device), k, prompt, response, uneven=options.uneven
    )
    model = make_model(options, longest=max(group.longest() for group in groups))
    loss_diff, grad_diff = compare_with_pairs(deepcopy(model).float(), groups[:1])
    say(f"  loss differs by {loss_diff:.1e}, gradients by {grad_diff:.1e}")
    makers = {"trl": trl_trainer, "padded": our_trainer("padded"), "ours": our_trainer("ours")}
    makers |= {way: our_trainer(way) for way in options.also}
    with tempfile.TemporaryDirectory() as folder:
        contenders = {
            name: Contender(make, model, groups, options, folder) for name, make in makers.items()
        }
        take_turns(contenders, options)
    return {
        "k": k,
        "prompt_tokens": prompt,
        "response_tokens": response,
        "groups": len(groups),
        "uneven": options.uneven,
        "device": options.device,
        **figures(contenders, model, groups, options),
        "loss_diff": loss_diff,
        "grad_diff": grad_diff,
    }


def step_size(k: int, device: str) -> int:
    """Return the rankings per step, enough to make the optimizer's share of the time small."""
    return (12 if k == 2 else 8) * (4 if device == "cuda" else 1)


def take_turns(contenders: dict[str, "Contender"], options: argparse.Namespace) -> None:
    """Take `--turns` turns, and up to five times as many if the steps are short."""
    began = time.perf_counter()
    turn = 0
    while turn <= options.turns or (
        not options.quick
        and turn <= 5 * options.turns
        and time.perf_counter() - began < LONG_ENOUGH
    ):
        for contender in contenders.values():
            contender.take_turn(warm_up=turn == 0)
        times = {name: f"{c.last:.3f} s" for name, c in contenders.items()}
        say(f"  turn {turn}{' (not counted)' if turn == 0 else ''}: {times}")
        turn += 1


def figures(
    contenders: dict[str, "Contender"], model: Any, groups: list[TokenGroup], options: Any
) -> dict[str, Any]:
    """Return the figures of all contenders. Those of the others have their name as a suffix."""
    seconds = {name: statistics.median(c.seconds) for name, c in contenders.items()}
    ratio = {
        name: ratio_of(c.seconds, contenders["ours"].seconds) for name, c in contenders.items()
    }
    work = {name: [work_of(name)(group) for group in groups] for name in contenders}
    tokens = {name: sum(part[0] for part in parts) for name, parts in work.items()}
    bound, speedup = tokens["trl"] / tokens["ours"], ratio["trl"]
    row: dict[str, Any] = {
        "turns": len(contenders["ours"].seconds),
        "speedup_vs_trl": round(speedup, 3),
        "speedup_vs_trl_spread": [round(end, 3) for end in quartiles(contenders)],
        "speedup_vs_padded": round(ratio["padded"], 3),
        "arithmetic_bound": round(bound, 3),
        "fraction_of_bound": round(speedup / bound, 3),
    }
    for name in sorted(contenders, key=lambda name: name != "ours"):
        end = "" if name == "ours" else f"_{name}"
        needed = step_flops(model, work[name])
        row[f"rankings_per_s{end}"] = round(len(groups) / seconds[name], 3)
        row[f"tokens_per_s{end}"] = round(tokens[name] / seconds[name], 1)
        row[f"mfu{end}"] = round(needed / seconds[name] / options.peak, 4)
        row[f"peak_mb{end}"] = contenders[name].peak_mb
    return row


def ratio_of(theirs: Sequence[float], ours: Sequence[float]) -> float:
    """Return the median over the turns of the ratio of both contenders' seconds."""
    return statistics.median(a / b for a, b in zip(theirs, ours, strict=True))


def quartiles(contenders: dict[str, "Contender"]) -> tuple[float, float]:
    """Return the quartiles of the turns' speed-ups over TRL."""
    both = zip(contenders["trl"].seconds, contenders["ours"].seconds, strict=True)
    low, high = np.quantile([a / b for a, b in both], [0.25, 0.75])
    return float(low), float(high)


def work_of(name: str) -> Callable:
    return {"trl": pairs_work, "padded": plain_work}.get(name, shared_work)


def make_groups(
    count: int,
    k: int,
    prompt: int,
    response: int,
    *,
    uneven: bool = False,
    vocabulary: int = VOCABULARY,
) -> list[TokenGroup]:
    """Return rankings of random tokens without ties, with responses in ranked order."""
    rng = np.random.default_rng(0)
    wins = np.triu(np.ones((k, k), dtype=np.float32), 1)

    def text(length: int) -> np.ndarray:
        count = int(length * rng.uniform(0.5, 1.5)) if uneven else length
        return rng.integers(1, vocabulary, count, dtype=np.int32)

    return [
        TokenGroup(text(prompt), [text(response) for _ in range(k)], wins) for _ in range(count)
    ]


def make_model(options: argparse.Namespace, longest: int) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=options.hidden,
        intermediate_size=options.inner,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        num_key_value_heads=options.kv_heads,
        max_position_embeddings=longest,
        pad_token_id=PAD,
        num_labels=1,
    )
    model = AutoModelForSequenceClassification.from_config(config)
    if options.lora:
        if options.device == "cuda":
            model = model.bfloat16()
            model.score.float()
        lora = LoraConfig(
            task_type="SEQ_CLS",
            r=options.lora,
            lora_alpha=2 * options.lora,
            target_modules="all-linear",
            modules_to_save=["score"],
        )
        model = get_peft_model(model, lora)
    return model.to(options.device)


# --- equality -------------------------------------------------------------------------------------


def compare_with_pairs(model: Any, groups: Sequence[TokenGroup]) -> tuple[float, float]:
    """Return the differences of loss and gradients between our layout and a loop over all pairs.

    The loop forwards each text alone. Gradients are relative to the largest one.
    """
    model.train()
    loss = torch.stack([loop_over_pairs(model, group) for group in groups]).mean()
    naive, naive_gradients = finish(model, loss)
    ours, collator = our_model(model, "ours")
    batch = {name: values.to(ours.device) for name, values in collator(groups).items()}
    wins, _ = batch.pop("wins"), batch.pop("labels")
    shared, shared_gradients = finish(model, bradley_terry(ours(**batch)["scores"], wins).mean())
    largest = max(gradient.abs().max().item() for gradient in naive_gradients)
    gaps = [
        (a - b).abs().max().item() for a, b in zip(naive_gradients, shared_gradients, strict=True)
    ]
    return abs(naive - shared), max(gaps) / largest


def loop_over_pairs(model: Any, group: TokenGroup) -> torch.Tensor:
    losses = []
    for i, j in itertools.combinations(range(len(group.responses)), 2):
        better, worse = (model(input_ids=text(group, k, model.device)).logits[0, 0] for k in (i, j))
        losses.append(-F.logsigmoid(better - worse))
    return torch.stack(losses).mean()


def text(group: TokenGroup, k: int, device: Any) -> torch.Tensor:
    ids = np.concatenate([group.prompt, group.responses[k]]).astype(np.int64)
    return torch.from_numpy(ids)[None].to(device)


def finish(model: Any, loss: torch.Tensor) -> tuple[float, list[torch.Tensor]]:
    model.zero_grad()
    loss.backward()
    return loss.item(), [p.grad.clone() for p in model.parameters() if p.grad is not None]


# --- contenders -----------------------------------------------------------------------------------


class StepTimes(TrainerCallback):
    """A callback that times each step: forward, backward, clipping and optimizer."""

    def __init__(self, clock: str) -> None:
        self.clock = CLOCKS[clock]
        self.began = 0.0
        self.seconds: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.began = self.now()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(self.now() - self.began)

    def now(self) -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return self.clock()


class Contender:
    def __init__(
        self, make: Callable, model: Any, groups: list[TokenGroup], options: Any, folder: str
    ):
        self.times = StepTimes(options.clock)
        self.trainer = make(deepcopy(model), groups, options, folder)
        if options.compile:
            compile_layers(self.trainer.model)
        self.trainer.add_callback(self.times)
        self.trainer.remove_callback(PrinterCallback)
        self.seconds: list[float] = []
        self.peak_mb = self.last_peak_mb = 0.0
        self.last = 0.0

    def take_turn(self, *, warm_up: bool) -> None:
        """Run `train()` for two steps, of which the first is a warm-up and the second counts."""
        self.times.seconds.clear()
        reset_peak()
        self.trainer.train()
        self.last_peak_mb = peak_mb()
        self.peak_mb = max(self.peak_mb, self.last_peak_mb)
        self.last = self.times.seconds[-1]
        if not warm_up:
            self.seconds.append(self.last)


def trl_trainer(model: Any, groups: list[TokenGroup], options: Any, folder: str) -> TRLTrainer:
    """Return TRL's trainer on all pairs, tokenized; like ours, without truncation or dropout."""
    rows = [
        {
            "chosen_ids": np.concatenate([group.prompt, group.responses[i]]).tolist(),
            "rejected_ids": np.concatenate([group.prompt, group.responses[j]]).tolist(),
        }
        for group in groups
        for i, j in itertools.combinations(range(len(group.responses)), 2)
    ]
    longest = 2 * max(max(map(len, row.values())) for row in rows)  # tokens of a pair
    at_once = max(n for n in range(1, len(rows) + 1) if n == 1 or fits(n, rows, longest, options))
    args = TRLConfig(
        **common_arguments(options, folder),
        per_device_train_batch_size=at_once,
        gradient_accumulation_steps=len(rows) // at_once,
        max_length=None,
        gradient_checkpointing=False,
    )
    dataset = datasets.Dataset.from_list(rows * 2)
    return TRLTrainer(model=model, args=args, train_dataset=dataset, processing_class=tokenizer())


def fits(count: int, rows: Sequence[Any], longest: int, options: argparse.Namespace) -> bool:
    return len(rows) % count == 0 and count * longest <= options.at_once


def our_trainer(way: str) -> Callable:
    def make(model: Any, groups: list[TokenGroup], options: Any, folder: str) -> GroupTrainer:
        args = TrainingArguments(
            **common_arguments(options, folder),
            per_device_train_batch_size=len(groups),
            remove_unused_columns=False,
            label_names=["labels"],
        )
        ours, collator = our_model(model, way)
        return GroupTrainer(
            model=ours,
            args=args,
            train_dataset=groups * 2,
            data_collator=StepCollator(collator, len(groups), options.at_once),
        )

    return make


def our_model(model: Any, way: str) -> tuple[RewardModel, Collator]:
    """Return the model and the collator of a run."""
    layout, packed, attends = WAYS[way]
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    if layout == "shared":
        attention.set_attention(inner, model.device.type)
    ours = RewardModel(model)
    ours.attends = attends or ours.attends
    return ours, Collator(PAD, layout, packed)


def common_arguments(options: argparse.Namespace, folder: str) -> dict[str, Any]:
    return {
        "output_dir": folder,
        "max_steps": 2,
        "learning_rate": 1e-5,
        "train_sampling_strategy": "sequential",
        "bf16": options.device == "cuda",
        "use_cpu": options.device == "cpu",
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }


def tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer, which TRL requires even for tokenized texts."""
    inner = Tokenizer(models.WordLevel({"<pad>": PAD}))
    marks = ("pad_token", "eos_token", "unk_token")
    return PreTrainedTokenizerFast(tokenizer_object=inner, **dict.fromkeys(marks, "<pad>"))


# --- output --------------------------------------------------------------------------------------


OTHER_OPTIONS = {
    "quick",
    "case",
    "cases",
    "also",
    "size",
    "threads",
    "device",
    "peak",
    "peak_from",
}


def vars_of(options: argparse.Namespace) -> dict[str, Any]:
    model = {name: value for name, value in vars(options).items() if name not in OTHER_OPTIONS}
    dtype = "bfloat16" if options.device == "cuda" else "float32"
    return {"family": "llama", "dtype": dtype, **model}


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
