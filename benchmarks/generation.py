"""The speed of sampling K responses to each prompt, compared with an earlier commit.

    seeded    the engine that evaluations use, on a CPU or a GPU
    before    the sampling of an earlier commit (`--before`), in a temporary worktree

Both sample all responses of a batch from the same weights, with the same seeds. Turns alternate, so that
other load on the machine affects both. Ratios are taken within a turn, and figures are medians over the
turns. The first turn of each is not counted. The texts of both are compared.

The model has random weights in the shape of a published one (`--size`), with its vocabulary. Two
properties decide how much work a sampler has, so random weights must not change them:

- The entropy of the next token. The head is scaled so that the logits of a token have the standard
  deviation `--spread`. At the default of 5.5, 49,152 independent normal logits have an entropy of about
  2.5 nats, as for a language model on ordinary text.
- The length of a response. A share of the vocabulary ends a response, so that a response has
  `--length` tokens on average, if it is not cut off before.

    python -m benchmarks.generation             three cases
    python -m benchmarks.generation --quick     one small case, under a minute
    python -m benchmarks.generation --clock cpu --threads 1     on a busy machine

Progress on stderr; the last line of stdout is one JSON object.
"""

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from benchmarks.support.accelerator import commit, hardware, peak_mb, reset_peak
from benchmarks.support.earlier_sampling import CLOCKS, EarlierSampling
from benchmarks.support.worktrees import worktree
from finetune.engines.engine import Request
from finetune.engines.sampled_text import Prompt
from finetune.settings import GenerateConfig
from finetune.training.models.language_model import load_policy, load_tokenizer
from finetune.training.sampling.requests import plan
from finetune.training.sampling.seeded import sample_batch
from recipes.models.chat_options import ChatOptions
from recipes.rundir import versions
from recipes.runner import quiet_libraries

