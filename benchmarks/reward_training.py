"""How much faster a reward model trains on rankings when each text is forwarded once.

Three contenders take the same steps on the same rankings, from the same weights, on the same machine:

    trl      TRL's RewardTrainer on all K(K-1)/2 pairs of each ranking
    padded   our trainer, each response forwarded once with its own copy of the prompt
    ours     our trainer, the prompt forwarded once for all its responses

Each takes real optimizer steps through its own `train()`, in turns (trl, padded, ours, trl, …), so that
whatever else the machine does hits all three alike; figures are medians over the turns. Before that the
loss and the gradients of our layout are compared with a loop over all pairs, one text at a time.

    python -m benchmarks.reward_training            the cases kept in benchmarks/results/
    python -m benchmarks.reward_training --quick    one small case, under a minute

Progress on stderr; the last line of stdout is one JSON object.
"""

import argparse
import ctypes
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
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

from reward.training.layout import Collator
from reward.training.loss import bradley_terry
from reward.training.model import RewardModel, attend_in_pieces
from reward.training.tokens import TokenGroup
from reward.training.trainer import RewardTrainer
from reward.training.trainer_events import quiet_libraries
from runs.rundir import versions

VOCABULARY = 2048
PAD = 0
FULL = [
    (2, 128, 128),
    (4, 128, 128),
    (4, 256, 256),
    (4, 256, 128),
    (4, 128, 256),
    (7, 128, 128),
    (9, 128, 128),
]
QUICK = [(4, 64, 64)]


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    quiet_libraries()
    if options.threads:
        torch.set_num_threads(options.threads)
    measured = commit()  # before anybody changes a file
    cases = [measure(k, p, r, options) for k, p, r in options.cases]
    print(
        json.dumps(
            {
                "name": "reward_training",
                "commit": measured,
                "hardware": hardware(options),
                "model": vars_of(options),
                "versions": versions(),
                "cases": cases,
            }
        )
    )
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one small case, a small model")
    parser.add_argument(
        "--case",
        action="append",
        metavar="K,PROMPT,RESPONSE",
        help="responses a prompt and tokens of each part; may be repeated (default: seven cases)",
    )
    parser.add_argument("--hidden", type=int, help="width of the Llama-shaped model (default 256)")
    parser.add_argument("--layers", type=int, help="its layers (default 6)")
    parser.add_argument("--lora", type=int, default=0, help="LoRA rank; 0 trains every weight")
    parser.add_argument("--groups", type=int, default=2, help="rankings a step (default 2)")
    parser.add_argument("--turns", type=int, help="turns of each contender (default 7)")
    parser.add_argument("--threads", type=int, default=0, help="torch threads (default: torch's)")
    parser.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu counts this process's processor time, for a machine that is busy with other "
        "things; use it with --threads 1, since waiting threads spin",
    )
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), help="default: cuda where there is one"
    )
    options = parser.parse_args(argv)
    options.cases = [tuple(map(int, case.split(","))) for case in options.case or []]
    options.cases = options.cases or (QUICK if options.quick else FULL)
    options.hidden = options.hidden or (64 if options.quick else 256)
    options.layers = options.layers or (2 if options.quick else 6)
    options.turns = options.turns or (3 if options.quick else 7)
    options.device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    return options


# --- one case -------------------------------------------------------------------------------------


def measure(k: int, prompt: int, response: int, options: argparse.Namespace) -> dict[str, Any]:
    say(f"K={k}, prompt {prompt}, response {response} tokens")
    groups = make_groups(options.groups, k, prompt, response)
    model = make_model(options, longest=prompt + response)
    loss_diff, grad_diff = compare_with_pairs(deepcopy(model), groups[:1])
    say(f"  loss differs by {loss_diff:.1e}, gradients by {grad_diff:.1e}")
    with tempfile.TemporaryDirectory() as folder:
        contenders = {
            "trl": Contender(trl_trainer, model, groups, options, folder),
            "padded": Contender(our_trainer("plain"), model, groups, options, folder),
            "ours": Contender(our_trainer("shared"), model, groups, options, folder),
        }
        for turn in range(options.turns + 1):
            for contender in contenders.values():
                contender.take_turn(warm_up=turn == 0)
            times = {name: f"{c.last:.3f} s" for name, c in contenders.items()}
            say(f"  turn {turn}{' (not counted)' if turn == 0 else ''}: {times}")
    seconds = {name: statistics.median(c.seconds) for name, c in contenders.items()}
    bound = k * (k - 1) * (prompt + response) / (prompt + k * response)
    speedup = seconds["trl"] / seconds["ours"]
    return {
        "k": k,
        "prompt_tokens": prompt,
        "response_tokens": response,
        "device": options.device,
        "speedup_vs_trl": round(speedup, 3),
        "speedup_vs_padded": round(seconds["padded"] / seconds["ours"], 3),
        "arithmetic_bound": round(bound, 3),
        "fraction_of_bound": round(speedup / bound, 3),
        "rankings_per_s": round(options.groups / seconds["ours"], 3),
        "rankings_per_s_trl": round(options.groups / seconds["trl"], 3),
        "rankings_per_s_padded": round(options.groups / seconds["padded"], 3),
        "peak_mb": contenders["ours"].peak_mb,
        "peak_mb_trl": contenders["trl"].peak_mb,
        "peak_mb_padded": contenders["padded"].peak_mb,
        "loss_diff": loss_diff,
        "grad_diff": grad_diff,
    }


def make_groups(count: int, k: int, prompt: int, response: int) -> list[TokenGroup]:
    """Rankings of random tokens without ties, responses in the order of the ranking."""
    rng = np.random.default_rng(0)
    wins = np.triu(np.ones((k, k), dtype=np.float32), 1)
    return [
        TokenGroup(tokens(rng, prompt), [tokens(rng, response) for _ in range(k)], wins)
        for _ in range(count)
    ]


