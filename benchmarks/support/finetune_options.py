"""Options of `python -m benchmarks.finetune`, and their defaults."""

import argparse
from collections.abc import Sequence

import torch

from benchmarks.support.reward_training_options import (
    RATIOS,
    SIZES,
    add_machine_options,
    shape,
)

QUICK = [(4, 32, 32)]
HEAD_SHARE = 0.3804
"""Weights of the head divided by those of all other layers, in Qwen2.5 0.5B: 151,936 · 896 and
24 · 14,909,440."""
PARTS = ("speed", "memory", "equality")
BEFORE = "49f54d33c665"
"""The last commit before DPO was trained on whole rankings. Its recipe uses TRL's trainer on pairs."""


def parse(argv: Sequence[str] | None, about: str = "") -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one small case, a small model")
    parser.add_argument(
        "--part",
        action="append",
        choices=PARTS,
        help="only this part; may be repeated (default: speed, which includes equality, and memory)",
    )
    parser.add_argument(
        "--case",
        action="append",
        metavar="K,PROMPT,RESPONSE",
        help="responses per prompt and tokens of each part; may be repeated (default: K = 2, 4, 7 "
        "with prompt and response 2:1, 1:1 and 1:2)",
    )
    parser.add_argument(
        "--before",
        metavar="COMMIT",
        help="commit of the earlier recipe; none leaves it out (default "
        f"{BEFORE}, and none with --quick)",
    )
    parser.add_argument("--hidden", type=int, help="width of the Llama-shaped model (CPU: 256)")
    parser.add_argument("--layers", type=int, help="layers of the model (CPU: 4)")
    parser.add_argument(
        "--size", choices=SIZES, help="width and layers of a known model (GPU: 0.5b)"
    )
    parser.add_argument(
        "--lora",
        type=int,
        help="LoRA rank (CPU: 4, which is as large a part of the small model as rank 16 is of "
        "Qwen2.5 0.5B; GPU: 16)",
    )
    parser.add_argument(
        "--groups", type=int, help="rankings per step (CPU: 8 at K=2, 2 at K=4, 1 above; GPU: 16)"
    )
    parser.add_argument("--turns", type=int, help="minimum turns of each contender (default 3)")
    parser.add_argument(
        "--at-once", type=int, help="maximum tokens per forward pass (CPU: 4096, GPU: 32768)"
    )
    parser.add_argument(
        "--vocabulary",
        type=int,
        help="smaller vocabulary of the memory part, which compares it with twice as many words "
        "(default 75968, half of Qwen2.5's; 65536 with --quick)",
    )
    add_machine_options(parser)
    options = parser.parse_args(argv)
    complete(options)
    return options


def complete(options: argparse.Namespace) -> None:
    """Fill in defaults that depend on the device and on --quick."""
    options.device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    gpu, quick = options.device == "cuda", options.quick
    options.part = options.part or ["speed", "memory"]
    options.before = options.before or ("none" if quick else BEFORE)
    options.before = None if options.before == "none" else options.before
    options.cases = [tuple(map(int, case.split(","))) for case in options.case or []]
    full = [(k, p, r) for k in (2, 4, 7) for p, r in RATIOS[options.device]]
    options.cases = options.cases or (QUICK if quick else full)
    size = SIZES.get(options.size or ("0.5b" if gpu and not quick else ""))
    if size is None and not quick:
        options.layers = options.layers or 4
    shape(options, size)
    options.lora = options.lora or (16 if gpu else 4)
    options.turns = options.turns or (2 if quick else 3)
    options.at_once = options.at_once or (32768 if gpu else 4096)
    options.vocabulary = options.vocabulary or (65536 if quick else 75968)
    options.compile = False


def matching_vocabulary(options: argparse.Namespace) -> int:
    """Return the vocabulary size that gives the ratio of head to body of Qwen2.5 0.5B."""
    width = options.hidden
    keys = width // options.heads * options.kv_heads
    layer = 2 * width * width + 2 * width * keys + 3 * width * options.inner
    return round(HEAD_SHARE * options.layers * layer / width)