BEFORE = "0f33296"
MEASURED = ("benchmarks/generation.py", "benchmarks/support", "finetune", "recipes")
SIZES = {
    "smollm2-135m": {
        "vocab_size": 49_152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
    },
    "qwen2.5-0.5b": {
        "vocab_size": 151_936,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
    },
    "quick": {
        "vocab_size": 32_768,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
}
CASES = ((128, 0.95), (512, 0.95), (128, 1.0))
PAD, END = "<|pad|>", "<|end|>"


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    quiet_libraries()
    if options.threads:
        torch.set_num_threads(options.threads)
    measured = commit(*MEASURED)  # first, because files may change during the run
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        earlier = None
        if options.before:
            earlier = stack.enter_context(worktree(options.before, folder))
        model = folder / "model"
        make_model(model, options)
        cases = [measure(model, tokens, top_p, options, earlier) for tokens, top_p in options.cases]
    result = {
        "name": "generation",
        "commit": measured,
        "hardware": hardware(options.device),
        "model": {"size": options.size, **SIZES[options.size]},
        "clock": options.clock,
        "before": options.before,
        "versions": versions(),
        "cases": cases,
    }
    print(json.dumps(result))
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one small case, under a minute")
    parser.add_argument("--size", choices=SIZES, help="shape of the model (default smollm2-135m)")
    parser.add_argument(
        "--case",
        action="append",
        metavar="TOKENS,TOP_P",
        help="tokens of a prompt and top-p; may be repeated (default 128,0.95 512,0.95 128,1.0)",
    )
    parser.add_argument("--prompts", type=int, help="prompts in a batch (default 8)")
    parser.add_argument("--k", type=int, default=4, help="responses per prompt (default 4)")
    parser.add_argument("--most", type=int, help="longest response in tokens (default 64)")
    parser.add_argument("--length", type=float, default=96, help="mean length without the limit")
    parser.add_argument("--spread", type=float, default=5.5, help="standard deviation of logits")
    parser.add_argument("--turns", type=int, help="counted turns (default 3)")
    parser.add_argument("--threads", type=int, help="threads of torch (default: all cores)")
    parser.add_argument(
        "--clock",
        choices=CLOCKS,
        default="wall",
        help="wall: elapsed time (default). cpu: processor time, for a busy machine, with --threads 1",
    )
    parser.add_argument("--dtype", default="auto", help="number format (default auto)")
    parser.add_argument(
        "--before", default=BEFORE, help=f"the earlier commit, or none (default {BEFORE})"
    )
    options = parser.parse_args(argv)
    options.device = "cuda" if torch.cuda.is_available() else "cpu"
    options.before = None if options.before == "none" else options.before
    options.size = options.size or ("quick" if options.quick else "smollm2-135m")
    options.prompts = options.prompts or (2 if options.quick else 8)
    options.most = options.most or (24 if options.quick else 64)
    options.turns = options.turns or (1 if options.quick else 3)
    cases = [case.split(",") for case in options.case or []]
    chosen = [(int(tokens), float(top_p)) for tokens, top_p in cases]
    options.cases = chosen or (CASES[:1] if options.quick else CASES)
    return options


# --- one case -------------------------------------------------------------------------------------


def measure(
    folder: Path, tokens: int, top_p: float, options: argparse.Namespace, earlier: Path | None
) -> dict[str, Any]:
    """Return the figures of one case. `earlier` is the checkout of the earlier commit, or None."""
    say(f"prompts of {tokens} tokens, K={options.k}, top-p {top_p}")
    prompts = make_prompts(options.prompts, tokens)
    settings = {
        "samples_per_prompt": options.k,
        "top_p": top_p,
        "max_new_tokens": options.most,
        "batch_size": options.prompts * options.k,
        "dtype": options.dtype,
    }
    ours = Sampling(folder, settings, prompts, options.clock)
    turns: dict[str, list[dict[str, Any]]] = {"seeded": [], "before": []}
    case = {
        "settings": settings,
        "prompts": prompts,
        "threads": options.threads,
        "clock": options.clock,
    }
    theirs = EarlierSampling(earlier, folder, case) if earlier else None
    for number in range(options.turns + 1):
        if theirs:
            turns["before"].append(theirs.take_turn())
        turns["seeded"].append(ours.take_turn())
        seconds = {name: round(rows[-1]["seconds"], 2) for name, rows in turns.items() if rows}
        say(f"  turn {number}{'' if number else ' (not counted)'}: {seconds} s")
    if theirs:
        theirs.close()
    return {
        "prompts": options.prompts,
        "prompt_tokens": len(ours.requests[0].prompt_ids),
        "k": options.k,
        "top_p": top_p,
        "longest": options.most,
        "dtype": options.dtype,
        "turns": options.turns,
        "entropy": round(ours.entropy(), 2),
        **figures({name: rows[1:] for name, rows in turns.items() if rows}),
    }


def figures(turns: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return the figures of the counted turns. Those of the earlier commit end with _before."""
    row: dict[str, Any] = {}
    seconds = {name: [turn["seconds"] for turn in some] for name, some in turns.items()}
    if "before" in turns:
        ratios = [b / s for b, s in zip(seconds["before"], seconds["seeded"], strict=True)]
        ends = np.quantile(ratios, [0.25, 0.75])
        ours, theirs = turns["seeded"][-1]["texts"], turns["before"][-1]["texts"]
        row["speedup_vs_before"] = round(statistics.median(ratios), 3)
        row["speedup_vs_before_spread"] = [round(float(end), 3) for end in ends]
        row["same_texts"] = sum(ours[key] == text for key, text in theirs.items())
        row["texts"] = len(theirs)
    for name, some in turns.items():
        suffix = "" if name == "seeded" else f"_{name}"
        row[f"tokens{suffix}"] = some[-1]["tokens"]
        row[f"tokens_per_s{suffix}"] = round(
            some[-1]["tokens"] / statistics.median(seconds[name]), 1
        )
        row[f"peak_mb{suffix}"] = max(turn["peak_mb"] for turn in some)
        row[f"seconds{suffix}"] = [round(value, 3) for value in seconds[name]]
    return row


class Sampling:
    """The engine `seeded` on the model in `folder`."""

    def __init__(
        self, folder: Path, settings: dict[str, Any], prompts: list[tuple[str, str]], clock: str
    ):
        self.clock = clock
        tokenizer = load_tokenizer(str(folder))
        self.model, self.chat = load_policy(
            str(folder), None, settings["dtype"], tokenizer, ChatOptions()
        )
        self.config = GenerateConfig(model=str(folder), **settings)
        chats = [Prompt(name, [{"role": "user", "content": text}]) for name, text in prompts]
        self.requests: list[Request]
        self.requests, _ = plan(chats, self.chat, self.model.config, self.config)

    def take_turn(self) -> dict[str, Any]:
        """Sample all responses once, and return the figures of this turn."""
        reset_peak()
        clock = CLOCKS[self.clock]
        began = clock()
        sampled = sample_batch(self.model, self.chat, self.requests, self.config)
        return {
            "seconds": clock() - began,
            "peak_mb": peak_mb(),
            "texts": {f"{answer.prompt_id}/{answer.sample}": answer.text for answer in sampled},
            "tokens": sum(answer.tokens for answer in sampled),
        }

    @torch.no_grad()
    def entropy(self) -> float:
        """Return the mean entropy of the next token after the prompts, in nats."""
        values = []
        for request in self.requests[:: self.config.samples_per_prompt]:
            ids = torch.tensor([request.prompt_ids], device=self.model.device)
            logps = self.model(input_ids=ids).logits[0, -1].float().log_softmax(-1)
            values.append(float(-(logps.exp() * logps).sum()))
        return statistics.mean(values)


# --- model and prompts ----------------------------------------------------------------------------


def make_model(folder: Path, options: argparse.Namespace) -> None:
    """Write a model with random weights and its tokenizer to `folder`."""
    torch.manual_seed(0)
    shape = SIZES[options.size]
    words, width = shape["vocab_size"], shape["hidden_size"]
    ends = random.Random(0).sample(range(300, words), max(1, round(words / options.length)))
    config = LlamaConfig(
        **shape,
        max_position_embeddings=8192,
        tie_word_embeddings=False,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    model = LlamaForCausalLM(config)
    # The input of the head has the root mean square 1, because of the norm before it.
    torch.nn.init.normal_(model.lm_head.weight, std=options.spread / width**0.5)
    model.generation_config.eos_token_id = [1, *sorted(ends)]
    model.save_pretrained(folder)
    make_tokenizer(words).save_pretrained(folder)


def make_tokenizer(words: int) -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token for each byte, and further tokens that only a model writes."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [PAD, END, *letters]
    names += [f"w{number}" for number in range(len(names), words)]
    tokenizer = Tokenizer(models.BPE(vocab={name: i for i, name in enumerate(names)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END)


def make_prompts(count: int, tokens: int) -> list[tuple[str, str]]:
    """Return ids and texts of prompts. The longest has `tokens` tokens, the shortest half as many."""
    rng = random.Random(0)
    around = len("User: ") + len("\n\nAssistant:")
    lengths = np.linspace(tokens / 2, tokens, count).round().astype(int)
    return [
        (f"p{number}", "".join(rng.choices("abcdefgh", k=max(1, int(length) - around))))
        for number, length in enumerate(lengths)
    ]


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