def tokens(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.integers(1, VOCABULARY, count, dtype=np.int32)


def make_model(options: argparse.Namespace, longest: int) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=options.hidden,
        intermediate_size=options.hidden * 8 // 3,
        num_hidden_layers=options.layers,
        num_attention_heads=max(1, options.hidden // 64),
        num_key_value_heads=max(1, options.hidden // 64),
        max_position_embeddings=longest,
        pad_token_id=PAD,
        num_labels=1,
    )
    model = AutoModelForSequenceClassification.from_config(config)
    if options.lora:
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
    """Our layout against a loop over all pairs, each text forwarded alone: (loss, gradients) differ by.

    Gradients relative to the largest of them.
    """
    model.train()
    loss = torch.stack([loop_over_pairs(model, group) for group in groups]).mean()
    naive, naive_gradients = finish(model, loss)
    ours = our_model(model, "shared")
    batch = {name: t.to(ours.device) for name, t in Collator(PAD, "shared")(groups).items()}
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
    """Time of each step: forward, backward, clipping and the optimizer."""

    def __init__(self, clock: str) -> None:
        self.clock = time.process_time if clock == "cpu" else time.perf_counter
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
        self.trainer.add_callback(self.times)
        self.trainer.remove_callback(PrinterCallback)
        self.seconds: list[float] = []
        self.peak_mb = 0.0
        self.last = 0.0

    def take_turn(self, *, warm_up: bool) -> None:
        """One `train()` of two steps; the second counts, the first wakes the machine up."""
        self.times.seconds.clear()
        reset_peak()
        self.trainer.train()
        self.peak_mb = max(self.peak_mb, peak_mb())
        self.last = self.times.seconds[-1]
        if not warm_up:
            self.seconds.append(self.last)


def trl_trainer(model: Any, groups: list[TokenGroup], options: Any, folder: str) -> TRLTrainer:
    """All pairs, tokenized already; no truncation, no dropout, nothing recomputed, as for ours."""
    rows = [
        {
            "chosen_ids": np.concatenate([group.prompt, group.responses[i]]).tolist(),
            "rejected_ids": np.concatenate([group.prompt, group.responses[j]]).tolist(),
        }
        for group in groups
        for i, j in itertools.combinations(range(len(group.responses)), 2)
    ]
    args = TRLConfig(
        **common_arguments(options, folder),
        per_device_train_batch_size=len(rows),
        max_length=None,
        gradient_checkpointing=False,
    )
    dataset = datasets.Dataset.from_list(rows * 2)
    return TRLTrainer(model=model, args=args, train_dataset=dataset, processing_class=tokenizer())


def our_trainer(layout: str) -> Callable:
    def make(model: Any, groups: list[TokenGroup], options: Any, folder: str) -> RewardTrainer:
        args = TrainingArguments(
            **common_arguments(options, folder),
            per_device_train_batch_size=len(groups),
            remove_unused_columns=False,
            label_names=["labels"],
        )
        return RewardTrainer(
            model=our_model(model, layout),
            args=args,
            train_dataset=groups * 2,
            data_collator=Collator(PAD, layout),
        )

    return make


def our_model(model: Any, layout: str) -> RewardModel:
    """As a run would make it: on the CPU the shared layout has an attention of its own."""
    if layout == "shared" and model.device.type == "cpu":
        attend_in_pieces(model.get_base_model() if isinstance(model, PeftModel) else model)
    return RewardModel(model)


def common_arguments(options: argparse.Namespace, folder: str) -> dict[str, Any]:
    return {
        "output_dir": folder,
        "max_steps": 2,
        "learning_rate": 1e-5,
        "train_sampling_strategy": "sequential",
        "bf16": False,
        "use_cpu": options.device == "cpu",
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }


def tokenizer() -> PreTrainedTokenizerFast:
    """TRL wants one, though the texts are tokens already."""
    inner = Tokenizer(models.WordLevel({"<pad>": PAD}))
    marks = ("pad_token", "eos_token", "unk_token")
    return PreTrainedTokenizerFast(tokenizer_object=inner, **dict.fromkeys(marks, "<pad>"))


# --- the machine ----------------------------------------------------------------------------------


def reset_peak() -> None:
    """Forget the peak so far; on Linux also hand freed memory back, so that the next peak is its own."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")


def peak_mb() -> float:
    """Since `reset_peak`, all contenders' weights included. None of it is known off Linux: 0."""
    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 2**20, 1)
    if sys.platform != "linux":
        return 0.0
    line = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line
    )
    return round(int(line.split()[1]) / 2**10, 1)


def hardware(options: argparse.Namespace) -> dict[str, Any]:
    load = round(os.getloadavg()[0], 2)
    about = {"cores": os.cpu_count(), "threads": torch.get_num_threads(), "load_1min": load}
    if options.device == "cuda":
        return {"gpu": torch.cuda.get_device_name(), **about}
    return {"cpu": cpu_name(), **about}


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def commit() -> str | None:
    """The commit measured, with + where the measured code differs from it."""
    changed = git("status", "--porcelain", "--", "benchmarks/*.py", "reward/training")
    return git("rev-parse", "HEAD") + ("+" if changed else "") or None


def git(*words: str) -> str:
    root = Path(__file__).parents[1]
    command = ["git", *words]
    return subprocess.run(command, cwd=root, capture_output=True, text=True).stdout.strip()


def vars_of(options: argparse.Namespace) -> dict[str, Any]:
    names = ("hidden", "layers", "lora", "groups", "turns", "clock")
    return {"family": "llama", "dtype": "float32", **{n: getattr(options, n) for n in names}}


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
